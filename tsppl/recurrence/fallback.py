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

    def enter(first, states, start):
        return jnp.where(first > 0, lax.dynamic_index_in_dim(states, jnp.maximum(first - 1, 0), keepdims=False), start)

    def step(time, state, states, captured, inputs):
        x = jax.tree.map(lambda leaf: lax.dynamic_index_in_dim(leaf, time, keepdims=False), inputs)
        state = advance_with(captured, state, x)
        return state, lax.dynamic_update_index_in_dim(states, state, time, 0)

    # Only the steps that are not exact are written, and an exact state is never replaced by one that is not.
    loop = _restartable_loop(enter, step, num_steps)
    return loop(outcome.exact_steps, outcome.converged, outcome.states, captured, start, inputs)


def _restartable_loop(enter, step, num_steps):
    @custom_vmap
    def loop(first, done, states, captured, start, inputs):
        def advance(time, carry):
            return step(time, *carry, captured, inputs)

        def run():
            return lax.fori_loop(first, num_steps, advance, (enter(first, states, start), states))[1]

        return lax.cond(done, lambda: states, run)

    @loop.def_vmap
    def batched(axis_size, in_batched, first, done, states, captured, start, inputs):
        if not in_batched[2]:
            states = jnp.broadcast_to(states, (axis_size, *states.shape))
        _, _, _, *moving = jax.tree.map(lambda moves: 0 if moves else None, tuple(in_batched))
        captured_axes, start_axis, input_axes = moving
        enter_all = jax.vmap(enter, (None, 0, start_axis))
        step_all = jax.vmap(step, (None, 0, 0, captured_axes, input_axes))
        first = jnp.where(done, num_steps, first).min()
        return _restartable_loop(enter_all, step_all, num_steps)(
            first, done.all(), states, captured, start, inputs
        ), True

    return loop
