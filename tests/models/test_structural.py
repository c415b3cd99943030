"""Structural time series against statsmodels' UnobservedComponents, dense algebra, and what a user does with them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import tsppl
from tests.helpers import assert_allclose
from tsppl import structural
from tsppl.datasets import nile

NILE = {"level_scale": 1469.1**0.5, "noise_scale": 15098.5**0.5}


@pytest.mark.smoke
def test_local_level_of_the_nile_has_the_published_diffuse_likelihood():
    """Durbin and Koopman's estimates; statsmodels: -632.5376951461 without the first year, level from N(0, 1e6)."""
    volumes = nile()[0].astype(float)
    series = structural.level().distribution(NILE, num_steps=100, scale=100.0)
    assert_allclose(series.log_prob_steps(volumes)[1:].sum(), -632.5376951461, atol=1e-9, rtol=0)


def everything(covariates):
    return (
        structural.trend()
        + structural.seasonal(4)
        + structural.cycle(3, 20)
        + structural.autoregression(2)
        + structural.regression(covariates)
    )


RNG = np.random.default_rng(0)
STEPS = 24
COVARIATES = RNG.normal(size=(STEPS + 3, 2))
VALUE = RNG.normal(size=STEPS).cumsum()
SEEN = ~np.isin(np.arange(STEPS), [5, 20, 21])
PARAMS = {
    "level_scale": 0.5, "level_slope_scale": 0.1, "seasonal_scale": 0.2, "cycle_scale": 0.3, "cycle_damping": 0.8,
    "cycle_period": 7.0, "autoregression_weights": jnp.array([0.5, -0.2]), "autoregression_scale": 0.6,
    "regression_coefficients": jnp.array([0.3, -1.0]), "noise_scale": 0.7,
}  # fmt: skip


def peer(model, initial, params):
    model.ssm.initialize_known(np.asarray(initial.mean), np.diag(np.asarray(initial.variance)))
    model.loglikelihood_burn = model.ssm.loglikelihood_burn = 0
    return model.smooth([params[name] for name in model.param_names])


def test_all_components_equal_unobserved_components_with_gaps_and_forecasts():
    structure = pytest.importorskip("statsmodels.tsa.statespace.structural")
    theirs = structure.UnobservedComponents(
        np.where(SEEN, VALUE, np.nan), level="lltrend", seasonal=4, cycle=True, stochastic_cycle=True, damped_cycle=True,
        cycle_period_bounds=(3, 20), autoregressive=2, exog=COVARIATES[:STEPS],
    )  # fmt: skip
    params = {
        "sigma2.irregular": 0.49, "sigma2.level": 0.25, "sigma2.trend": 0.01, "sigma2.seasonal": 0.04,
        "sigma2.cycle": 0.09, "frequency.cycle": 2 * np.pi / 7, "damping.cycle": 0.8, "sigma2.ar": 0.36, "ar.L1": 0.5,
        "ar.L2": -0.2, "beta.x1": 0.3, "beta.x2": -1.0,
    }  # fmt: skip
    blocks = everything(COVARIATES)
    mask = np.append(SEEN, [False] * 3)
    ours = blocks.distribution(PARAMS, num_steps=STEPS + 3, mask=mask)
    results = peer(theirs, ours.initial, params)
    value = np.append(VALUE, [np.nan] * 3)
    assert_allclose(ours.log_prob(value), results.llf)
    trajectory = ours.latent_marginals(value)["trajectory_mean"]
    assert_allclose(trajectory[:STEPS], results.smoothed_state.T, atol=1e-9)
    parts = blocks.components(trajectory, PARAMS)
    assert_allclose(parts["cycle"][:STEPS], results.cycle.smoothed, atol=1e-9)
    forecast = results.get_forecast(3, exog=COVARIATES[STEPS:]).predicted_mean
    assert_allclose(sum(parts.values())[STEPS:], forecast, atol=1e-9)


def test_carbon_dioxide_with_missing_months_equals_unobserved_components():
    structure = pytest.importorskip("statsmodels.tsa.statespace.structural")
    ppm, _ = tsppl.datasets.co2()
    ppm = ppm[:120]
    blocks = structural.trend() + structural.seasonal(12)
    params = {"level_scale": 0.3, "level_slope_scale": 0.01, "seasonal_scale": 0.02, "noise_scale": 0.1}
    ours = blocks.distribution(params, num_steps=120, loc=315.0, scale=5.0, mask=~np.isnan(ppm))
    theirs = structure.UnobservedComponents(ppm, level="lltrend", seasonal=12)
    params = {"sigma2.irregular": 0.01, "sigma2.level": 0.09, "sigma2.trend": 1e-4, "sigma2.seasonal": 4e-4}
    assert np.isnan(ppm).sum() == 5
    assert_allclose(ours.log_prob(ppm), peer(theirs, ours.initial, params).llf, rtol=1e-9)


