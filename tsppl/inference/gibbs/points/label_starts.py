"""Labels of points of a Neyman-Scott process to start sampling from."""

import jax
import jax.numpy as jnp

from tsppl.points import canonical_labels, cluster_sizes
from tsppl.points.labels.clustered_points import clusters_of_labels


def neighbouring_labels(process, points):
    """Points in time that fall into one bin are a cluster, and so are equal cells in space.

    A bin is as wide as the part of the window that one event in four has to itself. Single points, and those of clusters
    that the family gives no density, are background, or a cluster each where they cannot be.
    """
    positions = process.cluster.positions(points).reshape(len(points), -1)
    dims = positions.shape[1]
    event_rate = process.expected_counts().occupied_events / process.volume
    cell = (4 * event_rate) ** (-1 / dims) * jnp.ones(dims)
    places = jnp.floor((positions - jnp.atleast_1d(process.window.bounds[0])) / cell).astype(jnp.int32)
    order = jnp.lexsort(places.T)
    changes = jnp.any(jnp.diff(places[order], axis=0) != 0, axis=1)
    numbers = jnp.zeros(len(points), jnp.int32).at[order].set(jnp.cumsum(jnp.append(False, changes), dtype=jnp.int32))
    labels = canonical_labels(jnp.where(cluster_sizes(numbers)[numbers] > 1, numbers, -1))
    clusters = clusters_of_labels(process.cluster, labels, points, process.window)
    possible = jnp.isfinite(jax.vmap(process.cluster.log_marginal)(clusters.statistics, clusters.window))
    together = (labels >= 0) & possible[jnp.maximum(labels, 0)]
    apart = jnp.isfinite(process.log_background(points)) & (process.expected_background > 0)
    alone = len(points) + jnp.arange(len(points))
    labels = jnp.where(together, labels, jnp.where(apart, -1, alone)).astype(jnp.int32)
    return canonical_labels(labels, num_labels=2 * len(points))
