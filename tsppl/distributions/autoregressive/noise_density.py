"""The density of additive noise at residuals, in each state."""

import jax.numpy as jnp
from jax import lax

from tsppl.distributions.emissions.scoring import against_batch, partial_log_prob


def noise_log_likelihoods(noise, residuals, observed, *, event_dim, varies):
    """Log density of the residuals of every step in every state, ``(..., T, K)``.

    Args:
        noise: distribution with batch ``(..., K)``, or ``(..., rows, K)`` for the last ``rows`` steps; those before have
            density one.
        residuals: ``(..., T, K) + event``.
        observed: bool ``(..., T) + event`` where entries are missing on their own, else None.
        event_dim: 1, or 0 of a scalar series.
        varies: whether the noise has a time axis.
    """
    if observed is not None:
        observed = jnp.expand_dims(observed, observed.ndim - event_dim)
        lead = lax.broadcast_shapes(observed.shape, residuals.shape)
        observed, residuals = jnp.broadcast_to(observed, lead), jnp.broadcast_to(residuals, lead)

    def score(arrange):
        arranged = against_batch(arrange(residuals), noise)
        if observed is None:
            return noise.log_prob(arranged)
        return partial_log_prob(noise, arranged, against_batch(arrange(observed), noise))

    time_axis = residuals.ndim - event_dim - 2
    if varies:
        skipped = residuals.shape[time_axis] - noise.batch_shape[-2]
        log_prob = score(lambda array: lax.slice_in_dim(array, skipped, None, axis=time_axis))
        return jnp.pad(log_prob, [(0, 0)] * (log_prob.ndim - 2) + [(skipped, 0), (0, 0)])
    absent = (1,) * max(len(noise.batch_shape) - 1 - time_axis, 0)
    axis = time_axis + len(absent)
    return jnp.moveaxis(score(lambda array: jnp.moveaxis(array.reshape(absent + array.shape), axis, 0)), 0, -2)
