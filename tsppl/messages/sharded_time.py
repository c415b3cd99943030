"""One sequence over several devices: each holds a block of consecutive steps, and only summaries of blocks travel.

What every algorithm here has in common (Sarkka and Garcia-Fernandez 2021 join the same summaries, one for each step):

1. each device sums up its block in a table that says how what comes before the block and what comes after it are
   related; its size does not depend on the number of steps;
2. the tables are gathered, and every device joins them all, which tells it what all other blocks say about its own;
3. each device finishes its block alone.

Arrays with a time axis have as many rows as there are steps, so that devices can share them evenly. Row ``t`` of
whatever moves the chain leads from step ``t`` to step ``t + 1``; the last row leads out of the data and is not used.
"""

from typing import NamedTuple

import jax
from jax import lax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec


class TimeAxis(NamedTuple):
    """The named axis of a mesh along which time is divided; the methods are for the inside of ``jax.shard_map``."""

    mesh: jax.sharding.Mesh
    name: str

    @property
    def size(self):
        return self.mesh.shape[self.name]

    @property
    def sharded(self):
        """Specification of an array whose leading axis is time."""
        return PartitionSpec(self.name)

    @property
    def shared(self):
        """Specification of an array that every device holds."""
        return PartitionSpec()

    def spec(self, array, ndim):
        """Specification of an array that has ``ndim`` axes where it is constant, and one more where it varies in time."""
        return self.sharded if array.ndim > ndim else self.shared

    def map(self, function, in_specs, out_specs):
        """``function`` of the blocks of one device as a function of whole arrays."""
        return jax.shard_map(function, mesh=self.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    def is_first(self):
        return lax.axis_index(self.name) == 0

    def is_last(self):
        return lax.axis_index(self.name) == self.size - 1

    def gather(self, summary):
        """The summaries of all blocks, stacked, in one message."""
        flat, restore = ravel_pytree(summary)
        return jax.vmap(restore)(lax.all_gather(flat, self.name))

    def own(self, rows):
        """This device's row of a tree with one row for each block."""
        return jax.tree.map(lambda array: array[lax.axis_index(self.name)], rows)

    def from_device_before(self, tree):
        """What the device before holds; zeros on the first."""
        pairs = [(device, device + 1) for device in range(self.size - 1)]
        return jax.tree.map(lambda array: lax.ppermute(array, self.name, pairs), tree)

    def sum(self, tree):
        """Sum over devices of a tree, in one message."""
        flat, restore = ravel_pytree(tree)
        return restore(lax.psum(flat, self.name))


def time_axis(mesh, axis_name, name, array, padding) -> TimeAxis:
    """The axis along which ``array`` is divided; raises unless its steps can be shared evenly.

    Args:
        mesh: of devices.
        axis_name: the mesh axis that stands for time.
        name: of ``array``, for messages.
        array: with the time axis first.
        padding: what to append where steps are lacking, for messages.
    """
    if axis_name not in mesh.axis_names:
        raise ValueError(f"axis_name is {axis_name!r}, but mesh has the axes {mesh.axis_names}")
    size, num_steps = mesh.shape[axis_name], array.shape[0]
    if num_steps == 0 or num_steps % size:
        wanted = max(1, -(-num_steps // size)) * size
        raise ValueError(
            f"{name} has {num_steps} steps, which the {size} devices along mesh axis {axis_name!r} cannot share evenly: "
            f"pad to {wanted} steps with {padding}"
        )
    return TimeAxis(mesh, axis_name)


def check_rows(name, array, ndim, num_steps):
    """Raise unless ``array`` is constant, with ``ndim`` axes, or has one row for each step."""
    if array.ndim != ndim and (array.ndim != ndim + 1 or array.shape[0] != num_steps):
        raise ValueError(
            f"{name} has shape {array.shape}; over several devices it is constant, with {ndim} axes, or has one row for "
            f"each of the {num_steps} steps, which devices can share evenly. Of what moves the chain, row t leads from "
            "step t to step t + 1, and the last row is not used"
        )
