"""The log-likelihood of a linear-Gaussian model and its exact gradient, by one pass forward and one backward.

Notation in :mod:`tsppl.messages.linear_gaussian.steps`. The forward pass is the array form of the one-step predictor
(Kailath, Sayed and Hassibi 2000, chapter 12): one triangularisation

    ``[[V, C L, 0], [0, A L, S]] -> [[F, 0], [K, L_next]]``

gives a root ``F`` of the innovation covariance, the whitened gain ``K = A P C' F^-T`` and the next predicted root; the
mean moves by ``a_next = A a + b + K e`` with ``e = F^-1 (y - d - C a)``. The backward pass (de Jong 1989) carries
``r``, the derivative of the log-likelihood with respect to the predicted mean, and ``M``, for which
``(r r' - M) / 2`` is that with respect to the predicted covariance. The derivatives with respect to everything else are
sums over them (Koopman and Shephard 1992): nothing is differentiated through a root, and no covariance but that of the
innovations is inverted, so that singular ones are exact.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from tsppl.messages.linear_gaussian.roots import inverse_lower, lower_root, square, transpose
from tsppl.messages.linear_gaussian.steps import (
    LOG_TWO_PI,
    AffineGaussian,
    Gaussian,
    hide_unobserved,
    join_time,
    split_time,
)
from tsppl.messages.summation import summed_products


class Gains(NamedTuple):
    """What covariances decide about a step, or about each of several: the predicted root, ``F^-1`` and ``K``."""

    predicted: Float[Array, "*steps D D"]
    whitener: Float[Array, "*steps N N"]
    gain: Float[Array, "*steps D N"]


class Adjoint(NamedTuple):
    """What the backward pass needs of a step: ``W = F^-1 C`` and ``A - K W``, by which errors of the mean move on."""

    look: Float[Array, "*steps N D"]
    move: Float[Array, "*steps D D"]


def gains_of(predicted, dynamics: AffineGaussian, emission: AffineGaussian) -> tuple[Gains, Float[Array, "D D"]]:
    """Gains of one step, and the root of the next prediction."""
    size, noise, driving = emission.weights.shape[0], emission.root.shape[1], dynamics.root.shape[1]
    dtype, dim = predicted.dtype, predicted.shape[0]
    top = [emission.root, emission.weights @ predicted, jnp.zeros((size, driving), dtype)]
    below = [jnp.zeros((dim, noise), dtype), dynamics.weights @ predicted, dynamics.root]
    factor = lower_root(jnp.block([top, below]), 0)
    return Gains(predicted, inverse_lower(factor[:size, :size]), factor[size:, :size]), factor[size:, size : size + dim]


def adjoint_of(gains: Gains, weights, look) -> Adjoint:
    """``weights`` and ``look`` are the matrices of the dynamics and of the emission."""
    look = gains.whitener @ look
    return Adjoint(look, weights - gains.gain @ look)


def log_densities(whitened, whitener, counts):
    """Log density of each step's innovation, of which ``counts`` entries were observed."""
    diagonal = jnp.diagonal(whitener, axis1=-2, axis2=-1)
    return jnp.log(diagonal).sum(-1) - 0.5 * ((whitened**2).sum(-1) + counts * LOG_TWO_PI)


def predictor_value(initial, dynamics, emission, values, observed=None) -> Float[Array, ""]:
    """Log-likelihood, with fields of any kind and data missing anywhere."""
    _, whitened, gains = _predict(initial, dynamics, emission, values, observed)
    return log_densities(whitened, gains.whitener, _counts(values, observed)).sum()


def _counts(values, observed):
    return values.shape[1] if observed is None else observed.sum(-1)


def _predict(initial, dynamics, emission, values, observed):
    """Predicted mean, whitened innovation and gains of every step."""
    (moves, moving), (looks, looking) = split_time(pad_last(dynamics)), split_time(emission)

    def step(carry, inputs):
        mean, root = carry
        move, look, value, entries = inputs
        move, look = join_time(moves, move), join_time(looks, look)
        residual = value - look.weights @ mean - look.bias
        weights, noise, residual = hide_unobserved(look, residual, entries)
        gains, root = gains_of(root, move, AffineGaussian(weights, look.bias, noise))
        whitened = gains.whitener @ residual
        return (move.weights @ mean + move.bias + gains.gain @ whitened, root), (mean, whitened, gains)

    start = initial.mean, square(initial.root)
    return lax.scan(step, start, (moving, looking, values, observed), length=len(values))[1]


def pad_last(dynamics: AffineGaussian) -> AffineGaussian:
    """One more row, of zeros, for fields that vary in time: the step after the last, which nothing depends on."""
    varies = (array.ndim > ndim for array, ndim in zip(dynamics, (2, 1, 2), strict=True))
    padded = (
        jnp.pad(array, ((0, 1),) + ((0, 0),) * (array.ndim - 1)) if moves else array
        for moves, array in zip(varies, dynamics, strict=True)
    )
    return AffineGaussian(*padded)


