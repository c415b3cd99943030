"""Gaussian clusters of unknown shape."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random
from jax.scipy.linalg import solve_triangular
from jax.scipy.special import gammaln, multigammaln

from tsppl.points.clusters.cluster import Cluster
from tsppl.points.clusters.gaussian_mass import correlated_normal_mass
from tsppl.points.windows.as_window import as_window


class SecondMomentStatistics(NamedTuple):
    """Number of points, their sum, and the sum of their outer products."""

    size: jax.Array
    total: jax.Array
    outer: jax.Array


class ShapedGaussianEvent(NamedTuple):
    """Where a cluster's centre is, and the covariance around it."""

    centre: jax.Array
    covariance: jax.Array


@jax.tree_util.register_pytree_node_class
class GaussianInverseWishartCluster(Cluster):
    """Points scatter around a centre with an unknown covariance, one for each cluster.

    The centre is uniform and the covariance inverse-Wishart, as in NumPyro's ``InverseWishart``; both are integrated out.
    The centre is integrated over all space (edges are ignored), for which alone there is a closed form; a cluster's
    density is then a matrix-variate Student t (Gelman et al. 2013, *Bayesian Data Analysis*, section 3.6).

    Args:
        concentration: degrees of freedom, above ``D - 1``.
        scale_matrix: ``(D, D)``, positive definite; the mean covariance is ``scale_matrix / (concentration - D - 1)``.

    Raises:
        ValueError: if ``scale_matrix`` is not square or ``concentration`` not a number.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> cluster, window = (
    ...     tsd.GaussianInverseWishartCluster(5.0, 0.001 * jnp.eye(2)),
    ...     jnp.array([[0.0, 0.0], [1.0, 1.0]]),
    ... )
    >>> one = cluster.point_statistics(jnp.array([0.3, 0.4]))
    >>> float(cluster.log_marginal(one, window)), cluster.sample_event(jax.random.key(0), window).covariance.shape
    (0.0, (2, 2))
    """

    edges = "ignored"

    def __init__(self, concentration, scale_matrix):
        self.concentration = jnp.asarray(concentration, jnp.result_type(concentration, float))
        self.scale_matrix = jnp.asarray(scale_matrix, jnp.result_type(scale_matrix, float))
        shape = self.scale_matrix.shape
        if len(shape) != 2 or shape[0] != shape[1]:
            raise ValueError(f"scale_matrix has shape {shape}; it must be (D, D), such as 0.01 * jnp.eye(2)")
        if self.concentration.ndim:
            raise ValueError(f"concentration has shape {self.concentration.shape}; it must be a number above D - 1")

    @property
    def position_shape(self):
        """``(D,)``."""
        return jnp.shape(self.scale_matrix)[-1:]

    def point_statistics(self, point):
        """Statistics of one point."""
        return SecondMomentStatistics(jnp.ones((), jnp.result_type(point)), point, jnp.outer(point, point))

    def log_marginal(self, statistics, window):
        """Log density of a cluster's points, its centre and covariance integrated out."""
        size, dims, half = statistics.size, self.position_shape[0], 0.5 * self.concentration
        prior, posterior = jnp.linalg.cholesky(self.scale_matrix), self._posterior_root(statistics)
        more = 0.5 * (size - 1)
        return (
            -as_window(window).log_volume
            - 0.5 * dims * jnp.log(size)
            - more * dims * jnp.log(jnp.pi)
            + multigammaln(half + more, dims)
            - multigammaln(half, dims)
            + 2 * half * _log_diagonal(prior)
            - 2 * (half + more) * _log_diagonal(posterior)
        )

    def log_predictive(self, statistics, more, window):
        """Log density of one more point given a cluster: Student t with ``concentration + size - D`` degrees of freedom."""
        size, dims = statistics.size, self.position_shape[0]
        root = self._posterior_root(statistics)
        away = solve_triangular(root, more.total - statistics.total / size, lower=True)
        total = self.concentration + size
        return (
            gammaln(0.5 * total)
            - gammaln(0.5 * (total - dims))
            - 0.5 * dims * jnp.log(jnp.pi * (size + 1) / size)
            - _log_diagonal(root)
            - 0.5 * total * jnp.log1p(size / (size + 1) * jnp.sum(away**2))
        )

    def sample_event(self, key, window):
        """A centre and a covariance from their prior."""
        centre_key, covariance_key = random.split(key)
        root = jnp.linalg.cholesky(self.scale_matrix)
        covariance = _inverse_wishart(covariance_key, self.concentration, root)
        return ShapedGaussianEvent(as_window(window).uniform(centre_key), covariance)

    def sample_event_given(self, key, statistics, window):
        """A centre and a covariance given the points of a cluster."""
        centre_key, covariance_key = random.split(key)
        total = self.concentration + statistics.size - 1
        covariance = _inverse_wishart(covariance_key, total, self._posterior_root(statistics))
        root = jnp.linalg.cholesky(covariance / statistics.size)
        noise = random.normal(centre_key, self.position_shape, root.dtype)
        return ShapedGaussianEvent(statistics.total / statistics.size + root @ noise, covariance)

    def sample_point(self, key, event):
        """A point of a cluster."""
        noise = random.normal(key, self.position_shape, self.scale_matrix.dtype)
        return event.centre + jnp.linalg.cholesky(event.covariance) @ noise

    def log_density(self, point, event):
        """Log density of a point given its cluster's centre and covariance."""
        return jax.scipy.stats.multivariate_normal.logpdf(point, event.centre, event.covariance)

    def mass(self, event, window):
        """Share of the points of an event that fall into a box, in one or two dimensions."""
        return correlated_normal_mass(event.centre, jnp.linalg.cholesky(event.covariance), window)

    def _posterior_root(self, statistics):
        scatter = statistics.outer - jnp.outer(statistics.total, statistics.total) / statistics.size
        return jnp.linalg.cholesky(self.scale_matrix + scatter)

    def tree_flatten(self):
        """Arrays; nothing is static."""
        return (self.concentration, self.scale_matrix), None

    @classmethod
    def tree_unflatten(cls, static, children):
        """The same from its parts, unchecked."""
        cluster = object.__new__(cls)
        cluster.concentration, cluster.scale_matrix = children
        return cluster


def _log_diagonal(root):
    return jnp.log(jnp.diagonal(root)).sum()


def _inverse_wishart(key, concentration, root):
    """A draw by Bartlett's decomposition: the inverse of ``X X'`` has scale ``root root'`` (Anderson 2003, section 7.2)."""
    dims = root.shape[0]
    gamma_key, normal_key = random.split(key)
    chi_square = 2 * random.gamma(gamma_key, 0.5 * (concentration - jnp.arange(dims)), dtype=root.dtype)
    below = jnp.tril(random.normal(normal_key, (dims, dims), root.dtype), -1)
    factor = solve_triangular(below + jnp.diag(jnp.sqrt(chi_square)), root.T, lower=True)
    return factor.T @ factor
