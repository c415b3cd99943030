"""How :class:`~tsppl.inference.LabelGibbs` sweeps over points: one after the other, chunks side by side, or compiled by numba.

A sweeper is chosen by name when a block is made. ``init`` looks at the process and the points, and returns the sweeper of this
run; ``sweep`` draws every label; ``reach_ratio`` is how far points see over how far the clusters now need them to.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from tsppl.distributions.shapes import is_concrete
from tsppl.points import (
    ChunkLayout,
    chunk_layout,
    sweep_labels,
    sweep_labels_chunked,
    sweep_labels_numba,
)
from tsppl.points.labels.sweep_numba import require_numba

METHODS = ("auto", "serial", "chunked")
BACKENDS = ("jax", "numba")
FEW_POINTS = 200


def choose_sweeper(backend, method, reach, max_clusters):
    """The sweeper of these names.

    Raises:
        ValueError: if there is none.
        ImportError: without numba, where it is asked for.
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}; pass one of {METHODS}")
    if backend not in BACKENDS:
        raise ValueError(f"backend is {backend!r}; pass one of {BACKENDS}")
    if backend == "numba":
        require_numba()
        return NumbaSweeper(jnp.inf if method == "serial" else reach, max_clusters)
    serial, chunked = SerialSweeper(max_clusters), ChunkedSweeper(reach, max_clusters)
    return {"serial": serial, "chunked": chunked, "auto": EitherSweeper(serial, chunked)}[method]


class SerialSweeper(NamedTuple):
    """One point after the other, each at a cost of all clusters."""

    max_clusters: int | None

    def init(self, process, points, has_unseen):
        """Itself."""
        return self

    def sweep(self, key, *arguments, log_background):
        """Labels, and how often a slot was missing."""
        return sweep_labels(key, *arguments, log_background=log_background, max_clusters=self.max_clusters)

    def reach_ratio(self, cluster):
        """All points see all clusters."""
        return jnp.inf


class ChunkedSweeper(NamedTuple):
    """Chunks of time side by side, each at a cost of the clusters nearby."""

    reach: float | None
    max_clusters: int | None
    layout: ChunkLayout | None = None

    def init(self, process, points, has_unseen):
        """With sizes that fit these points.

        Raises:
            NotImplementedError: beside points that were not seen.
            ValueError: for points in space, or traced ones, or where the reach is not known.
        """
        if has_unseen:
            raise NotImplementedError('chunked sweeps need sorted points: beside unseen points pass method="serial"')
        if process.cluster.position_shape != ():
            raise ValueError(
                f"chunked sweeps need points in time; these have places of {process.cluster.position_shape}"
            )
        if not is_concrete(points):
            raise ValueError(
                "chunked sweeps look at the points beforehand: do not pass them through jit (jit_model_args)"
            )
        reach = self.reach
        if reach is None:
            if not is_concrete(process.cluster.reach):
                raise ValueError("chunked sweeps need a reach that is known beforehand: pass reach=")
            reach = 2 * float(process.cluster.reach)
        times = np.asarray(process.cluster.positions(points))
        layout = chunk_layout(times, reach, reaches_per_chunk=3.0, num_slots=self.max_clusters or 32)
        return self._replace(layout=layout)

    def sweep(self, key, *arguments, log_background):
        """Labels, and how often a slot was missing."""
        return sweep_labels_chunked(key, *arguments, log_background=log_background, layout=self.layout)

    def reach_ratio(self, cluster):
        """Below 1 where the clusters have become wider than the chunks allow; a family need not know how wide they are."""
        return jnp.where(jnp.isinf(cluster.reach), jnp.inf, self.layout.reach / cluster.reach)


class EitherSweeper(NamedTuple):
    """Chunks for many points in time that were all seen, in clusters of known reach; one point after the other else."""

    serial: SerialSweeper
    chunked: ChunkedSweeper

    def init(self, process, points, has_unseen):
        """The one or the other."""
        reach, in_time = process.cluster.reach, process.cluster.position_shape == ()
        is_endless = self.chunked.reach is None and is_concrete(reach) and np.isinf(reach)
        one_by_one = has_unseen or not in_time or is_endless or len(points) <= FEW_POINTS
        return (self.serial if one_by_one else self.chunked).init(process, points, has_unseen)


class NumbaSweeper(NamedTuple):
    """One point after the other on one core of the CPU, each at a cost of the clusters nearby."""

    reach: float | None
    max_clusters: int | None

    def init(self, process, points, has_unseen):
        """Itself, if numba can sweep over clusters of this family."""
        require_numba(process.cluster)
        return self

    def sweep(self, key, *arguments, log_background):
        """Labels, and how often something did not fit in."""
        options = {"max_clusters": self.max_clusters, "reach": self.reach}
        return sweep_labels_numba(key, *arguments, log_background=log_background, **options)

    def reach_ratio(self, cluster):
        """Below 1 where the clusters have become wider than the given reach."""
        return jnp.inf if self.reach is None else self.reach / cluster.reach
