"""Gibbs sampling of labels of points in time, many chunks of time side by side.

Given the rates, the collapsed joint density is a product over clusters. So two points that no cluster can share are
independent given all other labels, and chunks of time between which there is another chunk are swept at once, first the even
ones, then the odd ones, on a grid that moves at random. A cluster is known by its first point; a chunk sees those whose first
point is at most ``reach`` away from it. What is neglected is that a point joins a cluster farther off: for a single point at
distance ``reach`` the weight is ``exp(-reach^2 / (4 scale^2))`` of that in its midst, ``2e-16`` at 12 scales.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax, random

from tsppl.points.labels.compound_poisson import canonical_labels
from tsppl.points.labels.rates import NeymanScottRates
from tsppl.points.labels.sweep import Sweep, with_filling
from tsppl.points.windows.as_window import as_window

HIDDEN = -2


class ChunkLayout(NamedTuple):
    """Sizes that are known before a sweep: chunks of one colour, points in a chunk, slots for clusters, lengths in time."""

    num_chunks: int
    num_points: int
    num_slots: int
    width: float
    reach: float


class _Lanes(NamedTuple):
    """The chunks of one colour: where they begin, their points, and the clusters that each of them sees."""

    origins: jax.Array
    first_point: jax.Array
    last_point: jax.Array
    first_cluster: jax.Array
    num_seen: jax.Array


def chunk_layout(times, reach, *, reaches_per_chunk=4.0, num_slots=32) -> ChunkLayout:
    """Sizes for sorted ``times``, a NumPy array.

    Args:
        times: ``(N,)``, sorted.
        reach: distance in time beyond which a point and the first point of a cluster do not see each other; where it is
            infinite, one chunk holds all points, and no more clusters than ``num_slots``.
        reaches_per_chunk: length of a chunk, at least 2.
        num_slots: clusters that a chunk may see at once.

    Raises:
        ValueError: if times are not sorted, or an argument is out of range.
    """
    times = np.asarray(times, float)
    if times.ndim != 1 or np.any(np.diff(times) < 0):
        raise ValueError(f"times of shape {times.shape} must be (N,) and sorted: sort points by time first")
    if not reach > 0 or reaches_per_chunk < 2 or num_slots < 2:
        raise ValueError(
            f"reach {reach} must be positive, reaches_per_chunk {reaches_per_chunk} at least 2, num_slots {num_slots} at "
            "least 2"
        )
    span = times[-1] - times[0] if len(times) else 0.0
    reach = (span or 1.0) if np.isinf(reach) else float(reach)
    width = reach * reaches_per_chunk
    most = np.searchsorted(times, times + 1.0001 * width, side="right") - np.arange(len(times))
    num_chunks = int(np.ceil(span / width / 2)) + 2
    return ChunkLayout(num_chunks, int(most.max(initial=1)), int(num_slots), width, reach)


def sweep_labels_chunked(
    key, cluster, labels, points, window, rates, *, layout: ChunkLayout, log_background=None
) -> Sweep:
    """Draw the label of every point given all others, chunks side by side.

    Args:
        cluster: a family of clusters whose places are times.
        labels: int ``(N,)``, canonical.
        points: ``(N,)`` and the shape of a point, sorted by time.
        window: a :class:`Window` in time, or begin and end.
        rates: :class:`NeymanScottRates`.
        layout: of :func:`chunk_layout`.
        log_background: log density of each point in the background, ``(N,)``; uniform on the window if None.

    Returns:
        Labels, and how often something did not fit in: a cluster that a point could have opened, a cluster that a chunk should
        see, a point into its chunk, and points left as they are because their cluster is out of sight. Where this is zero, the sweep has the law of
        :func:`~tsppl.points.labels.sweep.sweep_labels`, in another order, up to the error stated above.
    """
    shift_key, *colour_keys = random.split(key, 3)
    colour_keys = jnp.stack(colour_keys)
    times, labels = cluster.positions(points), labels.astype(jnp.int32)
    weights, window = NeymanScottRates(*rates).move_weights, as_window(window)

    if log_background is None:
        log_background = jax.vmap(cluster.log_background, (0, None))(points, window)

    def alone(point, position):
        return cluster.log_marginal(cluster.point_statistics(cluster.shifted(point, position)), window - position)

    choices = weights.new + jax.vmap(alone)(points, times), weights.background + log_background
    begin = times[0] - 2 * layout.width * random.uniform(shift_key, (), times.dtype)

    def sweep_colour(labels, colour_and_key):
        colour, colour_key = colour_and_key
        starts = begin + layout.width * (2 * jnp.arange(layout.num_chunks) + colour)
        lanes, unfit = _lanes(starts, labels, times, layout)
        labels, missing = _sweep_lanes(colour_key, cluster, labels, points, choices, window, weights, lanes, layout)
        return labels, unfit + missing

    labels, overflow = lax.scan(sweep_colour, labels, (jnp.arange(2), colour_keys))
    return Sweep(labels, overflow.sum(dtype=jnp.int32))


def _lanes(starts, labels, times, layout):
    """Points and clusters of the chunks that begin at ``starts``, and how many of both did not fit in."""
    num_points = len(labels)
    slots = jnp.where(labels < 0, num_points, labels)
    founders = jnp.full(num_points, jnp.inf, times.dtype).at[slots].min(times, mode="drop")
    first_point = jnp.searchsorted(times, starts).astype(jnp.int32)
    last_point = jnp.searchsorted(times, starts + layout.width).astype(jnp.int32)
    first_cluster = jnp.searchsorted(founders, starts - layout.reach).astype(jnp.int32)
    beyond = jnp.searchsorted(founders, starts + layout.width + layout.reach).astype(jnp.int32)
    num_clusters = beyond - first_cluster
    num_seen = jnp.minimum(num_clusters, layout.num_slots)
    unfit = jnp.maximum(last_point - first_point - layout.num_points, 0).sum(dtype=jnp.int32)
    unseen = (num_clusters - num_seen).sum(dtype=jnp.int32)
    lanes = _Lanes(starts + layout.width / 2, first_point, last_point, first_cluster, num_seen)
    return lanes, unfit + unseen


def _sweep_lanes(key, cluster, labels, points, choices, window, weights, lanes, layout):
    """Sweep through the points of all chunks of one colour, in step."""
    num_lanes, num_steps, num_slots = layout.num_chunks, layout.num_points, layout.num_slots
    lane_of_cluster = jnp.searchsorted(lanes.first_cluster, jnp.arange(len(labels)), side="right") - 1
    row_of_cluster = jnp.arange(len(labels)) - lanes.first_cluster[lane_of_cluster]
    seen = (lane_of_cluster >= 0) & (row_of_cluster < lanes.num_seen[lane_of_cluster])
    lane, row = (jnp.where(labels < 0, 0, array[jnp.maximum(labels, 0)]) for array in (lane_of_cluster, row_of_cluster))
    is_seen = (labels >= 0) & seen[jnp.maximum(labels, 0)]
    slot_of_point = jnp.where(labels < 0, -1, jnp.where(is_seen, row, HIDDEN))

    singles = jax.vmap(cluster.point_statistics)(jax.vmap(cluster.shifted)(points, lanes.origins[lane]))
    # The longest chunks come first, so that the loop can go on with fewer and fewer of them.
    counts = jnp.minimum(lanes.last_point - lanes.first_point, num_steps)
    order = jnp.argsort(-counts)
    rank = jnp.argsort(order)
    where = jnp.where(is_seen, row * num_lanes + rank[lane], num_lanes * num_slots)

    def gather_sums(array):
        flat = jnp.zeros((num_slots * num_lanes,) + array.shape[1:], array.dtype).at[where].add(array, mode="drop")
        return flat.reshape((num_slots, num_lanes) + array.shape[1:])

    sums = jax.tree.map(gather_sums, singles)

    place = lanes.first_point[order] + jnp.arange(num_steps)[:, None]
    inside = place < lanes.last_point[order]
    place = jnp.minimum(place, len(labels) - 1)
    at_lanes = jax.vmap(jax.vmap(cluster.shifted), (0, None))(points[place], lanes.origins[order])
    old = jnp.where(inside, slot_of_point[place], HIDDEN)
    uniform = random.uniform(key, place.shape, choices[0].dtype)
    steps = (at_lanes, old, choices[0][place], choices[1][place], uniform)
    windows = jax.vmap(lambda origin: window - origin)(lanes.origins[order])
    # Edges are in the midst of time where a window has gaps.
    families = cluster, cluster.interior() if window.is_box else cluster
    at_edge = rank[_chunks_at_edge(layout)]
    state = sums, jnp.sum(inside & (old == HIDDEN), dtype=jnp.int32), jnp.full_like(old, HIDDEN)
    sizes = [num_lanes, *(size for size in (num_lanes // 2, num_lanes // 6, num_lanes // 24) if size > 3)]
    begin = jnp.zeros((), jnp.int32)
    for size, next_size in zip(sizes, [*sizes[1:], 0], strict=True):
        end = counts[order[next_size]]
        state = _move_longest(size, begin, end, families, state, steps, windows, at_edge, weights)
        begin = end
    _, overflow, drawn = state

    own_lane = jnp.searchsorted(lanes.first_point, jnp.arange(len(labels)), side="right") - 1
    step = jnp.arange(len(labels)) - lanes.first_point[own_lane]
    is_inside = (own_lane >= 0) & (jnp.arange(len(labels)) < lanes.last_point[own_lane]) & (step < num_steps)
    slot = jnp.where(is_inside, drawn[jnp.clip(step, 0, num_steps - 1), rank[own_lane]], HIDDEN)
    is_old = slot < lanes.num_seen[own_lane]
    number = jnp.where(is_old, lanes.first_cluster[own_lane] + slot, len(labels) + own_lane * num_slots + slot)
    labels = jnp.where(slot == HIDDEN, labels, jnp.where(slot == -1, -1, number)).astype(labels.dtype)
    return canonical_labels(labels, num_labels=len(labels) + num_lanes * num_slots), overflow


def _move_longest(size, begin, end, families, state, steps, windows, at_edge, weights):
    """Move the points ``begin`` to ``end`` of the first ``size`` chunks; ``state`` is sums, missing slots, labels drawn;
    ``families`` are that of clusters, and the same away from the edges."""
    cluster, interior = families
    sums, overflow, drawn = state
    num_slots = sums.size.shape[0]
    windows = jax.tree.map(lambda array: array[:size], windows)
    slots = jnp.arange(num_slots)[:, None]
    dtype = steps[-1].dtype
    # A product with a triangle sums up weights much faster than a cumulative sum does on a CPU.
    triangle = jnp.tril(jnp.ones((num_slots + 2, num_slots + 2), dtype))

    def predict(sums, single):
        inner = jax.vmap(jax.vmap(interior.log_predictive), (0, None, None))(sums, single, windows)
        edge = jnp.minimum(at_edge, size - 1)
        of_lanes = jax.tree.map(lambda array: array[edge], (single, windows))
        few = jax.tree.map(lambda array: array[:, edge], sums)
        outer = jax.vmap(jax.vmap(cluster.log_predictive), (0, None, None))(few, *of_lanes)
        return inner.at[:, at_edge].set(outer, mode="drop")

    def move(step, state):
        sums, overflow, drawn = state
        point, slot, alone, apart, uniform = (array[step, :size] for array in steps)
        single = jax.vmap(cluster.point_statistics)(point)
        sums = _add(sums, single, -(slots == slot).astype(dtype))
        number = jnp.round(sums.size)
        occupied = number > 0
        sums = sums._replace(size=number)
        joining = jnp.log(weights.concentration + number) + predict(with_filling(sums, single), single)
        is_full = occupied.all(0)
        free = jnp.argmin(occupied, axis=0)
        options = jnp.stack([jnp.where(is_full, -jnp.inf, alone), apart])
        log_weights = jnp.concatenate([jnp.where(occupied, joining, -jnp.inf), options])
        peak = jnp.maximum(log_weights.max(0), jnp.finfo(dtype).min)
        cumulative = triangle @ jnp.exp(log_weights - peak)
        chosen = jnp.sum(cumulative <= uniform * cumulative[-1], axis=0)
        moved = jnp.where(chosen < num_slots, chosen, jnp.where(chosen == num_slots, free, -1))
        slot = jnp.where(slot == HIDDEN, HIDDEN, moved.astype(slot.dtype))
        sums = _add(sums, single, (slots == slot).astype(dtype))
        overflow += jnp.sum(is_full & (slot != HIDDEN), dtype=jnp.int32)
        return sums, overflow, drawn.at[step, :size].set(slot)

    longest = jax.tree.map(lambda array: array[:, :size], sums)
    longest, overflow, drawn = lax.fori_loop(begin, end, move, (longest, overflow, drawn))
    return jax.tree.map(lambda array, part: array.at[:, :size].set(part), sums, longest), overflow, drawn


def _chunks_at_edge(layout):
    """Numbers of the chunks that may see clusters within a reach or two of the first or the last point, NumPy array.

    A grid begins up to two widths before the first point, and the chunk with the last point is one of the last three.
    """
    return np.unique(np.r_[0:2, layout.num_chunks - 4 : layout.num_chunks].clip(0))


def _add(sums, single, weights):
    """Add ``weights`` (slots, lanes) times the statistics of one point for each lane."""

    def add(total, array):
        return total + weights.reshape(weights.shape + (1,) * (array.ndim - 1)) * array

    return jax.tree.map(add, sums, single)
