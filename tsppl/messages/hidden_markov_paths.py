"""State paths of a hidden Markov chain: exact posterior draws, the most likely path, and simulation.

Notation as in :mod:`tsppl.messages.hidden_markov`. Both backtraces have the same form: a table that maps every
possible next state to the state before it, followed from the last step to the first.
"""

import jax
import jax.numpy as jnp
from jax import lax, random
from jaxtyping import Array, Float, Int

from tsppl.messages.hidden_markov import forward
from tsppl.messages.hidden_markov_parallel import parallel_forward
from tsppl.messages.log_space import shift_by_largest
from tsppl.messages.methods import resolve_method


def sample_path(key, log_initial, log_transition, log_likelihoods, *, method="auto") -> Int[Array, " T"]:
    """Draw a state path from its posterior: forward filtering, backward sampling.

    Args:
        key: random key.
        log_initial: log initial probabilities ``(K,)``.
        log_transition: log transition probabilities ``(K, K)`` or ``(T-1, K, K)``.
        log_likelihoods: ``(T, K)``.
        method: ``"auto"``, ``"sequential"`` or ``"parallel"``; both use the same random numbers.

    Returns:
        int32 states ``(T,)``.
    """
    log_filtered = forward(log_initial, log_transition, log_likelihoods, method=method).log_filtered
    num_steps, num_states = log_likelihoods.shape
    last_key, noise_key = random.split(key)
    last = random.categorical(last_key, log_filtered[-1]).astype(jnp.int32)
    noise = random.gumbel(noise_key, (num_steps - 1, num_states), log_likelihoods.dtype)

    def previous(log_filtered, noise, matrix):
        """For each next state ``j``, a draw of the state before it; the noise is shared, so paths coalesce."""
        return jnp.argmax(log_filtered[:, None] + matrix + noise[:, None], axis=0)

    return _backtrace(previous, last, (log_filtered[:-1], noise), log_transition, method)


def most_likely_path(log_initial, log_transition, log_likelihoods, *, method="auto") -> Int[Array, " T"]:
    """The state path of greatest posterior probability (Viterbi 1967).

    Arguments and result as in :func:`sample_path`. Scores are renormalised at every step, so that long float32
    sequences do not lose the difference between states. Ties go to the lower state.
    """
    if resolve_method(method) == "parallel":
        scores = parallel_forward(log_initial, log_transition, log_likelihoods, reduce=jnp.max)
    else:
        scores = _viterbi_scores(log_initial, log_transition, log_likelihoods)

    def previous(score, matrix):
        return jnp.argmax(score[:, None] + matrix, axis=0)

    last = jnp.argmax(scores[-1]).astype(jnp.int32)
    return _backtrace(previous, last, (scores[:-1],), log_transition, method)


def _viterbi_scores(log_initial, log_transition, log_likelihoods) -> Float[Array, "T K"]:
    def step(score, inputs):
        log_likelihood, matrix = inputs
        matrix = log_transition if matrix is None else matrix
        score = shift_by_largest(jnp.max(score[:, None] + matrix, axis=0) + log_likelihood, axis=0)
        return score, score

    first = shift_by_largest(log_initial + log_likelihoods[0], axis=0)
    rows = log_transition if log_transition.ndim == 3 else None
    _, rest = lax.scan(step, first, (log_likelihoods[1:], rows))
    return jnp.concatenate([first[None], rest])


def _backtrace(previous, last, inputs, log_transition, method) -> Int[Array, " T"]:
    rows = log_transition if log_transition.ndim == 3 else None

    def table(inputs, matrix):
        return previous(*inputs, log_transition if matrix is None else matrix).astype(jnp.int32)

    if resolve_method(method) == "parallel":
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
