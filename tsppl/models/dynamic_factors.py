"""Dynamic factor models of monthly and quarterly series with ragged edges, as linear-Gaussian models.

A few factors move all series. A quarterly growth rate is a weighted sum of five monthly ones, which nobody saw (Mariano and
Murasawa 2003): lags of the factors are part of the trajectory. Whatever is missing is masked.
"""

import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist

from tsppl.distributions import LinearGaussianSSM

QUARTER_WEIGHTS = np.array([1.0, 2.0, 3.0, 2.0, 1.0])
DOUBLINGS = 14


def dynamic_factors(
    loadings,
    factor_transition,
    factor_covariance,
    idiosyncratic_scale,
    *,
    num_steps,
    idiosyncratic_autoregression=None,
    quarterly=None,
    mask=None,
    noise_scale=1e-2,
    method="auto",
):
    """Many series moved by a few factors, each with a part of its own: a :class:`~tsppl.distributions.LinearGaussianSSM`.

    Monthly: ``y_it = loadings_i @ f_t + u_it`` and noise of ``noise_scale``. Quarterly, seen in the last month of a quarter:
    ``y_it = sum_l w_l (loadings_i @ f_{t-l} + u_{i,t-l})`` and noise, with weights 1, 2, 3, 2, 1 (Mariano and Murasawa 2003,
    equation 3; not divided by their sum). Factors are a vector autoregression; ``u`` is a first-order autoregression, or white
    noise. Everything is stationary from the first step on.

    The scale of a factor and that of its loadings are not told apart by data, nor are rotations of several factors: fix
    ``factor_covariance``, say. ``posterior_latents`` gives the trajectory, whose first ``K`` dimensions are the factors now.

    Args:
        loadings: ``(N, K)``.
        factor_transition: ``(P, K, K)``, matrices of lags 1 to ``P``; ``(K, K)`` for one lag. Stationary.
        factor_covariance: ``(K, K)``, of the factors' innovations.
        idiosyncratic_scale: ``(N,)``, of the innovations of ``u``.
        num_steps: number of months ``T``.
        idiosyncratic_autoregression: ``(N,)``, between -1 and 1; white noise if None, which costs a dimension of the
            trajectory less for each monthly series.
        quarterly: bool ``(N,)``, which series are quarterly; none if None.
        mask: True = observed, ``(T, N)``; a quarterly series is observed in the last month of a quarter.
        noise_scale: of the noise of observations, as small as in the published code of the Federal Reserve Bank of New York;
            monthly series with white ``u`` have none besides.
        method: as in ``LinearGaussianSSM``.

    Raises:
        ValueError: on shapes that do not fit.

    >>> import jax.numpy as jnp, tsppl
    >>> series = tsppl.dynamic_factors(
    ...     jnp.ones((3, 1)), 0.8 * jnp.eye(1), jnp.eye(1), jnp.ones(3), num_steps=6, quarterly=[False, False, True]
    ... )
    >>> series.event_shape
    (6, 3)
    """
    loadings, scale = jnp.asarray(loadings, jnp.result_type(float)), jnp.asarray(idiosyncratic_scale)
    if loadings.ndim != 2 or scale.shape != loadings.shape[:1]:
        raise ValueError(
            f"loadings has shape {loadings.shape} and idiosyncratic_scale {scale.shape}; pass (N, K) and (N,)"
        )
    num_series, num_factors = loadings.shape
    quarterly = np.zeros(num_series, bool) if quarterly is None else np.asarray(quarterly, bool)
    if quarterly.shape != (num_series,):
        raise ValueError(f"quarterly has shape {quarterly.shape}; pass one truth value for each of {num_series} series")
    lags = jnp.asarray(factor_transition).reshape((-1, num_factors, num_factors))
    num_lags = max(len(lags), len(QUARTER_WEIGHTS) if quarterly.any() else 1)
    is_white = idiosyncratic_autoregression is None
    persistence = jnp.zeros(num_series) if is_white else jnp.broadcast_to(idiosyncratic_autoregression, (num_series,))

    lead = num_lags * num_factors
    own_lags = np.where(quarterly, len(QUARTER_WEIGHTS), 0 if is_white else 1)
    begins = lead + np.cumsum(own_lags) - own_lags
    size = lead + own_lags.sum()
    driven = np.flatnonzero(own_lags)

    transition = jnp.zeros((size, size), loadings.dtype)
    transition = transition.at[:num_factors, : len(lags) * num_factors].set(jnp.concatenate(list(lags), 1))
    shifts = np.arange(num_factors, lead)
    transition = transition.at[shifts, shifts - num_factors].set(1.0)
    transition = transition.at[begins[driven], begins[driven]].set(persistence[driven])
    shifts = np.concatenate([np.arange(begins[i] + 1, begins[i] + own_lags[i]) for i in driven] + [[]]).astype(int)
    transition = transition.at[shifts, shifts - 1].set(1.0)

    noise_matrix = jnp.zeros((size, num_factors + len(driven)), loadings.dtype)
    noise_matrix = noise_matrix.at[:num_factors, :num_factors].set(jnp.linalg.cholesky(jnp.asarray(factor_covariance)))
    noise_matrix = noise_matrix.at[begins[driven], num_factors + np.arange(len(driven))].set(scale[driven])

    emission = jnp.zeros((num_series, size), loadings.dtype)
    for lag, weight in enumerate(QUARTER_WEIGHTS if quarterly.any() else [1.0]):
        weights = np.where(quarterly, weight, float(lag == 0))
        columns = slice(lag * num_factors, (lag + 1) * num_factors)
        emission = emission.at[:, columns].set(loadings * weights[:, None])
        own = np.flatnonzero(own_lags > lag)
        emission = emission.at[own, begins[own] + lag].set(weights[own])
    noise = jnp.where(jnp.asarray(own_lags == 0), scale, noise_scale)
    return LinearGaussianSSM(
        dist.MultivariateNormal(jnp.zeros(size), stationary_covariance(transition, noise_matrix @ noise_matrix.T)),
        transition,
        dist.Normal(jnp.zeros(noise_matrix.shape[1]), 1.0).to_event(1),
        emission,
        dist.Normal(jnp.zeros(num_series), noise).to_event(1),
        num_steps=num_steps,
        noise_matrix=noise_matrix,
        mask=mask,
        method=method,
    )