def predictor_gradient(initial, dynamics, emission, values, observed=None):
    """``(log-likelihood, gradients)``, the gradients of initial, dynamics, emission and values in one tuple."""
    means, whitened, gains = _predict(initial, dynamics, emission, values, observed)
    value = log_densities(whitened, gains.whitener, _counts(values, observed)).sum()
    if observed is not None:
        emission = emission._replace(
            weights=jnp.where(observed[:, :, None], emission.weights, 0),
            root=jnp.where(observed[:, :, None], emission.root, 0),
        )
    padded = pad_last(dynamics)
    adjoint = adjoint_of(gains, padded.weights, emission.weights)
    pulls = times(transpose(adjoint.look), whitened)

    def step(after, row):
        (slope, curvature), (pull, own, move) = after, row
        return (pull + slope @ move, own + move.T @ curvature @ move), after

    size = initial.mean.shape[0]
    nothing = jnp.zeros(size, means.dtype), jnp.zeros((size, size), means.dtype)
    rows = pulls, transpose(adjoint.look) @ adjoint.look, adjoint.move
    (slope, curvature), (slopes, curvatures) = lax.scan(step, nothing, rows, reverse=True)
    slopes = jnp.concatenate([slope[None], slopes])
    corrections = jax.vmap(curvature_scores)(gains, adjoint, curvatures)
    shifts = observation_slopes(gains, whitened, slopes[1:])
    smoothed = means + smoothing_steps(gains, slopes[:-1])
    return value, assemble(initial, dynamics, emission, slopes, shifts, smoothed, curvature, corrections)


class Scores(NamedTuple):
    """Derivatives with respect to matrices and, twice, noise covariances: of one step, of several or summed."""

    weights: Float[Array, "*steps D D"]
    driving: Float[Array, "*steps D D"]
    look: Float[Array, "*steps N D"]
    noise: Float[Array, "*steps N N"]


def curvature_scores(gains: Gains, adjoint: Adjoint, curvature, count=1) -> Scores:
    """The part of the gradient that does not depend on data, to be subtracted.

    It is linear in ``curvature``, the ``M`` of the step after, so that the ``M`` of ``count`` steps with the same gains
    may be given as their sum.
    """
    root = gains.predicted
    moved = curvature @ (adjoint.move @ root) @ root.T
    look = count * (adjoint.look @ root) @ root.T - gains.gain.T @ moved
    noise = gains.gain.T @ curvature @ gains.gain + count * jnp.eye(len(look), dtype=root.dtype)
    whitener = gains.whitener
    return Scores(moved, curvature, whitener.T @ look, whitener.T @ noise @ whitener)


def times(matrices, vectors):
    """Each step's matrix, or the one of all steps, times its vector."""
    return (matrices @ vectors[..., None])[..., 0] if matrices.ndim > 2 else vectors @ matrices.T


def observation_slopes(gains: Gains, whitened, after):
    """Derivative with respect to each observation's mean, given those with respect to the means of the steps after."""
    return times(transpose(gains.whitener), whitened - times(transpose(gains.gain), after))


def smoothing_steps(gains: Gains, slopes):
    """Smoothed minus predicted means, given the derivatives with respect to the predicted means."""
    return times(gains.predicted, times(transpose(gains.predicted), slopes))


def assemble(initial, dynamics, emission, slopes, shifts, smoothed, curvature, corrections: Scores):
    """Gradients in the shapes of the arguments.

    Args:
        initial, dynamics, emission: the model; entries not observed have zeros in the emission.
        slopes: derivative with respect to each predicted mean, ``(T + 1, D)``; the last row is zero.
        shifts: derivative with respect to each observation's mean, ``(T, N)``.
        smoothed: means given all the data, ``(T, D)``.
        curvature: ``M`` of the first step.
        corrections: from :func:`curvature_scores`, one row for each step or summed over them.
    """
    after = slopes[1:]

    def products(left, right, correction, varies):
        """Of each step, or summed over them."""
        if varies:
            return left[:, :, None] * right[:, None] - correction
        return summed_products(left, right) - (correction.sum(0) if correction.ndim > 2 else correction)

    moves = [array.ndim > ndim for array, ndim in zip(dynamics, (2, 1, 2), strict=True)]
    looks = [array.ndim > ndim for array, ndim in zip(emission, (2, 1, 2), strict=True)]
    first = slopes[0][:, None] * slopes[0] - curvature
    moved = AffineGaussian(
        products(after, smoothed, corrections.weights, moves[0]),
        after if moves[1] else after.sum(0),
        products(after, after, corrections.driving, moves[2]),
    )
    moved = AffineGaussian(*(array[:-1] if varies else array for array, varies in zip(moved, moves, strict=True)))
    looked = AffineGaussian(
        products(shifts, smoothed, corrections.look, looks[0]),
        shifts if looks[1] else shifts.sum(0),
        products(shifts, shifts, corrections.noise, looks[2]) @ emission.root,
    )
    moved = moved._replace(root=moved.root @ dynamics.root)
    return Gaussian(slopes[0], first @ initial.root), moved, looked, -shifts
