"""What a solver could not settle, finished by a plain loop from the last step that is right."""

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap


def finish(advance_with, num_steps, outcome, captured, start, inputs):
    """States of all steps: those of ``outcome`` as far as they are exact, the rest one after another.

    Args:
        advance_with: ``advance_with(captured, state, x)``.
        num_steps: ``T``.
        outcome: of a solver.
        captured, start, inputs: of the recurrence.

    Returns:
        states ``(T, n)``. Under ``vmap`` a batch whose members have all converged pays nothing, which a plain
        ``lax.cond`` would not grant; otherwise all members restart where the first of them left off.
    """

    def set_next(time, states, captured, start, inputs):
        previous = jnp.where(time > 0, states[jnp.maximum(time - 1, 0)], start)
        x = jax.tree.map(lambda leaf: leaf[time], inputs)
        return states.at[time].set(advance_with(captured, previous, x))

    # Only the steps that are not exact are written, and an exact state is never replaced by one that is not.
    loop = _restartable_loop(set_next, num_steps)
    return loop(outcome.exact_steps, outcome.converged, outcome.states, captured, start, inputs)


def _restartable_loop(set_next, num_steps):
    @custom_vmap
    def loop(first, done, states, *arguments):
        def run():
            return lax.fori_loop(first, num_steps, lambda time, states: set_next(time, states, *arguments), states)

        return lax.cond(done, lambda: states, run)

    @loop.def_vmap
    def batched(axis_size, in_batched, first, done, states, *arguments):
        _, _, states_batched, *rest = in_batched
        if not states_batched:
            states = jnp.broadcast_to(states, (axis_size, *states.shape))
        in_axes = (None, 0, *jax.tree.map(lambda moves: 0 if moves else None, tuple(rest)))
        set_all = jax.vmap(set_next, in_axes, axis_size=axis_size)
        first = jnp.where(done, num_steps, first).min()
        return _restartable_loop(set_all, num_steps)(first, done.all(), states, *arguments), True

    return loop
