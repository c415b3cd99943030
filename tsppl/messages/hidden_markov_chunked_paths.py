"""State paths of one long sequence, computed in chunks side by side.

As in :mod:`tsppl.messages.hidden_markov_chunked`, every chunk starts from a guess that is compared with the truth
afterwards. A backtrace forgets where it began once all states have the same predecessor, and two backtraces that have
met are equal from there on, so there the comparison is of integers.
"""

import jax.numpy as jnp
from jax import lax

from tsppl.messages.hidden_markov_chunked import WARM_UP, chunked_forward, split, step_indices


def chunked_sample_path(uniforms, log_initial, log_transition, log_likelihoods):
    """``(path, whether it is vouched for)`` from one uniform number for each step."""
    num_steps = log_likelihoods.shape[0]
    _, chunks, vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    filtered, uniforms = chunks.predicted * chunks.likelihoods, split(uniforms[:, None])[:, 0]
    index = (num_steps - 1) % filtered.shape[0], ..., (num_steps - 1) // filtered.shape[0]
    tables = pick(filtered[:, :, None] * chunks.transition[:, :, None], uniforms[:, None], axis=1)
    path, met = _backtrace(tables, pick(filtered[index], uniforms[index], axis=0), num_steps)
    return path, vouched & met


def pick(weights, uniform, *, axis):
    """The first index at which the running sum of ``weights`` exceeds a fraction ``uniform`` of the whole, int32.

    Never the index of a weight that is zero, unless all are.
    """
    sums = [lax.index_in_dim(weights, 0, axis, keepdims=False)]
    for index in range(1, weights.shape[axis]):
        sums.append(sums[-1] + lax.index_in_dim(weights, index, axis, keepdims=False))
    target = uniform * sums[-1]
    return sum((total <= target).astype(jnp.int32) for total in sums[:-1]) + jnp.zeros(target.shape, jnp.int32)


def chunked_most_likely_path(log_initial, log_transition, log_likelihoods):
    """``(path, whether it is vouched for)``."""
    num_steps = log_likelihoods.shape[0]
    log_chunks = split(log_likelihoods)

    def advance(score, log_likelihood):
        """From the best score of a path into each state to the score with the step itself, and to the next."""
        score += log_likelihood
        score -= score.max(0)
        moves = score[:, None] + log_transition[:, :, None]
        return moves.max(0), (jnp.argmax(moves, axis=0).astype(jnp.int32), score)

    guess, _ = lax.scan(lambda *a: (advance(*a)[0], None), jnp.zeros_like(log_chunks[0]), log_chunks[-WARM_UP:])
    start = jnp.roll(guess, 1, axis=1).at[:, 0].set(log_initial)
    end, (tables, scores) = lax.scan(advance, start, log_chunks)
    index = (num_steps - 1) % log_chunks.shape[0], slice(None), (num_steps - 1) // log_chunks.shape[0]
    path, met = _backtrace(tables, jnp.argmax(scores[index]).astype(jnp.int32), num_steps)
    return path, met & _scores_meet(start[:, 1:], end[:, :-1])


def _scores_meet(guesses, ends):
    """Whether scores, the columns of two arrays, are equal up to a constant for each column."""
    differences = jnp.where(jnp.isfinite(guesses) & jnp.isfinite(ends), ends - guesses, jnp.nan)
    spread = jnp.nanmax(differences, axis=0) - jnp.nanmin(differences, axis=0)
    return (jnp.isfinite(guesses) == jnp.isfinite(ends)).all() & (spread < 100 * jnp.finfo(ends.dtype).eps).all()


def _backtrace(tables, last, num_steps):
    """Follow ``tables``, ``(steps, K, chunks)``, from the state ``last`` of the last step to the first."""
    states = jnp.arange(tables.shape[1], dtype=jnp.int32)[:, None]
    # The last step, and those that fill the last chunk, lead nowhere: they keep the state that they are given.
    tables = jnp.where(step_indices(tables)[:, None] < num_steps - 1, tables, states)

    def follow(state, table):
        state = jnp.where(state == states, table, 0).sum(0, dtype=jnp.int32)
        return state, state

    anything = jnp.zeros(tables.shape[2], jnp.int32)
    guess, _ = lax.scan(lambda *a: (follow(*a)[0], None), anything, tables[:WARM_UP], reverse=True)
    start = jnp.roll(guess, -1).at[-1].set(last)
    end, path = lax.scan(follow, start, tables, reverse=True)
    return path.T.reshape(-1)[:num_steps], (start[:-1] == end[1:]).all()
