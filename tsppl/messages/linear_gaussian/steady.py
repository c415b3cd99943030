"""Linear-Gaussian models whose covariances settle: constant matrices, every entry observed.

The covariances do not depend on the data. They are followed exactly for ``num_transient`` steps, from the first step
forward and from the last backward, and taken as constant in between; means then follow a recurrence with one matrix
(:func:`~tsppl.recurrence.affine.constant_recurrence`). How far the covariances are from their limit
is computed, not assumed: two solutions of the Riccati recursion differ, ``n`` steps later, by ``Phi (P - P') Phi'``,
where ``Phi`` is the product of the matrices by which errors of the mean move on. Every function here says whether it
vouches for its answer, which it does not near unit roots and for what the data cannot tell.

Under ``vmap`` over values with one set of parameters, all that concerns covariances is computed once. Biases may vary
in time. Notation in :mod:`tsppl.messages.linear_gaussian.steps` and :mod:`tsppl.messages.linear_gaussian.adjoint`.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from tsppl.messages.linear_gaussian.adjoint import (
    Adjoint,
    Gains,
    Scores,
    adjoint_of,
    assemble,
    curvature_scores,
    gains_of,
    log_densities,
    observation_slopes,
    smoothing_steps,
    times,
)
from tsppl.messages.linear_gaussian.roots import square, transpose
from tsppl.messages.linear_gaussian.steps import AffineGaussian, Gaussian
from tsppl.recurrence.affine import constant_recurrence, matrix_powers, varying_recurrence


def num_transient_steps(num_steps: int) -> int:
    """How long covariances are followed at either end: a small share of a long sequence, and at most a quarter."""
    return 2 * min(256, max(num_steps // 512, min(32, num_steps // 8)))


class Steady(NamedTuple):
    """Gains and adjoints of the first ``num_transient`` steps, the last of which stand for all later steps."""

    gains: Gains
    adjoint: Adjoint
    vouched: Bool[Array, ""]


class Pass(NamedTuple):
    """Predicted means ``(T, D)`` and whitened innovations ``(T, N)``."""

    means: Float[Array, "T D"]
    whitened: Float[Array, "T N"]


def steady_state(initial: Gaussian, dynamics: AffineGaussian, emission: AffineGaussian, num_transient: int) -> Steady:
    """Follow the covariances, and check that they have settled."""

    def step(root, _):
        gains, root = gains_of(root, dynamics, emission)
        return root, gains

    _, gains = lax.scan(step, square(initial.root), length=num_transient)
    adjoint = adjoint_of(gains, dynamics.weights, emission.weights)
    before, after = gains.predicted[num_transient // 2 - 1], gains.predicted[-1]
    return Steady(gains, adjoint, settled(before, after, adjoint.move[-1], num_transient))


def settled(before, after, move, num_transient: int) -> Bool[Array, ""]:
    """Whether what is left of a difference between two covariances is lost in rounding.

    Args:
        before: root of the covariance half way.
        after: root of the covariance after ``num_transient`` steps.
        move: matrix by which errors move on.
        num_transient: number of steps.
    """
    tolerance = 32 * jnp.finfo(after.dtype).eps
    before, after = before @ before.T, after @ after.T
    scale = jnp.sqrt(jnp.maximum(jnp.diagonal(before), jnp.diagonal(after)))
    scale = jnp.where(scale > 0, scale, 1)
    half = jnp.linalg.matrix_power(move * scale / scale[:, None], num_transient // 2)
    decay = (half**2).sum()
    difference = jnp.abs((before - after) / (scale[:, None] * scale)).max()
    return (((half @ half) ** 2).sum() <= tolerance) & (decay * difference <= tolerance)


def last_row(tree):
    """The last step of a tree whose leaves have a leading time axis."""
    return jax.tree.map(lambda a: a[-1], tree)


def forward_pass(steady: Steady, initial, dynamics, emission, values) -> Pass:
    """Predicted means and whitened innovations."""
    gains, move = steady.gains, steady.adjoint.move
    count, limit = len(move), last_row(gains)
    centred = values - emission.bias
    biases = jnp.broadcast_to(dynamics.bias, (len(values) - 1, initial.mean.shape[0]))
    head_inputs = times(gains.gain @ gains.whitener, centred[:count]) + biases[:count]
    tail_inputs = times(limit.gain @ limit.whitener, centred[count:-1]) + biases[count:]
    head = varying_recurrence(move, initial.mean, head_inputs)
    tail = constant_recurrence(move[-1], head[-1], tail_inputs)
    means = jnp.concatenate([initial.mean[None], head, tail])
    residuals = centred - times(emission.weights, means)
    return Pass(means, each_stage(lambda gains, residual: times(gains.whitener, residual), gains, residuals))


def each_stage(function, gains: Gains, *arrays):
    """``function(gains, *arrays)`` of the first steps with their own gains and of the others with the last of these."""
    count = len(gains.gain)
    early = function(gains, *(array[:count] for array in arrays))
    late = function(last_row(gains), *(array[count:] for array in arrays))
    return jnp.concatenate([early, late])


def backward_slopes(steady: Steady, whitened) -> Float[Array, "S D"]:
    """Derivative of the log-likelihood with respect to each predicted mean, and a row of zeros, ``(T + 1, D)``."""
    look, move = steady.adjoint
    count, size = len(look), look.shape[2]
    nothing = jnp.zeros(size, whitened.dtype)
    late = constant_recurrence(move[-1].T, nothing, whitened[count:] @ look[-1], reverse=True)
    pulls = times(transpose(look), whitened[:count])
    early = varying_recurrence(transpose(move), late[0], pulls, reverse=True)
    return jnp.concatenate([early, late, nothing[None]])


def steady_value(num_transient, initial, dynamics, emission, values):
    """``(log-likelihood, vouched)``."""
    steady = steady_state(initial, dynamics, emission, num_transient)
    whitened = forward_pass(steady, initial, dynamics, emission, values).whitened
    return _log_likelihood(steady, whitened), steady.vouched


def _log_likelihood(steady, whitened):
    def terms(gains, whitened):
        return log_densities(whitened, gains.whitener, whitened.shape[1])

    return each_stage(terms, steady.gains, whitened).sum()


def steady_gradient(num_transient, initial, dynamics, emission, values):
    """``((log-likelihood, gradients), vouched)``, the gradients of initial, dynamics, emission and values."""
    steady = steady_state(initial, dynamics, emission, num_transient)
    means, whitened = forward_pass(steady, initial, dynamics, emission, values)
    slopes = backward_slopes(steady, whitened)
    curvature, corrections = _corrections(steady, len(values))
    shifts = each_stage(observation_slopes, steady.gains, whitened, slopes[1:])
    smoothed = means + each_stage(smoothing_steps, steady.gains, slopes[:-1])
    gradients = assemble(initial, dynamics, emission, slopes, shifts, smoothed, curvature, corrections)
    return (_log_likelihood(steady, whitened), gradients), steady.vouched


def _corrections(steady, num_steps):
    """``M`` of the first step, and the data-independent part of the gradient summed over all steps."""
    gains, adjoint = steady.gains, steady.adjoint
    count = len(gains.gain)
    settled_gains, settled_adjoint = last_row(gains), last_row(adjoint)
    moved = settled_adjoint.look @ matrix_powers(settled_adjoint.move, count)
    # Row k: M as it is k steps before the end, where it is zero.
    curvatures = jnp.cumsum(transpose(moved) @ moved, axis=0)
    limit = curvatures[-1]
    total = curvatures[: count - 1].sum(0) + (num_steps - 2 * count) * limit
    late = curvature_scores(settled_gains, settled_adjoint, total, num_steps - count)

    def step(after, row):
        look, move = row
        return look.T @ look + move.T @ after @ move, after

    first, curvatures = lax.scan(step, limit, adjoint, reverse=True)
    early = jax.vmap(curvature_scores)(gains, adjoint, curvatures)
    return first, Scores(*(a.sum(0) + b for a, b in zip(early, late, strict=True)))
