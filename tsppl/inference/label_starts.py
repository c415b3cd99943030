"""Labels of points of a Neyman-Scott process to start sampling from."""

import jax.numpy as jnp

from tsppl.conjugate.windows import bounds
from tsppl.messages import canonical_labels, cluster_sizes


def neighbouring_labels(process, points):
    """Points in time that fall into one bin are a cluster, and so are equal cells in space.

    A bin is as wide as the part of the window that one event in four has to itself; single points are background, if there
    is one.
    """
    positions = process.cluster.positions(points).reshape(len(points), -1)
    dims = positions.shape[1]
    event_rate = process.expected_counts().occupied_events / process.volume
    cell = (4 * event_rate) ** (-1 / dims) * jnp.ones(dims)
    places = jnp.floor((positions - jnp.atleast_1d(bounds(process.window)[0])) / cell).astype(jnp.int32)
    order = jnp.lexsort(places.T)
    changes = jnp.any(jnp.diff(places[order], axis=0) != 0, axis=1)
    numbers = jnp.zeros(len(points), jnp.int32).at[order].set(jnp.cumsum(jnp.append(False, changes), dtype=jnp.int32))
    sizes = cluster_sizes(numbers)[numbers]
    return canonical_labels(jnp.where((sizes > 1) | (process.expected_background == 0), numbers, -1))
