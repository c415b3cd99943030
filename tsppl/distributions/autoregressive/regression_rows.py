"""Rows of the regression of each step on its past."""

import jax.numpy as jnp


def lagged_rows(distribution, value, state_probs):
    """Rows of the regression on the past, all steps of all series in one axis.

    Returns:
        inputs ``(n, L N + 1)``, lag by lag and a one; outputs ``(n, N)``; weights ``(n, K)``, zero where not scored;
        and the observed entries of the outputs ``(n, N)``, or None.
    """
    inputs, outputs, scored, observed = lagged_series(distribution, value, state_probs.shape[:-2])
    start = max(distribution._first_state, distribution.num_lags)
    weights = jnp.where(scored[..., None], state_probs[..., start - distribution._first_state :, :], 0.0)
    return inputs, outputs, weights.reshape(-1, weights.shape[-1]), observed


def lagged_series(distribution, value, lead):
    """As :func:`lagged_rows` for series of batch ``lead``, with bool ``lead + (steps,)``, where scored, for weights."""
    num_lags, num_steps = distribution.num_lags, distribution.num_steps
    start = max(distribution._first_state, num_lags)
    filled, entries = distribution._observed_value(value)
    series = distribution._as_matrix(jnp.broadcast_to(filled, lead + distribution.event_shape))
    size = series.shape[-1]
    lags = [series[..., start - 1 - lag : num_steps - 1 - lag, :] for lag in range(num_lags)]
    ones = jnp.ones(lead + (num_steps - start, 1), series.dtype)
    inputs = jnp.concatenate([*lags, ones], axis=-1).reshape(-1, num_lags * size + 1)
    scored = jnp.broadcast_to(distribution._scored()[..., start:], lead + (num_steps - start,))
    observed = None
    if distribution.observed_mask is not None and distribution.event_dim == 2:
        observed = jnp.broadcast_to(entries, lead + distribution.event_shape)[..., start:, :].reshape(-1, size)
    return inputs, series[..., start:, :].reshape(-1, size), scored, observed
