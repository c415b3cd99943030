"""Multiple shooting: stretches of the sequence are run side by side until each starts where the one before it ends.

The boundary states are guessed, all stretches are run at once, and every boundary is replaced by the end of the stretch
before. After ``i`` runs the first ``i`` stretches are exact whatever the recurrence; all are, as soon as no boundary
moves. A recurrence that forgets its start within a stretch needs two runs.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.recurrence.lanes import lanes_for
from tsppl.recurrence.outcome import Outcome


def solve_chunked(advance, start, inputs, num_steps, *, tol, max_iters=None, num_lanes=None, floor=1.0) -> Outcome:
    """States of ``state = advance(state, x)`` over the rows of ``inputs``.

    Args:
        advance: one step, ``(n,), x -> (n,)``.
        start: ``(n,)``.
        inputs: tree of ``(T, ...)``.
        num_steps: ``T``.
        tol: largest change of a boundary, relative to ``floor + |state|``, or to the largest state if ``floor`` is 0.
        max_iters: of runs over all stretches; 4 by default, as more cost as much as a plain loop.
        num_lanes: of stretches.
        floor: see ``tol``.
    """
    lanes = lanes_for(num_steps, num_lanes)
    rows = lanes.split(inputs)
    max_iters = min(4 if max_iters is None else max_iters, lanes.num_lanes)
    guess = jnp.broadcast_to(start, (lanes.num_lanes, start.size))

    starts, forgets = _warm_up(advance, guess, rows, lanes, tol, max_iters)

    def sweep(starts):
        ends, states = lanes.run(advance, starts, rows)
        new_starts = _follow(start, ends)
        return new_starts, states, _relative(new_starts - starts, new_starts, floor)

    def unsettled(loop):
        iteration, _, _, change, hopeful = loop
        return (iteration < max_iters) & ~(change <= tol).all() & hopeful

    def again(loop):
        iteration, starts, _, before, _ = loop
        new_starts, states, change = sweep(starts)
        # At the rate of the last two runs, will those left suffice?
        worst, worst_before = (jnp.where(jnp.isnan(c), jnp.inf, c).max() for c in (change, before))
        hopeful = worst * (worst / worst_before) ** (max_iters - iteration - 1) <= tol
        return iteration + 1, new_starts, states, change, hopeful

    # The first run stands outside of the loop, which costs nothing where the warm-up has settled the boundaries.
    first = sweep(starts)
    iteration, _, states, change, _ = lax.while_loop(unsettled, again, (jnp.ones((), int), *first, forgets))
    settled = change <= tol
    # Stretches whose own boundary, and all before it, no longer move.
    exact = jnp.where(settled.all(), lanes.num_lanes, jnp.argmin(settled)) * lanes.length
    return Outcome(
        states=lanes.join(states),
        exact_steps=jnp.minimum(exact, num_steps),
        iterations=jnp.asarray(iteration),
        residual=change.max(),
        converged=settled.all(),
    )


def _warm_up(advance, guess, rows, lanes, tol, max_iters):
    """Boundaries after the last half of each stretch, and whether the recurrence forgets fast enough to go on.

    A few stretches are also run from a second start, which tells how fast: what remains of the distance.
    """
    half = -(-lanes.length // 2)
    probes = min(8, lanes.num_lanes)
    offset = 0.1 * (1 + jnp.abs(guess[:probes]))
    starts = jnp.concatenate([guess, guess[:probes] + offset])
    rows = jax.tree.map(lambda leaf: jnp.concatenate([leaf[-half:], leaf[-half:, :probes]], axis=1), rows)
    ends, _ = lanes.run(advance, starts, rows, num_steps=half, keep=False)
    ends, shifted = ends[: lanes.num_lanes], ends[lanes.num_lanes :]
    remains = jnp.max(jnp.abs(shifted - ends[:probes]) / offset)
    return _follow(guess[0], ends), remains ** (max_iters * lanes.length / half) <= tol


def _follow(start, ends):
    return jnp.concatenate([start[None], ends[:-1]])


def _relative(change, states, floor):
    size = jnp.abs(states)
    scale = floor + size if floor else jnp.max(size) + jnp.finfo(states.dtype).tiny
    return jnp.max(jnp.abs(change) / scale, axis=-1, initial=0.0)
