"""State paths of one long sequence, computed in chunks side by side.

As in :mod:`tsppl.messages.hidden_markov.chunked`, every boundary is guessed by a warm-up and compared with the truth
afterwards. A backtrace forgets where it began once all states have the same predecessor, and two backtraces that have
met are equal from there on, so there the comparison is of integers. Where only some boundaries are not met, all chunks go once more.
"""

from functools import partial

import jax.numpy as jnp
from jax import lax

from tsppl.messages.hidden_markov.chunked import (
    WARM_UP,
    chunked_forward,
    from_before,
    from_behind,
    split,
    step_indices,
    until_met,
)


def chunked_sample_path(uniforms, log_initial, log_transition, log_likelihoods):
    """``(path, whether it is vouched for)`` from one uniform number for each step."""
    num_steps = log_likelihoods.shape[0]
    _, chunks, vouched = chunked_forward(log_initial, log_transition, log_likelihoods)
    filtered, uniforms = chunks.filtered, split(uniforms[:, None])[:, 0]
    index = (num_steps - 1) % filtered.shape[0], ..., (num_steps - 1) // filtered.shape[0]
    tables = pick(filtered[:, :, None] * chunks.transition[:, :, None], uniforms[:, None], axis=1)
    tables = tables.astype(_narrowest(tables.shape[1]))
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
    dtype = _narrowest(log_likelihoods.shape[1])

    def advance(log_transition, score, log_likelihood):
        """From the best score of a path into each state to the score with the step itself, and to the next.

        A running comparison, where a reduction by argmax takes one and a half times as long.
        """
        score += log_likelihood
        score -= score.max(0)
        best, source = score[0] + log_transition[0][:, None], jnp.zeros(score.shape, dtype)
        for state in range(1, len(score)):
            move = score[state] + log_transition[state][:, None]
            source = jnp.where(move > best, dtype(state), source)
            best = jnp.maximum(best, move)
        return best, (source, score[:, -1])

    def run(ends, log_initial, log_transition, log_chunks):
        start = from_before(log_initial, ends)
        end, outputs = lax.scan(partial(advance, log_transition), start, log_chunks)
        return end, outputs, _share_unmet(_scores_meet(start[:, 1:], end[:, :-1]))

    guess, _ = lax.scan(
        lambda *a: (advance(log_transition, *a)[0], None), jnp.zeros_like(log_chunks[0]), log_chunks[-WARM_UP:]
    )
    (tables, scores), scores_met = until_met(run, guess, log_initial, log_transition, log_chunks)
    last = jnp.argmax(scores[(num_steps - 1) % len(scores)])
    path, paths_met = _backtrace(tables, last, num_steps)
    return path, scores_met & paths_met


def _scores_meet(guesses, ends):
    """For each column of two arrays of scores, whether they are equal up to a constant."""
    differences = jnp.where(jnp.isfinite(guesses) & jnp.isfinite(ends), ends - guesses, jnp.nan)
    spread = jnp.nanmax(differences, axis=0) - jnp.nanmin(differences, axis=0)
    return (jnp.isfinite(guesses) == jnp.isfinite(ends)).all(0) & (spread < 100 * jnp.finfo(ends.dtype).eps)


def _share_unmet(met):
    return jnp.sum(~met) / max(1, met.size)


def _narrowest(num_states):
    """The integers that tables of states are kept in: reading them is most of a backtrace."""
    return jnp.int8 if num_states <= 127 else jnp.int32


def _backtrace(tables, last, num_steps):
    """Follow ``tables``, integers ``(steps, K, chunks)``, from the state ``last`` of the last step to the first."""
    # The last step, and those that fill the last chunk, lead nowhere: they keep the state that they are given.
    leads = step_indices(tables) < num_steps - 1

    def follow(state, inputs):
        table, leads = inputs
        before = table[0]
        for index in range(1, len(table)):
            before = jnp.where(state == index, table[index], before)
        state = jnp.where(leads, before, state)
        return state, state

    def run(ends, last, *steps):
        start = from_behind(last, ends)
        end, path = lax.scan(follow, start, steps, reverse=True)
        return end, path, _share_unmet(start[:-1] == end[1:])

    anything = jnp.zeros(tables.shape[2], tables.dtype)
    steps = tables, leads
    first_steps = tables[:WARM_UP], leads[:WARM_UP]
    guess, _ = lax.scan(lambda *a: (follow(*a)[0], None), anything, first_steps, reverse=True)
    path, met = until_met(run, guess, last.astype(tables.dtype), *steps)
    return path.T.reshape(-1)[:num_steps].astype(jnp.int32), met