def stationary_covariance(transition, covariance):
    """Covariance of ``x`` in ``x' = A x + w`` in the long run, by doubling: infinite where there is none."""
    for _ in range(DOUBLINGS):
        covariance = covariance + transition @ covariance @ transition.T
        transition = transition @ transition
    return (covariance + covariance.T) / 2


def two_step_factors(values, num_factors, *, quarterly=None, order=1, num_passes=50):
    """Estimate a dynamic factor model by principal components and regressions (Doz, Giannone and Reichlin 2011).

    Principal components of the monthly series, with gaps filled in turn by what the components say of them (Stock and
    Watson 2002), are taken for the factors; loadings, autoregressions and scales are regressions on them. Consistent where
    series are many, and a start for exact likelihoods.

    Args:
        values: ``(T, N)``, each series standardised, NaN where nothing is known.
        num_factors: ``K``.
        quarterly: bool ``(N,)``.
        order: lags of the factors' autoregression ``P``.
        num_passes: passes over the gaps.

    Returns:
        dict: arguments of :func:`dynamic_factors`, NumPy arrays: ``loadings``, ``factor_transition``, ``factor_covariance``,
        ``idiosyncratic_scale``, ``idiosyncratic_autoregression``.

    Raises:
        ValueError: on shapes that do not fit.
    """
    values = np.asarray(values, float)
    num_steps, num_series = values.shape
    quarterly = np.zeros(num_series, bool) if quarterly is None else np.asarray(quarterly, bool)
    if quarterly.shape != (num_series,) or not 0 < num_factors <= (~quarterly).sum():
        raise ValueError(
            f"values has shape {values.shape}, quarterly {quarterly.shape} and num_factors is {num_factors}; pass (T, N), "
            "(N,) and at most as many factors as there are monthly series"
        )
    monthly, is_seen = values[:, ~quarterly], ~np.isnan(values[:, ~quarterly])
    filled = np.where(is_seen, monthly, 0.0)
    for _ in range(num_passes):
        left, singular, right = np.linalg.svd(filled, full_matrices=False)
        low_rank = (left[:, :num_factors] * singular[:num_factors]) @ right[:num_factors]
        filled = np.where(is_seen, monthly, low_rank)
    factors = left[:, :num_factors] * np.sqrt(num_steps)

    past = np.concatenate([factors[order - lag - 1 : num_steps - lag - 1] for lag in range(order)], 1)
    coefficients, *_ = np.linalg.lstsq(past, factors[order:], rcond=None)
    errors = factors[order:] - past @ coefficients
    lags = coefficients.T.reshape(num_factors, order, num_factors).swapaxes(0, 1)

    weighted = np.full_like(factors, np.nan)
    weighted[4:] = sum(weight * factors[4 - lag : num_steps - lag] for lag, weight in enumerate(QUARTER_WEIGHTS))
    loadings, scale, persistence = np.zeros((num_series, num_factors)), np.ones(num_series), np.zeros(num_series)
    for series in range(num_series):
        columns = weighted if quarterly[series] else factors
        rows = ~np.isnan(values[:, series]) & ~np.isnan(columns).any(1)
        loadings[series], *_ = np.linalg.lstsq(columns[rows], values[rows, series], rcond=None)
        rest = np.where(rows, values[:, series] - columns @ loadings[series], np.nan)
        scale[series] = np.nanstd(rest)
        if quarterly[series]:
            scale[series] /= np.sqrt((QUARTER_WEIGHTS**2).sum())
            continue
        both = rows[1:] & rows[:-1]
        persistence[series] = np.clip(
            rest[1:][both] @ rest[:-1][both] / (rest[:-1][both] @ rest[:-1][both]), -0.95, 0.95
        )
        scale[series] *= np.sqrt(1 - persistence[series] ** 2)
    return {
        "loadings": loadings,
        "factor_transition": lags,
        "factor_covariance": errors.T @ errors / len(errors),
        "idiosyncratic_scale": np.maximum(scale, 1e-2),
        "idiosyncratic_autoregression": persistence,
    }
