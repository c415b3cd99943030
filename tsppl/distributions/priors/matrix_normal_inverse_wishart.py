"""Conjugate priors of a Gaussian regression, or of a Gaussian mean, together with the covariance."""

import jax
import jax.numpy as jnp
from jax import lax, random
from numpyro.distributions import Distribution, InverseWishart, MatrixNormal, constraints
from numpyro.distributions.util import cholesky_of_inverse, validate_sample

from tsppl.conjugate import (
    MatrixNormalInverseWishartParameters,
    RegressionStatistics,
    regression_log_marginal,
    regression_posterior,
)
from tsppl.distributions.priors.coefficients_and_covariance import CoefficientsAndCovariance, split_coefficients


class MatrixNormalInverseWishart(Distribution):
    """Coefficients of a multivariate regression and the covariance of its noise, side by side in one array.

    ``Q ~ InverseWishart(concentration, scale_matrix)`` and ``A | Q ~ MatrixNormal(loc, Q, V)`` with ``V =
    scale_tril_column scale_tril_column'`` (Fox et al. 2011): the conjugate prior of ``y = A x + e``, ``e ~ N(0, Q)``,
    ``N`` outputs, ``p`` inputs. A draw is ``(..., N, p + N)``: :meth:`split` takes it apart. Two sites, ``InverseWishart``
    and ``MatrixNormal``, say the same; :func:`tsppl.inference.auto_gibbs` knows both ways.

    Args:
        loc: ``(..., N, p)``.
        scale_tril_column: Cholesky factor of ``V``, ``(..., p, p)``; entries in units of an output's noise over an input.
        concentration: degrees of freedom, more than ``N - 1``, ``(...,)``; the mean of ``Q`` exists above ``N + 1``.
        scale_matrix: ``(..., N, N)``; or
        scale_tril: its Cholesky factor.

    Raises:
        ValueError: if shapes do not fit, or both or neither of ``scale_matrix`` and ``scale_tril`` are given.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> prior = tsd.MatrixNormalInverseWishart(jnp.zeros((2, 3)), jnp.eye(3), 4.0, jnp.eye(2))
    >>> coefficients, covariance = prior.split(prior.sample(jax.random.key(0)))
    >>> coefficients.shape, covariance.shape
    ((2, 3), (2, 2))
    """

    arg_constraints = {
        "loc": constraints.real_matrix,
        "scale_tril_column": constraints.lower_cholesky,
        "concentration": constraints.positive,
        "scale_tril": constraints.lower_cholesky,
    }

    def __init__(
        self, loc, scale_tril_column, concentration, scale_matrix=None, *, scale_tril=None, validate_args=None
    ):
        if (scale_matrix is None) == (scale_tril is None):
            raise ValueError("give one of scale_matrix and scale_tril")
        loc, scale_tril_column, concentration = map(jnp.asarray, (loc, scale_tril_column, concentration))
        scale_tril = jnp.linalg.cholesky(scale_matrix) if scale_tril is None else jnp.asarray(scale_tril)
        for name, array, size in (
            ("scale_tril_column", scale_tril_column, loc.shape[-1:]),
            ("scale_matrix" if scale_matrix is not None else "scale_tril", scale_tril, loc.shape[-2:-1]),
        ):
            if loc.ndim < 2 or array.shape[-2:] != size * 2:
                raise ValueError(
                    f"loc has shape {loc.shape} and {name} has shape {array.shape}: with loc (..., N, p), "
                    "scale_tril_column is (..., p, p) and scale_matrix (..., N, N)"
                )
        batch = lax.broadcast_shapes(
            loc.shape[:-2], scale_tril_column.shape[:-2], concentration.shape, scale_tril.shape[:-2]
        )
        self.loc = jnp.broadcast_to(loc, batch + loc.shape[-2:])
        self.scale_tril_column = jnp.broadcast_to(scale_tril_column, batch + scale_tril_column.shape[-2:])
        self.concentration = jnp.broadcast_to(concentration, batch)
        self.scale_tril = jnp.broadcast_to(scale_tril, batch + scale_tril.shape[-2:])
        event_shape = (loc.shape[-2], loc.shape[-1] + loc.shape[-2])
        super().__init__(batch, event_shape, validate_args=validate_args)

    @constraints.dependent_property(is_discrete=False, event_dim=2)
    def support(self):
        """Real coefficients beside a positive definite covariance."""
        size, width = self.event_shape
        return CoefficientsAndCovariance(size, width - size)

    @staticmethod
    def split(value):
        """``(coefficients (..., N, p), covariance (..., N, N))`` of a draw."""
        return split_coefficients(value)

    def sample(self, key, sample_shape=()):
        """Draw ``sample_shape + (..., N, p + N)``."""
        covariance_key, coefficients_key = random.split(key)
        covariance = InverseWishart(self.concentration, scale_tril=self.scale_tril).sample(covariance_key, sample_shape)
        matrix = MatrixNormal(self.loc, jnp.linalg.cholesky(covariance), self.scale_tril_column)
        return jnp.concatenate([matrix.sample(coefficients_key), covariance], axis=-1)

    @validate_sample
    def log_prob(self, value):
        """Joint log density of coefficients and covariance."""
        coefficients, covariance = split_coefficients(value)
        noise = InverseWishart(self.concentration, scale_tril=self.scale_tril)
        matrix = MatrixNormal(self.loc, jnp.linalg.cholesky(covariance), self.scale_tril_column)
        return noise.log_prob(covariance) + matrix.log_prob(coefficients)

    @property
    def mean(self):
        """``loc`` beside the mean of the covariance, NaN where that has none."""
        covariance = InverseWishart(self.concentration, scale_tril=self.scale_tril).mean
        return jnp.concatenate([self.loc, covariance], axis=-1)

    def posterior(self, inputs, outputs, weights=None):
        """The distribution given rows of data, of the same class.

        Args:
            inputs: ``(n, p)``.
            outputs: ``(n, N)``.
            weights: ``(n,)``, ones by default; state probabilities, say.
        """
        posterior = self._vectorized(regression_posterior, "(n,p),(p,p),(),(n,n)")(
            *self.parameters, *self._statistics(inputs, outputs, weights)
        )
        return from_parameters(posterior)

    def log_marginal_likelihood(self, inputs, outputs, weights=None):
        """``log p(outputs | inputs)``, coefficients and covariance integrated out; arguments as in :meth:`posterior`."""
        return self._vectorized(regression_log_marginal, "()")(
            *self.parameters, *self._statistics(inputs, outputs, weights)
        )

    @property
    def parameters(self):
        """The parameters, as :mod:`tsppl.conjugate` takes them."""
        return as_parameters(self.loc, self.scale_tril_column, self.concentration, self.scale_tril)

    @staticmethod
    def _vectorized(function, outputs):
        def core(loc, precision_tril, concentration, scale_tril, *statistics):
            prior = MatrixNormalInverseWishartParameters(loc, precision_tril, concentration, scale_tril)
            return function(prior, RegressionStatistics(*statistics))

        signature = "(n,p),(p,p),(),(n,n),(p,p),(n,p),(n,n),()"
        if outputs == "()":
            return jnp.vectorize(core, signature=f"{signature}->()")
        flat = jnp.vectorize(lambda *arguments: tuple(core(*arguments)), signature=f"{signature}->{outputs}")
        return lambda *arguments: MatrixNormalInverseWishartParameters(*flat(*arguments))

    @staticmethod
    def _statistics(inputs, outputs, weights):
        inputs, outputs = jnp.asarray(inputs), jnp.asarray(outputs)
        weights = jnp.ones(inputs.shape[:1]) if weights is None else jnp.asarray(weights)
        weighted = weights[:, None] * inputs
        return RegressionStatistics(
            weighted.T @ inputs, outputs.T @ weighted, (weights[:, None] * outputs).T @ outputs, weights.sum()
        )


