"""Derivatives of a trajectory by the implicit function theorem, whichever solver found it.

At a trajectory ``x_t = f(x_{t-1}, u_t)`` a change of the parameters moves the states by the linear recurrence
``dx_t = J_t dx_{t-1} + df_t`` with the full Jacobians ``J_t``: the derivative of the loop itself, in forward mode; its
transpose, from the last step to the first, is the derivative in reverse mode.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from tsppl.recurrence.affine import linear_recurrence
from tsppl.recurrence.chunks import shift
from tsppl.recurrence.jacobians import full_jacobians


def differentiable(advance_with, solve, solve_linear):
    """``solve`` with exact derivatives of all orders, in both modes.

    Args:
        advance_with: ``advance_with(captured, state, x) -> state``.
        solve: ``solve(captured, start, inputs) -> (states, extra)``; only ``states``, ``(T, n)``, have a derivative.
        solve_linear: ``solve_linear(advance_with, captured, start, rows, scale) -> states`` for steps affine in the state,
            with states of about that scale.

    Returns:
        the function of ``(captured, start, inputs)``.
    """

    @jax.custom_jvp
    def trajectory(captured, start, inputs):
        return solve(captured, start, inputs)

    @trajectory.defjvp
    def trajectory_jvp(primals, tangents):
        states, extra = trajectory(*primals)
        captured, start, inputs = primals
        previous = shift(start, states)

        def image(captured, start, inputs):
            # Later steps feel the arguments through the states too: that is what the recurrence below adds.
            return jax.vmap(advance_with, (None, 0, 0))(captured, shift(start, states), inputs)

        _, direct = jax.jvp(image, primals, tangents)
        moved = _propagate(advance_with, solve_linear, captured, previous, inputs, direct)
        return (states, extra), (moved, jax.tree.map(_zero_tangent, extra))

    return trajectory


LARGEST_STORED = 16
"""States of up to so many dimensions have their Jacobians stored; beyond, each step's is applied and forgotten."""


def _propagate(advance_with, solve_linear, captured, previous, inputs, direct):
    """``d_t = J_t d_{t-1} + direct_t``, linear in ``direct``."""

    def push(captured, tangent, row):
        state, x = row[:2]
        return jax.jvp(lambda state: advance_with(captured, state, x), (state,), (tangent,))[1]

    def pull(captured, cotangent, row):
        state, x = row[:2]
        return jax.vjp(lambda state: advance_with(captured, state, x), state)[1](cotangent)[0]

    def jacobians():
        return full_jacobians(lambda state, x: advance_with(captured, state, x), previous, inputs)

    def matvec(tangents):
        before = shift(jnp.zeros_like(tangents[0]), tangents)
        return tangents - jax.vmap(push, (None, 0, 0))(captured, before, (previous, inputs))

    def solve(_, direct):
        if direct.shape[1] <= LARGEST_STORED:
            return linear_recurrence(jacobians(), direct)

        def advance(captured, tangent, row):
            return push(captured, tangent, row) + row[2]

        rows = (previous, inputs, direct)
        return solve_linear(advance, captured, jnp.zeros_like(direct[0]), rows, _scale(direct))

    def transpose_solve(_, cotangents):
        # From the last step to the first: step t + 1 pulls on step t, and nothing on the last.
        nothing = jnp.zeros_like(cotangents[:1])
        if cotangents.shape[1] <= LARGEST_STORED:
            transposed = jacobians().swapaxes(1, 2)
            transposed = jnp.concatenate([transposed[1:], jnp.zeros_like(transposed[:1])])
            return linear_recurrence(transposed, cotangents, reverse=True)

        def advance(captured, pulled, row):
            return pull(captured, pulled + row[2], row)

        rows = jax.tree.map(lambda leaf: leaf[::-1], (previous, inputs, cotangents))
        pulled = solve_linear(advance, captured, nothing[0], rows, _scale(cotangents))[::-1]
        return cotangents + jnp.concatenate([pulled[1:], nothing])

    return lax.custom_linear_solve(matvec, direct, solve, transpose_solve)


def _scale(offsets):
    return jnp.abs(offsets).max() + jnp.finfo(offsets.dtype).tiny


def _zero_tangent(leaf):
    if jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros_like(leaf)
    return np.zeros(leaf.shape, jax.dtypes.float0)
