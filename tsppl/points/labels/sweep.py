"""Gibbs sampling of labels of points, one point after the other: exact, at a cost of all clusters for each point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from tsppl.points.labels.compound_poisson import canonical_labels
from tsppl.points.labels.rates import NeymanScottRates
from tsppl.points.windows.as_window import as_window

MOST_IN_TRIANGLE = 512


class Sweep(NamedTuple):
    """Labels after a sweep, and how often a slot was missing: for a point that could have opened a cluster, for points of a
    cluster that did not fit in at the start."""

    labels: jax.Array
    overflow: jax.Array


def sweep_labels(key, cluster, labels, points, window, rates, *, log_background=None, max_clusters=None) -> Sweep:
    """Draw the label of every point given all others, in random order.

    Sums are relative to the first point: in single precision, a window should not be longer than some thousand widths of a
    cluster.

    Args:
        cluster: a family of clusters.
        labels: int ``(N,)``, canonical.
        points: ``(N,)`` and the shape of a point.
        window: a :class:`Window`, or lowest and highest place.
        rates: :class:`NeymanScottRates`.
        log_background: log density of each point in the background, ``(N,)``; uniform on the window if None.
        max_clusters: number of slots; ``N`` if None, which no sweep can exceed. A point that finds none free cannot open a
            cluster, which ``overflow`` counts: then the sweep is one of the posterior given no more clusters than that. So it
            does points of further clusters in ``labels``, which go to the background.
    """
    num_points = len(points)
    num_slots = num_points if max_clusters is None else min(max_clusters, num_points)
    weights, window = NeymanScottRates(*rates).move_weights, as_window(window)
    origin = cluster.positions(points)[0]
    relative, seen = jax.vmap(cluster.shifted, (0, None))(points, origin), window - origin
    singles = jax.vmap(cluster.point_statistics)(relative)
    alone = weights.new + jax.vmap(cluster.log_marginal, (0, None))(singles, seen)
    if log_background is None:
        log_background = jax.vmap(cluster.log_background, (0, None))(points, window)
    apart = weights.background + log_background
    labels = labels.astype(jnp.int32)
    unfit = labels >= num_slots
    labels = jnp.where(unfit, -1, labels)
    slots = jnp.where(labels < 0, num_slots, labels)
    sums = jax.tree.map(
        # Clusters along the last axis, where arithmetic on a CPU is fastest.
        lambda array: jnp.moveaxis(
            jnp.zeros((num_slots,) + array.shape[1:], array.dtype).at[slots].add(array, mode="drop"), 0, -1
        ),
        singles,
    )
    order_key, choice_key = random.split(key)
    order = random.permutation(order_key, num_points)
    uniform = random.uniform(choice_key, (num_points,), alone.dtype)
    steps = jax.tree.map(lambda array: array[order], (singles, labels, alone, apart, uniform))
    places = jnp.arange(num_slots)

    def move(state, step):
        sums, overflow = state
        single, label, alone, apart, uniform = step
        sums = _add(sums, single, -(places == label).astype(uniform.dtype))
        size = jnp.round(sums.size)
        sums = sums._replace(size=size)
        joining = jax.vmap(cluster.log_predictive, (-1, None, None))(_with_filling(sums, single), single, seen)
        joining = jnp.where(size > 0, jnp.log(weights.concentration + size) + joining, -jnp.inf)
        is_full = jnp.all(size > 0)
        options = jnp.stack([jnp.where(is_full, -jnp.inf, alone), apart])
        chosen = draw_index(uniform, jnp.concatenate([joining, options]))
        free = jnp.argmin(size > 0)
        label = jnp.where(chosen < num_slots, chosen, jnp.where(chosen == num_slots, free, -1)).astype(label.dtype)
        return (_add(sums, single, (places == label).astype(uniform.dtype)), overflow + is_full), label

    (_, overflow), drawn = lax.scan(move, (sums, unfit.sum(dtype=jnp.int32)), steps)
    return Sweep(canonical_labels(jnp.zeros_like(labels).at[order].set(drawn)), overflow)


def draw_index(uniform, log_weights):
    """An index drawn with the given weights, by one uniform number."""
    weights = jnp.exp(log_weights - jnp.maximum(log_weights.max(), jnp.finfo(log_weights.dtype).min))
    # A product with a triangle sums up few weights much faster than a cumulative sum does on a CPU.
    few = len(weights) <= MOST_IN_TRIANGLE
    cumulative = jnp.tril(jnp.ones((len(weights),) * 2, weights.dtype)) @ weights if few else jnp.cumsum(weights)
    return jnp.sum(cumulative <= uniform * cumulative[-1])


def _add(sums, single, weights):
    """Add ``weights`` times the statistics of one point to each cluster."""
    return jax.tree.map(lambda total, array: total + weights * array[..., None], sums, single)


def _with_filling(sums, single):
    """Statistics of clusters along the last axis, those of a point where there is none."""
    return jax.tree.map(lambda total, array: jnp.where(sums.size > 0, total, array[..., None]), sums, single)


def with_filling(sums, single):
    """Statistics of clusters, those of a point where there is none."""

    def fill(total, array):
        occupied = (sums.size > 0).reshape(sums.size.shape + (1,) * (total.ndim - sums.size.ndim))
        return jnp.where(occupied, total, array)

    return jax.tree.map(fill, sums, single)
