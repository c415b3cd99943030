"""The one reader of Gaussian arguments: location and Cholesky factor, whichever NumPyro class holds them."""

import jax.numpy as jnp
import numpy as np
from numpyro.distributions import (
    ExpandedDistribution,
    Independent,
    LowRankMultivariateNormal,
    MultivariateNormal,
    Normal,
)

from tsppl.distributions.shapes import is_concrete


def gaussian_parameters(noise, name="noise"):
    """Location and Cholesky factor of a Gaussian distribution.

    Args:
        noise: ``MultivariateNormal``, ``Normal(...).to_event(1)``, ``LowRankMultivariateNormal``, or an expanded form
            of these; a plain ``Normal`` counts as one dimension.
        name: name of the argument, for the message.

    Returns:
        ``(loc, scale_tril)`` of shapes ``batch + (N,)`` and ``batch + (N, N)``.

    Raises:
        TypeError: if the distribution is not Gaussian.

    >>> import jax.numpy as jnp, numpyro.distributions as dist
    >>> from tsppl.distributions import gaussian_parameters
    >>> loc, scale_tril = gaussian_parameters(dist.Normal(jnp.zeros(2), 3.0).to_event(1))
    >>> scale_tril.tolist()
    [[3.0, 0.0], [0.0, 3.0]]
    """
    loc, scale_tril = _parameters(noise, name)
    size = scale_tril.shape[-1]
    return (
        jnp.broadcast_to(loc, noise.batch_shape + (size,)),
        jnp.broadcast_to(scale_tril, noise.batch_shape + (size, size)),
    )


def _parameters(noise, name):
    if isinstance(noise, MultivariateNormal):
        return noise.loc, noise.scale_tril
    if isinstance(noise, LowRankMultivariateNormal):
        return noise.loc, jnp.linalg.cholesky(noise.covariance_matrix)
    if isinstance(noise, ExpandedDistribution):
        return _parameters(noise.base_dist, name)
    if isinstance(noise, Normal):
        return jnp.asarray(noise.loc)[..., None], jnp.asarray(noise.scale)[..., None, None]
    if isinstance(noise, Independent) and noise.reinterpreted_batch_ndims == 1:
        base = noise.base_dist
        shape = noise.batch_shape + noise.event_shape
        while isinstance(base, ExpandedDistribution):
            base = base.base_dist
        if isinstance(base, Normal):
            scale = jnp.broadcast_to(base.scale, shape)
            return jnp.broadcast_to(base.loc, shape), scale[..., None] * jnp.eye(shape[-1], dtype=scale.dtype)
    raise TypeError(
        f"{name} must be Gaussian: pass MultivariateNormal(loc, scale_tril=...) or Normal(loc, scale).to_event(1), not "
        f"{_describe(noise)}"
    )


def check_scales(name, noise, advice):
    """Raise if a concrete Gaussian has components without noise; ``advice`` says what to pass instead."""
    _, scale_tril = gaussian_parameters(noise, name)
    if is_concrete(scale_tril):
        diagonal = np.diagonal(np.asarray(scale_tril), axis1=-2, axis2=-1)
        zero = np.flatnonzero((diagonal == 0).reshape(-1, diagonal.shape[-1]).any(0))
        if len(zero):
            raise ValueError(f"{name} has zero scale in components {zero.tolist()}: {advice}")


def _describe(noise):
    words = type(noise).__name__
    if hasattr(noise, "base_dist"):
        words += f" of {_describe(noise.base_dist)}"
    return words


def gaussian_by_step(name, distribution, num_steps, *, varies=False):
    """Location ``(..., rows, K or 1, N)`` and scale_tril of an argument of an autoregression, for its left-out terms.

    Args:
        name: of the argument, for the error.
        distribution: with batch ``(..., K)``; if it ``varies``, ``(..., rows, K)`` for the last ``rows`` steps.
        num_steps: number of steps ``T``, and of rows if it varies; else there is one row.
    """
    try:
        loc, scale_tril = gaussian_parameters(distribution)
    except TypeError as error:
        raise NotImplementedError(
            f"exact left-out terms need Gaussian {name}: {error}. log_prob_steps gives one-step-ahead terms, which "
            "answer another question"
        ) from None
    batch, size = distribution.batch_shape or (1,), max(distribution.event_shape, default=1)
    lead = batch if varies else batch[:-1] + (1,) + batch[-1:]
    loc = jnp.reshape(loc, lead + (size,))
    scale_tril = jnp.reshape(scale_tril, lead + (size, size))
    if varies:
        rows = jnp.maximum(jnp.arange(num_steps) - (num_steps - lead[-2]), 0)
        loc, scale_tril = loc[..., rows, :, :], scale_tril[..., rows, :, :, :]
    return loc, scale_tril
