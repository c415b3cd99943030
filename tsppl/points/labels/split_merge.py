"""Splitting a cluster in two, or merging two into one, in one move."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax, random

from tsppl.points.labels.compound_poisson import canonical_labels
from tsppl.points.labels.rates import NeymanScottRates
from tsppl.points.windows.as_window import as_window

NEIGHBOURHOOD = 64


class SplitMerge(NamedTuple):
    """Canonical labels after the move, and whether it was accepted."""

    labels: jax.Array
    accepted: jax.Array


def split_or_merge(key, cluster, labels, points, window, rates) -> SplitMerge:
    """Propose to split the cluster that two points share, or to merge the two that they belong to.

    The two points are drawn among those outside of the background, not far from each other in the order of the points. In a
    split they found two clusters, and the others follow in random order, each with the probability that it has given those
    before it; a merge is accepted with the probability of the split that undoes it (Dahl 2005, *Sequentially-allocated
    merge-split sampler*, after Jain and Neal 2004). The background stays as it is: mix with sweeps.

    Args:
        cluster: a family of clusters.
        labels: int ``(N,)``, canonical.
        points: ``(N,)`` and the shape of a point.
        window: a :class:`Window`, or lowest and highest place.
        rates: :class:`NeymanScottRates`.
    """
    pair_key, order_key, allocation_key, accept_key = random.split(key, 4)
    rates, window = NeymanScottRates(*rates), as_window(window)
    labels = labels.astype(jnp.int32)
    num_points, places = len(labels), jnp.arange(len(labels))
    first, second, exists = _pair(pair_key, labels)
    is_split = labels[first] == labels[second]
    origin = cluster.positions(points)[first]
    seen = window - origin

    singles = jax.vmap(cluster.point_statistics)(jax.vmap(cluster.shifted, (0, None))(points, origin))

    def single(place):
        return jax.tree.map(lambda array: array[place], singles)

    is_member = (labels == labels[first]) | (labels == labels[second])
    is_other = is_member & (places != first) & (places != second) & exists
    order = jnp.argsort(jnp.where(is_other, random.uniform(order_key, (num_points,)), jnp.inf))

    def allocate(step, state):
        left, right, goes_left, log_prob = state
        place = order[step]
        more = single(place)
        sides = [
            jnp.log(rates.amplitude_concentration + sums.size) + cluster.log_predictive(sums, more, seen)
            for sums in (left, right)
        ]
        log_left = jax.nn.log_sigmoid(sides[0] - sides[1])
        drawn = jnp.log(random.uniform(random.fold_in(allocation_key, step), (), log_left.dtype)) < log_left
        to_left = jnp.where(is_split, drawn, labels[place] == labels[first])
        log_prob += jnp.where(to_left, log_left, jax.nn.log_sigmoid(sides[1] - sides[0]))
        left, right = (
            jax.tree.map(lambda total, array, here=here: total + here * array, sums, more)
            for sums, here in ((left, to_left), (right, ~to_left))
        )
        return left, right, goes_left.at[place].set(to_left), log_prob

    def log_weight(sums):
        return rates.log_cluster_weight(sums.size) + cluster.log_marginal(sums, seen)

    nothing = jnp.zeros_like(log_weight(single(first)))
    start = single(first), single(second), jnp.zeros(num_points, bool).at[first].set(True), nothing
    left, right, goes_left, log_prob = lax.fori_loop(0, jnp.sum(is_other), allocate, start)

    both = jax.tree.map(jnp.add, left, right)
    log_ratio = log_weight(left) + log_weight(right) - log_weight(both) - log_prob
    log_ratio = jnp.where(is_split, log_ratio, -log_ratio)
    accepted = exists & (jnp.log(random.uniform(accept_key, (), log_ratio.dtype)) < log_ratio)
    split = jnp.where(is_member & ~goes_left, labels.max() + 1, labels)
    merged = jnp.where(is_member, labels[first], labels)
    moved = jnp.where(is_split, split, merged).astype(labels.dtype)
    return SplitMerge(canonical_labels(jnp.where(accepted, moved, labels)), accepted)


def _pair(key, labels):
    """Two different points outside of the background, and whether there are two."""
    first_key, offset_key, sign_key = random.split(key, 3)
    clustered = jnp.nonzero(labels >= 0, size=len(labels), fill_value=0)[0]
    number = jnp.sum(labels >= 0)
    rank = random.randint(first_key, (), 0, jnp.maximum(number, 1))
    furthest = jnp.clip(number - 1, 1, NEIGHBOURHOOD)
    offset = random.randint(offset_key, (), 1, furthest + 1) * jnp.where(random.bernoulli(sign_key), 1, -1)
    other = (rank + offset) % jnp.maximum(number, 1)
    return clustered[rank], clustered[other], number > 1
