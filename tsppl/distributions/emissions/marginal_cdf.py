"""Probabilities below an observation, entry by entry, for any family of emissions."""

from functools import partial

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import lax
from numpyro.distributions import Distribution, constraints

from tsppl.distributions.emissions.scoring import against_batch, fill_unobserved, with_state_axis
from tsppl.distributions.emissions.streams import Streams
from tsppl.distributions.emissions.zero_inflated import ZeroInflated
from tsppl.distributions.wrappers import peel

_PANELS, _NODES = 64, 8


def emission_cdf(emission, value, observed, *, time_varying):
    """:func:`marginal_cdf` of every step in every state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        value: ``(..., T) + event``; entries that were not observed may hold anything.
        observed: bool that broadcasts against ``value``, or None if everything was.
        time_varying: whether the emission has a time axis.

    Returns:
        pair of ``(..., T, K) + event``.
    """
    event_dim = emission.event_dim
    arrange = partial(
        with_state_axis, event_dim=event_dim, batch_ndim=len(emission.batch_shape), time_varying=time_varying
    )
    if observed is not None:
        observed = jnp.broadcast_to(observed, jnp.broadcast_shapes(observed.shape, value.shape))
        value = jnp.broadcast_to(value, observed.shape)
    arranged = against_batch(arrange(value), emission)
    if observed is not None:
        arranged = fill_unobserved(emission, arranged, arrange(observed))
    pair = marginal_cdf(emission, arranged)
    return pair if time_varying else tuple(jnp.moveaxis(array, 0, array.ndim - 2 - event_dim) for array in pair)


def marginal_cdf(distribution, value):
    """``(P(Y < value), P(Y <= value))`` of every entry of an observation on its own, each batch + event.

    By the family's ``cdf``, exact for joint Gaussian and Student-t entries too. Discrete families without one are
    summed, angles integrated (64 panels of 8 Gauss-Legendre nodes from ``-pi``). The two differ where there is mass.

    Raises:
        NotImplementedError: for other families without ``cdf``.
    """
    distribution = peel(distribution, dist.Independent, dist.MaskedDistribution, dist.ExpandedDistribution)
    if isinstance(distribution, Streams):
        return _of_streams(distribution, value)
    if isinstance(distribution, ZeroInflated):
        base = marginal_cdf(distribution.base, value)[1]
        below = (1 - distribution.prob) * base
        return below + distribution.prob * (value > 0), below + distribution.prob * (value >= 0)
    if isinstance(distribution, dist.MultivariateStudentT):
        scale = jnp.sqrt(jnp.square(distribution.scale_tril).sum(-1))
        return marginal_cdf(dist.StudentT(jnp.asarray(distribution.df)[..., None], distribution.loc, scale), value)
    if isinstance(distribution, dist.MultivariateNormal | dist.LowRankMultivariateNormal):
        return marginal_cdf(dist.Normal(distribution.loc, jnp.sqrt(distribution.variance)), value)
    if distribution.event_dim == 0:
        return _of_number(distribution, value)
    raise NotImplementedError(
        f"no marginal probabilities are known of the entries of {type(distribution).__name__}: use an emission with "
        "independent or jointly Gaussian entries"
    )


def _of_streams(streams, value):
    pairs = [marginal_cdf(s, part) for s, part in zip(streams.streams, streams.split(value), strict=True)]
    pairs = [
        tuple(array if stream.event_dim else array[..., None] for array in pair)
        for stream, pair in zip(streams.streams, pairs, strict=True)
    ]
    lead = jnp.broadcast_shapes(*(pair[0].shape[:-1] for pair in pairs))
    below, up_to = (
        jnp.concatenate([jnp.broadcast_to(pair[i], lead + pair[i].shape[-1:]) for pair in pairs], -1) for i in (0, 1)
    )
    return below, up_to


def _of_number(distribution, value):
    discrete = distribution.support.is_discrete
    try:
        up_to = distribution.cdf(value)
    except NotImplementedError:
        if discrete:
            up_to = _summed(distribution, value)
        elif distribution.support is constraints.circular:
            up_to = _integrated(distribution, value)
        else:
            raise NotImplementedError(
                f"{type(distribution).__name__} has no cdf: give the class a method cdf(value)"
            ) from None
    if not discrete:
        return up_to, up_to
    return jnp.clip(up_to - jnp.exp(distribution.log_prob(value)), 0.0), up_to


def _summed(distribution, value):
    """Sum of the probabilities of the whole numbers from 0 to ``value``."""
    value = jnp.asarray(value)
    shape = jnp.broadcast_shapes(value.shape, distribution.batch_shape)

    def add(number, total):
        here = jnp.broadcast_to(jnp.asarray(number, value.dtype), shape)
        inside = distribution.support(here)
        probability = jnp.exp(distribution.log_prob(jnp.where(inside, here, jnp.zeros_like(here))))
        return total + jnp.where(inside & (here <= value), probability, 0.0)

    total = jnp.zeros(shape, jnp.result_type(distribution.log_prob(jnp.zeros(shape, value.dtype))))
    return lax.fori_loop(0, value.max().astype(int) + 1, add, total)


def _integrated(distribution, value):
    """Integral of the density from ``-pi`` to ``value``."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    width = (value + jnp.pi) / _PANELS

    def add(panel, total):
        places = (-jnp.pi + width * (panel + 0.5 * (1 + node)) for node in nodes)
        densities = (
            weight * jnp.exp(distribution.log_prob(place)) for weight, place in zip(weights, places, strict=True)
        )
        return total + 0.5 * width * sum(densities)

    shape = jnp.broadcast_shapes(jnp.shape(value), distribution.batch_shape)
    return lax.fori_loop(0, _PANELS, add, jnp.zeros(shape, jnp.result_type(width)))


class LogProbabilityBelow(Distribution):
    """Stands in for the noise of an autoregression: its ``log_prob`` is ``log P(Y <= value)`` of one entry, or ``log P(Y < value)``.

    So that probabilities given the lags come from the code that scores a step.
    ``entry`` counts the entries of one observation and may be traced.
    """

    arg_constraints = {}

    def __init__(self, base, entry, *, strictly):
        self.base, self.entry, self.strictly = base, entry, strictly
        super().__init__(base.batch_shape, base.event_shape, validate_args=False)

    @property
    def support(self):
        """That of the base."""
        return self.base.support

    def log_prob(self, value, intermediates=None):
        """Log probability that the entry is smaller."""
        probability = marginal_cdf(self.base, value)[0 if self.strictly else 1]
        if self.event_dim:
            probability = probability.reshape(probability.shape[: -self.event_dim] + (-1,))
            probability = jnp.take(probability, self.entry, axis=-1)
        return jnp.log(jnp.clip(probability, 0.0, 1.0))

    def partial_log_prob(self, value, observed):
        """Log probability that the entry is smaller, whatever else was observed of the step."""
        return self.log_prob(value)
