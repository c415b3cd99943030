"""Hamilton's autoregression in mean form against enumeration, and against the published numbers of Hamilton and Filardo."""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.datasets import hamilton_gnp

K, L, T = 2, 2, 6
RNG = np.random.default_rng(0)
INITIAL = np.array([0.3, 0.7])
TRANSITIONS = RNG.dirichlet(np.ones(K), size=(T - 1, K))
MEANS = np.array([-1.0, 2.0])
WEIGHTS = 0.4 * RNG.normal(size=(K, L))
SCALE = np.array([0.7, 1.3])
VALUE = RNG.normal(size=T)


def build(value=VALUE, transitions=TRANSITIONS, **options):
    varying = ("transition_probs",) if np.ndim(transitions) == 3 else ()
    return tsd.MeanSwitchingAutoregression(
        INITIAL, transitions, MEANS, WEIGHTS, dist.Normal(0.0, SCALE),
        num_steps=len(value), time_varying=varying, **options,
    )  # fmt: skip


def paths(first=0, scored=None, upto=T, density=norm.pdf):
    """Every path of the states from step ``first`` on, and its joint density with the scored steps before ``upto``."""
    found = np.array(list(itertools.product(range(K), repeat=T - first)))
    weights = np.empty(len(found))
    for i, path in enumerate(found):
        state = dict(enumerate(path, start=first))
        weight = INITIAL[path[0]]
        for t in range(first + 1, T):
            weight *= TRANSITIONS[t - 1][state[t - 1], state[t]]
        for t in range(first + L, upto):
            if scored is None or scored[t]:
                lags = sum(
                    WEIGHTS[state[t], lag] * (VALUE[t - 1 - lag] - MEANS[state[t - 1 - lag]]) for lag in range(L)
                )
                weight *= density(VALUE[t], MEANS[state[t]] + lags, SCALE[state[t]])
        weights[i] = weight
    return found, weights


def marginals(found, weights):
    return (
        np.array([[weights[found[:, t] == k].sum() for k in range(K)] for t in range(found.shape[1])]) / weights.sum()
    )


@pytest.mark.smoke
def test_density_marginals_and_mode_equal_enumeration():
    found, weights = paths()
    model = build()
    assert_allclose(model.log_prob(VALUE), np.log(weights.sum()))
    assert_allclose(model.log_prob_steps(VALUE).sum(), np.log(weights.sum()))
    assert_allclose(model.latent_marginals(VALUE)["state_probs"], marginals(found, weights))
    past = model.latent_marginals(VALUE, given="past")["state_probs"]
    for step in range(T):
        assert_allclose(past[step], marginals(*paths(upto=step + 1))[step])
    assert model.latent_mode(VALUE)["states"].tolist() == found[weights.argmax()].tolist()


def test_draws_of_the_states_have_the_probabilities_of_their_paths():
    found, weights = paths()
    draws = build().sample_latents(jax.random.key(0), jnp.broadcast_to(VALUE, (4000, T)))["states"]
    frequency = (np.asarray(draws)[:, None] == found).all(-1).mean(0)
    assert np.abs(frequency - weights / weights.sum()).max() < 0.03


def test_chain_starts_as_many_steps_before_the_first_scored_one_as_there_are_lags():
    found, weights = paths(first=1)
    model = build(num_conditioned=L + 1)
    assert_allclose(model.log_prob(VALUE), np.log(weights.sum()))
    probs = model.latent_marginals(VALUE)["state_probs"]
    assert np.isnan(probs[0]).all()
    assert_allclose(probs[1:], marginals(found, weights))


def test_step_with_a_missing_lag_is_not_scored():
    mask = np.array([True, True, True, True, False, True])
    model = build(mask=mask)
    scored = model.scored_steps(VALUE).tolist()
    assert scored == [False, False, True, True, False, False]
    assert_allclose(model.log_prob(np.where(mask, VALUE, np.nan)), np.log(paths(scored=scored)[1].sum()))


def test_equal_means_are_the_intercept_form():
    mean = 0.4
    own = tsd.MeanSwitchingAutoregression(
        INITIAL, TRANSITIONS[0], np.full(K, mean), WEIGHTS, dist.Normal(0.0, SCALE), num_steps=T
    )
    bias = mean * (1 - WEIGHTS.sum(-1))
    start = INITIAL @ TRANSITIONS[0] @ TRANSITIONS[0]
    other = tsd.AutoregressiveHMM(start, TRANSITIONS[0], WEIGHTS, dist.Normal(bias, SCALE), num_steps=T)
    assert_allclose(own.log_prob(VALUE), other.log_prob(VALUE))


def test_density_of_several_channels_equals_enumeration():
    """The second channel is twice the first, so that its density is half that of the first."""
    series, means, scale = (jnp.stack([array, 2 * array], -1) for array in (VALUE, MEANS, SCALE))
    model = tsd.MeanSwitchingAutoregression(
        INITIAL, TRANSITIONS, means, WEIGHTS[..., None, None] * np.eye(2), dist.Normal(0.0, scale).to_event(1),
        num_steps=T, time_varying=("transition_probs",),
    )  # fmt: skip
    both = paths(density=lambda *arguments: norm.pdf(*arguments) ** 2 / 2)[1]
    assert_allclose(model.log_prob(series), np.log(both.sum()))


