"""Sweeps over a whole trajectory: Newton's method and its cheaper relatives, each an affine recurrence per sweep.

With residuals ``r_t = f(x_{t-1}, u_t) - x_t`` a sweep adds ``d_t = A_t d_{t-1} + r_t``, ``d_0 = 0``, to the states. Newton's
method (DEER, Lim et al. 2024) takes for ``A_t`` the Jacobians, quasi-Newton (Gonzalez et al. 2024) their diagonals,
Picard's iteration the identity and Jacobi's nothing. After ``i`` undamped sweeps the first ``i`` states are right whatever
``A_t`` is.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree

from tsppl.recurrence.affine import apply, linear_recurrence
from tsppl.recurrence.chunks import shift
from tsppl.recurrence.damping import filter_gains
from tsppl.recurrence.jacobians import diagonals, full_jacobians, in_pairs, pair_blocks, probed_diagonals
from tsppl.recurrence.outcome import Outcome

SWEEPS = ("newton", "quasi", "elk", "quasi-elk", "jacobi", "picard")


def solve_by_sweeps(
    solver, advance, start, inputs, num_steps, guess, unravel, *, tol, max_iters, damping, jacobian
) -> Outcome:
    """States of ``state = advance(state, x)`` by sweeps from ``guess``, ``(T, n)``; the rest as in ``deer_scan``."""
    max_iters = min(num_steps, 200) if max_iters is None else max_iters
    damped = solver in ("elk", "quasi-elk")
    automatic = damped and isinstance(damping, str)
    weights_of = _weights(solver, jacobian, advance, start.size, unravel)

    def predict(states):
        return jax.vmap(advance)(shift(start, states), inputs)

    def moved(states, predicted, precision):
        weights = weights_of(shift(start, states), inputs)
        if weights is None:
            return predicted
        weights = jnp.where(jnp.isfinite(weights), weights, 0)
        move = partial(_move, precision=precision if damped else None)
        return in_pairs(move, weights, states, predicted) if weights.ndim == 4 else move(weights, states, predicted)

    def unsettled(loop):
        iteration, states, predicted, _ = loop
        return (iteration < max_iters) & ~(_residual(states, predicted).max() <= tol)

    def sweep(loop):
        iteration, states, predicted, precision = loop
        new_states = moved(states, predicted, precision)
        # States that overflowed stay where they were; those before them are as good as ever.
        usable = (jnp.abs(new_states) < jnp.finfo(new_states.dtype).max ** 0.25).all(axis=1, keepdims=True)
        new_states = jnp.where(usable, new_states, states)
        new_predicted = predict(new_states)
        if automatic:
            better = ((new_predicted - new_states) ** 2).sum() < ((predicted - states) ** 2).sum()
            precision = _adapt(precision, usable.all() & better)
        return iteration + 1, new_states, new_predicted, precision

    precision = jnp.asarray(1 / damping if damped and not automatic else 0.0, start.dtype)
    loop = (jnp.zeros((), int), guess, predict(guess), precision)
    iterations, states, predicted, _ = lax.while_loop(unsettled, sweep, loop)
    each = _residual(states, predicted).max(axis=1)
    settled = each <= tol
    exact_steps = jnp.where(settled.all(), num_steps, jnp.argmin(settled))
    return Outcome(states, exact_steps, iterations, each.max(), settled.all())


def _adapt(precision, better):
    """``1 / sigma^2`` after a sweep: ten times less where the residual has fallen, ten times more where it has not."""
    less = jnp.where(precision < 1e-8, 0.0, precision / 10)
    return jnp.where(better, less, jnp.clip(10 * precision, 1e-6, 1e2))


def _residual(states, predicted):
    return jnp.abs(predicted - states) / (1 + jnp.abs(states))


def _move(weights, states, predicted, *, precision):
    """States after a sweep with these weights, damped unless ``precision`` is None."""
    residual = predicted - states
    if precision is None:
        increments = linear_recurrence(weights, residual)
    else:
        gains = filter_gains(weights, precision)
        damped_weights = gains * weights if gains.ndim == residual.ndim else gains @ weights
        increments = linear_recurrence(damped_weights, apply(gains, residual))
    # Not states + increments, in which a state that has run away swallows what it is corrected to.
    target = predicted.at[1:].add(apply(weights[1:], increments[:-1]))
    if precision is None:
        return target
    step = target - states
    return target - (step - apply(gains, step))


def _weights(solver, jacobian, advance, size, unravel):
    """``(previous, inputs) -> A``, or None where ``A`` is zero."""
    if solver == "jacobi":
        return lambda previous, inputs: None
    if solver == "picard":
        return lambda previous, inputs: jnp.ones_like(previous)
    if solver in ("newton", "elk"):
        return lambda previous, inputs: full_jacobians(advance, previous, inputs)
    if callable(jacobian):

        def given(state, x):
            entries = jacobian(unravel(state), x)
            blocks = isinstance(entries, jax.Array) and entries.shape == (size // 2, 2, 2)
            return entries if blocks else ravel_pytree(entries)[0]

        return jax.vmap(given)
    if jacobian == "pairs":
        _check_pairs(unravel, size)
        return lambda previous, inputs: pair_blocks(advance, previous, inputs)
    if jacobian == "hutchinson":
        return lambda previous, inputs: probed_diagonals(
            advance, previous, inputs, jax.random.rademacher(jax.random.key(0), previous.shape, previous.dtype)
        )
    return lambda previous, inputs: diagonals(advance, previous, inputs)


def _check_pairs(unravel, size):
    shapes = [leaf.shape for leaf in jax.tree.leaves(unravel(jnp.zeros(size)))]
    if len(shapes) != 2 or shapes[0] != shapes[1]:
        raise ValueError(f'jacobian="pairs" needs a carry of two arrays of one shape, not of shapes {shapes}')
