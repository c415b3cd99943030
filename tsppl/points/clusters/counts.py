"""What labelled spikes and the events behind them say about the parameters of :class:`SequenceCluster`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

BACKGROUND = -1


class SequenceCounts(NamedTuple):
    """Sufficient statistics of the parameters of sequences.

    ``types`` ``(R,)``: sequences of each type; ``background`` ``(M,)``: spikes of each neuron that belong to none. By type
    and neuron, ``(R, M)``: ``spikes``, their mean delay after the start with the warp undone, and the sum of squared
    differences from it.
    """

    types: jax.Array
    background: jax.Array
    spikes: jax.Array
    mean_delay: jax.Array
    scatter: jax.Array


def sequence_counts(cluster, labels, points, events, occupied, origins) -> SequenceCounts:
    """Count spikes and sum up their delays.

    Args:
        cluster: a :class:`SequenceCluster`.
        labels: int ``(N,)``, -1 for background, -2 for a slot without a spike.
        points: ``(N, 2)``, times and neurons.
        events: the event of each label, with leading axis ``(K,)``; times are relative to ``origins``.
        occupied: bool ``(K,)``: whether there is a spike with this label.
        origins: ``(K,)``.
    """
    shape = cluster.neuron_probs.shape
    neurons, own = points[:, 1].astype(jnp.int32), jnp.maximum(labels, 0)
    is_clustered = labels >= 0
    delays = (points[:, 0] - origins[own] - events.time[own]) / cluster.warps[events.warp[own]]
    row = jnp.where(is_clustered, events.type[own], shape[0])

    def total(values):
        return jnp.zeros(shape, delays.dtype).at[row, neurons].add(values, mode="drop")

    spikes = total(1.0)
    mean = total(delays) / jnp.maximum(spikes, 1)
    scatter = total((delays - mean[jnp.minimum(row, shape[0] - 1), neurons]) ** 2)
    types = jnp.zeros(shape[0], delays.dtype).at[jnp.where(occupied, events.type, shape[0])].add(1.0, mode="drop")
    column = jnp.where(labels == BACKGROUND, neurons, shape[1])
    background = jnp.zeros(shape[1], delays.dtype).at[column].add(1.0, mode="drop")
    return SequenceCounts(types, background, spikes, mean, scatter)
