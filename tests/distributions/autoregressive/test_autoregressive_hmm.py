"""The autoregressive HMM against enumeration, quadrature, and Hamilton's published likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import autoregressive as reference
from tsppl.datasets import hamilton_gnp
from tsppl.messages.autoregressive import conditional_means

K, L, N, T = 2, 2, 2, 6
RNG = np.random.default_rng(0)
INITIAL = np.array([0.3, 0.7])
TRANSITION = np.array([[0.9, 0.1], [0.3, 0.7]])
WEIGHTS = 0.3 * RNG.normal(size=(K, L, N, N))
BIAS = RNG.normal(size=(K, N))
COVARIANCE = np.stack([0.5 * np.eye(N) + 0.1 * (k + 1) for k in range(K)])
VALUE = RNG.normal(size=(T, N))
NOISE = dist.MultivariateNormal(BIAS, COVARIANCE)


def expected(value=VALUE, **options):
    defaults = {
        "transition_at": lambda t, y: TRANSITION,
        "weights_at": lambda t: WEIGHTS,
        "noise_at": lambda t: (BIAS, COVARIANCE),
        "num_lags": L,
        "first": L,
    }
    return reference.log_prob(value, np.log(INITIAL), **(defaults | options))


def build(**options):
    return tsd.AutoregressiveHMM(
        INITIAL, options.pop("transition", TRANSITION), options.pop("weights", WEIGHTS), options.pop("noise", NOISE),
        num_steps=T, **options,
    )  # fmt: skip


@pytest.mark.smoke
def test_log_prob_equals_enumeration_given_the_first_steps():
    assert_allclose(build().log_prob(VALUE), expected())
    assert_allclose(build().log_prob_steps(VALUE).sum(), expected())


def test_orders_are_comparable_when_the_same_steps_are_conditioned_on():
    model = build(num_conditioned=3)
    assert_allclose(model.log_prob(VALUE), expected(first=3))
    assert model.scored_steps(VALUE).tolist() == [False] * 3 + [True] * 3


def test_step_with_a_missing_lag_is_not_scored_and_missing_entries_are_never_read():
    mask = np.array([True, True, True, False, True, True])
    model = build(mask=mask)
    assert model.scored_steps(VALUE).tolist() == [False, False, True, False, False, False]
    value = np.where(mask[:, None], VALUE, np.nan)
    assert_allclose(model.log_prob(value), expected(scored=model.scored_steps(VALUE)))
    gradient = jax.grad(lambda weights: build(weights=weights, mask=mask).log_prob(value))(jnp.asarray(WEIGHTS))
    assert np.isfinite(gradient).all()


def test_partly_observed_step_scores_its_observed_entries():
    mask = np.ones((T, N), bool)
    mask[T - 1, 1] = False
    residual_density = expected(scored=np.arange(T) < T - 1)
    model = build(mask=mask)
    value = np.where(mask, VALUE, np.nan)
    grid = np.linspace(-15, 15, 3001)
    whole = np.repeat(VALUE[None], len(grid), 0)
    whole[:, -1, 1] = grid
    marginal = np.log(np.trapezoid(np.exp(build().log_prob(whole)), grid))
    assert_allclose(model.log_prob(value), marginal)
    assert float(model.log_prob(value)) != pytest.approx(residual_density)


def test_joint_density_with_an_initial_distribution_of_the_first_block():
    initial = dist.Normal(jnp.arange(8.0).reshape(K, L, N) / 8, 1.0).to_event(2)
    model = build(initial=initial)
    start = lambda k, block: float(initial.log_prob(block)[k])  # noqa: E731
    assert_allclose(model.log_prob(VALUE), expected(first=L - 1, start=start))
    value, latents = model.sample_with_latents(jax.random.key(0), (3,))
    assert value.shape == (3, T, N)
    assert (latents["states"][:, : L - 1] == -1).all()
    assert (latents["states"][:, L - 1 :] >= 0).all()


def test_arguments_that_vary_in_time_belong_to_the_step_of_their_row():
    weights = WEIGHTS * RNG.uniform(0.5, 1.5, (T, 1, 1, 1, 1))
    bias = BIAS + RNG.normal(size=(T, 1, N))
    transition = RNG.dirichlet(np.ones(K), (T - 1, K))
    model = build(
        transition=transition,
        weights=weights,
        noise=dist.MultivariateNormal(bias, COVARIANCE),
        time_varying=("transition_probs", "weights", "noise"),
    )
    wanted = expected(
        transition_at=lambda t, y: transition[t - 1],
        weights_at=lambda t: weights[t],
        noise_at=lambda t: (bias[t], COVARIANCE),
    )
    assert_allclose(model.log_prob(VALUE), wanted)


def test_lengths_equal_the_truncated_series_and_padding_is_never_read():
    value = np.where(np.arange(T)[:, None] < 5, VALUE, np.nan)
    assert_allclose(build(lengths=5).log_prob(value), expected(VALUE[:5]))


def scalar_model(**options):
    weights = np.array([[0.5, -0.2], [0.1, 0.3]])[:, : options.pop("num_lags", 2)]
    noise = dist.Normal(jnp.array([0.0, 1.0]), jnp.array([0.5, 1.0]))
    return tsd.AutoregressiveHMM(INITIAL, TRANSITION, weights, noise, num_steps=T, **options)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"num_lags": 1, "initial": dist.Normal(0.5, 2.0)}, marks=pytest.mark.slow),
        {"num_lags": 1, "mask": np.array([True, True, True, False, True, True])},
        pytest.param({"num_conditioned": 3}, marks=pytest.mark.slow),
    ],
    ids=["two lags", "initial", "gap", "conditioned"],
)
def test_left_out_terms_equal_quadrature(options):
    value, grid = VALUE[:, 0], np.linspace(-12, 12, 2001)
    model = scalar_model(**options)
    terms, scored = model.log_prob_left_out(value), model.scored_steps(value)
    log_prob = jax.jit(model.log_prob)
    for step in range(T):
        wanted = reference.left_out_by_integration(log_prob, value, step, grid) if scored[step] else 0.0
        assert_allclose(terms[step], wanted, rtol=1e-7, atol=1e-9)


def test_scalar_series_equals_the_same_series_with_one_channel():
    model = scalar_model()
    channel = tsd.AutoregressiveHMM(
        INITIAL, TRANSITION, model.weights[..., None, None],
        dist.Normal(model.noise.loc[:, None], model.noise.scale[:, None]).to_event(1), num_steps=T,
    )  # fmt: skip
    value = VALUE[:, 0]
    assert_allclose(model.log_prob(value), channel.log_prob(value[:, None]))
    assert_allclose(model.log_prob_left_out(value), channel.log_prob_left_out(value[:, None]))


def test_left_out_terms_are_refused_where_they_are_not_exact():
    with pytest.raises(NotImplementedError, match="Gaussian noise"):
        tsd.AutoregressiveHMM(
            INITIAL, TRANSITION, np.zeros((K, 1)), dist.StudentT(4.0, 0.0, 1.0), num_steps=T
        ).log_prob_left_out(VALUE[:, 0])
    many = np.full((7, 7), 1 / 7)
    with pytest.raises(NotImplementedError, match="2401 state paths"):
        tsd.AutoregressiveHMM(many[0], many, np.zeros((7, 3)), dist.Normal(0.0, 1.0), num_steps=T).log_prob_left_out(
            VALUE[:, 0]
        )


def test_forecast_mean_is_the_mixture_over_the_next_state():
    model = build()
    ahead = model.expand((20_000,)).forecast(jax.random.key(1), VALUE, 1)
    next_probs = np.asarray(model.latent_marginals(VALUE)["state_probs"])[-1] @ TRANSITION
    means = BIAS + np.einsum("klij,lj->ki", WEIGHTS, VALUE[::-1][:L])
    assert ahead["value"].shape == (20_000, 1, N)
    assert_allclose(ahead["value"].mean((0, 1)), next_probs @ means, atol=0.03)
    assert_allclose((ahead["states"] == 1).mean(), next_probs[1], atol=0.02)


@pytest.mark.slow
def test_sample_agrees_with_log_prob():
    """E[q(y) / p(y)] over draws from p is one for every density q: here a wider Gaussian over two steps."""
    model = tsd.AutoregressiveHMM(
        INITIAL, TRANSITION, np.array([[0.5], [-0.4]]), dist.Normal(jnp.array([0.0, 1.0]), 1.0), num_steps=2,
        initial=dist.Normal(jnp.array([-0.5, 0.5]), 1.0),
    )  # fmt: skip
    value = model.sample(jax.random.key(2), (40_000,))
    for loc in ([0.0, 0.5], [0.8, -0.6]):
        ratio = jnp.exp(dist.Normal(jnp.array(loc), 0.7).to_event(1).log_prob(value) - model.log_prob(value))
        assert_allclose(ratio.mean(), 1.0, atol=5 * float(ratio.std()) / 200)


def test_without_initial_it_cannot_be_sampled_and_says_what_to_pass():
    with pytest.raises(NotImplementedError, match="pass initial="):
        build().sample(jax.random.key(0))


def test_series_with_no_run_of_observed_steps_warns():
    with pytest.warns(UserWarning, match="no run of 3 consecutive observed steps"):
        build(mask=np.array([True, True, False, True, True, False]))


def test_hamilton_1989_through_an_expanded_chain():
    """Deviations from the regime's mean need the last five regimes: 32 states give the published log-likelihood."""
    growth, _ = hamilton_gnp()
    stay, enter = 0.754673, 0.095915
    transition = np.array([[stay, 1 - stay], [enter, 1 - enter]])
    means, scale = np.array([-0.358811, 1.163516]), np.exp(-0.262658)
    phi = np.array([0.013486, -0.057521, -0.246983, -0.212923])
    ergodic = np.array([enter, 1 - stay]) / (1 - stay + enter)
    regimes = np.array(list(np.ndindex((2,) * 5)))  # newest first
    initial = ergodic[regimes[:, -1]] * np.prod([transition[regimes[:, i + 1], regimes[:, i]] for i in range(4)], 0)
    shifted = (regimes[None, :, 1:] == regimes[:, None, :-1]).all(-1)
    expanded = shifted * transition[regimes[:, 0]][:, regimes[:, 0]]
    lags = np.stack([growth[3 - lag : len(growth) - 1 - lag] for lag in range(4)], -1)
    location = means[regimes[:, 0]] + ((lags[:, None] - means[regimes[:, 1:]]) * phi).sum(-1)
    model = tsd.HiddenMarkov(
        initial, expanded, dist.Normal(location, scale), num_steps=len(growth) - 4, time_varying=("emission",)
    )
    assert float(model.log_prob(growth[4:])) == pytest.approx(-181.26339, abs=1e-5)


@pytest.mark.parametrize("numbers", [1, 12, 10**6])
def test_means_are_the_same_however_the_series_is_cut(numbers, monkeypatch):
    monkeypatch.setattr(conditional_means, "LAGGED_NUMBERS", numbers)
    rng = np.random.default_rng(5)
    weights, values = rng.normal(size=(3, 4, 2, 2)), rng.normal(size=(7, 2))
    padded = np.concatenate([np.zeros((4, 2)), values])
    desired = sum(np.einsum("kij,tj->tki", weights[:, lag], padded[3 - lag : 10 - lag]) for lag in range(4))

    def means(weights, values):
        return conditional_means.conditional_means(weights, values)

    assert_allclose(means(jnp.asarray(weights), jnp.asarray(values)), desired)
    varying = jnp.broadcast_to(weights, (7, 3, 4, 2, 2))
    assert_allclose(means(varying, jnp.asarray(values)), desired)
    gradient = jax.grad(lambda w: means(w, jnp.asarray(values)).sum())(jnp.asarray(weights))
    by_lag = np.stack([padded[3 - lag : 10 - lag].sum(0) for lag in range(4)])
    assert_allclose(gradient, np.broadcast_to(by_lag[None, :, None], weights.shape))
