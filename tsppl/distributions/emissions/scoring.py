"""Scoring one observation per step and state, with any NumPyro family and any entries missing."""

from functools import partial

import jax
import jax.numpy as jnp
import numpyro.distributions as dist
from jax import lax
from jax.scipy.linalg import solve_triangular


def emission_log_likelihoods(emission, value, *, time_varying, step_observed=None, entry_observed=None):
    """``log p(y_t | z_t = k)`` for every step and state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        value: ``(..., T) + event``; missing entries may hold anything.
        time_varying: whether the emission has a time axis.
        step_observed: bool ``(..., T)``, or None if every step was observed.
        entry_observed: bool that broadcasts against ``value``, for entries missing on their own, or None.

    Returns:
        ``(..., T, K)``, zero for steps that were not observed.
    """
    event_dim = emission.event_dim

    def arrange(array):
        return with_state_axis(array, event_dim, len(emission.batch_shape), time_varying=time_varying)

    def restore(array):
        return array if time_varying else jnp.moveaxis(array, 0, -2)

    def arrange_value(value):
        return against_batch(arrange(value), emission) if event_dim else arrange(value)

    value = jnp.asarray(value)
    if step_observed is None:
        return restore(_within_support(emission, arrange_value(value), emission.log_prob))
    lead = value.shape[: value.ndim - event_dim]
    steps = jnp.broadcast_to(step_observed, jnp.broadcast_shapes(step_observed.shape, lead))
    value = jnp.broadcast_to(value, steps.shape + value.shape[value.ndim - event_dim :])
    if entry_observed is None:
        observed = arrange(steps.reshape(steps.shape + (1,) * event_dim))
        score = emission.log_prob
    else:
        observed = arrange(jnp.broadcast_to(entry_observed, value.shape))
        score = partial(partial_log_prob, emission, observed=observed)
    log_prob = _within_support(emission, fill_unobserved(emission, arrange_value(value), observed), score)
    return jnp.where(steps[..., None], restore(log_prob), 0.0)


def with_state_axis(series, event_dim, batch_ndim, *, time_varying):
    """Give ``(..., T) + event`` a state axis of size one that broadcasts against an emission with ``batch_ndim`` axes.

    Unless the emission has a time axis, time is moved to the front, before every batch axis of the emission.
    """
    series = jnp.expand_dims(series, series.ndim - event_dim)
    if time_varying:
        return series
    absent = max(1 + batch_ndim - (series.ndim - event_dim), 0)
    series = series.reshape((1,) * absent + series.shape)
    return jnp.moveaxis(series, series.ndim - event_dim - 2, 0)


def against_batch(value, distribution):
    """``value`` with its leading axes broadcast against the batch: NumPyro's multivariate normal needs it."""
    lead = value.shape[: value.ndim - distribution.event_dim]
    return jnp.broadcast_to(value, jnp.broadcast_shapes(lead, distribution.batch_shape) + value.shape[len(lead) :])


def fill_unobserved(emission, value, observed):
    """``value`` with unobserved entries replaced by a number inside the emission's support, so that no NaN is seen.

    A discrete distribution of TensorFlow Probability does not tell its support (None); zero is inside.
    """
    batch_shape = emission.batch_shape if varies_over_states(emission.support) else ()
    fill = jnp.zeros(batch_shape + emission.event_shape, value.dtype)
    if hasattr(emission.support, "bijector"):
        bijector = emission.support.bijector
        fill = bijector.forward(jnp.zeros(bijector.inverse_event_shape(fill.shape), value.dtype))
    elif emission.support is not None:
        fill = emission.support.feasible_like(fill)
    return jnp.where(observed, value, jnp.asarray(fill).astype(value.dtype))


def _within_support(emission, value, score):
    """``score(value)``, and ``-inf`` in the states that cannot have made the value, where the support depends on the state.

    NumPyro's ``log_prob`` says nothing about values outside the support (a uniform density is constant everywhere), and
    that of MultivariateNormal needs a value with every batch axis of the covariance.
    """
    lead = lax.broadcast_shapes(value.shape[: value.ndim - emission.event_dim], emission.batch_shape)
    value = jnp.broadcast_to(value, lead + emission.event_shape)
    if not varies_over_states(emission.support):
        return score(value)
    inside = emission.support(value)
    inside = inside.all(tuple(range(emission.support.event_dim - emission.event_dim, 0)))
    filled = fill_unobserved(emission, value, inside.reshape(inside.shape + (1,) * emission.event_dim))
    return jnp.where(inside, score(filled), -jnp.inf)


def partial_log_prob(emission, value, observed):
    """Log density of the observed entries of ``value`` alone; zero where none is observed.

    Raises:
        NotImplementedError: if the components are neither independent nor jointly Gaussian.
    """
    if hasattr(emission, "partial_log_prob"):
        return emission.partial_log_prob(value, observed)
    if isinstance(emission, dist.ExpandedDistribution):
        return partial_log_prob(emission.base_dist, value, observed)
    if isinstance(emission, dist.Independent):
        terms = partial_log_prob(emission.base_dist, value, observed)
        return terms.sum(tuple(range(-emission.reinterpreted_batch_ndims, 0)))
    if emission.event_dim == 0:
        return jnp.where(observed, emission.log_prob(value), 0.0)
    if isinstance(emission, dist.MultivariateNormal):
        return _partial_normal_log_prob(emission, value, observed)
    raise NotImplementedError(
        f"the components of {type(emission).__name__} are neither independent nor Gaussian, so single entries "
        "cannot be missing: pass a mask over steps, of shape (..., T), or an emission made by .to_event(1)"
    )


def _partial_normal_log_prob(emission, value, observed):
    """Marginal density of the observed components: the others get unit variance, no covariance and no residual."""
    pairs = observed[..., :, None] & observed[..., None, :]
    covariance = jnp.where(pairs, emission.covariance_matrix, jnp.eye(emission.event_shape[-1], dtype=value.dtype))
    residual = jnp.where(observed, value - emission.loc, 0.0)
    scale_tril = jnp.linalg.cholesky(covariance)
    scale_tril, residual = jnp.broadcast_arrays(scale_tril, residual[..., None])[0], residual[..., None]
    residual = jnp.broadcast_to(residual, scale_tril.shape[:-1] + (1,))
    whitened = solve_triangular(scale_tril, residual, lower=True)[..., 0]
    log_scales = jnp.log(jnp.diagonal(scale_tril, axis1=-2, axis2=-1))
    return (
        -0.5 * (whitened**2).sum(-1)
        - log_scales.sum(-1)
        - 0.5 * jnp.log(2 * jnp.pi) * observed.sum(-1, dtype=value.dtype)
    )


def support_leaves(support):
    """Arrays in a support; a constraint of TensorFlow Probability is no pytree, but its bijector is."""
    return jax.tree.leaves(getattr(support, "bijector", support))


def varies_over_states(support):
    return any(jnp.ndim(leaf) > 0 for leaf in support_leaves(support))