def test_forecast_continues_the_deviations():
    """With almost no noise and states that stay, the next steps are known."""
    stay = np.array([[1 - 1e-9, 1e-9], [1e-9, 1 - 1e-9]])
    value = np.array([2.0, 2.0, 3.0, 2.0 + WEIGHTS[1, 0]])
    model = tsd.MeanSwitchingAutoregression(INITIAL, stay, MEANS, WEIGHTS, dist.Normal(0.0, 1e-4), num_steps=4)
    ahead = model.forecast(jax.random.key(0), value, 2)
    deviations = value - 2.0
    first = WEIGHTS[1] @ deviations[[3, 2]]
    second = WEIGHTS[1] @ [first, deviations[3]]
    assert_allclose(ahead["value"], 2.0 + np.array([first, second]), atol=1e-3)
    assert ahead["states"].tolist() == [1, 1]


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="1296 joint states, more than 1024"):
        tsd.MeanSwitchingAutoregression(
            np.ones(6) / 6, np.ones((6, 6)) / 6, np.zeros(6), np.zeros((6, 3)), dist.Normal(0.0, 1.0), num_steps=9
        )
    with pytest.raises(ValueError, match="means has shape"):
        tsd.MeanSwitchingAutoregression(
            INITIAL, TRANSITIONS[0], np.zeros(3), WEIGHTS, dist.Normal(0.0, SCALE), num_steps=T
        )
    with pytest.raises(NotImplementedError, match="one-step-ahead"):
        build().log_prob_left_out(VALUE)


def test_hamilton_1989():
    """The maximum of the published model; probabilities of expansion from statsmodels' tests (made by EViews and Stata)."""
    growth, _ = hamilton_gnp()
    stay, leave, recession, expansion, scale, *lags = (
        0.754673, 0.095915, -0.358811, 1.163516, np.exp(-0.262658), 0.013486, -0.057521, -0.246983, -0.212923,
    )  # fmt: skip
    transition = np.array([[stay, 1 - stay], [leave, 1 - leave]])
    initial = np.array([leave, 1 - stay]) / (leave + 1 - stay)
    means = jnp.array([recession, expansion])

    def model(means):
        return tsd.MeanSwitchingAutoregression(
            initial, transition, means, jnp.array([lags]), dist.Normal(0.0, scale), num_steps=len(growth)
        )

    value, slope = jax.value_and_grad(lambda means: model(means).log_prob(growth))(means)
    assert_allclose(value, -181.26339, atol=5e-6, rtol=0)
    assert_allclose(slope, np.zeros(2), atol=1e-3)
    reference = pytest.importorskip("statsmodels.tsa.regime_switching.tests.test_markov_autoregression")
    smoothed = model(means).latent_marginals(growth)["state_probs"]
    filtered = model(means).latent_marginals(growth, given="past")["state_probs"]
    assert_allclose(smoothed[4:, 1], np.array(reference.hamilton_ar4_smoothed), atol=1e-5, rtol=0)
    assert_allclose(filtered[4:, 1], np.array(reference.hamilton_ar4_filtered), atol=1e-5, rtol=0)


def test_filardo_1994():
    """Industrial production, whose turning points the leading index tells: published density and probabilities."""
    statsmodels = pytest.importorskip("statsmodels")
    pandas = pytest.importorskip("pandas")
    folder = Path(statsmodels.__file__).parent / "tsa" / "regime_switching" / "tests" / "results"
    frame = pandas.read_csv(folder / "mar_filardo.csv")
    growth, leading = frame["dlip"].to_numpy()[1:], frame["dmdlleading"].to_numpy()[:-1]
    stay = 1 / (1 + np.exp(-(4.35941747 + 1.7702123 * leading)))
    leave = 1 / (1 + np.exp(-(-1.6493936 + 0.9945672 * leading)))
    transition = np.stack([np.stack([stay, 1 - stay], -1), np.stack([leave, 1 - leave], -1)], -2)
    initial = np.array([leave[0], 1 - stay[0]]) / (leave[0] + 1 - stay[0])
    model = tsd.MeanSwitchingAutoregression(
        initial, transition[1:], jnp.array([0.517298, -0.865888]), jnp.array([[0.189474, 0.079344, 0.110944, 0.122251]]),
        dist.Normal(0.0, np.exp(-0.362469)), num_steps=len(growth), time_varying=("transition_probs",),
    )  # fmt: skip
    assert_allclose(model.log_prob(growth), -586.5718, atol=5e-5, rtol=0)
    for given, column in (("all", "smoothed_0"), ("past", "filtered_0")):
        probs = model.latent_marginals(growth, given=given)["state_probs"][4:, 0]
        assert_allclose(probs, frame[column].to_numpy()[5:], atol=1e-5, rtol=0)
