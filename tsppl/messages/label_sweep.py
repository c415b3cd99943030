"""Gibbs sampling of labels of points, one point after the other: exact, at a cost of all clusters for each point."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from tsppl.messages.compound_poisson import canonical_labels


class Sweep(NamedTuple):
    """Labels after a sweep, and how often a slot was missing: for a point that could have opened a cluster, for points of a
    cluster that did not fit in at the start."""

    labels: jax.Array
    overflow: jax.Array


class MoveWeights(NamedTuple):
    """Log weights of the moves of a point, all times ``1 + b``: see :func:`move_weights`."""

    new: jax.Array
    background: jax.Array
    concentration: jax.Array


def move_weights(events, concentration, rate, background) -> MoveWeights:
    """What a point's choices weigh besides densities (Wang, Degleris, Williams and Linderman 2023, algorithm 1).

    Joining a cluster of ``n`` points weighs ``a + n``, a new one ``a L (b / (1 + b))^a``, background ``(1 + b)`` times the
    background points expected; with ``L`` events expected and amplitudes ``Gamma(a, b)``.
    """
    log_empty = concentration * (jnp.log(rate) - jnp.log1p(rate))
    new = jnp.log(concentration * events) + log_empty
    return MoveWeights(new, jnp.log1p(rate) + jnp.log(background), jnp.asarray(concentration))


def sweep_labels(key, cluster, labels, points, window, rates, *, log_background=None, max_clusters=None) -> Sweep:
    """Draw the label of every point given all others, in random order.

    Sums are relative to the first point: in single precision, a window should not be longer than some thousand widths of a
    cluster.

    Args:
        cluster: a family of clusters.
        labels: int ``(N,)``, canonical.
        points: ``(N,)`` and the shape of a point.
        window: ``(2,)`` and the shape of a place.
        rates: events expected, concentration and rate of amplitudes, background points expected.
        log_background: log density of each point in the background, ``(N,)``; uniform on the window if None.
        max_clusters: number of slots; ``N`` if None, which no sweep can exceed. A point that finds none free cannot open a
            cluster, which ``overflow`` counts: then the sweep is one of the posterior given no more clusters than that. So it
            does points of further clusters in ``labels``, which go to the background.
    """
    num_points = len(points)
    num_slots = num_points if max_clusters is None else min(max_clusters, num_points)
    weights = move_weights(*rates)
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
        lambda array: jnp.zeros((num_slots,) + array.shape[1:], array.dtype).at[slots].add(array, mode="drop"), singles
    )
    order_key, choice_key = random.split(key)
    order = random.permutation(order_key, num_points)
    noise_keys = random.split(choice_key, num_points)

    def move(step, state):
        labels, sums, overflow = state
        place = order[step]
        single = jax.tree.map(lambda array: array[place], singles)
        sums = _add(sums, labels[place], single, -1)
        size = jnp.round(sums.size)
        sums = sums._replace(size=size)
        joining = jax.vmap(cluster.log_predictive, (0, None, None))(with_filling(sums, single), single, seen)
        joining = jnp.where(size > 0, jnp.log(weights.concentration + size) + joining, -jnp.inf)
        free = jnp.argmin(size > 0)
        is_full = size[free] > 0
        options = jnp.stack([jnp.where(is_full, -jnp.inf, alone[place]), apart[place]])
        chosen = random.categorical(noise_keys[step], jnp.concatenate([joining, options]))
        label = jnp.where(chosen < num_slots, chosen, jnp.where(chosen == num_slots, free, -1)).astype(labels.dtype)
        return labels.at[place].set(label), _add(sums, label, single, 1), overflow + is_full

    state = (labels, sums, unfit.sum(dtype=jnp.int32))
    labels, _, overflow = lax.fori_loop(0, num_points, move, state)
    return Sweep(canonical_labels(labels), overflow)


def _add(sums, label, single, sign):
    slot = jnp.where(label < 0, sums.size.shape[0], label)
    return jax.tree.map(lambda total, array: total.at[slot].add(sign * array, mode="drop"), sums, single)


def with_filling(sums, single):
    """Statistics of clusters, those of a point where there is none."""

    def fill(total, array):
        occupied = (sums.size > 0).reshape(sums.size.shape + (1,) * (total.ndim - sums.size.ndim))
        return jnp.where(occupied, total, array)

    return jax.tree.map(fill, sums, single)
