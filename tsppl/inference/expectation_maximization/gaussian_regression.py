"""Weighted linear regression with Gaussian noise, from a triangular factor of the data.

Notation: ``p`` inputs, ``N`` outputs. A factor is any matrix ``F`` with ``F' F = sum of w [x, y]' [x, y]``. It holds
all that a regression needs, to twice the digits of that sum (Golub and Van Loan 2013, section 5.3), and an expectation
over inputs or outputs enters as further rows, the columns of a root of their covariance. The spread of the noise is
a Cholesky factor ``(N, N)``, or scales ``(N,)`` of independent outputs. One regression at a time: use ``jax.vmap``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float


class Regression(NamedTuple):
    """A factor of the data, ``(p + N, p + N)`` or one ``(p + 1, p + 1)`` for each output, and each output's weight."""

    factor: Float[Array, "..."]
    totals: Float[Array, " N"]


def triangular_factor(rows: Float[Array, "R M"]) -> Float[Array, "M M"]:
    """Upper triangular ``F`` with ``F' F = rows' rows``."""
    missing = max(rows.shape[1] - rows.shape[0], 0)
    return jnp.linalg.qr(jnp.pad(rows, ((0, missing), (0, 0))), mode="r")


def regression(inputs, outputs, weights, totals) -> Regression:
    """Collect rows.

    Args:
        inputs: ``(R, p)``.
        outputs: ``(R, N)``.
        weights: ``(R,)``, or ``(R, N)`` where outputs are independent and have weights of their own.
        totals: weight of the observations behind the rows, ``()`` or ``(N,)``; rows of a covariance do not count.
    """
    totals = jnp.broadcast_to(totals, outputs.shape[1:])
    if weights.ndim == 1:
        rows = jnp.concatenate([inputs, outputs], axis=1)
        return Regression(triangular_factor(jnp.sqrt(weights)[:, None] * rows), totals)

    def one_output(output, weights):
        rows = jnp.concatenate([inputs, output[:, None]], axis=1)
        return triangular_factor(jnp.sqrt(weights)[:, None] * rows)

    return Regression(jax.vmap(one_output, in_axes=(1, 1))(outputs, weights), totals)


def maximize_regression(data: Regression, coefficients, spread, *, free, spread_is_free=True, prior=None):
    """Coefficients and spread of greatest expected log density plus log prior.

    Args:
        data: of :func:`regression`.
        coefficients: current coefficients ``(N, p)``.
        spread: current spread of the noise.
        free: which inputs have coefficients that are estimated, a static bool for each of the ``p``.
        spread_is_free: whether the spread is estimated.
        prior: of :func:`inverse_wishart_rows`, for a Cholesky factor.

    Returns:
        ``(coefficients, spread)``; outputs without weight keep theirs.
    """
    fitted = _least_squares(data.factor, coefficients, free)
    coefficients = jnp.where(data.totals[:, None] > 0, fitted, coefficients)
    if not spread_is_free:
        return coefficients, spread
    residuals = _residual_factor(data.factor, coefficients)
    if spread.ndim == 2:
        return coefficients, fitted_scale_tril([residuals], data.totals[0], spread, prior)
    variances = (residuals**2).sum(0) / jnp.where(data.totals > 0, data.totals, 1.0)
    return coefficients, jnp.where(data.totals > 0, jnp.sqrt(variances), spread)


def expected_log_density(data: Regression, coefficients, spread) -> Float[Array, ""]:
    """Expected log density of the outputs given the inputs."""
    residuals = _residual_factor(data.factor, coefficients)
    if spread.ndim == 2:
        whitened = solve_triangular(spread, residuals.T, lower=True).T
        scales = jnp.diagonal(spread)
    else:
        whitened, scales = residuals / spread, spread
    return -0.5 * (whitened**2).sum() - (data.totals * (jnp.log(scales) + 0.5 * jnp.log(2 * jnp.pi))).sum()


def _least_squares(factor, coefficients, free):
    """Coefficients ``(N, p)``; where inputs are collinear, those of least norm after scaling."""
    chosen = jnp.array([i for i, estimated in enumerate(free) if estimated], int)
    if not chosen.size:
        return coefficients
    held = coefficients.at[:, chosen].set(0.0)

    def solve(factor, outputs):
        inputs = factor[:, chosen]
        scales = jnp.sqrt((inputs**2).sum(0))
        scales = jnp.where(scales > 0, scales, 1.0)
        return jnp.linalg.lstsq(inputs / scales, outputs)[0] / scales[:, None]

    outputs = _residual_factor(factor, held)
    if factor.ndim == 2:
        solution = solve(factor, outputs)
    else:
        solution = jax.vmap(solve, in_axes=(0, 1), out_axes=1)(factor, outputs[..., None])[..., 0]
    return coefficients.at[:, chosen].set(solution.T)


def _residual_factor(factor, coefficients):
    """``E``, ``(R, N)``: ``E' E`` is the scatter of the residuals, its diagonal where outputs have separate factors."""
    size = coefficients.shape[1]
    if factor.ndim == 2:
        return factor[:, size:] - factor[:, :size] @ coefficients.T
    return (factor[..., size] - jnp.einsum("nrp,np->nr", factor[..., :size], coefficients)).T


def fitted_scale_tril(rows, total, scale_tril, prior=None):
    """Cholesky factor of the covariance that maximises the density of residual ``rows`` times the prior."""
    if prior is not None:
        rows, total = rows + [prior[0]], total + prior[1]
    factor = triangular_factor(jnp.concatenate(rows))
    signs = jnp.where(jnp.diagonal(factor) < 0, -1, 1).astype(factor.dtype)
    found = (factor * signs[:, None]).T / jnp.sqrt(jnp.where(total > 0, total, 1.0))
    return jnp.where(total > 0, found, scale_tril)


def inverse_wishart_rows(scale_tril, concentration):
    """An inverse-Wishart prior of a covariance as residual rows and their number."""
    return jnp.swapaxes(scale_tril, -1, -2), concentration + scale_tril.shape[-1] + 1


def complete(loc, scale_tril, value, observed):
    """Expectation ``(n, N)`` of Gaussian observations given their observed entries.

    Returns:
        the completed values; ``(n, N, N)`` matrices ``I - G``, with ``G`` the regression of all entries on the observed
        ones, zero rows where observed. ``(I - G) scale_tril`` is a root of the covariance of what was completed.
    """
    kept = jax.vmap(lambda seen: _unexplained(scale_tril, seen))(observed)
    residual = jnp.where(observed, value - loc, 0.0)
    return loc + jnp.where(observed, residual, -jnp.einsum("nij,nj->ni", kept, residual)), kept


def _unexplained(scale_tril, observed):
    identity = jnp.eye(scale_tril.shape[-1], dtype=scale_tril.dtype)
    seen, hidden = jnp.where(observed[:, None], scale_tril, 0), jnp.where(observed[:, None], 0, scale_tril)
    alone = jnp.diag(jnp.where(observed, 0, 1).astype(scale_tril.dtype))
    factor = triangular_factor(jnp.concatenate([seen, alone], axis=1).T)
    gain = solve_triangular(factor, solve_triangular(factor, seen @ hidden.T, trans=1)).T
    return jnp.where(observed[:, None], 0, identity - gain)