class NormalInverseWishart(MatrixNormalInverseWishart):
    """Mean and covariance of Gaussian observations: a regression on a constant.

    ``Q ~ InverseWishart(concentration, scale_matrix)`` and ``mean | Q ~ N(loc, Q / mean_concentration)``. A draw is
    ``(..., N, 1 + N)``, the mean its first column.

    Args:
        loc: ``(..., N)``.
        mean_concentration: how many observations the prior of the mean is worth, ``(...,)``.
        concentration: degrees of freedom, more than ``N - 1``, ``(...,)``.
        scale_matrix: ``(..., N, N)``; or
        scale_tril: its Cholesky factor.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> prior = tsd.NormalInverseWishart(jnp.zeros(1), 1.0, 3.0, jnp.eye(1))
    >>> prior.posterior(jnp.array([[1.0], [2.0], [6.0]])).loc.tolist()
    [[2.25]]
    """

    arg_constraints = MatrixNormalInverseWishart.arg_constraints

    def __init__(
        self, loc, mean_concentration, concentration, scale_matrix=None, *, scale_tril=None, validate_args=None
    ):
        column = 1 / jnp.sqrt(jnp.asarray(mean_concentration))[..., None, None]
        super().__init__(
            jnp.asarray(loc)[..., None],
            column,
            concentration,
            scale_matrix,
            scale_tril=scale_tril,
            validate_args=validate_args,
        )

    @staticmethod
    def split(value):
        """``(mean (..., N), covariance (..., N, N))`` of a draw."""
        return value[..., 0], value[..., 1:]

    def posterior(self, outputs, weights=None):
        """The :class:`MatrixNormalInverseWishart` given observations ``(n, N)``; its ``loc`` is ``(..., N, 1)``."""
        return super().posterior(jnp.ones((len(outputs), 1)), outputs, weights)

    def log_marginal_likelihood(self, outputs, weights=None):
        """``log p(outputs)``, mean and covariance integrated out."""
        return super().log_marginal_likelihood(jnp.ones((len(outputs), 1)), outputs, weights)


def as_parameters(loc, scale_tril_column, concentration, scale_tril) -> MatrixNormalInverseWishartParameters:
    """The parameters in terms of the precision of the columns."""
    identity = jnp.broadcast_to(jnp.eye(loc.shape[-1], dtype=scale_tril_column.dtype), scale_tril_column.shape)
    whitening = jax.scipy.linalg.solve_triangular(scale_tril_column, identity, lower=True)
    precision_tril = jnp.linalg.cholesky(jnp.swapaxes(whitening, -2, -1) @ whitening)
    return MatrixNormalInverseWishartParameters(loc, precision_tril, concentration, scale_tril)


def from_parameters(parameters) -> MatrixNormalInverseWishart:
    """The distribution with these parameters."""
    precision = parameters.precision_tril @ jnp.swapaxes(parameters.precision_tril, -2, -1)
    return MatrixNormalInverseWishart(
        parameters.loc, cholesky_of_inverse(precision), parameters.concentration, scale_tril=parameters.scale_tril
    )
