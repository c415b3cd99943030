"""Multiple shooting: stretches of the sequence are run side by side until each starts where the one before it ends.

The boundary states are guessed, all stretches are run at once, and every boundary is replaced by the end of the stretch
before. After ``i`` runs the first ``i`` stretches are exact whatever the recurrence; all are, as soon as no boundary
moves and every stretch is seen to forget where it starts. That a boundary does not move is not enough: from a guess beside an
unstable point nothing moves by much either.
"""

import jax
import jax.numpy as jnp
from jax import lax

from tsppl.recurrence.chunks import lanes_for
from tsppl.recurrence.outcome import Outcome

FORGETS = 0.1
"""A stretch forgets if its end moves by at most this share of how far its entry was moved."""


def solve_chunked(
    advance, start, inputs, num_steps, *, tol, max_iters=None, num_lanes=None, scale=1.0, cautious=False
) -> Outcome:
    """States of ``state = advance(state, x)`` over the rows of ``inputs``.

    Args:
        advance: one step, ``(n,), x -> (n,)``.
        start: ``(n,)``.
        inputs: tree of ``(T, ...)``.
        num_steps: ``T``.
        tol: largest change of a boundary, relative to ``scale + |state|``.
        max_iters: of runs over all stretches; 4 by default, as more cost as much as a plain loop.
        num_lanes: of stretches.
        scale: of the states.
        cautious: look at a few stretches before all others, and give up at once where the recurrence does not forget.
    """
    lanes = lanes_for(num_steps, num_lanes)
    rows = lanes.split(inputs)
    max_iters = min(4 if max_iters is None else max_iters, lanes.num_lanes)
    surely = max_iters == lanes.num_lanes
    # Away from the start, which may be a point that the recurrence leaves slowly and never comes back to.
    guess = jnp.broadcast_to(start + 0.1 * (scale + jnp.abs(start)), (lanes.num_lanes, start.size))
    half = -(-lanes.length // 2)

    def distance(one, other):
        return (jnp.abs(one - other) / (scale + jnp.abs(one))).max(axis=1)

    def run(starts, forgets, iteration, entered):
        """Run all stretches; ``entered`` is how far each one's entry lies from where it was entered before."""
        ends, states = lanes.run(advance, starts, rows)
        new_starts = _follow(start, ends)
        change = distance(new_starts, starts)
        if entered is None:
            at_half = states[lanes.length - half - 1] if lanes.length > half else starts
            entered = distance(at_half, guess)
        response = jnp.append(change[1:], 0)
        # The first stretches start where they must, whether they forget or not.
        exact = jnp.arange(lanes.num_lanes) <= iteration
        forgets |= exact | ((response <= FORGETS * entered) & (entered > 0))
        return iteration + 1, new_starts, states, change, forgets

    def settled(change, forgets):
        return (change <= tol) & _follow(jnp.array(True), forgets)

    def unsettled(loop):
        iteration, _, _, change, forgets, hopeful = loop
        return (iteration < max_iters) & ~settled(change, forgets).all() & hopeful

    def again(loop):
        iteration, starts, _, before, forgets, _ = loop
        *result, change, forgets = run(starts, forgets, iteration, before)
        # At the rate of the last two runs, will those left suffice?
        worst, worst_before = (jnp.where(jnp.isnan(c), jnp.inf, c).max() for c in (change, before))
        hopeful = surely | (worst * (worst / worst_before) ** (max_iters - iteration - 1) <= tol)
        return *result, change, forgets, hopeful

    starts, promising = _warm_up(advance, start, guess, rows, lanes, half, tol, max_iters, cautious)
    nothing = jnp.zeros(lanes.num_lanes, bool)
    # The first run stands outside of the loop, which costs nothing where the warm-up has settled the boundaries.
    first = lax.cond(
        surely | promising,
        lambda: run(starts, nothing, jnp.zeros((), int), None),
        lambda: (
            jnp.zeros((), int),
            starts,
            jnp.zeros((lanes.length, *starts.shape), starts.dtype),
            jnp.full(lanes.num_lanes, jnp.inf, starts.dtype),
            nothing,
        ),
    )
    iterations, _, states, change, forgets, _ = lax.while_loop(unsettled, again, (*first, surely | promising))
    stands = settled(change, forgets)
    # Stretches before the first boundary that does not stand.
    exact = jnp.where(stands.all(), lanes.num_lanes, jnp.argmin(stands)) * lanes.length
    return Outcome(
        states=lanes.join(states),
        exact_steps=jnp.minimum(exact, num_steps),
        iterations=iterations,
        residual=change.max(),
        converged=stands.all(),
    )


def _warm_up(advance, start, guess, rows, lanes, half, tol, max_iters, cautious):
    """Boundaries after the last half of each stretch from the guess, and whether the recurrence may forget fast enough.

    A few stretches are also run from the start, which tells how fast: what remains of the distance.
    """
    every = -(-lanes.num_lanes // 8)
    rows = jax.tree.map(lambda leaf: leaf[-half:], rows)
    few_rows = jax.tree.map(lambda leaf: leaf[:, ::every], rows)

    def run(starts, rows):
        return lanes.run(advance, starts, rows, num_steps=half, keep=False)[0]

    def with_probes(starts, rows):
        """Ends of these stretches, and of the few from the start."""
        others = jnp.broadcast_to(start, guess[::every].shape)
        both = jax.tree.map(lambda one, few: jnp.concatenate([one, few], axis=1), rows, few_rows)
        ends = run(jnp.concatenate([starts, others]), both)
        return ends[: len(starts)], ends[len(starts) :]

    def may_forget(ends, others):
        remains = jnp.max(jnp.abs(others - ends) / jnp.abs(guess[0] - start))
        return remains ** (max_iters * lanes.length / half) <= tol

    if cautious:
        promising = may_forget(*with_probes(guess[::every], few_rows))
        ends = lax.cond(promising, lambda: run(guess, rows), lambda: guess)
    else:
        ends, others = with_probes(guess, rows)
        promising = may_forget(ends[::every], others)
    return _follow(start, ends), promising


def _follow(first, lanes):
    """What each stretch takes over from the one before it."""
    return jnp.concatenate([first[None], lanes[:-1]])
