"""Gibbs sampling of labels of points, one after the other, outside of JAX: compiled by numba, on one core of the CPU.

The law is that of :mod:`tsppl.points.labels.sweep`, in double precision and in another order, but a point only sees clusters
nearby: those whose first point is in its own cell or in one beside it, on a grid of cells at least ``reach`` wide that moves
at random. What is neglected is stated in :mod:`tsppl.points.labels.sweep_chunked`; and so are weights below ``exp(-36)`` of the
largest.
"""

import importlib.util
from functools import lru_cache, partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from tsppl.points import GaussianCluster, SequenceCluster
from tsppl.points.labels.rates import NeymanScottRates
from tsppl.points.labels.sweep import Sweep
from tsppl.points.windows.as_window import as_window

MOST_GRID_AXES = 2
CELLS_PER_POINT = 4


def sweep_labels_numba(
    key, cluster, labels, points, window, rates, *, log_background=None, max_clusters=None, reach=None
) -> Sweep:
    """Draw the label of every point given all others; under ``vmap`` one pattern after the other.

    Args:
        cluster: a :class:`~tsppl.points.GaussianCluster` or :class:`~tsppl.points.SequenceCluster`.
        labels: int ``(N,)``, canonical.
        points: ``(N,)`` and the shape of a point, in any order.
        window: a :class:`Window`, or lowest and highest place.
        rates: :class:`NeymanScottRates`.
        log_background: log density of each point in the background, ``(N,)``; uniform on the window if None.
        max_clusters: number of slots, as for :func:`~tsppl.points.labels.sweep.sweep_labels`; ``N`` if None.
        reach: distance, by dimension, beyond which a point and the first point of a cluster need not see each other; all see
            each other if it is infinite. Twice ``cluster.reach`` if None.

    Returns:
        Labels, and how often something did not fit in: points that found no slot free, points of further clusters in
        ``labels``, and points left as they are because the first point of their cluster is out of sight.

    Raises:
        ImportError: without numba.
        NotImplementedError: for other families of clusters, and for clusters kept inside of a window with gaps.
    """
    require_numba(cluster)
    window = as_window(window)
    if cluster.edges == "exact" and not window.is_box:
        raise NotImplementedError(
            'with backend="numba" clusters are kept inside of an interval or a box only: use backend="jax", or edges="ignored"'
        )
    num_points = len(points)
    if num_points == 0:
        return Sweep(labels.astype(jnp.int32), jnp.zeros((), jnp.int32))
    if log_background is None:
        log_background = jax.vmap(cluster.log_background, (0, None))(points, window)
    weights = NeymanScottRates(*rates).move_weights
    new = weights.new - window.log_volume
    inputs = {
        "seed": random.bits(key, (4,), jnp.uint32),
        "labels": labels,
        "positions": cluster.positions(points),
        "numbers": jnp.stack([2 * cluster.reach if reach is None else reach, weights.concentration, new]),
        "apart": weights.background + log_background,
        "family": FAMILIES[type(cluster)][0](cluster, points),
        "window": window.bounds.reshape(2, -1) if cluster.edges == "exact" else None,
    }
    num_slots = num_points if max_clusters is None else min(max_clusters, num_points)
    layout, packed = _packed(inputs)
    sweep = partial(_sweep, type(cluster), num_slots, layout)
    shapes = jax.ShapeDtypeStruct((num_points,), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)
    return Sweep(*jax.pure_callback(sweep, shapes, *packed, vmap_method="sequential"))


def _packed(tree):
    """How to unpack, and all numbers as one vector, whole numbers as another: a callback pays for each array it is given."""
    leaves, structure = jax.tree.flatten(tree)
    is_whole = tuple(jnp.issubdtype(leaf.dtype, jnp.integer) for leaf in leaves)
    vectors = []
    for whole in (False, True):
        chosen = [leaf for leaf, kind in zip(leaves, is_whole, strict=True) if kind == whole]
        dtype = jnp.uint32 if whole else jnp.result_type(*chosen)
        vectors.append(jnp.concatenate([leaf.astype(dtype).ravel() for leaf in chosen]))
    return (structure, is_whole, tuple(leaf.shape for leaf in leaves)), vectors


def _unpacked(layout, *vectors):
    structure, is_whole, shapes = layout
    begin, leaves = [0, 0], []
    for whole, shape in zip(is_whole, shapes, strict=True):
        end = begin[whole] + int(np.prod(shape, dtype=int))
        leaves.append(vectors[whole][begin[whole] : end].reshape(shape))
        begin[whole] = end
    return jax.tree.unflatten(structure, leaves)


def require_numba(cluster=None):
    """Raise unless numba is there, and knows the family of a cluster.

    Raises:
        ImportError: without numba.
        NotImplementedError: for families that have no compiled sweep, and for classes derived from those that have one.
    """
    if importlib.util.find_spec("numba") is None:
        raise ImportError('backend="numba" needs numba: pip install "tsppl[numba]"')
    if cluster is not None and type(cluster) not in FAMILIES:
        known = " and ".join(family.__name__ for family in FAMILIES)
        raise NotImplementedError(
            f'sweeps with backend="numba" are for {known}; for a {type(cluster).__name__} use backend="jax"'
        )


