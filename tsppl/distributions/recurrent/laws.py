"""Functions and trees of arrays as parameters of a distribution: which of their axes are batch, and which are time."""

import jax
import jax.numpy as jnp
from jax.tree_util import Partial


def as_tree(function):
    """``function`` as a callable tree of the arrays that ``jax.tree_util.Partial`` binds to it; of none otherwise."""
    return jax.tree.map(jnp.asarray, function) if isinstance(function, Partial) else Partial(function)


def check_batch(name, tree, batch_shape, num_steps=None):
    """Raise unless every array of ``tree`` has ``batch_shape``, or axes of size one, on the left, then ``num_steps`` rows.

    Raises:
        ValueError: naming the array, its shape and what it must begin with.
    """
    for path, leaf in jax.tree.leaves_with_path(tree):
        place, shape = name + jax.tree_util.keystr(path), jnp.shape(leaf)
        lead = shape[: len(batch_shape)]
        if len(lead) < len(batch_shape) or any(n not in (1, m) for n, m in zip(lead, batch_shape, strict=True)):
            raise ValueError(
                f"{place} has shape {shape}; with batch_shape={batch_shape} it must begin with these axes, or with axes of "
                "size one where the series share it"
            )
        if num_steps is not None and shape[len(lead) : len(lead) + 1] != (num_steps,):
            axis = "first axis" if not lead else f"axis after the batch {batch_shape}"
            raise ValueError(f"{place} has shape {shape}; its {axis} must be time, of {num_steps} steps")


def first_series(tree, batch_ndim):
    """The parameters of the first series."""
    return jax.tree.map(lambda leaf: leaf[(0,) * batch_ndim], tree)


def over_series(core, parameters, batch_ndim, signature, *arrays):
    """``core(parameters of one series, *arrays of one series)`` over the batch.

    Args:
        core: function of arrays of the shapes in ``signature``.
        parameters: tree of arrays, all with ``batch_ndim`` axes of batch on the left.
        batch_ndim: number of these axes.
        signature: of ``arrays`` and of the result, as of ``jnp.vectorize``.
        arrays: their batches broadcast against each other and those of the parameters.
    """
    leaves, tree = jax.tree.flatten(parameters)
    own = ["(" + ",".join(f"p{i}x{j}" for j in range(leaf.ndim - batch_ndim)) + ")" for i, leaf in enumerate(leaves)]

    def one(*rows):
        return core(jax.tree.unflatten(tree, rows[: len(leaves)]), *rows[len(leaves) :])

    return jnp.vectorize(one, signature=",".join([*own, signature]))(*leaves, *arrays)
