"""Whole patterns of a Neyman-Scott process, with the events behind them."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import random

from tsppl.distributions.points.point_process import first_coordinate
from tsppl.points.labels.compound_poisson import MANY_EVENTS


class PointPattern(NamedTuple):
    """A simulated pattern. Row ``k`` of ``events`` and ``amplitudes`` is the cluster with label ``k``; the rows after the
    last label are events without a point."""

    points: jax.Array
    labels: jax.Array
    events: Any
    amplitudes: jax.Array


def simulate_pattern(key, process) -> PointPattern:
    """Draw a pattern of a :class:`~tsppl.distributions.NeymanScott`, sorted by the first coordinate."""
    keys = random.split(key, 6)
    amplitudes, sizes, num_background = _sizes(process, *keys[:3])
    num_events = len(amplitudes)
    events = jax.vmap(process.cluster.sample_event, (0, None))(random.split(keys[3], num_events), process.window)
    own = np.repeat(np.arange(num_events), sizes)
    chosen = jax.tree.map(lambda array: array[own], events)
    clustered = jax.vmap(process.cluster.sample_point)(random.split(keys[4], len(own)), chosen)
    background_keys = random.split(keys[5], num_background)
    alone = jax.vmap(process.sample_background)(background_keys)

    points = jnp.concatenate([clustered, alone])
    own = np.concatenate([own, np.full(num_background, -1)]).astype(np.int32)
    order = np.argsort(np.asarray(first_coordinate(process.cluster.positions(points))), kind="stable")
    points, own = points[order], own[order]
    _, first = np.unique(own[own >= 0], return_index=True)
    seen = own[own >= 0][np.sort(first)]
    rows = np.concatenate([seen, np.setdiff1d(np.arange(num_events), seen)]).astype(np.int32)
    numbers = np.full(num_events + 1, -1, np.int32)
    numbers[rows] = np.arange(num_events)
    events, amplitudes = jax.tree.map(lambda array: array[rows], (events, amplitudes))
    return PointPattern(points, jnp.asarray(numbers[own]), events, amplitudes)


def _sizes(process, events_key, amplitudes_key, sizes_key):
    """Amplitudes of events, their numbers of points, and the number of background points."""
    if process.expected_events < MANY_EVENTS:
        num_events = int(random.poisson(events_key, process.expected_events))
        amplitudes = process.amplitude.sample(amplitudes_key, (num_events,))
        background_key, sizes_key = random.split(sizes_key)
        num_background = int(random.poisson(background_key, process.expected_background))
        return amplitudes, np.asarray(random.poisson(sizes_key, amplitudes)), num_background
    num_points = int(process.count().sample(events_key))
    labels = np.asarray(process.labels(num_points).sample(sizes_key))
    sizes = np.bincount(labels[labels >= 0])
    amplitudes = random.gamma(amplitudes_key, process.amplitude.concentration + sizes) / (process.amplitude.rate + 1)
    return amplitudes, sizes, int((labels < 0).sum())
