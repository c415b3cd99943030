"""Gaussian clusters of known width, on a line, in the plane, or in any number of dimensions."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import random

from tsppl.points.clusters.centres import centre_mass, draw_centre, log_centre_mass
from tsppl.points.clusters.cluster import Cluster, check_positive
from tsppl.points.windows.as_window import as_window

EDGES = ("exact", "ignored")


class GaussianStatistics(NamedTuple):
    """Number of points, their sum, and the sum of their squares by dimension."""

    size: jax.Array
    total: jax.Array
    squares: jax.Array


class GaussianEvent(NamedTuple):
    """Where a cluster's centre is."""

    centre: jax.Array


@jax.tree_util.register_pytree_node_class
class GaussianCluster(Cluster):
    """Points scatter around a centre with known standard deviation: a Thomas process (Thomas 1949).

    The centre is uniform on the window, and integrated out.

    Args:
        scale: standard deviation, in units of the points: ``()`` for points on a line, ``(D,)`` in ``D`` dimensions.
        edges: ``"exact"``: the centre is inside the window, points may fall outside. ``"ignored"``: it is integrated over
            all space, as in published code; simpler, but no density, so draws do not follow it near the edges.

    Raises:
        ValueError: if ``scale`` has more than one axis, or ``edges`` is unknown.

    >>> import jax, jax.numpy as jnp, tsppl.distributions as tsd
    >>> cluster, window = tsd.GaussianCluster(0.2), (0.0, 5.0)
    >>> statistics = jax.vmap(cluster.point_statistics)(jnp.array([0.62, 0.75, 0.81]))
    >>> sums = jax.tree.map(lambda array: array.sum(0), statistics)
    >>> round(float(cluster.log_marginal(sums, window)), 4)
    -1.0136
    """

    def __init__(self, scale, *, edges="exact"):
        self.scale, self.edges = jnp.asarray(scale, jnp.result_type(scale, float)), check_edges(edges)
        if self.scale.ndim > 1:
            raise ValueError(
                f"scale has shape {self.scale.shape}; pass a number for points on a line, or an array of shape (D,) with "
                "one standard deviation for each dimension"
            )
        check_positive("scale", self.scale)

    @property
    def position_shape(self):
        """``()`` on a line, else ``(D,)``."""
        return jnp.shape(self.scale)

    @property
    def reach(self):
        """Largest distance, by dimension, at which a point and the centre of its cluster see each other: twelve scales."""
        return 12 * jnp.max(self.scale)

    def interior(self):
        """The same with edges ignored."""
        return GaussianCluster(self.scale, edges="ignored")

    def point_statistics(self, point):
        """Statistics of one point."""
        return GaussianStatistics(jnp.ones((), jnp.result_type(point)), point, point**2)

    def log_marginal(self, statistics, window):
        """Log density of a cluster's points, its centre integrated out."""
        size, mean = statistics.size, statistics.total / statistics.size
        spread = (statistics.squares - statistics.total * mean) / self.scale**2
        log_density = -0.5 * (size - 1) * jnp.log(2 * jnp.pi * self.scale**2) - 0.5 * jnp.log(size) - 0.5 * spread
        if self.edges == "exact":
            log_density += log_centre_mass(window, mean, self._error(size))
        return log_density.sum() - as_window(window).log_volume

    def log_predictive(self, statistics, more, window):
        """Log density of one more point given a cluster: Gaussian around the mean, apart from the edges."""
        size, mean = statistics.size, statistics.total / statistics.size
        variance = self.scale**2 * (1 + 1 / size)
        log_density = -0.5 * (more.total - mean) ** 2 / variance - 0.5 * jnp.log(2 * jnp.pi * variance)
        if self.edges == "exact":
            mean_with = (statistics.total + more.total) / (size + 1)
            mass = centre_mass(window, mean, self._error(size))
            log_density += jnp.log(centre_mass(window, mean_with, self._error(size + 1)) / mass)
        return log_density.sum()

    def sample_event(self, key, window):
        """A centre from its prior."""
        return GaussianEvent(as_window(window).uniform(key))

    def sample_event_given(self, key, statistics, window):
        """A centre given the points of its cluster."""
        mean, error = statistics.total / statistics.size, self._error(statistics.size)
        allowed = window if self.edges == "exact" else (-jnp.inf, jnp.inf)
        return GaussianEvent(draw_centre(key, allowed, mean, error))

    def sample_point(self, key, event):
        """A point of a cluster."""
        return event.centre + self.scale * random.normal(key, self.position_shape, self.scale.dtype)

    def log_density(self, point, event):
        """Log density of a point given its cluster's centre."""
        return jax.scipy.stats.norm.logpdf(point, event.centre, self.scale).sum()

    def mass(self, event, window):
        """Share of the points of an event that fall into a box."""
        return jnp.prod(centre_mass(window, event.centre, self.scale))

    def _error(self, size):
        return self.scale / jnp.sqrt(size)

    def tree_flatten(self):
        """Arrays, and what is static."""
        return (self.scale,), self.edges

    @classmethod
    def tree_unflatten(cls, edges, children):
        """The same from its parts, unchecked."""
        cluster = object.__new__(cls)
        (cluster.scale,), cluster.edges = children, edges
        return cluster


def check_edges(edges):
    """Return ``edges`` if it is known."""
    if edges not in EDGES:
        raise ValueError(f"edges is {edges!r}; pass one of {EDGES}")
    return edges
