"""The hidden Markov model against enumeration, TensorFlow Probability and single runs, with any family as emission."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.special
import scipy.stats
from jax import random
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import log_density

from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference
from tsppl.distributions.emissions.streams import Streams
from tsppl.distributions.hidden_markov.hidden_markov import HiddenMarkov

NUM_STEPS, NUM_STATES = 5, 3
INITIAL = np.array([0.5, 0.3, 0.2])
TRANSITION = np.array([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
VARYING = np.random.default_rng(0).dirichlet(np.ones(NUM_STATES), size=(NUM_STEPS - 1, NUM_STATES))
RATES = np.array([1.0, 4.0, 9.0])
COUNTS = np.array([2, 5, 0, 11, 7])
MASK = np.array([True, False, True, True, False])


def poisson(**keywords):
    arguments = {"initial_probs": INITIAL, "transition_probs": TRANSITION, "emission": dist.Poisson(RATES)}
    return HiddenMarkov(**{"num_steps": NUM_STEPS, **arguments, **keywords})


def potentials(transition=TRANSITION, rates=RATES, observed=True):
    """Log potentials of the counts, by SciPy; zero where a step was not observed."""
    log_likelihoods = scipy.stats.poisson.logpmf(COUNTS[:, None], rates)
    return (
        np.log(INITIAL),
        np.log(transition),
        np.where(np.broadcast_to(observed, (NUM_STEPS,))[:, None], log_likelihoods, 0.0),
    )


STEP_RATES = RATES * np.arange(1, NUM_STEPS + 1)[:, None]
CASES = {
    "plain": (poisson(), potentials()),
    "logits": (
        poisson(
            initial_probs=None,
            transition_probs=None,
            initial_logits=np.log(INITIAL) + 3.0,
            transition_logits=np.log(TRANSITION) - np.arange(3.0)[:, None],
        ),
        potentials(),
    ),
    "masked": (poisson(mask=MASK), potentials(observed=MASK)),
    "lengths": (poisson(lengths=3), potentials(observed=np.arange(NUM_STEPS) < 3)),
    "masked, lengths": (poisson(mask=MASK, lengths=4), potentials(observed=MASK & (np.arange(NUM_STEPS) < 4))),
    "transitions vary": (
        poisson(transition_probs=VARYING, time_varying=("transition_probs",)),
        potentials(transition=VARYING),
    ),
    "emission varies": (
        poisson(emission=dist.Poisson(STEP_RATES), time_varying=("emission",)),
        potentials(rates=STEP_RATES),
    ),
    "one emission for all states": (poisson(emission=dist.Poisson(4.0)), potentials(rates=np.full(3, 4.0))),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.smoke if n == "masked" else ()) for n in CASES])
def test_answers_equal_enumeration(name):
    distribution, exact = CASES[name]

    @jax.jit
    def answers(distribution):
        return {
            "log_prob": distribution.log_prob(COUNTS),
            "steps": distribution.log_prob_steps(COUNTS),
            "left_out": distribution.log_prob_left_out(COUNTS),
            "smoothed": distribution.latent_marginals(COUNTS)["state_probs"],
            "filtered": distribution.latent_marginals(COUNTS, given="past")["state_probs"],
            "mode": distribution.latent_mode(COUNTS)["states"],
        }

    desired = {
        "log_prob": reference.log_normalizer(*exact),
        "steps": reference.log_normalizers(*exact),
        "left_out": reference.left_out(*exact),
        "smoothed": reference.smoothed(*exact),
        "filtered": reference.filtered(*exact),
        "mode": reference.most_likely_path(*exact),
    }
    assert_allclose(answers(distribution), {name: np.asarray(array) for name, array in desired.items()})
    np.testing.assert_array_equal(distribution.scored_steps(COUNTS), (exact[2] != 0).any(-1))


def test_probability_of_everything_is_one():
    """Over all series of a small alphabet; with a mask, over all values of the observed entries."""
    emission = dist.Categorical(np.random.default_rng(1).dirichlet(np.ones(2), NUM_STATES))
    series = reference.all_paths(NUM_STEPS, 2)
    for mask in (None, MASK):
        distribution = poisson(emission=emission, mask=mask)
        distinct = series if mask is None else series[(series[:, ~mask] == 0).all(-1)]
        assert_allclose(jnp.exp(jax.jit(distribution.log_prob)(distinct)).sum(), 1.0)


def test_lengths_equal_truncation_and_a_masked_tail():
    batch = poisson(lengths=np.array([5, 3, 1]))
    assert batch.batch_shape == (3,)
    terms = jax.jit(batch.log_prob)(COUNTS)
    for term, length in zip(terms, (5, 3, 1), strict=True):
        assert_allclose(term, poisson(num_steps=length).log_prob(COUNTS[:length]))
        assert_allclose(term, poisson(mask=np.arange(NUM_STEPS) < length).log_prob(COUNTS))


def test_float32_stays_close_to_float64():
    """Emissions with means of 1e4 and scales of 1e-2, the same float32 data for both: within 1e-5 relative."""
    loc, scale = np.array([-1e4, 0.0, 1e4]), np.array([1.0, 1e-2, 10.0])
    states = [0, 1, 1, 2, 0]
    value = (loc[states] + scale[states] * np.random.default_rng(2).normal(size=NUM_STEPS)).astype(np.float32)

    def log_prob(dtype):
        arrays = [np.asarray(array, dtype) for array in (INITIAL, TRANSITION, loc, scale, value)]
        emission = dist.Normal(*arrays[2:4])
        return HiddenMarkov(*arrays[:2], emission, num_steps=NUM_STEPS).log_prob(arrays[4])

    single, double = log_prob(np.float32), log_prob(np.float64)
    assert single.dtype == jnp.float32
    assert_allclose(single, double, rtol=1e-5)


# TensorFlow Probability as an oracle


@pytest.fixture(scope="module")
def tfd():
    return pytest.importorskip("tensorflow_probability.substrates.jax", reason="needs tfp-nightly").distributions


@pytest.mark.parametrize(
    "varying", [pytest.param(False, marks=pytest.mark.slow), True], ids=["constant", "time-varying"]
)
def test_tensorflow_probability(tfd, varying):
    rng = np.random.default_rng(3)
    initial = rng.dirichlet(np.ones(3), size=2)
    transition = rng.dirichlet(np.ones(3), size=(2, NUM_STEPS - 1, 3) if varying else (2, 3))
    loc, value = rng.normal(size=(2, 3, 2)), rng.normal(size=(2, NUM_STEPS, 2))
    missing = np.array([[False, True, False, False, False], [False, False, False, True, True]])
    theirs = tfd.HiddenMarkovModel(
        tfd.Categorical(probs=initial),
        tfd.Categorical(probs=transition),
        tfd.MultivariateNormalDiag(loc, np.ones(2)),
        NUM_STEPS,
        time_varying_transition_distribution=varying,
        mask=missing,
    )
    ours = HiddenMarkov(
        initial,
        transition,
        dist.Normal(loc, 1.0).to_event(1),
        num_steps=NUM_STEPS,
        mask=~missing,
        time_varying=("transition_probs",) if varying else (),
    )
    assert_allclose(jax.jit(ours.log_prob)(value), theirs.log_prob(value))
    np.testing.assert_array_equal(jax.jit(ours.latent_mode)(value)["states"], theirs.posterior_mode(value))
    probs = jax.jit(ours.latent_marginals)(value)["state_probs"]
    assert_allclose(probs, theirs.posterior_marginals(value).probs_parameter())


@pytest.mark.filterwarnings("ignore:shape requires ndarray:DeprecationWarning")
@pytest.mark.parametrize("name", ["Poisson", "Dirichlet"])
def test_a_tfp_distribution_as_emission(tfd, name):
    """Masked, as the same family of NumPyro; no NaN in the gradient."""
    value, mask = np.array([3.0, 2.0, np.nan, 8.0, 1.0]), np.array([True, True, False, True, True])
    families = {
        "Poisson": (lambda a: tfd.Poisson(a), lambda a: dist.Poisson(a), np.where(mask, value, -1).astype(int)),
        "Dirichlet": (
            lambda a: tfd.Dirichlet(jnp.stack([a, 1 / a], -1)),
            lambda a: dist.Dirichlet(jnp.stack([a, 1 / a], -1)),
            np.stack([value / 10, 1 - value / 10], -1),
        ),
    }
    theirs, ours, value = families[name]

    def log_prob(build):
        return lambda rates: poisson(emission=build(rates), mask=mask).log_prob(value)

    @jax.jit
    def answers(rates):
        completed = poisson(emission=theirs(rates), mask=mask).sample_missing(random.key(0), value)
        return jax.value_and_grad(log_prob(theirs))(rates), jax.value_and_grad(log_prob(ours))(rates), completed

    actual, desired, completed = answers(RATES)
    assert_allclose(actual, desired)
    assert jnp.isfinite(actual[1]).all()
    assert jnp.isfinite(completed.astype(float)).all()
    poisson(emission=theirs(RATES), mask=mask).check_value(value)


# Any family as emission: (build from a parameter per state, value with one step to be masked)

LOCS = np.array([0.5, 1.0, 2.0])


def mixture(a):
    components = dist.Normal(jnp.stack([a, -a], -1), 1.0)
    return dist.MixtureSameFamily(dist.Categorical(probs=jnp.array([0.3, 0.7])), components)


def low_rank(a):
    factor = jnp.broadcast_to(jnp.array([[1.0], [0.5]]), a.shape + (2, 1))
    return dist.LowRankMultivariateNormal(jnp.stack([a, -a], -1), factor, jnp.full(a.shape + (2,), 0.5))


def streams(a):
    return Streams(step=dist.Gamma(2.0, a), turn=dist.VonMises(a, 2.0), count=dist.Poisson(a))


FAMILIES = {
    "NegativeBinomial2": (lambda a: dist.NegativeBinomial2(a, 2.0), [0, 3, -5, 1]),
    "ZeroInflatedPoisson": (lambda a: dist.ZeroInflatedPoisson(0.3, a), [0, 3, -5, 1]),
    "Binomial": (lambda a: dist.Binomial(jnp.ceil(4 * a).astype(int), 0.4), [1, 2, -5, 8]),
    "Uniform": (lambda a: dist.Uniform(0.0, a), [0.2, 1.7, np.nan, 0.7]),
    "Pareto": (lambda a: dist.Pareto(a, 2.0), [2.5, 1.7, np.nan, 0.7]),
    "Beta": (lambda a: dist.Beta(a, 2.0), [0.2, 0.9, np.nan, 0.5]),
    "LogNormal": (lambda a: dist.LogNormal(a, 1.0), [0.2, 0.9, np.nan, 0.5]),
    "StudentT": (lambda a: dist.StudentT(4.0, a, 1.0), [0.2, -9.0, np.nan, 0.5]),
    "MixtureSameFamily": (mixture, [0.2, -9.0, np.nan, 0.5]),
    "Dirichlet": (
        lambda a: dist.Dirichlet(jnp.stack([a, a, 1 / a], -1)),
        [[0.2, 0.3, 0.5], [0.1, 0.8, 0.1], [np.nan] * 3, [0.6, 0.2, 0.2]],
    ),
    "Multinomial": (
        lambda a: dist.Multinomial(4, jnp.stack([a / 3, 1 - a / 3], -1)),
        [[2, 2], [0, 4], [-1, -1], [3, 1]],
    ),
    "LowRankMultivariateNormal": (low_rank, [[0.2, 1.0], [-1.0, 0.1], [np.nan, 0.0], [0.5, 0.5]]),
    "Streams": (streams, [[0.2, 1.0, 3.0], [1.0, -2.0, 0.0], [np.nan, 0.0, -1.0], [0.5, 3.0, 2.0]]),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_any_family(name):
    """With a masked step, against one distribution for each state scored on its own; no NaN in the gradient."""
    build, value = FAMILIES[name]
    value, mask = np.array(value), np.array([True, True, False, True])

    def model(locs):
        return HiddenMarkov(INITIAL, TRANSITION, build(locs), num_steps=4, mask=mask)

    def completed(locs):
        return model(locs).sample_missing(random.key(0), value)

    log_prob, gradient = jax.jit(jax.value_and_grad(lambda locs: model(locs).log_prob(value)))(LOCS)
    log_likelihoods = np.zeros((4, NUM_STATES))
    for k in range(NUM_STATES):
        one = build(LOCS[k])
        inside = np.broadcast_to(one.support(value[mask]), 3)
        log_likelihoods[mask, k] = np.where(inside, one.log_prob(value[mask]), -np.inf)
    assert_allclose(log_prob, reference.log_normalizer(np.log(INITIAL), np.log(TRANSITION), log_likelihoods))
    assert jnp.isfinite(gradient).all()
    assert (gradient != 0).any() or name == "Binomial"
    model(LOCS).check_value(value)
    assert jax.eval_shape(completed, LOCS).shape == value.shape
    if name in ("Uniform", "Multinomial", "Streams"):
        assert model(LOCS).support(jax.jit(completed)(LOCS))


# Models


def forward_by_recursion(log_initial, log_transition, log_likelihoods):
    """The log density by the scaled recursion in NumPy."""
    total, message = 0.0, np.exp(log_initial)
    for t, row in enumerate(log_likelihoods):
        if t:
            message = message @ np.exp(log_transition[t - 1])
        message = message * np.exp(row)
        total += np.log(message.sum())
        message = message / message.sum()
    return total


@cache
def sessions():
    """40 sessions of 8 subjects, 5 to 30 trials, choices and two covariates."""
    rng = np.random.default_rng(4)
    lengths = rng.integers(5, 31, size=40)
    covariates = rng.normal(size=(40, 30, 2))
    choices = rng.integers(2, size=(40, 30))
    return {"subject": np.arange(40) % 8, "lengths": lengths, "covariates": covariates, "choices": choices}


def glm_hmm(subject, lengths, covariates, choices):
    """Covariates enter the choice through weights of each subject, and the transitions on arrival."""
    num_states, num_steps = 2, covariates.shape[1]
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.ones(num_states)))
    stay = numpyro.sample("stay", dist.Normal(0, 1).expand((num_states, num_states)).to_event(2))
    drive = numpyro.sample("drive", dist.Normal(0, 1).expand((num_states, 2)).to_event(2))
    with numpyro.plate("subjects", 8):
        weights = numpyro.sample("weights", dist.Normal(0, 1).expand((num_states, 2)).to_event(2))
    logits = jnp.einsum("std,skd->stk", covariates, weights[subject])
    transition_logits = stay + jnp.einsum("std,kd->stk", covariates[:, 1:], drive)[:, :, None, :]
    with numpyro.plate("sessions", 40):
        numpyro.sample(
            "choices",
            HiddenMarkov(
                initial_probs=initial,
                transition_logits=transition_logits,
                emission=dist.Bernoulli(logits=logits),
                num_steps=num_steps,
                time_varying=("emission", "transition_logits"),
                lengths=lengths,
            ),
            obs=choices,
        )


def test_forty_ragged_sessions_equal_forty_single_runs():
    data = sessions()
    rng = np.random.default_rng(5)
    draws = {
        "initial": np.array([0.3, 0.7]),
        "stay": rng.normal(size=(2, 2)),
        "drive": rng.normal(size=(2, 2)),
        "weights": rng.normal(size=(8, 2, 2)),
    }
    _, trace = log_density(glm_hmm, (), data, draws)
    site = trace["choices"]
    assert type(site["fn"]) is HiddenMarkov
    actual = site["fn"].log_prob(site["value"])
    for i in range(40):
        length, covariates = data["lengths"][i], data["covariates"][i]
        logits = covariates @ draws["weights"][data["subject"][i]].T
        log_likelihoods = scipy.stats.bernoulli.logpmf(data["choices"][i][:, None], scipy.special.expit(logits))
        transition = draws["stay"] + (covariates[1:] @ draws["drive"].T)[:, None, :]
        transition = scipy.special.log_softmax(transition, axis=-1)
        desired = forward_by_recursion(np.log(draws["initial"]), transition, log_likelihoods[:length])
        assert_allclose(actual[i], desired)


@pytest.mark.slow
def test_subjects_with_emissions_of_their_own_under_nuts():
    rng = np.random.default_rng(6)
    value = np.exp(rng.normal(size=(4, NUM_STEPS)))
    mask = rng.uniform(size=value.shape) < 0.7
    value[~mask] = np.nan

    def model(value):
        with numpyro.plate("subjects", 4):
            loc = numpyro.sample("loc", dist.Normal(LOCS, 1.0).to_event(1))
            emission = dist.LogNormal(loc, 0.5)
            numpyro.sample("y", HiddenMarkov(INITIAL, TRANSITION, emission, num_steps=NUM_STEPS, mask=mask), obs=value)

    loc = LOCS + 0.1 * rng.normal(size=(4, NUM_STATES))
    site = log_density(model, (value,), {}, {"loc": loc})[1]["y"]
    for i, term in enumerate(site["fn"].log_prob(value)):
        one = HiddenMarkov(INITIAL, TRANSITION, dist.LogNormal(loc[i], 0.5), num_steps=NUM_STEPS, mask=mask[i])
        assert_allclose(term, one.log_prob(value[i]))
    mcmc = MCMC(
        NUTS(model, max_tree_depth=4),
        num_warmup=10,
        num_samples=10,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.key(1), value)
    assert jnp.isfinite(mcmc.get_samples()["loc"]).all()
    assert not mcmc.get_extra_fields()["diverging"].all()


# Draws


def in_many_draws(function, num_draws=4000):
    return jax.jit(jax.vmap(function))(random.split(random.key(7), num_draws))


def assert_mean(draws, mean):
    """The mean of independent draws is within 4.5 standard errors of `mean`, in every entry."""
    draws = np.asarray(draws, float)
    assert (abs(draws.mean(0) - mean) < 4.5 * draws.std(0) / np.sqrt(len(draws)) + 1e-9).all()


@pytest.mark.parametrize("varying", [False, True], ids=["constant", "time-varying"])
def test_forecast_has_the_exact_mean(varying):
    """`p(z_T | y) P^h` mixes the means of the states; each series is continued from its own end."""
    horizon, loc = 2, np.array([-3.0, 0.0, 5.0])
    value = np.array([[0.0, 4.0, -2.0, 5.0, 4.0], [5.0, -3.0, np.nan, np.nan, np.nan]])
    lengths, total = np.array([5, 2]), NUM_STEPS + horizon
    if varying:
        transition = np.random.default_rng(8).dirichlet(np.ones(3), size=(total - 1, 3))
        step_loc = loc + np.arange(total)[:, None]
        spans, steps, names = total, None, ("emission", "transition_probs")
    else:
        transition, step_loc = np.broadcast_to(TRANSITION, (total - 1, 3, 3)), np.broadcast_to(loc, (total, 3))
        spans, steps, names = NUM_STEPS, horizon, ()
    distribution = HiddenMarkov(
        INITIAL,
        transition if varying else TRANSITION,
        dist.Normal(step_loc if varying else loc, 1.0),
        num_steps=spans,
        time_varying=names,
        lengths=lengths,
    )
    draws = in_many_draws(lambda key: distribution.forecast(key, value, steps))
    assert draws["value"].shape[1:] == draws["states"].shape[1:] == (2, horizon)
    for i, length in enumerate(lengths):
        log_likelihoods = scipy.stats.norm.logpdf(value[i, :length, None], step_loc[:length])
        probs = reference.smoothed(np.log(INITIAL), np.log(transition[: length - 1]), log_likelihoods)[-1]
        for h in range(horizon):
            probs = probs @ transition[length - 1 + h]
            assert_mean(draws["value"][:, i, h], probs @ step_loc[length + h])
            assert_mean(draws["states"][:, i, h, None] == np.arange(3), probs)


def test_missing_components_are_drawn_from_their_conditional():
    """Mean and second moments of the missing entries given the observed ones, by enumeration of paths."""
    rng = np.random.default_rng(9)
    loc, factors = 2.0 * rng.normal(size=(3, 2)), np.tril(rng.normal(size=(3, 2, 2))) + np.eye(2)
    covariance = factors @ factors.swapaxes(-1, -2)
    value = rng.normal(size=(NUM_STEPS, 2))
    mask = np.array([[True, True], [False, True], [True, False], [False, False], [True, True]])
    value[~mask] = np.nan
    emission = dist.MultivariateNormal(loc, covariance)
    distribution = HiddenMarkov(INITIAL, TRANSITION, emission, num_steps=NUM_STEPS, mask=mask)

    log_likelihoods = np.zeros((NUM_STEPS, 3))
    conditional = np.zeros((NUM_STEPS, 3, 2)), np.zeros((NUM_STEPS, 3, 2, 2))
    for t in range(NUM_STEPS):
        o, m = np.flatnonzero(mask[t]), np.flatnonzero(~mask[t])
        for k in range(3):
            mean, second = loc[k].copy(), covariance[k].copy()
            if o.size:
                among = covariance[k][np.ix_(o, o)]
                log_likelihoods[t, k] = scipy.stats.multivariate_normal.logpdf(value[t, o], loc[k, o], among)
                gain = covariance[k][np.ix_(m, o)] @ np.linalg.inv(among)
                mean[m] = loc[k, m] + gain @ (value[t, o] - loc[k, o])
                mean[o] = value[t, o]
                second = np.zeros((2, 2))
                second[np.ix_(m, m)] = covariance[k][np.ix_(m, m)] - gain @ covariance[k][np.ix_(o, m)]
            conditional[0][t, k], conditional[1][t, k] = mean, second + np.outer(mean, mean)
    exact = np.log(INITIAL), np.log(TRANSITION), log_likelihoods
    assert_allclose(distribution.log_prob(value), reference.log_normalizer(*exact))
    probs = reference.smoothed(*exact)
    draws = np.asarray(in_many_draws(lambda key: distribution.sample_missing(key, value), 10_000))
    np.testing.assert_array_equal(draws[:, mask], np.broadcast_to(value[mask], draws[:, mask].shape))
    assert_mean(draws, np.einsum("tk,tki->ti", probs, conditional[0]))
    assert_mean(draws[..., :, None] * draws[..., None, :], np.einsum("tk,tkij->tij", probs, conditional[1]))


def test_no_two_series_share_their_randomness():
    """Equal series in a batch get different states, different fillings and different draws."""
    value = np.broadcast_to(np.where(MASK, COUNTS, 0), (50, NUM_STEPS))
    distribution = poisson(emission=dist.Normal(np.array([3.0, 4.0, 5.0]), 1.0), mask=MASK).expand((50,))

    @jax.jit
    def draws(key):
        states = distribution.sample_latents(key, value)["states"]
        return states, distribution.sample_missing(key, value)[:, ~MASK], distribution.sample(key)

    for array in draws(random.key(10)):
        assert len(np.unique(np.asarray(array), axis=0)) > 5


def test_states_and_value_are_drawn_together():
    """Given its states each observation comes from the emission of its own state."""
    distribution = poisson(emission=dist.Normal(np.array([-1e3, 0.0, 1e3]), 1.0))
    value, latents = distribution.sample_with_latents(random.key(11), (100,))
    np.testing.assert_array_equal(np.round(value / 1e3) + 1, latents["states"])


def test_one_series_under_several_masks_and_lengths():
    """As in cross-validation: the same series with different steps left out."""
    value = np.array([0.1, -1.0, 2.0, 0.3])
    mask = np.array([[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]], bool)

    def series(**options):
        emission = dist.Normal(jnp.array([-1.0, 1.0]), 1.0)
        return HiddenMarkov(jnp.ones(2) / 2, jnp.array([[0.9, 0.1], [0.2, 0.8]]), emission, num_steps=4, **options)

    assert_allclose(series(mask=mask).log_prob(value), jnp.stack([series(mask=row).log_prob(value) for row in mask]))
    by_length = series(lengths=jnp.array([4, 2])).log_prob(value)
    assert_allclose(by_length, jnp.stack([series().log_prob(value), series(lengths=jnp.array(2)).log_prob(value)]))
    gaps = np.where(mask[1], value, np.nan)
    assert_allclose(series(mask=mask[[1, 1]]).log_prob(gaps), jnp.stack([series(mask=mask[1]).log_prob(value)] * 2))
    with pytest.raises(ValueError, match="value is NaN at sequence 0, step 1"):
        series(mask=mask).log_prob(gaps)
