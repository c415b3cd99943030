"""Distributions inside others: peeled, put back, and taken over from TensorFlow Probability."""

import warnings

import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.upstream import mask_of


def as_distribution(name, emission):
    """``emission`` as a NumPyro distribution; distributions of TensorFlow Probability are wrapped.

    Raises:
        TypeError: if it is neither.
    """
    if isinstance(emission, dist.Distribution):
        return emission
    if type(emission).__module__.startswith("tensorflow_probability"):
        from numpyro.contrib.tfp.distributions import TFPDistribution

        with warnings.catch_warnings():  # about importing wrapped classes; NumPyro's own sites wrap in the same way
            warnings.simplefilter("ignore", FutureWarning)
            return TFPDistribution[type(emission)](**emission.parameters)
    raise TypeError(f"{name} must be a NumPyro distribution, not {type(emission).__name__}")


def unwrap(fn):
    """Free a distribution of ``Independent``, ``MaskedDistribution`` and ``ExpandedDistribution``.

    Returns:
        ``(base, mask)``: the innermost distribution with the full batch, that is ``fn``'s batch and then whatever an
        ``Independent`` made part of the event; and the bool array over that batch that the masks amount to, or None.
    """
    if isinstance(fn, dist.Independent):
        return unwrap(fn.base_dist)
    if isinstance(fn, dist.MaskedDistribution):
        base, mask = unwrap(fn.base_dist)
        if mask_of(fn) is True:
            return base, mask
        own = jnp.asarray(mask_of(fn))
        own = own.reshape(own.shape + (1,) * (len(base.batch_shape) - len(fn.batch_shape)))
        own = jnp.broadcast_to(own, base.batch_shape)
        return base, own if mask is None else own & mask
    if isinstance(fn, dist.ExpandedDistribution):
        base, mask = unwrap(fn.base_dist)
        batch_shape = fn.batch_shape + base.batch_shape[len(fn.base_dist.batch_shape) :]
        return base.expand(batch_shape), None if mask is None else jnp.broadcast_to(mask, batch_shape)
    return fn, None


def peel(distribution, *wrappers):
    """The distribution inside wrappers of the given classes, as it was made; :func:`unwrap` gives it the full batch."""
    while isinstance(distribution, wrappers):
        distribution = distribution.base_dist
    return distribution


def leaf_of(distribution):
    """The distribution inside ``Independent``."""
    return peel(distribution, dist.Independent)


def innermost(distribution):
    """The distribution inside ``Independent`` and ``ExpandedDistribution``; its arrays broadcast to the batch."""
    return peel(distribution, dist.Independent, dist.ExpandedDistribution)


def rewrap(distribution, leaf):
    """``leaf`` inside the ``Independent`` of ``distribution``."""
    if isinstance(distribution, dist.Independent):
        return dist.Independent(rewrap(distribution.base_dist, leaf), distribution.reinterpreted_batch_ndims)
    return leaf
