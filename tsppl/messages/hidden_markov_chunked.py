"""Hidden Markov statistics of one long sequence, computed in chunks side by side.

A chain forgets. Each chunk starts from a guess, made by a few hundred steps over the chunk before it, and all chunks
advance together, one step of each at a time: arithmetic on vectors in place of a loop over single steps. Afterwards the
guess of every chunk is compared with where the chunk before it really ended. The comparison is of ratios (Hilbert's
projective metric), so that a state of small probability counts as much as any other; where it fails, the answer is not
vouched for. Exactness rests on the comparison, never on the chain's forgetting.

Arrays in here are ``(steps of a chunk, K, chunks)``: the last axis is the one that the machine vectorises. The barriers
keep the compiler from recomputing a transposed array at every use.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from tsppl.messages.hidden_markov_scaled import loses_nothing
from tsppl.messages.log_space import finite_largest

WARM_UP = 256
MIN_CHUNK_STEPS = 2 * WARM_UP
MAX_CHUNKS = 128


def number_of_chunks(num_steps):
    """As many chunks as leave each twice the steps of the warm-up."""
    return max(1, min(MAX_CHUNKS, num_steps // MIN_CHUNK_STEPS))


class Chunks(NamedTuple):
    """Forward pass; ``steps`` is the index of every step in the sequence, at or beyond its end where it only fills."""

    steps: Int[Array, "steps chunks"]
    transition: Float[Array, "K K"]
    likelihoods: Float[Array, "steps K chunks"]
    predicted: Float[Array, "steps K chunks"]
    normalizers: Float[Array, "steps chunks"]


def chunked_log_normalizer(log_initial, log_transition, log_likelihoods):
    """``(log p(y), whether it is vouched for)``, for constant transitions ``(K, K)``."""
    value, _, vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    return value, vouched


def chunked_statistics(log_initial, log_transition, log_likelihoods):
    """As :func:`~tsppl.messages.hidden_markov_scaled.scaled_statistics`, for constant transitions ``(K, K)``."""
    num_steps, num_states = log_likelihoods.shape
    value, chunks, forward_vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    state_probs, counts, backward_vouched = _backward(chunks, num_steps)
    state_probs = lax.optimization_barrier(state_probs).swapaxes(0, 1).reshape(-1, num_states)[:num_steps]
    gradient = (state_probs[0], chunks.transition * counts, state_probs)
    return (value, gradient), forward_vouched & backward_vouched


def split(rows):
    """``(T, K)`` as chunks, the last filled with zeros."""
    num_steps, width = rows.shape
    num_chunks = number_of_chunks(num_steps)
    chunks = jnp.pad(rows, ((0, -num_steps % num_chunks), (0, 0))).reshape(num_chunks, -1, width)
    return lax.optimization_barrier(chunks.transpose(1, 2, 0))


def step_indices(chunks):
    """The index of every step in the sequence, ``(steps, chunks)``."""
    chunk_steps, num_chunks = chunks.shape[0], chunks.shape[-1]
    return jnp.arange(chunk_steps)[:, None] + chunk_steps * jnp.arange(num_chunks)


def chunked_forward(log_initial, log_transition, log_likelihoods):
    """The evidence, :class:`Chunks`, and whether every guess was met and nothing was lost."""
    initial, transition = jnp.exp(log_initial), jnp.exp(log_transition)
    log_chunks = split(log_likelihoods)
    shifts = finite_largest(log_chunks, axis=1)
    likelihoods = lax.optimization_barrier(jnp.exp(log_chunks - shifts))
    steps = step_indices(likelihoods)

    def advance(predicted, likelihood):
        joint = predicted * likelihood
        normalizer = joint.sum(0)
        filtered = joint / normalizer
        return (transition[:, :, None] * filtered[:, None]).sum(0), (predicted, normalizer)

    uniform = jnp.full_like(likelihoods[0], 1 / initial.shape[0])
    guess, _ = lax.scan(lambda *arguments: (advance(*arguments)[0], None), uniform, likelihoods[-WARM_UP:])
    start = jnp.roll(guess, 1, axis=1).at[:, 0].set(initial)
    end, (predicted, normalizers) = lax.scan(advance, start, likelihoods)

    value = jnp.where(steps < log_likelihoods.shape[0], jnp.log(normalizers) + shifts[:, 0], 0).sum()
    vouched = loses_nothing(log_initial, log_transition, log_chunks, likelihoods, predicted, normalizers)
    # The steps that fill the last chunk leave all others alone only if every row of transitions sums to one.
    vouched &= meet(start[:, 1:], end[:, :-1]) & (abs(transition.sum(-1) - 1) < 1e-5).all()
    return value, Chunks(steps, transition, likelihoods, predicted, normalizers), vouched


def _backward(chunks, num_steps):
    """Posterior state probabilities ``(steps, chunks, K)``, expected counts as multiples of the transition
    probabilities, and whether every guess was met.

    The carried message is ``p(y_t, ..., y_T | z_t)`` up to a constant for each chunk.
    """
    steps, transition, likelihoods, predicted, normalizers = chunks

    def later_evidence(message):
        return (transition[:, :, None] * message[None]).sum(1)

    def retreat(message, inputs):
        likelihood, normalizer = inputs
        return likelihood / normalizer * later_evidence(message), None

    def smooth(carry, inputs):
        message, counts = carry
        predicted, likelihood, normalizer, leaves = inputs
        later, factor = later_evidence(message), likelihood / normalizer
        filtered = predicted * factor
        unscaled = filtered * later
        scale = 1 / unscaled.sum(0)
        counts += _outer(filtered * (scale * leaves), message)
        return (factor * (later * scale), counts), (unscaled * scale).T

    num_states = transition.shape[0]
    last = jnp.ones_like(likelihoods[0])
    guess, _ = lax.scan(retreat, last, (likelihoods[:WARM_UP], normalizers[:WARM_UP]), reverse=True)
    start = jnp.roll(guess, -1, axis=1).at[:, -1].set(1)
    leaves = (steps < num_steps - 1).astype(likelihoods.dtype)
    inputs = (predicted, likelihoods, normalizers, leaves)
    no_counts = jnp.zeros_like(_outer(last, last))
    (end, counts), state_probs = lax.scan(smooth, (start, no_counts), inputs, reverse=True)
    counts = counts.reshape(num_states, num_states, -1).sum(-1)
    return state_probs, counts, meet(start[:, :-1], end[:, 1:])


def _outer(left, right):
    """Outer products of the states of each chunk; summed over chunks where one for each would not stay in cache."""
    if left.shape[0] > 4:
        return left @ right.T
    return left[:, None] * right[None]


def meet(guesses, ends):
    """Whether positive vectors, the columns of two arrays, are equal up to a factor for each column."""
    both = (guesses > 0) & (ends > 0)
    ratios = jnp.where(both, ends / jnp.where(both, guesses, 1), jnp.nan)
    spread = jnp.nanmax(ratios, axis=0) / jnp.nanmin(ratios, axis=0) - 1
    return ((guesses > 0) == (ends > 0)).all() & (spread < 100 * jnp.finfo(guesses.dtype).eps).all()
