"""A regression matrix and the weights of the lags are the same numbers, cut and stacked in one way."""

import jax.numpy as jnp


def lag_weights(coefficients):
    """Weights of the lags and the bias, from the coefficients of a regression on the lags and a constant.

    Args:
        coefficients: ``(..., N, L N + 1)``: lag 1 of all components, then lag 2, and so on, then the constant.

    Returns:
        weights ``(..., L, N, N)``, as :class:`~tsppl.distributions.AutoregressiveHMM` takes them, and bias ``(..., N)``.

    Raises:
        ValueError: if the last axis is not ``L N + 1``.

    >>> import jax.numpy as jnp, tsppl.distributions as tsd
    >>> weights, bias = tsd.lag_weights(jnp.array([[0.5, -0.2, 7.0]]))
    >>> weights.shape, bias.tolist()
    ((2, 1, 1), [7.0])
    """
    size, width = coefficients.shape[-2:]
    if width < size + 1 or (width - 1) % size:
        raise ValueError(
            f"coefficients has shape {coefficients.shape}: with {size} components its last axis must be {size} for each lag "
            "and one more for the constant"
        )
    lags = coefficients[..., :-1].reshape(coefficients.shape[:-1] + (-1, size))
    return jnp.moveaxis(lags, -2, -3), coefficients[..., -1]


def lag_coefficients(weights, bias):
    """The inverse of :func:`lag_weights`: ``(..., N, L N + 1)`` from weights ``(..., L, N, N)`` and bias ``(..., N)``."""
    lags = jnp.moveaxis(weights, -3, -2)
    lags = lags.reshape(lags.shape[:-2] + (-1,))
    bias = jnp.broadcast_to(bias, lags.shape[:-1])
    return jnp.concatenate([lags, bias[..., None]], axis=-1)
