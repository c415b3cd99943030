"""Rows of the regression of each step on its past."""

import jax.numpy as jnp

from tsppl.distributions.hidden_markov.steps import RegressionRows


def lagged_rows(series, scored, observed, num_lags):
    """Rows of the regression of the last ``S`` steps on their lags and a constant, all series in one axis.

    Args:
        series: ``(..., T, N)``, with finite numbers where nothing was observed.
        scored: bool ``(..., S)``: steps that count.
        observed: bool ``(..., T, N)`` where entries are missing on their own, else None.
        num_lags: number of lags ``L``.

    Returns:
        :class:`~tsppl.distributions.hidden_markov.steps.RegressionRows` with inputs ``(n, L N + 1)``.
    """
    num_steps, size = series.shape[-2:]
    start = num_steps - scored.shape[-1]
    lags = [series[..., start - 1 - lag : num_steps - 1 - lag, :] for lag in range(num_lags)]
    ones = jnp.ones(scored.shape + (1,), series.dtype)
    inputs = jnp.concatenate([*lags, ones], axis=-1).reshape(-1, num_lags * size + 1)
    if observed is not None:
        observed = observed[..., start:, :].reshape(-1, size)
    return RegressionRows(inputs, series[..., start:, :].reshape(-1, size), scored, observed)
