"""State paths of a hidden Markov chain: exact posterior draws, the most likely path, and simulation.

Notation as in :mod:`tsppl.messages.hidden_markov.forward_backward`. Both backtraces have the same form: a table that maps every
possible next state to the state before it, followed from the last step to the first.
"""

from functools import partial, reduce

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int

from tsppl.messages.certified import certified
from tsppl.messages.hidden_markov.chunked_paths import chunked_most_likely_path, chunked_sample_path, pick
from tsppl.messages.hidden_markov.forward_backward import hidden_markov_forward
from tsppl.messages.hidden_markov.parallel import parallel_forward
from tsppl.messages.hidden_markov.scaled import scaled_forward
from tsppl.messages.log_space import shift_by_largest
from tsppl.messages.methods import CHUNKED_BATCH, hidden_markov_method


def sample_path(key, log_initial, log_transition, log_likelihoods, *, method="auto") -> Int[Array, " T"]:
    """Draw a state path from its posterior: forward filtering, backward sampling.

    Args:
        key: random key.
        log_initial: log initial probabilities ``(K,)``.
        log_transition: log transition probabilities ``(K, K)`` or ``(T-1, K, K)``.
        log_likelihoods: ``(T, K)``.
        method: ``"auto"``, ``"sequential"``, ``"chunked"`` or ``"parallel"``; all use the same random numbers.

    Returns:
        int32 states ``(T,)``.
    """
    method = hidden_markov_method(method, log_transition, log_likelihoods)
    potentials = (log_initial, log_transition, log_likelihoods)
    uniforms = random.uniform(key, log_likelihoods.shape[:1], log_likelihoods.dtype)
    return _SAMPLERS[method](uniforms, *map(lax.stop_gradient, potentials))


def _sample_in_log_space(uniforms, log_initial, log_transition, log_likelihoods, *, method):
    log_filtered = hidden_markov_forward(log_initial, log_transition, log_likelihoods, method=method).log_filtered

    def previous(log_filtered, uniform, matrix):
        """For each next state, a draw of the state before it; the number is shared, so paths coalesce."""
        return pick(jnp.exp(shift_by_largest(log_filtered[:, None] + matrix, axis=0)), uniform, axis=0)

    last = pick(jnp.exp(log_filtered[-1]), uniforms[-1], axis=0)
    return _backtrace(previous, last, (log_filtered[:-1], uniforms[:-1]), log_transition, method)


def _scaled_sample(uniforms, log_initial, log_transition, log_likelihoods):
    scaled, vouched = scaled_forward(log_initial, log_transition, log_likelihoods)
    filtered = scaled.predicted * scaled.likelihoods
    into = jnp.swapaxes(jnp.exp(log_transition), -1, -2)

    def step(state, inputs):
        filtered, uniform, rows = inputs
        state = pick(filtered * (into if rows is None else rows)[state], uniform, axis=0)
        return state, state

    last = pick(filtered[-1], uniforms[-1], axis=0)
    rows = into if into.ndim == 3 else None
    _, path = lax.scan(step, last, (filtered[:-1], uniforms[:-1], rows), reverse=True)
    return jnp.append(path, last), vouched


def most_likely_path(log_initial, log_transition, log_likelihoods, *, method="auto") -> Int[Array, " T"]:
    """The state path of greatest posterior probability (Viterbi 1967).

    Arguments and result as in :func:`sample_path`. Scores are renormalised at every step, so that long float32
    sequences do not lose the difference between states. Ties go to the lower state.
    """
    method = hidden_markov_method(method, log_transition, log_likelihoods)
    return _DECODERS[method](*map(lax.stop_gradient, (log_initial, log_transition, log_likelihoods)))


def _parallel_most_likely_path(log_initial, log_transition, log_likelihoods):
    scores = parallel_forward(log_initial, log_transition, log_likelihoods, reduce=jnp.max)

    def previous(score, matrix):
        return jnp.argmax(score[:, None] + matrix, axis=0)

    last = jnp.argmax(scores[-1]).astype(jnp.int32)
    return _backtrace(previous, last, (scores[:-1],), log_transition, "parallel")


