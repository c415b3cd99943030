"""Gaussian linear regression with unknown coefficients and covariance (Fox et al. 2011, appendix).

``y = A x + e``, ``e ~ N(0, Q)``, with ``N`` outputs and ``p`` inputs; ``Q ~ InverseWishart(nu, S)`` and
``A | Q ~ MatrixNormal(M, Q, V)``, rows like ``Q``, columns like ``V``. Roots and precisions of ``V`` travel, never ``V``:
the posterior adds to its inverse. One regression at a time: use ``jax.vmap``.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import multigammaln
from jaxtyping import Array, Float

LARGEST_BLOCK = 512


class MatrixNormalInverseWishartParameters(NamedTuple):
    """``M``, the Cholesky factor of the inverse of ``V``, ``nu``, and the Cholesky factor of ``S``."""

    loc: Float[Array, "N p"]
    precision_tril: Float[Array, "p p"]
    concentration: Float[Array, ""]
    scale_tril: Float[Array, "N N"]


class RegressionStatistics(NamedTuple):
    """Weighted sums over rows: ``x x'``, ``y x'``, ``y y'``, and of the weights."""

    inputs: Float[Array, "p p"]
    cross: Float[Array, "N p"]
    outputs: Float[Array, "N N"]
    total: Float[Array, ""]


def regression_statistics(inputs, outputs, states, num_states) -> RegressionStatistics:
    """Sums over the rows of each state, with a leading axis of ``K``.

    Rows are sorted by state into blocks of one state each, so that the work does not grow with the number of states.

    Args:
        inputs: ``(n, p)``.
        outputs: ``(n, N)``.
        states: int ``(n,)``; rows with a negative state count nowhere.
        num_states: ``K``.
    """
    (num_rows, size), width = inputs.shape, inputs.shape[1] + outputs.shape[1]
    rows = jnp.concatenate([inputs, outputs], axis=1)
    states = jnp.where(states < 0, num_states, states)
    counts = jnp.bincount(states, length=num_states + 1)
    block_size = max(8, min(LARGEST_BLOCK, num_rows // (2 * num_states)))
    num_blocks = -(-num_rows // block_size) + num_states + 1
    last_blocks = jnp.cumsum(-(-counts // block_size))
    first_slots = jnp.concatenate([jnp.zeros(1, last_blocks.dtype), last_blocks[:-1]]) * block_size
    order = jnp.argsort(states)
    ordered = states[order]
    slots = first_slots[ordered] + jnp.arange(num_rows) - (jnp.cumsum(counts) - counts)[ordered]
    placed = jnp.full(num_blocks * block_size, num_rows).at[slots].set(order).reshape(num_blocks, block_size)
    owners = jnp.searchsorted(last_blocks, jnp.arange(num_blocks), side="right")

    def add(sums, block):
        indices, owner = block
        chosen = rows.at[indices].get(mode="fill", fill_value=0)
        return sums.at[owner].add(chosen.T @ chosen, mode="drop"), None

    sums, _ = lax.scan(add, jnp.zeros((num_states, width, width), rows.dtype), (placed, owners))
    return RegressionStatistics(
        sums[:, :size, :size], sums[:, size:, :size], sums[:, size:, size:], counts[:num_states].astype(rows.dtype)
    )


def regression_posterior(prior, statistics) -> MatrixNormalInverseWishartParameters:
    """The posterior given the rows behind ``statistics``.

    >>> import jax.numpy as jnp
    >>> from tsppl.conjugate import *
    >>> prior = MatrixNormalInverseWishartParameters(jnp.zeros((1, 1)), jnp.eye(1), jnp.array(3.0), jnp.eye(1))
    >>> ones, outputs = jnp.ones((3, 1)), jnp.array([[1.0], [2.0], [3.0]])
    >>> posterior = regression_posterior(
    ...     prior, RegressionStatistics(ones.T @ ones, outputs.T @ ones, outputs.T @ outputs, jnp.array(3.0))
    ... )
    >>> float(posterior.loc[0, 0]), float(posterior.concentration)
    (1.5, 6.0)
    """
    prior_precision = prior.precision_tril @ prior.precision_tril.T
    precision_tril = jnp.linalg.cholesky(prior_precision + statistics.inputs)
    pull = prior.loc @ prior_precision + statistics.cross
    loc = jax.scipy.linalg.cho_solve((precision_tril, True), pull.T).T
    fitted = loc @ statistics.cross.T
    residuals = statistics.outputs - fitted - fitted.T + loc @ statistics.inputs @ loc.T
    moved = (loc - prior.loc) @ prior.precision_tril
    scale = prior.scale_tril @ prior.scale_tril.T + residuals + moved @ moved.T
    return MatrixNormalInverseWishartParameters(
        loc, precision_tril, prior.concentration + statistics.total, jnp.linalg.cholesky(scale)
    )


def regression_log_marginal(prior, statistics) -> Float[Array, ""]:
    """``log p(y | x)`` of the rows behind ``statistics``, coefficients and covariance integrated out."""
    posterior = regression_posterior(prior, statistics)
    size = prior.loc.shape[0]

    def log_volume(parameters):
        half = 0.5 * parameters.concentration
        return (
            multigammaln(half, size)
            - 2 * half * _log_diagonal(parameters.scale_tril)
            - size * _log_diagonal(parameters.precision_tril)
        )

    return log_volume(posterior) - log_volume(prior) - 0.5 * statistics.total * size * jnp.log(jnp.pi)


def _log_diagonal(factor):
    return jnp.log(jnp.diagonal(factor)).sum()