@np.errstate(all="ignore")
def _sweep(family, num_slots, layout, numbers, whole_numbers):
    """Labels and missing slots, from and to NumPy arrays: in here no function of JAX may compute."""
    from tsppl.points.labels import sweep_compiled as compiled

    inputs = _unpacked(layout, np.asarray(numbers, float), np.asarray(whole_numbers))
    reach, concentration, new = inputs["numbers"].tolist()
    generator = np.random.default_rng(inputs["seed"])
    positions = inputs["positions"].reshape(len(inputs["labels"]), -1)
    cell, num_cells, neighbours = _grid(generator, positions, reach)
    order = compiled.visiting_order(cell, num_cells, generator.random(len(cell)))
    slot = inputs["labels"].view(np.int32).astype(np.int64)
    unfit = slot >= num_slots
    slot[unfit] = -1
    log_size = np.log(np.arange(len(cell) + 1) + concentration)
    visits = cell, num_cells, neighbours, order, generator.random(len(cell))
    common = slot, num_slots, visits, inputs["apart"], new
    window = np.full((2, positions.shape[1]), [[-np.inf], [np.inf]])
    if inputs["window"] is not None:
        window = inputs["window"]
    missing = FAMILIES[family][1](compiled, common, log_size, positions, inputs["family"], window)
    return compiled.canonical(slot), np.int32(missing + unfit.sum())


def _grid(generator, positions, reach):
    """Cells of places, their number, and differences between cell numbers of neighbours (a cell is its own, too).

    Along two axes at most, and wider than ``reach`` if there were too many; with empty cells all around. Numbers of cells
    are valid whatever comes in, also not-a-number.
    """
    reach = reach if reach > 0 else np.inf
    positions = positions[:, :MOST_GRID_AXES]
    num_axes = positions.shape[1]
    lowest = positions.min(0)
    span = positions.max(0) - lowest
    most = max(1.0, (CELLS_PER_POINT * len(positions)) ** (1 / num_axes))
    # A cell of many times the span is what an infinite reach asks for.
    width = np.maximum(np.minimum(reach, 1e6 * span), span / most) + (span == 0)
    places = np.nan_to_num((positions - lowest) / width) + generator.random(num_axes)
    places = places.astype(np.int64) + 1
    strides = np.cumprod(np.append(1, places.max(0)[:-1] + 2))
    num_cells = int((places.max(0) + 2).prod())
    steps = np.array(list(product((-1, 0, 1), repeat=num_axes)))
    return places @ strides, num_cells, steps @ strides


def _gaussian_parameters(cluster, points):
    return {"scale": jnp.atleast_1d(cluster.scale)}


def _sweep_gaussian(compiled, common, log_size, positions, parameters, window):
    """In units of the clusters' width."""
    scale = parameters["scale"]
    log_join = log_size - np.log(scale).sum() - 0.5 * len(scale) * np.log(2 * np.pi)
    log_join[1:] -= 0.5 * len(scale) * _log_ratios(len(log_size))
    axes = tuple(range(len(scale)))
    return compiled.sweep_gaussian(*common, log_join, positions / scale, axes, *(window / scale))


@lru_cache(maxsize=8)
def _log_ratios(size):
    """``log((n + 1) / n)`` for ``n`` from 1 to ``size - 1``."""
    return np.diff(np.log(np.arange(1, size + 1)))


def _sequence_parameters(cluster, points):
    return {
        "neurons": points[:, 1],
        "neuron_probs": jnp.maximum(cluster.neuron_probs, jnp.finfo(cluster.neuron_probs.dtype).tiny),
        "offsets": cluster.offsets,
        "widths": cluster.widths,
        "warps": cluster.warps,
        "type_probs": cluster.type_probs,
        "warp_probs": cluster.warp_probs,
    }


def _sweep_sequences(compiled, common, log_size, positions, parameters, window):
    """With tables by neuron and kind, which is a type with a warp."""
    neurons = parameters["neurons"].astype(np.int64).clip(0, parameters["neuron_probs"].shape[1] - 1)
    probs, offsets, widths, warps, type_probs, warp_probs = (
        parameters[name] for name in ("neuron_probs", "offsets", "widths", "warps", "type_probs", "warp_probs")
    )

    def table(of_type, of_warp):
        return np.ascontiguousarray((of_type[:, None] * of_warp[:, None]).reshape(-1, of_type.shape[1]).T)

    log_prior = np.log(np.outer(type_probs, warp_probs).ravel())
    log_probs = np.log(table(probs, np.ones_like(warps)))
    tables = table(offsets, warps), table(widths, warps) ** -2.0, log_probs
    return compiled.sweep_sequences(*common, log_size, positions[:, 0], neurons, tables, log_prior, *window[:, 0])


FAMILIES = {
    GaussianCluster: (_gaussian_parameters, _sweep_gaussian),
    SequenceCluster: (_sequence_parameters, _sweep_sequences),
}