def _sequential_most_likely_path(log_initial, log_transition, log_likelihoods):
    scores = _viterbi_scores(log_initial, log_transition, log_likelihoods)
    last = jnp.argmax(scores[-1]).astype(jnp.int32)
    into = jnp.swapaxes(log_transition, -1, -2)

    def step(state, inputs):
        score, rows = inputs
        state = jnp.argmax(score + (into if rows is None else rows)[state]).astype(jnp.int32)
        return state, state

    _, path = lax.scan(step, last, (scores[:-1], into if into.ndim == 3 else None), reverse=True)
    return jnp.append(path, last)


def _viterbi_scores(log_initial, log_transition, log_likelihoods) -> Float[Array, "T K"]:
    """Score of the best path into each state, the best of all states being zero at every step."""
    states = range(log_likelihoods.shape[1])
    lowest = jnp.finfo(log_likelihoods.dtype).min

    def step(score, inputs):
        log_likelihood, matrix = inputs
        matrix = log_transition if matrix is None else matrix
        score -= jnp.maximum(score.max(), lowest)
        # One maximum for each state, not a reduction: the compiler makes vector instructions of it.
        best = reduce(jnp.maximum, [score[state] + matrix[state] for state in states])
        return best + log_likelihood, score

    rows = log_transition if log_transition.ndim == 3 else None
    last, scores = lax.scan(step, log_initial + log_likelihoods[0], (log_likelihoods[1:], rows))
    return jnp.concatenate([scores, last[None]])


def _backtrace(previous, last, inputs, log_transition, method) -> Int[Array, " T"]:
    rows = log_transition if log_transition.ndim == 3 else None

    def table(inputs, matrix):
        return previous(*inputs, log_transition if matrix is None else matrix).astype(jnp.int32)

    if method == "parallel":
        tables = jax.vmap(table, in_axes=(0, None if rows is None else 0))(inputs, rows)
        maps = lax.associative_scan(
            lambda later, earlier: jnp.take_along_axis(earlier, later, -1), tables, reverse=True
        )
        return jnp.append(maps[:, last], last)

    def step(state, inputs_and_matrix):
        state = table(*inputs_and_matrix)[state]
        return state, state

    _, path = lax.scan(step, last, (inputs, rows), reverse=True)
    return jnp.append(path, last)


def simulate_path(key, log_initial, log_transition, num_steps: int) -> Int[Array, " T"]:
    """Draw a state path from the chain itself: int32 states ``(num_steps,)``."""
    first_key, noise_key = random.split(key)
    first = random.categorical(first_key, log_initial).astype(jnp.int32)
    noise = random.gumbel(noise_key, (num_steps - 1, log_initial.shape[-1]), log_initial.dtype)

    def step(state, inputs):
        noise, matrix = inputs
        matrix = log_transition if matrix is None else matrix
        state = jnp.argmax(matrix[state] + noise).astype(jnp.int32)
        return state, state

    rows = log_transition if log_transition.ndim == 3 else None
    _, rest = lax.scan(step, first, (noise, rows))
    return jnp.append(first, rest)


def path_log_prob(log_initial, log_transition, path) -> Float[Array, " T"]:
    """``log p(z_0)`` and ``log p(z_t | z_{t-1})`` of a given int path, ``(T,)``."""
    if log_transition.ndim == 3:
        steps = log_transition[jnp.arange(path.shape[0] - 1), path[:-1], path[1:]]
    else:
        steps = log_transition[path[:-1], path[1:]]
    return jnp.append(log_initial[path[0]], steps)


_sample_step_by_step = certified(_scaled_sample, partial(_sample_in_log_space, method="sequential"))
_SAMPLERS = {
    "sequential": _sample_step_by_step,
    "chunked": certified(chunked_sample_path, _sample_step_by_step, largest_batch=CHUNKED_BATCH),
    "parallel": partial(_sample_in_log_space, method="parallel"),
}
_DECODERS = {
    "sequential": _sequential_most_likely_path,
    "chunked": certified(chunked_most_likely_path, _sequential_most_likely_path, largest_batch=CHUNKED_BATCH),
    "parallel": _parallel_most_likely_path,
}
