"""Densities of points given which cluster each belongs to, for any family of clusters."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from tsppl.points.labels.compound_poisson import BACKGROUND
from tsppl.points.labels.rates import NeymanScottRates
from tsppl.points.windows.as_window import as_window
from tsppl.points.windows.window import Window


class Clusters(NamedTuple):
    """Statistics of every cluster of a partition, each relative to an origin of its own: its first point.

    ``window`` is the window seen from there, with a leading axis of clusters. Where ``occupied`` is False there is no such
    cluster, and the statistics are those of a point.
    """

    statistics: Any
    occupied: jax.Array
    origins: jax.Array
    window: Window


def clusters_of_labels(cluster, labels, points, window) -> Clusters:
    """Statistics of the clusters 0 to ``N - 1`` of ``N`` points.

    Args:
        cluster: a family of clusters.
        labels: int ``(N,)``, -1 for background, else below ``N``.
        points: ``(N,)`` and the shape of a point.
        window: a :class:`Window`, or lowest and highest place.
    """
    num_points = len(labels)
    slots = jnp.where(labels < 0, num_points, labels)
    places = jnp.arange(num_points, dtype=jnp.int32)
    first = jnp.full(num_points, num_points - 1, jnp.int32).at[slots].min(places, mode="drop")
    origins = cluster.positions(points)[first]
    single = jax.vmap(cluster.point_statistics)(jax.vmap(cluster.shifted)(points, origins[jnp.maximum(labels, 0)]))
    sums = jax.tree.map(lambda array: jnp.zeros_like(array).at[slots].add(array, mode="drop"), single)
    occupied = sums.size > 0
    own = cluster.point_statistics(cluster.shifted(points[0], cluster.positions(points[0])))

    def fill(array, filler):
        return jnp.where(occupied.reshape(occupied.shape + (1,) * filler.ndim), array, filler)

    window = as_window(window)
    relative = jax.vmap(lambda origin: window - origin)(origins)
    return Clusters(jax.tree.map(fill, sums, own), occupied, origins, relative)


def log_density_given_labels(cluster, labels, points, window, log_background=None):
    """Log density of points given their labels: one term for each cluster and one for each background point.

    Args:
        cluster, labels, points, window: as in :func:`clusters_of_labels`.
        log_background: log density of each point in the background, ``(N,)``; uniform on the window if None.
    """
    if len(labels) == 0:
        return jnp.zeros((), points.dtype)
    clusters = clusters_of_labels(cluster, labels, points, window)
    if log_background is None:
        log_background = jax.vmap(cluster.log_background, (0, None))(points, window)
    of_clusters = jax.vmap(cluster.log_marginal)(clusters.statistics, clusters.window)
    return (
        jnp.where(clusters.occupied, of_clusters, 0.0).sum()
        + jnp.where(labels == BACKGROUND, log_background, 0.0).sum()
    )


def log_intensity_given_labels(
    cluster, labels, points, window, places, events, concentration, rate, background, log_background=None
):
    """Log of the intensity of one more point at each of ``places``, given points and labels (Papangelou intensity).

    Args:
        cluster, labels, points, window: as in :func:`clusters_of_labels`.
        places: ``(P,)`` and the shape of a point.
        events, concentration, rate, background: as in :func:`tsppl.points.log_count_prob`.
        log_background: log density of each of ``places`` in the background, ``(P,)``; uniform on the window if None.
    """
    window = as_window(window)
    if log_background is None:
        log_background = jax.vmap(cluster.log_background, (0, None))(places, window)
    rates = NeymanScottRates(events, concentration, rate, background)
    log_new = rates.log_pull - (concentration + 1) * jnp.log1p(rate)
    if len(labels):
        clusters = clusters_of_labels(cluster, labels, points, window)
        log_size = jnp.log(concentration + clusters.statistics.size) - jnp.log1p(rate)
        log_size = jnp.where(clusters.occupied, log_size, -jnp.inf)

    def at(place_and_background):
        place, log_alone = place_and_background

        def joining(statistics, origin, seen):
            more = cluster.point_statistics(cluster.shifted(place, origin))
            return cluster.log_predictive(statistics, more, seen)

        position = cluster.positions(place)
        alone = cluster.log_marginal(cluster.point_statistics(cluster.shifted(place, position)), window - position)
        terms = [log_new + alone, jnp.log(background) + log_alone]
        if len(labels):
            joined = jax.vmap(joining)(clusters.statistics, clusters.origins, clusters.window)
            terms.append(jax.nn.logsumexp(log_size + joined))
        return jax.nn.logsumexp(jnp.stack(terms))

    return jax.lax.map(at, (places, log_background))
