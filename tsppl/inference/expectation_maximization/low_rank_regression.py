"""Weighted linear regression whose coefficients are low-rank tensors, factor by factor (Lee et al. 2023, appendix).

Notation: ``weights[k, l, i, j] = sum_def core[k, d, e, f] output[k, i, d] input[k, j, e] lag[k, l, f]``, ``K`` states,
``L`` lags, ``N`` channels; the state axis of a factor is 1 where all states share it. The expected log density is
quadratic in every factor when the others are held, so one Newton step in the metric of the noise is its exact maximiser.
Of the data these steps need second moments alone, collected once for any number of sweeps.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float

from tsppl.messages.autoregressive.low_rank import dense_weights

FIELDS = {"output_factors": "output", "core": "core", "input_factors": "input", "lag_factors": "lag"}
_NUM_DAMPED_STEPS = 4


class Factors(NamedTuple):
    """Output ``(S, N, D1)``, input ``(S, N, D2)``, lag ``(S, L, D3)``, core ``(S, D1, D2, D3)`` or None; ``S`` is ``K`` or 1."""

    output: Float[Array, "_ N D1"]
    input: Float[Array, "_ N D2"]
    lag: Float[Array, "_ L D3"]
    core: Float[Array, "_ D1 D2 D3"] | None


class Moments(NamedTuple):
    """Weighted second moments by state: of the lags with themselves, and of the outputs with the lags."""

    lags: Float[Array, "K L N L N"]
    across: Float[Array, "K N L N"]


class NormalPrior(NamedTuple):
    """Independent normal densities of the entries of a factor."""

    loc: Float[Array, "..."]
    precision: Float[Array, "..."]


def coefficients_of_states(factors: Factors, num_states) -> Float[Array, "K N P"]:
    """The dense coefficients of the lags, ``P = L N``, lag by lag."""
    weights = dense_weights(*factors)
    weights = jnp.broadcast_to(weights, (num_states,) + weights.shape[1:])
    return jnp.moveaxis(weights, -2, -3).reshape(num_states, weights.shape[-1], -1)


def maximize_low_rank_regression(factors: Factors, offset, products, scale_tril, *, priors, free, num_sweeps=1):
    """Raise the expected log density plus log prior by sweeps over the factors and the constant term.

    A constant term that is free and has no prior takes its best value for whatever the factors are, so that each factor
    moves to its maximum jointly with the constant term.

    Args:
        factors: current factors.
        offset: current constant term ``(K, N)``.
        products: ``(K, M, M)``, the weighted sums of ``r' r`` over rows ``r = [1, lags, outputs]``.
        scale_tril: Cholesky factors of the noise covariance ``(K, N, N)``.
        priors: ``field -> NormalPrior`` of the field's shape; may lack any. Fields are those of ``Factors``, and
            ``"offset"``.
        free: fields that are estimated, in the order in which they move.
        num_sweeps: number of sweeps.

    Returns:
        ``(factors, offset)``. Directions that the data leave open keep their value.
    """
    identity = jnp.broadcast_to(jnp.eye(offset.shape[1], dtype=offset.dtype), scale_tril.shape)
    precision = cho_solve((scale_tril, True), identity)
    fields = tuple(field for field in free if field != "offset")
    is_profiled = "offset" in free and "offset" not in priors

    def sweep(_, carry):
        factors, offset = carry
        if "offset" in priors:
            offset = _improve_offset(offset, coefficients_of_states(factors, len(offset)), products, precision, priors)
        moments = _moments_about_means(products, offset) if is_profiled else _moments_about(products, offset)
        return improve_factors(factors, moments, precision, priors, fields), offset

    factors, offset = lax.fori_loop(0, num_sweeps, sweep, (factors, offset))
    return factors, _best_offset(products, factors, offset) if is_profiled else offset


def _moments_about(products, offset):
    """Moments of the regression with a given constant term."""
    size = offset.shape[1]
    across = products[:, -size:, 1:-size] - offset[:, :, None] * products[:, :1, 1:-size]
    return _as_tensors(products[:, 1:-size, 1:-size], across)


def _moments_about_means(products, offset):
    """Moments of the regression whose constant term always takes its best value."""
    size = offset.shape[1]
    centred = products[:, 1:, 1:] - jnp.swapaxes(_means(products), 1, 2) * products[:, :1, 1:]
    return _as_tensors(centred[:, :-size, :-size], centred[:, -size:, :-size])


def _means(products):
    totals = products[:, :1, :1]
    return products[:, :1, 1:] / jnp.where(totals > 0, totals, 1.0)


def _as_tensors(lags, across):
    num_states, size = across.shape[:2]
    num_lags = across.shape[2] // size
    return Moments(
        lags.reshape(num_states, num_lags, size, num_lags, size), across.reshape(num_states, size, num_lags, size)
    )


def _best_offset(products, factors, otherwise):
    """The best constant term; ``otherwise`` in states without data."""
    num_states, size = otherwise.shape
    means = _means(products)[:, 0]
    offset = means[:, -size:] - jnp.einsum("kip,kp->ki", coefficients_of_states(factors, num_states), means[:, :-size])
    return jnp.where(products[:, 0, :1] > 0, offset, otherwise)


def _improve_offset(offset, coefficients, products, precision, priors):
    size, total = offset.shape[1], products[:, 0, 0]
    sums = products[:, 0, -size:] - jnp.einsum("kip,kp->ki", coefficients, products[:, 0, 1:-size])
    slope = jnp.einsum("kin,kn->ki", precision, sums - total[:, None] * offset)
    return _newton_step(offset, slope, total[:, None, None] * precision, priors.get("offset"))


def improve_factors(factors: Factors, moments: Moments, precision, priors, fields) -> Factors:
    """Move each of ``fields`` in turn to the maximum of the expected log density plus log prior.

    Args:
        factors: current factors.
        moments: of the data.
        precision: inverse covariances of the noise ``(K, N, N)``.
        priors: ``field -> NormalPrior``; may lack any.
        fields: fields of ``Factors``.
    """
    for field in fields:
        slope, curvature = _DERIVATIVES[field](_of_every_state(factors, len(precision)), moments, precision)
        factor = _newton_step(getattr(factors, field), slope, curvature, priors.get(field))
        factors = factors._replace(**{field: factor})
    return factors


def _of_every_state(factors, num_states):
    core = _diagonal(factors.output.shape[-1], factors.output.dtype) if factors.core is None else factors.core
    return Factors(*(jnp.broadcast_to(f, (num_states,) + f.shape[1:]) for f in factors[:3] + (core,)))


def _diagonal(rank, dtype):
    index = jnp.arange(rank)
    return jnp.zeros((1, rank, rank, rank), dtype).at[0, index, index, index].set(1.0)


def _newton_step(factor, slope, curvature, prior):
    """``factor`` at the maximum; slopes ``(K, ...)`` and curvatures ``(K, n, n)`` add up where states share it."""
    if factor.shape[0] == 1:
        slope, curvature = slope.sum(0, keepdims=True), curvature.sum(0, keepdims=True)
    if prior is not None:
        slope = slope + prior.precision * (prior.loc - factor)
        curvature = curvature + jax.vmap(jnp.diag)(prior.precision.reshape(factor.shape[0], -1))
    step = jax.vmap(_solve)(curvature, slope.reshape(factor.shape[0], -1))
    return factor + step.reshape(factor.shape)


def _solve(curvature, slope):
    """The Newton step as a few damped ones (proximal point iterations: Parikh and Boyd 2014, section 4.1).

    Each goes uphill, and together they are exact to rounding, but directions of no curvature, in which the slope is
    rounding alone, stay where they are instead of drifting far.
    """
    diagonal = jnp.diagonal(curvature)
    scales = jnp.sqrt(jnp.where(diagonal > 0, diagonal, 1.0))
    scaled, slope = curvature / (scales[:, None] * scales), slope / scales
    damping = jnp.sqrt(jnp.finfo(slope.dtype).eps) * jnp.eye(len(slope), dtype=slope.dtype)
    factor = cho_factor(scaled + damping, lower=True)
    step = jnp.zeros_like(slope)
    for _ in range(_NUM_DAMPED_STEPS):
        step += cho_solve(factor, slope - scaled @ step)
    return jnp.where(jnp.isfinite(step).all(), step / scales, 0.0)


def _slope_of_weights(factors, moments, precision):
    """Derivative of the expected log density with respect to the weights, axes ``k, i, l, j``."""
    residual = moments.across - jnp.einsum("kmij,kmjlh->kilh", dense_weights(*factors), moments.lags)
    return jnp.einsum("kin,knlj->kilj", precision, residual)


def _kronecker(left, right):
    """``(K, a, a)`` and ``(K, b, b)`` to ``(K, a b, a b)``."""
    size = left.shape[-1] * right.shape[-1]
    return jnp.einsum("kab,kcd->kacbd", left, right).reshape(-1, size, size)


def _output_derivatives(factors, moments, precision):
    slope = _slope_of_weights(factors, moments, precision)
    features = jnp.einsum("kdef,kje,klf->kdlj", factors.core, factors.input, factors.lag)
    scatter = jnp.einsum("kdlj,kljmh,kemh->kde", features, moments.lags, features)
    return jnp.einsum("kilj,kdlj->kid", slope, features), _kronecker(precision, scatter)


def _core_derivatives(factors, moments, precision):
    slope = _slope_of_weights(factors, moments, precision)
    metric = jnp.einsum("kid,kin,kne->kde", factors.output, precision, factors.output)
    features = jnp.einsum("kje,klf->keflj", factors.input, factors.lag)
    scatter = jnp.einsum("keflj,kljmh,kabmh->kefab", features, moments.lags, features)
    rank = features.shape[1] * features.shape[2]
    slope = jnp.einsum("kid,kilj,kje,klf->kdef", factors.output, slope, factors.input, factors.lag)
    return slope, _kronecker(metric, scatter.reshape(-1, rank, rank))


def _input_derivatives(factors, moments, precision):
    slope = _slope_of_weights(factors, moments, precision)
    reach = jnp.einsum("kid,kdef->kief", factors.output, factors.core)
    metric = jnp.einsum("kief,kin,knab->kefab", reach, precision, reach)
    scatter = jnp.einsum("klf,kljmh,kmb->kfjbh", factors.lag, moments.lags, factors.lag)
    size = slope.shape[-1] * reach.shape[2]
    curvature = jnp.einsum("kefab,kfjbh->kjeha", metric, scatter).reshape(-1, size, size)
    return jnp.einsum("kilj,kief,klf->kje", slope, reach, factors.lag), curvature


def _lag_derivatives(factors, moments, precision):
    slope = _slope_of_weights(factors, moments, precision)
    reach = jnp.einsum("kid,kdef->kief", factors.output, factors.core)
    metric = jnp.einsum("kief,kin,knab->kefab", reach, precision, reach)
    scatter = jnp.einsum("kje,kljmh,kha->klema", factors.input, moments.lags, factors.input)
    size = slope.shape[2] * reach.shape[3]
    curvature = jnp.einsum("kefab,klema->klfmb", metric, scatter).reshape(-1, size, size)
    return jnp.einsum("kilj,kief,kje->klf", slope, reach, factors.input), curvature


_DERIVATIVES = {
    "output": _output_derivatives,
    "core": _core_derivatives,
    "input": _input_derivatives,
    "lag": _lag_derivatives,
}
