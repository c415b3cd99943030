"""Switching linear dynamics, with constant, time-varying and recurrent transitions, against enumeration."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer import MCMC, NUTS

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import autoregressive as reference
from tsppl.posterior.chain_check import _states_in_use
from tsppl.sites.state_axes import state_axes

K, D, T = 2, 2, 5
RNG = np.random.default_rng(1)
INITIAL = np.array([0.4, 0.6])
TRANSITION = np.array([[0.8, 0.2], [0.3, 0.7]])
WEIGHTS = np.stack([0.9 * np.eye(D), np.array([[0.0, -0.8], [0.8, 0.0]])])
BIAS, COVARIANCE = RNG.normal(size=(K, D)), np.stack([0.3 * np.eye(D) + 0.1 * k for k in range(1, K + 1)])
START_LOC, START_COVARIANCE = np.array([[0.0, 1.0], [1.0, 0.0]]), np.stack([np.eye(D), 2 * np.eye(D)])
NOISE = dist.MultivariateNormal(BIAS, COVARIANCE)
START = dist.MultivariateNormal(START_LOC, START_COVARIANCE)
TRAJECTORY = RNG.normal(size=(T, D))
RECURRENCE = np.array([[1.0, -1.0], [0.5, 2.0]])


def recurrent_at(t, trajectory):
    logits = np.log(TRANSITION) + RECURRENCE @ trajectory[t - 1]
    return np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)


def expected(transition_at=lambda t, x: TRANSITION, weights_at=lambda t: WEIGHTS[:, None], noise_at=None):
    return reference.log_prob(
        TRAJECTORY, np.log(INITIAL), transition_at, weights_at, noise_at or (lambda t: (BIAS, COVARIANCE)),
        num_lags=1, first=0, start=lambda k, block: float(START.log_prob(block[0])[k]),
    )  # fmt: skip


def build(transition_probs=TRANSITION, weights=WEIGHTS, noise=NOISE, **options):
    return tsd.SwitchingLinearDynamics(INITIAL, transition_probs, weights, noise, START, num_steps=T, **options)


ARGUMENTS = {"weights": WEIGHTS, "noise": NOISE, "initial": START, "num_steps": T}
RECURRENT = tsd.RecurrentTransitions(jnp.log(TRANSITION), jnp.asarray(RECURRENCE))


@pytest.mark.smoke
def test_log_prob_equals_enumeration():
    assert_allclose(build().log_prob(TRAJECTORY), expected())


def test_recurrent_transitions_depend_on_the_step_before():
    model = build(RECURRENT)
    assert_allclose(model.log_prob(TRAJECTORY), expected(recurrent_at))
    assert_allclose(model.log_prob_steps(TRAJECTORY).sum(), expected(recurrent_at))


def test_row_t_of_a_time_varying_argument_moves_x_t_to_the_next_step():
    weights = WEIGHTS * RNG.uniform(0.5, 1.5, (T - 1, 1, 1, 1))
    bias = BIAS + RNG.normal(size=(T - 1, 1, D))
    transition = RNG.dirichlet(np.ones(K), (T - 1, K))
    model = build(
        transition,
        weights,
        dist.MultivariateNormal(bias, COVARIANCE),
        time_varying=("transition_probs", "weights", "noise"),
    )
    assert model.time_varying == ("transition_probs", "weights", "noise")
    wanted = expected(
        lambda t, x: transition[t - 1], lambda t: weights[t - 1][:, None], lambda t: (bias[t - 1], COVARIANCE)
    )
    assert_allclose(model.log_prob(TRAJECTORY), wanted)


@pytest.mark.parametrize("transition_probs", [TRANSITION, RECURRENT], ids=["constant", "recurrent"])
def test_transitions_are_called_by_the_name_they_were_given_under(transition_probs):
    model = tsd.SwitchingLinearDynamics(INITIAL, transition_probs=transition_probs, **ARGUMENTS)
    assert_allclose(model.log_prob(TRAJECTORY), build(transition_probs).log_prob(TRAJECTORY))
    with pytest.raises(ValueError, match="either transition_probs or transition_logits, not both"):
        build(transition_probs, transition_logits=np.log(TRANSITION))
    with pytest.raises(ValueError, match="'transitions' that can vary in time.*transition_probs"):
        build(transition_probs, time_varying=("transitions",))


def test_everything_inherited_answers_or_refuses_under_recurrent_transitions():
    model = build(RECURRENT)
    assert (model.num_states, model.num_lags, model.time_varying) == (K, 1, ())
    assert model.transition_probs is RECURRENT
    assert model.transition_logits is None
    assert model.expand((3,)).transition_probs is RECURRENT
    assert build(RECURRENT).continuing(model).transition_probs is RECURRENT
    assert model.impulse_response(2).shape == (K, 3, D, D)
    assert model.scored_steps(TRAJECTORY).all()
    assert _states_in_use(model).tolist() == [0, 1]
    with pytest.raises(ValueError, match=r"pass it, state_chain\(value\)"):
        model.state_chain()
    with pytest.raises(NotImplementedError, match="recurrent transitions depend on the trajectory"):
        model.log_transition_probs  # noqa: B018
    with pytest.raises(ValueError, match="RecurrentTransitions cannot be named in time_varying"):
        build(RECURRENT, time_varying=("transition_probs",))


def test_models_of_observed_series_refuse_recurrent_transitions_by_name():
    with pytest.raises(TypeError, match="transition_probs of a HiddenMarkov is an array.*for SwitchingLinearDynamics"):
        tsd.HiddenMarkov(INITIAL, RECURRENT, NOISE, num_steps=T)


def test_the_rows_of_recurrent_transitions_are_found_among_the_sites_of_a_model():
    def model():
        weights = numpyro.sample("drive", dist.Normal(0.0, 1.0).expand([K, 3]).to_event(2))
        start = dist.Normal(jnp.zeros(3), 1.0).to_event(1)
        transition_probs = tsd.RecurrentTransitions(jnp.zeros((K, K)), weights)
        series = tsd.SwitchingLinearDynamics(INITIAL, transition_probs, jnp.zeros((K, 3, 3)), start, start, num_steps=T)
        numpyro.sample("x", series)

    trace = handlers.trace(handlers.seed(model, 0)).get_trace()
    assert state_axes(trace) == {"drive": ["state", None]}


def test_given_states_is_the_chain_of_those_states():
    states = np.array([0, 1, 1, 0, 1])
    chain = build().given_states(states)
    assert isinstance(chain, tsd.LinearGaussianChain)
    terms = [START.log_prob(TRAJECTORY[0])[states[0]]]
    for t in range(1, T):
        mean = BIAS[states[t]] + WEIGHTS[states[t]] @ TRAJECTORY[t - 1]
        terms.append(dist.MultivariateNormal(mean, COVARIANCE[states[t]]).log_prob(TRAJECTORY[t]))
    assert_allclose(chain.log_prob(TRAJECTORY), sum(terms))
    batch = build().expand((3,)).given_states(states)
    assert batch.batch_shape == (3,)


def test_sum_over_states_of_the_chains_is_the_density():
    total = -np.inf
    for index in np.ndindex((K,) * T):
        states = np.array(index)
        path = np.log(INITIAL[states[0]]) + np.log(TRANSITION[states[:-1], states[1:]]).sum()
        total = np.logaddexp(total, path + float(build().given_states(states).log_prob(TRAJECTORY)))
    assert_allclose(build().log_prob(TRAJECTORY), total)


@pytest.mark.parametrize(
    "transition_probs",
    [pytest.param(TRANSITION, marks=pytest.mark.slow), RECURRENT],
    ids=["constant", "recurrent"],
)
def test_forecast_and_simulation_follow_the_model(transition_probs):
    model = build(transition_probs)
    ahead = model.expand((20_000,)).forecast(jax.random.key(3), TRAJECTORY, 2)
    into = TRANSITION if transition_probs is TRANSITION else recurrent_at(T, TRAJECTORY)
    next_probs = np.asarray(model.latent_marginals(TRAJECTORY)["state_probs"])[-1] @ into
    assert_allclose((ahead["states"][:, 0] == 1).mean(), next_probs[1], atol=0.02)
    assert_allclose(ahead["value"][:, 0].mean(0), next_probs @ (BIAS + WEIGHTS @ TRAJECTORY[-1]), atol=0.03)
    value, latents = model.sample_with_latents(jax.random.key(4), (20_000,))
    first_move = np.asarray(latents["states"][:, 1]) == 1
    if transition_probs is TRANSITION:
        assert_allclose(first_move.mean(), (INITIAL @ TRANSITION)[1], atol=0.02)
    else:
        probs = np.asarray(RECURRENT.log_probs(value[:, 0]))[np.arange(20_000), latents["states"][:, 0], 1]
        assert_allclose(first_move.mean(), np.exp(probs).mean(), atol=0.02)


@pytest.mark.slow
def test_it_is_a_latent_site_for_nuts():
    emission = jnp.asarray(RNG.normal(size=(4, D)))
    observed = TRAJECTORY @ emission.T

    def model():
        x = numpyro.sample("x", build(RECURRENT))
        numpyro.sample("y", dist.Normal(x @ emission.T, 0.5).to_event(2), obs=observed)

    mcmc = MCMC(NUTS(model), num_warmup=20, num_samples=20, progress_bar=False)
    mcmc.run(jax.random.key(0))
    assert mcmc.get_samples()["x"].shape == (20, T, D)
    assert np.isfinite(mcmc.get_samples()["x"]).all()


def test_latent_so_it_takes_no_mask():
    with pytest.raises(TypeError, match="mask"):
        build(mask=np.ones(T, bool))


def test_left_out_terms_are_refused_for_recurrent_transitions():
    with pytest.raises(NotImplementedError, match="recurrent transitions"):
        build(RECURRENT).log_prob_left_out(TRAJECTORY)


def test_noise_of_scalars_is_named_before_the_transitions_are_looked_at():
    with pytest.raises(ValueError, match=r"noise has event shape \(\)"):
        build(RECURRENT, noise=dist.Normal(jnp.zeros((K, D)), 1.0))