def test_waves_are_sines_and_cosines_that_repeat_after_the_period():
    blocks = structural.seasonal(4, harmonics=2, scale=0.0)
    series = blocks.distribution({"seasonal_scale": 0.0, "noise_scale": 1.0}, num_steps=8)
    assert blocks.latent_names == ("seasonal cosine 1", "seasonal sine 1", "seasonal cosine 2")
    powers = np.stack([np.linalg.matrix_power(np.asarray(series.transition_matrix), t) for t in range(9)])
    assert_allclose(powers[4:], powers[:5], atol=1e-12)
    angle = 2 * np.pi * np.arange(8) / 4
    rows = np.stack([np.cos(angle), np.sin(angle), np.cos(2 * angle)], -1)
    covariance = np.eye(8) + rows @ rows.T
    value = RNG.normal(size=8)
    expected = dist.MultivariateNormal(np.zeros(8), covariance).log_prob(value)
    assert_allclose(series.log_prob(value), expected)
    slow = structural.seasonal(365.25, harmonics=2).distribution(
        {"seasonal_scale": 0.1, "noise_scale": 1.0}, num_steps=3
    )
    assert slow.initial.event_shape == (4,)


def test_scale_of_zero_makes_a_component_constant():
    blocks = structural.level(scale=0.0) + structural.seasonal(3, scale=0.0)
    series = blocks.distribution({"level_scale": 0.0, "seasonal_scale": 0.0, "noise_scale": 1.0}, num_steps=6)
    trajectory = series.latent_marginals(jnp.arange(6.0))["trajectory_mean"]
    parts = blocks.components(trajectory)
    assert_allclose(parts["level"], np.full(6, parts["level"][0]))
    assert_allclose(parts["seasonal"][3:], parts["seasonal"][:3])


def model(y, covariates, num_steps, mask=None):
    blocks = structural.level() + structural.regression(
        covariates, coefficients=dist.Normal(0.0, 1.0).expand([1]).to_event(1)
    )
    numpyro.sample("y", blocks.sample_distribution(num_steps=num_steps, scale=2.0, mask=mask), obs=y)


def test_priors_are_in_units_of_the_data_and_numbers_fix_parameters():
    blocks = structural.level() + structural.seasonal(4, scale=0.25) + structural.autoregression(2)
    with numpyro.handlers.seed(rng_seed=0), numpyro.handlers.trace() as trace:
        params = blocks.sample_params(scale=10.0)
    assert set(trace) == {"level_scale", "autoregression_weights", "autoregression_scale", "noise_scale"}
    assert params["seasonal_scale"] == 0.25
    assert trace["level_scale"]["fn"].scale == 3.0
    assert trace["noise_scale"]["fn"].scale == 10.0


def test_model_of_a_user_forecasts_with_the_covariates_of_the_future():
    covariates = np.linspace(0, 10, 9)[:, None]
    draws = {
        "level_scale": np.full(3, 1e-3), "noise_scale": np.full(3, 1e-3), "regression_coefficients": np.full((3, 1), 2.0)
    }  # fmt: skip
    y = 2 * covariates[:7, 0]
    future = {"y": None, "covariates": covariates, "num_steps": 9}
    ahead = tsppl.forecast(jax.random.key(0), model, draws, 2, y, covariates[:7], 7, future=future, batch_ndims=1)["y"]
    assert_allclose(ahead["value"], np.tile(2 * covariates[7:, 0], (3, 1)), atol=0.02, rtol=0)
    gradient = jax.grad(lambda scale: structural.level().distribution(
        {"level_scale": scale, "noise_scale": 1.0}, num_steps=7).log_prob(y))(0.3)  # fmt: skip
    assert np.isfinite(gradient)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="two components are called 'level'"):
        structural.level() + structural.trend()
    blocks = structural.level() + structural.regression(np.ones((4, 1)))
    with pytest.raises(ValueError, match=r"must end in \(5, P\)"):
        blocks.distribution(NILE | {"regression_coefficients": jnp.ones(1)}, num_steps=5)
    with pytest.raises(ValueError, match=r"use covariates\[:, None\]"):
        structural.regression(np.ones(4))
    with pytest.raises(ValueError, match="from 1 to half the period, 6"):
        structural.seasonal(12, harmonics=7)
    with pytest.raises(ValueError, match="whole number of steps"):
        structural.seasonal(52.18)
    with pytest.raises(ValueError, match="add level"):
        structural.regression(np.ones((5, 1))).distribution(
            {"regression_coefficients": jnp.ones(1), "noise_scale": 1.0}, num_steps=5
        )


def test_cycle_starts_from_its_stationary_distribution():
    params = {"cycle_period": 9.0, "cycle_damping": 0.7, "cycle_scale": 0.4, "noise_scale": 1.0}
    series = structural.cycle(5, 20).distribution(params, num_steps=3)
    matrix, covariance = np.asarray(series.transition_matrix), np.diag(np.asarray(series.initial.variance))
    assert_allclose(matrix @ covariance @ matrix.T + 0.4**2 * np.eye(2), covariance)
