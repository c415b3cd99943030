"""What every linear-Gaussian algorithm is made of: Gaussians, affine-Gaussian steps, information, and three operations.

Notation: ``T`` steps; dimensions ``D`` of the trajectory ``x_t``, ``N`` of the observation ``y_t`` and ``R`` of the
driving noise ``w_t``.

============= ========================================= ==========================================================
``initial``   ``Gaussian(mean, root)``                  ``x_0 ~ N(mean, root root')``
``dynamics``  ``AffineGaussian(weights, bias, root)``   ``x_{t+1} = A x_t + b + S w_t``, ``w_t`` standard normal
``emission``  ``AffineGaussian(weights, bias, root)``   ``y_t = C x_t + d + V v_t``, ``v_t`` standard normal
============= ========================================= ==========================================================

``S`` is ``(D, R)``: where the noise drives fewer than ``D`` dimensions its covariance is singular, and nothing here
inverts it. Each field of ``dynamics`` may carry a leading time axis of ``T - 1`` rows (row ``t`` moves ``x_t`` to
``x_{t+1}``), each field of ``emission`` one of ``T`` rows. All arrays have one floating dtype.
"""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from tsppl.messages.linear_gaussian.information import InformationMatrix, InformationRoot
from tsppl.messages.linear_gaussian.roots import lower_root, solve_lower

LOG_TWO_PI = math.log(2 * math.pi)


class Gaussian(NamedTuple):
    """Mean ``(..., D)`` and any root ``(..., D, M)`` of the covariance ``root @ root.T``."""

    mean: Float[Array, "*steps D"]
    root: Float[Array, "*steps D M"]


class AffineGaussian(NamedTuple):
    """``x -> N(weights @ x + bias, root @ root.T)``; each field may have a leading time axis of its own."""

    weights: Float[Array, "*weight_steps M D"]
    bias: Float[Array, "*bias_steps M"]
    root: Float[Array, "*root_steps M R"]


Information = InformationRoot | InformationMatrix


def predict(gaussian: Gaussian, step: AffineGaussian) -> Gaussian:
    """Push a Gaussian through one affine-Gaussian step."""
    root = jnp.concatenate([step.weights @ gaussian.root, step.root], axis=-1)
    return Gaussian(step.weights @ gaussian.mean + step.bias, lower_root(root, 0))


def compose(first: AffineGaussian, second: AffineGaussian) -> AffineGaussian:
    """The step that is ``first`` followed by ``second``."""
    pushed = predict(Gaussian(first.bias, first.root), second)
    return AffineGaussian(second.weights @ first.weights, *pushed)


def tilt(gaussian: Gaussian, information: Information) -> tuple[Gaussian, Float[Array, ""]]:
    """Multiply a Gaussian by ``exp(-x' J x / 2 + h' x)`` and renormalise; also returns the log normaliser.

    The covariance ``(P^-1 + J)^-1`` has root ``L E^-T``, where ``E E' = I + L' J L``; no inverse of ``P`` or ``J``.
    """
    factor, _, step, _ = information.absorb(*gaussian)
    return _tilted(gaussian, information, factor, step)


def _tilted(gaussian, information, factor, step):
    root = solve_lower(factor, gaussian.root.T).T
    log_normalizer = information.log_value(gaussian.mean) + 0.5 * step @ step - log_determinant(factor)
    return Gaussian(gaussian.mean + root @ step, root), log_normalizer


def absorb(step: AffineGaussian, arrival: Information) -> tuple[AffineGaussian, Information, Float[Array, ""]]:
    """Tilt an affine-Gaussian step by information about where it arrives.

    Returns:
        the step given that information; the information that passes back to where the step starts; and the log
        normaliser at the origin, so that ``E[arrival | x] = exp(log_normalizer) * passed_back(x)``.
    """
    factor, half, move, left = arrival.absorb(step.bias, step.root)
    tilted, log_normalizer = _tilted(Gaussian(step.bias, step.root), arrival, factor, move)
    kernel = AffineGaussian(step.weights - tilted.root @ (half @ step.weights), *tilted)
    return kernel, left.pull_back(step.weights), log_normalizer


