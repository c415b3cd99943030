"""Cumulative probabilities of emissions, for residuals: of any family, below a value and up to it, entry by entry."""

import jax.numpy as jnp
import numpyro.distributions as dist

from tsppl.distributions.emissions import against_batch, fill_unobserved, with_state_axis
from tsppl.distributions.streams import Streams
from tsppl.distributions.wrapped_cauchy import WrappedCauchy
from tsppl.distributions.zero_inflated import ZeroInflated

_GRID = 2048


def emission_cdf(emission, value, observed, *, time_varying):
    """``P(Y < y)`` and ``P(Y <= y)`` of every entry in every state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        value: ``(..., T) + event``; entries that were not observed may hold anything.
        observed: bool that broadcasts against ``value``, or None if everything was.
        time_varying: whether the emission has a time axis.

    Returns:
        pair of ``(..., T, K) + event``; equal where the distribution is continuous.
    """
    event_dim = emission.event_dim

    def arrange(array):
        return with_state_axis(array, event_dim, len(emission.batch_shape), time_varying=time_varying)

    if observed is not None:
        observed = jnp.broadcast_to(observed, jnp.broadcast_shapes(observed.shape, value.shape))
        value = jnp.broadcast_to(value, observed.shape)
    arranged = against_batch(arrange(value), emission) if event_dim else arrange(value)
    if observed is not None:
        arranged = fill_unobserved(emission, arranged, arrange(observed))
    bounds = cdf_bounds(emission, arranged)
    if time_varying:
        return bounds
    return tuple(jnp.moveaxis(bound, 0, bound.ndim - 2 - event_dim) for bound in bounds)


def cdf_bounds(distribution, value):
    """``P(Y < y)`` and ``P(Y <= y)``; of each entry by itself where an event has several.

    Raises:
        NotImplementedError: for families of which neither is known.
    """
    if isinstance(distribution, dist.ExpandedDistribution | dist.Independent):
        return cdf_bounds(distribution.base_dist, value)
    if isinstance(distribution, Streams):
        parts = [
            cdf_bounds(stream, part)
            for stream, part in zip(distribution.streams, distribution._split(value), strict=True)
        ]
        columns = [
            tuple(bound[..., None] if scalar else bound for bound in part)
            for part, scalar in zip(parts, distribution._scalar(), strict=True)
        ]
        shape = jnp.broadcast_shapes(*(column[0].shape[:-1] for column in columns))
        return tuple(
            jnp.concatenate([jnp.broadcast_to(column[i], shape + column[i].shape[-1:]) for column in columns], -1)
            for i in range(2)
        )
    if isinstance(distribution, dist.MultivariateNormal):
        scale = jnp.sqrt(jnp.square(distribution.scale_tril).sum(-1))
        return cdf_bounds(dist.Normal(distribution.loc, scale), value)
    if isinstance(distribution, ZeroInflated):
        lower, upper = (bound * (1 - distribution.prob) for bound in cdf_bounds(distribution.base, value))
        return lower + distribution.prob * (value > 0), upper + distribution.prob * (value >= 0)
    if isinstance(distribution, dist.VonMises | WrappedCauchy):
        return (_circular_cdf(distribution, value),) * 2
    if distribution.support is not None and distribution.support.is_discrete:
        return _discrete_cdf(distribution, value)
    try:
        return (distribution.cdf(value),) * 2
    except NotImplementedError:
        raise NotImplementedError(
            f"{type(distribution).__name__} has no cumulative probabilities, so its residuals are not known here"
        ) from None


def _discrete_cdf(distribution, value):
    try:
        return distribution.cdf(value - 1), distribution.cdf(value)
    except NotImplementedError:
        pass
    try:
        support = distribution.enumerate_support(expand=False)
    except NotImplementedError:
        raise NotImplementedError(
            f"{type(distribution).__name__} has neither cumulative probabilities nor a finite support, so its residuals are not "
            "known here"
        ) from None
    probs = jnp.exp(distribution.log_prob(support))
    support = support.reshape((-1,) + (1,) * max(probs.ndim - 1, jnp.ndim(value)))
    probs = probs.reshape(probs.shape[:1] + (1,) * (support.ndim - probs.ndim) + probs.shape[1:])
    return tuple((probs * inside).sum(0) for inside in (support < value, support <= value))


def _circular_cdf(distribution, value):
    """From ``-pi`` on, by the trapezoidal rule, interpolated."""
    grid = jnp.linspace(-jnp.pi, jnp.pi, _GRID)
    density = jnp.exp(distribution.log_prob(grid.reshape((-1,) + (1,) * len(distribution.batch_shape))))
    steps = 0.5 * (density[1:] + density[:-1]) * (grid[1] - grid[0])
    table = jnp.concatenate([jnp.zeros_like(density[:1]), jnp.cumsum(steps, 0)])
    table = jnp.moveaxis(table / table[-1], 0, -1)
    table = jnp.broadcast_to(table, jnp.broadcast_shapes(table.shape[:-1], jnp.shape(value)) + (_GRID,))
    value = jnp.broadcast_to(value, table.shape[:-1])
    return jnp.vectorize(lambda x, row: jnp.interp(x, grid, row), signature="(),(g)->()")(value, table)
