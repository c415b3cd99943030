"""Multiple shooting: chunks of the series are run side by side until each starts where the one before it ends.

The boundaries are guessed by a warm-up, all chunks are run at once, and every boundary is replaced by the end of the chunk
before. After ``i`` runs the first ``i`` chunks are exact whatever the recurrence; all are, as soon as every boundary is met
and every chunk is seen to forget where it starts. That a boundary is met is not enough: from a guess beside an unstable
point nothing moves by much either. The words are those of :mod:`tsppl.messages.certified`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.recurrence.chunks import chunks_for, shift
from tsppl.recurrence.outcome import Outcome

FORGETS = 0.1
"""A chunk forgets if its end moves by at most this share of how far its entry was moved."""


def solve_chunked(
    advance, start, inputs, num_steps, *, tol, max_iters=None, num_chunks=None, scale=1.0, cautious=False
) -> Outcome:
    """States of ``state = advance(state, x)`` over the rows of ``inputs``.

    Args:
        advance: one step, ``(n,), x -> (n,)``.
        start: ``(n,)``.
        inputs: tree of ``(T, ...)``.
        num_steps: ``T``.
        tol: largest mismatch of a boundary that is met, relative to ``scale + |state|``.
        max_iters: of runs over all chunks; 4 by default, as more cost as much as a plain loop.
        num_chunks: of chunks.
        scale: of the states.
        cautious: look at a few chunks before all others, and give up at once where the recurrence does not forget.
    """
    chunks = chunks_for(num_steps, num_chunks)
    rows = chunks.split(inputs)
    max_iters = min(4 if max_iters is None else max_iters, chunks.num_chunks)
    surely = max_iters == chunks.num_chunks
    # Away from the start, which may be a point that the recurrence leaves slowly and never comes back to.
    anywhere = jnp.broadcast_to(start + 0.1 * (scale + jnp.abs(start)), (chunks.num_chunks, start.size))
    half = -(-chunks.length // 2)

    def distance(one, other):
        return (jnp.abs(one - other) / (scale + jnp.abs(one))).max(axis=1)

    def run(starts, forgets, iteration, entered):
        """Run all chunks; ``entered`` is how far each one's entry lies from where it was entered before."""
        ends, states = chunks.run(advance, starts, rows)
        new_starts = shift(start, ends)
        mismatch = distance(new_starts, starts)
        if entered is None:
            at_half = states[chunks.length - half - 1] if chunks.length > half else starts
            entered = distance(at_half, anywhere)
        response = jnp.append(mismatch[1:], 0)
        # The first chunks start where they must, whether they forget or not.
        exact = jnp.arange(chunks.num_chunks) <= iteration
        forgets |= exact | ((response <= FORGETS * entered) & (entered > 0))
        return iteration + 1, new_starts, states, mismatch, forgets

    def vouched(mismatch, forgets):
        return (mismatch <= tol) & shift(jnp.array(True), forgets)

    def unsettled(loop):
        iteration, _, _, mismatch, forgets, hopeful = loop
        return (iteration < max_iters) & ~vouched(mismatch, forgets).all() & hopeful

    def again(loop):
        iteration, starts, _, before, forgets, _ = loop
        *result, mismatch, forgets = run(starts, forgets, iteration, before)
        # At the rate of the last two runs, will those left suffice?
        worst, worst_before = (jnp.where(jnp.isnan(c), jnp.inf, c).max() for c in (mismatch, before))
        hopeful = surely | (worst * (worst / worst_before) ** (max_iters - iteration - 1) <= tol)
        return *result, mismatch, forgets, hopeful

    starts, promising = _warm_up(advance, start, anywhere, rows, chunks, half, tol, max_iters, cautious)
    nothing = jnp.zeros(chunks.num_chunks, bool)
    # The first run stands outside of the loop, which costs nothing where the warm-up has settled the boundaries.
    first = lax.cond(
        surely | promising,
        lambda: run(starts, nothing, jnp.zeros((), int), None),
        lambda: (
            jnp.zeros((), int),
            starts,
            jnp.zeros((chunks.length, *starts.shape), starts.dtype),
            jnp.full(chunks.num_chunks, jnp.inf, starts.dtype),
            nothing,
        ),
    )
    iterations, _, states, mismatch, forgets, _ = lax.while_loop(unsettled, again, (*first, surely | promising))
    sure = vouched(mismatch, forgets)
    # Chunks before the first boundary that is not vouched for.
    exact = jnp.where(sure.all(), chunks.num_chunks, jnp.argmin(sure)) * chunks.length
    return Outcome(
        states=chunks.join(states),
        exact_steps=jnp.minimum(exact, num_steps),
        iterations=iterations,
        residual=mismatch.max(),
        converged=sure.all(),
    )


def _warm_up(advance, start, anywhere, rows, chunks, half, tol, max_iters, cautious):
    """Boundaries after the last half of each chunk from anywhere, and whether the recurrence may forget fast enough.

    A few chunks are also run from the start, which tells how fast: what remains of the distance.
    """
    every = -(-chunks.num_chunks // 8)
    rows = jax.tree.map(lambda leaf: leaf[-half:], rows)
    few_rows = jax.tree.map(lambda leaf: leaf[:, ::every], rows)

    def run(starts, rows):
        return chunks.run(advance, starts, rows, num_steps=half, keep=False)[0]

    def with_probes(starts, rows):
        """Ends of these chunks, and of the few from the start."""
        others = jnp.broadcast_to(start, anywhere[::every].shape)
        both = jax.tree.map(lambda one, few: jnp.concatenate([one, few], axis=1), rows, few_rows)
        ends = run(jnp.concatenate([starts, others]), both)
        return ends[: len(starts)], ends[len(starts) :]

    def may_forget(ends, others):
        remains = jnp.max(jnp.abs(others - ends) / jnp.abs(anywhere[0] - start))
        return remains ** (max_iters * chunks.length / half) <= tol

    if cautious:
        promising = may_forget(*with_probes(anywhere[::every], few_rows))
        ends = lax.cond(promising, lambda: run(anywhere, rows), lambda: anywhere)
    else:
        ends, others = with_probes(anywhere, rows)
        promising = may_forget(ends[::every], others)
    return shift(start, ends), promising