def observe(predicted: Gaussian, emission: AffineGaussian, value, observed=None) -> tuple[Gaussian, Float[Array, ""]]:
    """Condition a Gaussian on one observation; also returns the log density of the observed entries.

    The joint root ``[[V, C L], [0, L]]`` of ``(y, x)`` is made triangular, which gives the root of the innovation
    covariance, the gain and the root of the conditional covariance at once. Entries that were not observed get a zero
    row in ``C``, no residual and an independent unit variance, so that they contribute nothing.
    """
    size = emission.weights.shape[0]
    residual = value - emission.weights @ predicted.mean - emission.bias
    weights, noise, residual = hide_unobserved(emission, residual, observed)
    projected = weights @ predicted.root
    below = jnp.zeros((predicted.root.shape[0], noise.shape[-1]), noise.dtype)
    joint = jnp.block([[noise, projected], [below, predicted.root]])
    factor = lower_root(joint, size)
    whitened = solve_lower(factor[:size, :size], residual)
    count = size if observed is None else observed.sum()
    log_density = -0.5 * (whitened @ whitened + count * LOG_TWO_PI) - log_determinant(factor[:size, :size])
    return Gaussian(predicted.mean + factor[size:, :size] @ whitened, factor[size:, size:]), log_density


def hide_unobserved(emission: AffineGaussian, residual, observed):
    """``(weights, noise root, residual)`` in which the entries not observed know nothing of ``x`` and of each other."""
    if observed is None:
        return emission.weights, emission.root, residual
    weights, root = jnp.where(observed[:, None], emission.weights, 0), jnp.where(observed[:, None], emission.root, 0)
    alone = jnp.diag(jnp.where(observed, 0, 1).astype(root.dtype))
    return weights, jnp.concatenate([root, alone], axis=-1), jnp.where(observed, residual, 0)


def observation_information(emission: AffineGaussian, value, observed=None) -> InformationRoot:
    """The likelihood of ``x`` from one observation, up to a constant."""
    weights, noise, residual = hide_unobserved(emission, value - emission.bias, observed)
    noise = lower_root(noise, noise.shape[0])
    return InformationRoot(solve_lower(noise, weights).T, solve_lower(noise, residual))


def log_determinant(factor):
    """Log determinant of a triangular matrix with positive diagonal."""
    return jnp.log(jnp.diagonal(factor)).sum()


def normal_log_density(value, gaussian: Gaussian) -> Float[Array, ""]:
    """Log density at ``value`` of a Gaussian whose root is a Cholesky factor."""
    whitened = solve_lower(gaussian.root, value - gaussian.mean)
    return -0.5 * (whitened @ whitened + value.shape[0] * LOG_TWO_PI) - log_determinant(gaussian.root)


def split_time(step: AffineGaussian) -> tuple[AffineGaussian, AffineGaussian]:
    """Split into the fields that are constant and those that carry a time axis; None stands for the others."""
    varies = [array.ndim > ndim for array, ndim in zip(step, (2, 1, 2), strict=True)]
    constant = (None if moves else array for moves, array in zip(varies, step, strict=True))
    varying = (array if moves else None for moves, array in zip(varies, step, strict=True))
    return AffineGaussian(*constant), AffineGaussian(*varying)


def join_time(constant: AffineGaussian, row: AffineGaussian) -> AffineGaussian:
    """One step's parameters, from the constant fields and one row of the others."""
    return AffineGaussian(*(b if a is None else a for a, b in zip(constant, row, strict=True)))


def each_step(function, step: AffineGaussian, *arrays):
    """``function(parameters of one step, *row of each array)`` for all steps at once."""
    constant, varying = split_time(step)
    return jax.vmap(lambda row, *rows: function(join_time(constant, row), *rows))(varying, *arrays)


def first_row(tree):
    """The first step of a tree whose leaves have a leading time axis."""
    return jax.tree.map(lambda a: a[0], tree)


def later_rows(tree):
    """All steps but the first."""
    return jax.tree.map(lambda a: a[1:], tree)


def earlier_rows(tree):
    """All steps but the last."""
    return jax.tree.map(lambda a: a[:-1], tree)


def prepend(first, rest):
    """Join a tree for the first step with a tree whose leaves stack the later steps."""
    return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, rest)
