"""Drawing one observation per step from the emission of its state, and entries that are missing given the others."""

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import random

from tsppl.distributions.wrappers import peel


def sample_emissions(emission, key, states, *, sample_shape, batch_shape, time_varying):
    """Draw one observation per step from the emission of its state.

    Args:
        emission: distribution with batch ``(..., K)``, or ``(..., T, K)`` if it varies in time.
        key: random key.
        states: int ``sample_shape + batch_shape + (T,)``.
        sample_shape: shape of independent draws.
        batch_shape: batch shape of the sequence distribution.
        time_varying: whether the emission has a time axis.

    Returns:
        ``states.shape + event``.
    """
    num_steps, event_dim = states.shape[-1], emission.event_dim
    num_states = emission.batch_shape[-1] if emission.batch_shape else 1
    if time_varying:
        draws = emission.expand(batch_shape + (num_steps, num_states)).sample(key, sample_shape)
    else:
        draws = emission.expand(batch_shape + (num_states,)).sample(key, sample_shape + (num_steps,))
        draws = jnp.moveaxis(draws, len(sample_shape), draws.ndim - event_dim - 2)
    return select_state(draws, states, event_dim)


def select_state(per_state, states, event_dim):
    """Pick the entry of ``states`` from the state axis of ``per_state``, ``(..., T, K) + event``; clips ``-1`` to 0."""
    axis = per_state.ndim - event_dim - 1
    last = per_state.shape[axis] - 1
    index = jnp.clip(states, 0, last).reshape(states.shape + (1,) * (event_dim + 1))
    return jnp.squeeze(jnp.take_along_axis(per_state, index, axis=axis), axis)


def complete_emissions(emission, key, states, value, observed, *, time_varying):
    """Draw the unobserved entries of ``value`` given the states and the observed entries of the same step.

    ``value`` is ``states.shape + event`` and ``observed`` broadcasts against it.
    """
    batch_shape, num_states = states.shape[:-1], emission.batch_shape[-1] if emission.batch_shape else 1
    normal = _dependent_normal(emission)
    if normal is None:
        draws = sample_emissions(
            emission, key, states, sample_shape=(), batch_shape=batch_shape, time_varying=time_varying
        )
        return jnp.where(observed, value, draws.astype(value.dtype))
    size = emission.event_shape[-1]
    rows = (states.shape[-1], num_states) if time_varying else (1, num_states)

    def of_state(parameter, event_shape):
        if not time_varying and emission.batch_shape:
            parameter = jnp.expand_dims(parameter, parameter.ndim - len(event_shape) - 1)
        parameter = jnp.broadcast_to(parameter, batch_shape + rows + event_shape)
        parameter = jnp.broadcast_to(parameter, states.shape + (num_states,) + event_shape)
        return select_state(parameter, states, len(event_shape))

    loc, covariance = of_state(normal.loc, (size,)), of_state(normal.covariance_matrix, (size, size))
    observed = jnp.broadcast_to(observed, value.shape)
    residual = jnp.where(observed, value - loc, 0.0)
    among = jnp.where(
        observed[..., :, None] & observed[..., None, :], covariance, jnp.eye(size, dtype=covariance.dtype)
    )
    across = jnp.where(~observed[..., :, None] & observed[..., None, :], covariance, 0.0)
    gain = jnp.swapaxes(jnp.linalg.solve(among, jnp.swapaxes(across, -1, -2)), -1, -2)
    whole = jnp.linalg.cholesky(covariance) @ random.normal(key, value.shape + (1,), loc.dtype)
    correction = gain @ (residual[..., None] - jnp.where(observed[..., None], whole, 0.0))
    return jnp.where(observed, value, loc + (whole + correction)[..., 0])


def _dependent_normal(emission):
    emission = peel(emission, dist.ExpandedDistribution)
    return emission if isinstance(emission, dist.MultivariateNormal) else None
