"""Hidden Markov statistics of one long sequence, computed in chunks side by side.

A chain forgets. Each chunk starts from a guess, made by a warm-up of a few hundred steps over the chunk before it, and all
chunks advance together, one step of each at a time: arithmetic on vectors in place of a loop over single steps. Afterwards
the guess of every boundary is compared with where the chunk before it really ended. The comparison is of ratios (Hilbert's
projective metric), so that a state of small probability counts as much as any other. Where a guess was near but not near
enough, all chunks go once more, from where the ones before them ended; where it still fails, the answer is not vouched
for. Exactness rests on the comparison, never on the chain's forgetting (words as in :mod:`tsppl.messages.certified`).

Arrays in here are ``(steps of a chunk, K, chunks)``: the last axis is the one that the machine vectorises. The barriers
keep the compiler from recomputing a transposed array at every use.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float, Int

from tsppl.messages.hidden_markov.scaled import loses_nothing
from tsppl.messages.log_space import finite_largest
from tsppl.recurrence.chunks import chunks_last

WARM_UP = 256
MIN_CHUNK_STEPS = 2 * WARM_UP
MAX_BYTES = 512
"""Of one number for each chunk: 128 chunks in float32, 64 in float64."""
NEAR = 0.3
"""Mismatches that vanish over one more chunk, if they shrink as fast as they did over the warm-up."""


def number_of_chunks(num_steps, dtype):
    """As many chunks as leave each twice the steps of the warm-up."""
    return max(1, min(MAX_BYTES // dtype.itemsize, num_steps // MIN_CHUNK_STEPS))


class ForwardPass(NamedTuple):
    """Of all chunks; ``steps`` is the index of every step in the sequence, at or beyond its end where it only fills."""

    steps: Int[Array, "steps chunks"]
    transition: Float[Array, "K K"]
    filtered: Float[Array, "steps K chunks"]


def chunked_log_normalizer(log_initial, log_transition, log_likelihoods):
    """``(log p(y), whether it is vouched for)``, for constant transitions ``(K, K)``."""
    value, _, vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    return value, vouched


def chunked_statistics(log_initial, log_transition, log_likelihoods):
    """As :func:`~tsppl.messages.hidden_markov.scaled.scaled_statistics`, for constant transitions ``(K, K)``."""
    num_steps, num_states = log_likelihoods.shape
    value, chunks, forward_vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    state_probs, counts, backward_vouched = _backward(chunks, num_steps)
    state_probs = lax.optimization_barrier(state_probs).swapaxes(0, 1).reshape(-1, num_states)[:num_steps]
    gradient = (state_probs[0], chunks.transition * counts, state_probs)
    return (value, gradient), forward_vouched & backward_vouched


def split(rows):
    """``(T, K)`` as chunks, the last filled with zeros."""
    return lax.optimization_barrier(chunks_last(rows, number_of_chunks(len(rows), rows.dtype)))


def from_before(first, ends):
    """Where each chunk starts: the first as told, the others where the one before ends."""
    return jnp.roll(ends, 1, axis=-1).at[..., 0].set(first)


def from_behind(last, ends):
    """Where each chunk starts that runs backward: the last as told, the others where the one after ends."""
    return jnp.roll(ends, -1, axis=-1).at[..., -1].set(last)


def step_indices(chunks):
    """The index of every step in the sequence, ``(steps, chunks)``."""
    chunk_steps, num_chunks = chunks.shape[0], chunks.shape[-1]
    return jnp.arange(chunk_steps)[:, None] + chunk_steps * jnp.arange(num_chunks)


def chunked_forward(log_initial, log_transition, log_likelihoods):
    """The evidence, the :class:`ForwardPass`, and whether every guess was met and nothing was lost."""
    initial, transition = jnp.exp(log_initial), jnp.exp(log_transition)
    log_chunks = split(log_likelihoods)
    shifts = finite_largest(log_chunks, axis=1)
    likelihoods = lax.optimization_barrier(jnp.exp(log_chunks - shifts))
    steps = step_indices(likelihoods)

    uniform = jnp.full_like(likelihoods[0], 1 / initial.shape[0])
    guess, _ = _advance(uniform, transition, likelihoods[-WARM_UP:])

    def run(ends, initial, transition, likelihoods):
        """From where the chunks before end: where each ends, what its steps give, and how far off the start was."""
        start = from_before(initial, ends)
        end, outputs = _advance(start, transition, likelihoods)
        return end, outputs, mismatch(start[:, 1:], end[:, :-1])

    (filtered, normalizers), met = until_met(run, guess, initial, transition, likelihoods)

    def kept(floor):
        following = jax.vmap(_predict, in_axes=(0, None))(filtered, transition)
        first = from_before(initial, following[-1:])
        predicted = jnp.concatenate([first, following[:-1]])
        return (filtered >= floor) | (predicted == 0) | (split(log_likelihoods) == -jnp.inf)

    value = jnp.where(steps < log_likelihoods.shape[0], jnp.log(normalizers) + shifts[:, 0], 0).sum()
    vouched = loses_nothing(log_initial, log_transition, normalizers, kept)
    # The steps that fill the last chunk leave all others alone only if every row of transitions sums to one.
    vouched &= met & (abs(transition.sum(-1) - 1) < 1e-5).all()
    return value, ForwardPass(steps, transition, filtered), vouched


def _advance(predicted, transition, likelihoods):
    def step(predicted, likelihood):
        joint = predicted * likelihood
        normalizer = joint.sum(0)
        filtered = joint / normalizer
        return _predict(filtered, transition), (filtered, normalizer)

    return lax.scan(step, predicted, likelihoods)


def _predict(filtered, transition):
    return (transition[:, :, None] * filtered[:, None]).sum(0)


def _backward(chunks, num_steps):
    """Posterior state probabilities ``(steps, chunks, K)``, expected counts as multiples of the transition
    probabilities, and whether every guess was met.

    From the posterior probabilities of the step after and the filtered ones alone (Kitagawa 1987, equation 2.5), which is
    less to read than the evidence of the steps behind would need.
    """
    last = _predict(chunks.filtered[-1], chunks.transition)
    nothing_behind = _predict(chunks.filtered[WARM_UP - 1], chunks.transition)
    guess = lax.scan(partial(_retreat, chunks.transition), nothing_behind, chunks.filtered[:WARM_UP], reverse=True)[0]

    def run(ends, chunks, last):
        start = from_behind(last, ends)
        end, outputs = _smooth(start, chunks, num_steps)
        return end, outputs, mismatch(start[:, :-1], end[:, 1:])

    (state_probs, counts), met = until_met(run, guess, chunks, last[:, -1])
    num_states = len(last)
    return state_probs, counts.reshape(num_states, num_states, -1).sum(-1), met


def _retreat(transition, following, filtered):
    """Posterior probabilities of a step from those of the step after."""
    unscaled = filtered * _later_evidence(transition, _evidence(following, filtered, transition))
    return unscaled / unscaled.sum(0), None


def _smooth(start, chunks, num_steps):
    def step(carry, inputs):
        following, counts = carry
        filtered, leaves = inputs
        evidence = _evidence(following, filtered, chunks.transition)
        unscaled = filtered * _later_evidence(chunks.transition, evidence)
        scale = 1 / unscaled.sum(0)
        state_probs = unscaled * scale
        counts += _outer(filtered * (scale * leaves), evidence)
        return (state_probs, counts), state_probs.T

    leaves = (chunks.steps < num_steps - 1).astype(start.dtype)
    no_counts = jnp.zeros_like(_outer(start, start))
    (end, counts), state_probs = lax.scan(step, (start, no_counts), (chunks.filtered, leaves), reverse=True)
    return end, (state_probs, counts)


def _evidence(following, filtered, transition):
    """``p(y_{t+1}, ..., y_T | z_{t+1})`` up to a constant; zero for states that cannot be reached."""
    return following / jnp.maximum(_predict(filtered, transition), jnp.finfo(filtered.dtype).tiny)


def _later_evidence(transition, message):
    return (transition[:, :, None] * message[None]).sum(1)


def _outer(left, right):
    """Outer products of the states of each chunk; summed over chunks where one for each would not stay in cache."""
    if left.shape[0] > 12:
        return left @ right.T
    return left[:, None] * right[None]


def until_met(run, guess, *operands):
    """Outputs of ``run(ends, *operands) -> (ends, outputs, mismatch)``, once or, where near, twice; and whether they met.

    ``mismatch`` is zero, but for rounding, where all guesses were met. Under ``vmap`` the whole batch goes twice if one
    member must.
    """

    @custom_vmap
    def passes(guess, *operands):
        shapes = jax.eval_shape(run, guess, *operands)
        _, nothing, off = jax.tree.map(lambda array: jnp.zeros(array.shape, array.dtype), shapes)
        tolerance = 100 * jnp.finfo(off.dtype).eps

        def goes_on(state):
            count, _, _, off = state
            return (count == 0) | ((count == 1) & (off >= tolerance).any() & (off < NEAR).all())

        def go(state):
            count, ends, *_ = state
            return count + 1, *run(ends, *operands)

        _, _, outputs, off = lax.while_loop(goes_on, go, (0, guess, nothing, off))
        return outputs, off < tolerance

    @passes.def_vmap
    def batched(axis_size, in_batched, guess, *operands):
        guess_batched, *operands_batched = in_batched
        if not guess_batched:
            guess = jnp.broadcast_to(guess, (axis_size, *guess.shape))
        in_axes = (0, *(jax.tree.map(lambda moves: 0 if moves else None, moves) for moves in operands_batched))
        result = until_met(jax.vmap(run, in_axes, axis_size=axis_size), guess, *operands)
        return result, jax.tree.map(lambda _: True, result)

    return passes(guess, *operands)


def mismatch(guesses, ends):
    """Largest relative difference of ratios between the columns of two arrays; infinite where zeros differ."""
    both = (guesses > 0) & (ends > 0)
    ratios = jnp.where(both, ends / jnp.where(both, guesses, 1), jnp.nan)
    spread = (jnp.nanmax(ratios, axis=0) / jnp.nanmin(ratios, axis=0) - 1).max(initial=0)
    return jnp.where(((guesses > 0) == (ends > 0)).all(), spread, jnp.inf)
