"""A prior of low-rank weights for NUTS: unit columns of decreasing size, so that no direction of the factors is free."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist


def sample_low_rank_factors(name, num_states, size, num_lags, rank, *, scale=1.0, lag_decay=0.7):
    """Sample the CP factors of a :class:`~tsppl.distributions.SALT` inside a NumPyro model.

    ``weights[k, l] = sum_d strength[k, d] u_d v_d' w_d[l]`` with unit vectors ``u``, ``v``, ``w`` and ``strength`` falling
    in ``d``. In free factors columns can trade size and places at no cost, which makes chains wander; here only the signs of
    two vectors of three can change together, and they leave the weights alone. Look at ``.weights``, never at factors.

    Sites: ``<name>_outputs``, ``<name>_inputs``, ``<name>_lags``, standard normal columns whose directions count (those of
    the lags with standard deviation ``lag_decay ** l``); ``<name>_strength`` ``(K,)``, half-normal; ``<name>_ratios`` ``(K,
    rank - 1)``, Beta(2, 2): every column's strength over the one before it.

    Args:
        name: prefix of the sites.
        num_states: ``K``.
        size: number of channels ``N``.
        num_lags: ``L``.
        rank: number of columns.
        scale: standard deviation of the largest strength; of the order of the largest entries of the weights times ``N``.
        lag_decay: prior decay of the weights from lag to lag, in (0, 1].

    Returns:
        ``(output_factors, input_factors, lag_factors)``, the arguments of SALT.

    >>> import jax.numpy as jnp, numpyro, numpyro.distributions as dist, tsppl.distributions as tsd
    >>> def model(series):
    ...     factors = tsd.sample_low_rank_factors("weights", 2, 3, 4, rank=2)
    ...     noise = dist.MultivariateNormal(jnp.zeros((2, 3)), jnp.eye(3))
    ...     salt = tsd.SALT(jnp.full(2, 0.5), jnp.full((2, 2), 0.5), *factors, noise, num_steps=10)
    ...     numpyro.sample("y", salt, obs=series)
    >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(model, 0)).get_trace(jnp.zeros((10, 3)))
    >>> trace["weights_strength"]["value"].shape
    (2,)
    """
    decay = (lag_decay ** jnp.arange(num_lags))[:, None]

    def columns(part, length, spread):
        prior = dist.Normal(0.0, jnp.broadcast_to(spread, (num_states, length, rank))).to_event(3)
        return _unit_columns(numpyro.sample(f"{name}_{part}", prior))

    outputs, inputs = columns("outputs", size, 1.0), columns("inputs", size, 1.0)
    lags = columns("lags", num_lags, decay)
    strength = numpyro.sample(f"{name}_strength", dist.HalfNormal(jnp.full(num_states, scale)).to_event(1))[:, None]
    if rank > 1:
        ratios = numpyro.sample(f"{name}_ratios", dist.Beta(jnp.full((num_states, rank - 1), 2.0), 2.0).to_event(2))
        strength = strength * jnp.concatenate([jnp.ones((num_states, 1)), jnp.cumprod(ratios, -1)], -1)
    return outputs * strength[:, None], inputs, lags


def low_rank_values(name, output_factors, input_factors, lag_factors):
    """Values of the sites of :func:`sample_low_rank_factors` at given CP factors, those of an EM fit, say.

    Args:
        name: prefix of the sites.
        output_factors, input_factors, lag_factors: ``(K, N, R)``, ``(K, N, R)``, ``(K, L, R)``.

    Returns:
        dict for :func:`tsppl.inference.starting_params`. A ratio of equal strengths is moved inside its range.
    """
    factors = output_factors, input_factors, lag_factors
    sizes = [jnp.linalg.norm(factor, axis=-2) for factor in factors]
    strength = sizes[0] * sizes[1] * sizes[2]
    order = jnp.argsort(-strength, axis=-1)
    outputs, inputs, lags = (
        jnp.take_along_axis(factor / jnp.where(size > 0, size, 1.0)[:, None], order[:, None], -1)
        for factor, size in zip(factors, sizes, strict=True)
    )
    strength = jnp.maximum(jnp.take_along_axis(strength, order, -1), 1e-6)
    values = {"outputs": outputs, "inputs": inputs, "lags": lags, "strength": strength[:, 0]}
    if strength.shape[1] > 1:
        values["ratios"] = jnp.clip(strength[:, 1:] / strength[:, :-1], 1e-3, 1 - 1e-3)
    return {f"{name}_{part}": value for part, value in values.items()}


def _unit_columns(columns):
    return columns / jnp.linalg.norm(columns, axis=-2, keepdims=True)
