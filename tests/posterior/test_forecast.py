"""Forecasts and completed data of a user's model, against exact predictive distributions."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers

import tsppl
import tsppl.distributions as tsd
from tests.session_models import (
    COUNTS,
    LENGTHS,
    NUM_STEPS,
    covariate_model,
    flattened,
    poisson_sessions,
    session_draws,
    switching_trajectories,
    trajectory_draws,
)
from tsppl.posterior.completion import complete
from tsppl.posterior.forecast import _append, forecast
from tsppl.sites.trace import SequenceSite

FLAT = flattened(session_draws())
MANY = 4000
HORIZON = 3


def repeated(draw, size=MANY):
    return {name: np.repeat(np.asarray(array)[None], size, 0) for name, array in draw.items()}


ONE = {name: array[0] for name, array in FLAT.items()}


def filtered_at(lengths):
    """P(state at the last observed step | counts), by hand, for each session at the draw ONE."""
    rows = []
    for counts, length in zip(COUNTS, lengths, strict=True):
        probs = np.array(ONE["initial_probs"])
        for t in range(length):
            probs = probs if t == 0 else probs @ ONE["transition_probs"]
            probs = probs * np.exp(dist.Poisson(ONE["rate"]).log_prob(counts[t]))
            probs = probs / probs.sum()
        rows.append(probs)
    return np.stack(rows)


def exact_state_probs(lengths):
    probs, rows = filtered_at(lengths), []
    for _ in range(HORIZON):
        probs = probs @ ONE["transition_probs"]
        rows.append(probs)
    return np.stack(rows, 1)


@pytest.mark.smoke
def test_forecast_has_the_exact_predictive_mean(key):
    ahead = forecast(key, poisson_sessions, repeated(ONE), HORIZON, COUNTS)["counts"]
    assert ahead["value"].shape == ahead["states"].shape == (MANY, 3, HORIZON)
    assert ahead["states"].dtype == jnp.int32
    exact = exact_state_probs([NUM_STEPS] * 3)
    assert np.abs(ahead["states"].mean(0) - exact[..., 1]).max() < 4 * 0.5 / np.sqrt(MANY)
    error = np.abs(ahead["value"].mean(0) - exact @ ONE["rate"])
    assert (error < 4 * np.asarray(ahead["value"]).std(0) / np.sqrt(MANY)).all()


def test_every_series_goes_on_from_its_own_end(key):
    exact = exact_state_probs(LENGTHS)[..., 1]
    ahead = forecast(key, poisson_sessions, repeated(ONE), HORIZON, COUNTS, LENGTHS)["counts"]
    assert np.abs(ahead["states"].mean(0) - exact).max() < 4 * 0.5 / np.sqrt(MANY)
    future = {"counts": np.full((3, NUM_STEPS + HORIZON), -7), "lengths": LENGTHS + HORIZON}
    replayed = forecast(key, poisson_sessions, repeated(ONE), HORIZON, COUNTS, LENGTHS, future=future)["counts"]
    assert np.abs(replayed["states"].mean(0) - exact).max() < 4 * 0.5 / np.sqrt(MANY)


Y = np.array([0.3, 5.1, 4.2, -0.4, 0.1, 6.0])
COVARIATES = np.array([0.5, -1.0, 0.2, 1.5, -0.3, 0.8, -2.0, 1.0, 2.0])
PARAMETERS = {"slope": np.array([0.4, -0.6]), "stay": np.array(1.0)}


def covariate_predictive_mean():
    def transition(t):
        weights = np.exp(np.eye(2) * (PARAMETERS["stay"] + COVARIATES[t]))
        return weights / weights.sum(-1, keepdims=True)

    def means(t):
        return np.array([0.0, 5.0]) + PARAMETERS["slope"] * COVARIATES[t]

    probs, answers = np.array([0.5, 0.5]), []
    for t in range(NUM_STEPS + HORIZON):
        probs = probs if t == 0 else probs @ transition(t)
        if t < NUM_STEPS:
            probs = probs * np.exp(dist.Normal(means(t), 0.5).log_prob(Y[t]))
            probs = probs / probs.sum()
        else:
            answers.append(probs @ means(t))
    return np.array(answers)


@pytest.mark.parametrize("y", [None, np.concatenate([Y, np.full(HORIZON, np.nan)]), Y], ids=["none", "nan", "left"])
def test_covariates_of_the_future_enter_emission_and_transitions(key, y):
    covariates = jnp.asarray(COVARIATES)
    ahead = forecast(
        key,
        covariate_model,
        repeated(PARAMETERS),
        HORIZON,
        Y,
        covariates[:NUM_STEPS],
        num_steps=NUM_STEPS,
        future={"covariates": covariates, "num_steps": NUM_STEPS + HORIZON, "y": y},
    )["y"]["value"]
    error = np.abs(ahead.mean(0) - covariate_predictive_mean())
    assert (error < 4 * np.asarray(ahead).std(0) / np.sqrt(MANY)).all()


def test_the_future_needs_every_argument(key):
    covariates = jnp.asarray(COVARIATES)

    def ahead(future):
        return forecast(
            key, covariate_model, repeated(PARAMETERS, 2), HORIZON, Y, covariates[:6], NUM_STEPS, future=future
        )

    with pytest.raises(ValueError, match=r"site 'y': emission varies in time over 6 steps.*Pass future=dict\(...\)"):
        ahead(None)
    with pytest.raises(
        ValueError, match="future has 'covariate', which is no argument of the model; its arguments are"
    ):
        ahead({"covariate": covariates})
    with pytest.raises(ValueError, match=r"site 'y': with future= its distribution must span 6 \+ 3 = 9 steps, not 8"):
        ahead({"covariates": covariates[:8], "num_steps": 8, "y": None})


def test_arguments_are_bound_through_handlers_and_keywords(key):
    def model(y, **options):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.eye(2), dist.Poisson(rate), num_steps=options["steps"])
        numpyro.sample("y", series, obs=y)

    wrapped = handlers.scale(model, scale=2.0)
    draws = {"rate": np.array([[1.0, 30.0]])}
    ahead = forecast(key, wrapped, draws, 2, COUNTS[0], steps=NUM_STEPS, future={"y": None, "steps": NUM_STEPS + 2})
    assert ahead["y"]["value"].shape == (1, 2)


def test_plain_latent_sites_that_grow_raise(key):
    def model(y, num_steps):
        level = numpyro.sample("level", dist.Normal(0, 1).expand([num_steps]).to_event(1))
        emission = dist.Normal(level[:, None] + jnp.arange(2.0), 1.0)
        series = tsd.HiddenMarkov(
            jnp.ones(2) / 2, jnp.eye(2), emission, num_steps=num_steps, time_varying=("emission",)
        )
        numpyro.sample("y", series, obs=y)

    with pytest.raises(ValueError, match=r"site 'level' has shape \(6,\), and with future= \(8,\): only sequence"):
        forecast(key, model, {"level": np.zeros((2, 6))}, 2, Y, 6, future={"y": None, "num_steps": 8})


MASK = np.ones((3, NUM_STEPS), bool)
MASK[0, 2] = MASK[1, :2] = False


def test_complete_draws_what_is_missing_and_keeps_the_rest(key):
    holes = np.where(MASK, COUNTS, 99)
    completed = complete(key, poisson_sessions, repeated(ONE), holes, LENGTHS, MASK)["counts"]
    observed = MASK & (np.arange(NUM_STEPS) < LENGTHS[:, None])
    assert (np.asarray(completed)[:, observed] == holes[observed]).all()
    assert (np.asarray(completed)[:, ~observed].std(0) > 0).all()
    assert (completed < 40).all()
    series = tsd.HiddenMarkov(
        ONE["initial_probs"],
        ONE["transition_probs"],
        dist.Poisson(ONE["rate"]),
        num_steps=NUM_STEPS,
        mask=MASK,
        lengths=LENGTHS,
    )
    mean = series.latent_marginals(jnp.asarray(holes))["state_probs"] @ ONE["rate"]
    error = np.abs(completed.mean(0) - mean)[~observed]
    assert (error < 4 * np.asarray(completed).std(0)[~observed] / np.sqrt(MANY)).all()


def test_complete_fills_masked_series_and_masked_plain_sites(key):
    def model(counts, weights):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.eye(2), dist.Poisson(rate), num_steps=NUM_STEPS)
        with numpyro.plate("session", 3), handlers.mask(mask=jnp.array([True, False, True])):
            numpyro.sample("counts", series, obs=counts)
        numpyro.sample(
            "weights", dist.Normal(jnp.array([50.0, 60.0]), 1.0).mask(jnp.array([True, False])).to_event(1), obs=weights
        )
        numpyro.sample("whole", dist.Normal(0.0, 1.0), obs=0.5)

    completed = complete(key, model, {"rate": np.array([[1.0, 9.0]] * 5)}, COUNTS, jnp.array([3.0, 4.0]))
    assert set(completed) == {"counts", "weights"}
    counts, weights = np.asarray(completed["counts"]), np.asarray(completed["weights"])
    assert (counts[:, [0, 2]] == COUNTS[[0, 2]]).all()
    assert (counts[:, 1] != COUNTS[1]).any(1).all()
    assert (weights[:, 0] == 3.0).all()
    assert (np.abs(weights[:, 1] - 60) < 6).all()


def test_nothing_to_complete_or_forecast_raises(key):
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal()), 1), obs=y)

    with pytest.raises(ValueError, match="nothing to complete"):
        complete(key, model, {"mean": np.zeros(2)}, 1.0)
    with pytest.raises(ValueError, match="no sequence site to forecast"):
        forecast(key, model, {"mean": np.zeros(2)}, 2, 1.0)


def driven_trajectory(y, inputs, num_steps):
    """A trajectory with inputs, seen tenfold with little noise."""
    noise = dist.Normal(inputs[1:, None] * jnp.ones(2), 0.01).to_event(1)
    initial = dist.Normal(jnp.zeros(2), 1.0).to_event(1)
    prior = tsd.LinearGaussianChain(initial, 0.5 * jnp.eye(2), noise, num_steps=num_steps, time_varying=("noise",))
    x = numpyro.sample("x", prior)
    numpyro.sample("y", dist.Normal(10 * x, 0.01).to_event(2), obs=y)


@pytest.mark.parametrize("observed", [False, True], ids=["none", "nan"])
def test_a_latent_trajectory_and_what_is_downstream_are_carried_on(key, observed):
    inputs, x = jnp.arange(7.0), np.random.default_rng(0).normal(size=(5, 4, 2))
    y = 10 * x[0]
    future = {
        "inputs": inputs,
        "num_steps": 7,
        "y": jnp.pad(y, ((0, 3), (0, 0)), constant_values=jnp.nan) if observed else None,
    }
    ahead = forecast(key, driven_trajectory, {"x": x}, 3, y, inputs[:4], 4, future=future)
    assert ahead["x"]["value"].shape == ahead["y"]["value"].shape == (5, 3, 2)
    assert np.abs(ahead["y"]["value"] - 10 * ahead["x"]["value"]).max() < 5 * 0.01
    expected = x[:, -1]
    for step in range(3):
        expected = 0.5 * expected + float(inputs[4 + step])
        assert np.abs(ahead["x"]["value"][:, step] - expected).max() < 5 * 0.02


def test_switching_trajectories_are_carried_on_with_their_states(key):
    draws = trajectory_draws()
    ahead = forecast(key, switching_trajectories, draws, 2, jnp.zeros((3, 4, 2)), 4)
    assert set(ahead) == {"x"}
    assert ahead["x"]["states"].shape == (4, 3, 2)
    expected = draws["x"][:, :, -1] @ draws["dynamics"][0, 0].T
    assert np.abs(ahead["x"]["value"][:, :, 0] - expected).max() < 5 * 0.01


def test_conditioned_autoregressions_need_no_draw_of_the_past(key):
    def model(y, num_steps):
        weight = numpyro.sample("weight", dist.Normal(0, 1))
        weights = jnp.stack([weight, weight])[:, None]
        noise = dist.Normal(jnp.array([1.0, 1.0]), 1e-3)
        series = tsd.AutoregressiveHMM(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), weights, noise, num_steps=num_steps)
        numpyro.sample("y", series, obs=y)

    ahead = forecast(key, model, {"weight": np.array([0.5, -0.5])}, 2, Y, 6, future={"y": None, "num_steps": 8})
    expected = np.array([[0.5 * 6 + 1, 0.5 * 4 + 1], [-0.5 * 6 + 1, 0.5 * 2 + 1]])
    assert np.abs(ahead["y"]["value"] - expected).max() < 0.01


def test_series_grow_at_their_own_end():
    series = tsd.HiddenMarkov(
        jnp.ones(2) / 2, jnp.eye(2), dist.Poisson(jnp.ones(2)), num_steps=4, lengths=jnp.array([4, 2])
    )
    site = SequenceSite(series, jnp.array([[1, 2, 3, 4], [1, 2, 0, 0]]), None, True, {})
    grown = _append(site, jnp.array([[8, 9], [8, 9]]), 2)
    assert grown.tolist() == [[1, 2, 3, 4, 8, 9], [1, 2, 8, 9, 0, 0]]


LEVELS = 10.0 * jnp.arange(9.0).reshape(3, 3)


def still_series(num_steps, **options):
    """Three states that never change, seen in three channels with hardly any noise."""
    emission = dist.Normal(LEVELS, 1e-3).to_event(1)
    return tsd.HiddenMarkov(jnp.ones(3) / 3, jnp.eye(3), emission, num_steps=num_steps, **options)


def latent_levels(y, num_steps, lengths=None):
    numpyro.sample("unused", dist.Normal(0.0, 1.0))
    with numpyro.plate("series", 3):
        x = numpyro.sample("x", still_series(num_steps, lengths=lengths))
        numpyro.sample("y", dist.Normal(10 * x, 1e-3).to_event(2), obs=y)


def observed_levels(y, num_steps, mask):
    numpyro.sample("unused", dist.Normal(0.0, 1.0))
    with numpyro.plate("series", 3):
        numpyro.sample("y", still_series(num_steps, mask=mask), obs=y)


@pytest.mark.parametrize("with_future", [False, True])
def test_time_is_told_from_batch_and_event_axes_of_the_same_length(key, with_future):
    """Three series of three steps in three channels, and three steps ahead: each series stays at its own level."""
    y = jnp.broadcast_to(LEVELS[:, None], (3, 3, 3))
    future = {"y": None, "num_steps": 6, "mask": None} if with_future else None
    mask = np.ones((3, 3, 3), bool)
    ahead = forecast(key, observed_levels, {"unused": np.zeros(2)}, 3, y, 3, mask, future=future)["y"]
    assert ahead["states"].tolist() == [[[0] * 3, [1] * 3, [2] * 3]] * 2
    assert np.abs(ahead["value"] - y).max() < 0.01


@pytest.mark.parametrize("lengths", [None, np.array([3, 1, 2])], ids=["whole", "ragged"])
def test_what_is_downstream_goes_on_where_its_series_ends(key, lengths):
    x = jnp.broadcast_to(LEVELS[:, None], (3, 3, 3))
    draws = {"unused": np.zeros(2), "x": jnp.stack([x, x])}
    future = {"y": None, "num_steps": 6}
    ahead = forecast(key, latent_levels, draws, 3, 10 * x, 3, lengths, future=future)
    assert np.abs(ahead["x"]["value"] - x).max() < 0.01
    assert np.abs(ahead["y"]["value"] - 10 * x).max() < 0.1


@pytest.mark.parametrize("given", ["mask", "known_states"])
def test_the_past_stays_as_observed_where_the_future_says_nothing_of_it(given):
    """Fillers of masked steps are not taken for data, nor labels forgotten, when ``future`` has None in their place."""
    y, num_steps = np.array([9.0, 8.0, 10.0, 9.0, 0.0, 0.0]), 2
    observed = {
        "mask": np.array([True, True, True, True, False, False]),
        "known_states": np.array([-1, -1, -1, -1, -1, 1]),
    }

    def model(y, observed, slope):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.2).expand([2]).to_event(1))
        rows = jnp.broadcast_to(jnp.array([[0.9, 0.1], [0.2, 0.8]]), (len(slope) - 1, 2, 2))
        options = {"num_steps": len(slope), "time_varying": ("transition_probs",), given: observed}
        series = tsd.HiddenMarkov(jnp.full(2, 0.5), rows, dist.Poisson(rate), **options)
        numpyro.sample("y", series, obs=y)

    draws = {"rate": jnp.tile(jnp.array([1.0, 9.0]), (2000, 1))}
    future, fitted = {"slope": np.zeros(8), "observed": None}, (y, observed[given], np.zeros(6))
    found = tsppl.forecast(random.key(0), model, draws, num_steps, *fitted, future=future)["y"]["states"]
    end = tsppl.posterior_latents(random.key(1), model, draws, *fitted, what="marginals")["y"]["state_probs"][0, -1]
    expected = end @ np.array([0.1, 0.8])
    assert abs(np.mean(found[:, 0]) - expected) < 4.5 * np.sqrt(0.25 / 2000)
