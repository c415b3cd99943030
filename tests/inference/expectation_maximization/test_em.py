"""Expectation maximisation against enumerated and dense references, and what any user of it relies on."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from numpyro.distributions.transforms import biject_to

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import em as reference
from tsppl.datasets import earthquakes
from tsppl.distributions.autoregressive.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.linear_gaussian.linear_gaussian_ssm import LinearGaussianSSM
from tsppl.inference.expectation_maximization.em import em
from tsppl.inference.expectation_maximization.emission_parameters import parameters, rebuild
from tsppl.inference.expectation_maximization.families import steps_of

B, T, K, N = 2, 5, 2, 2
RNG = np.random.default_rng(0)
INITIAL, TRANSITION = np.array([0.6, 0.4]), np.array([[0.8, 0.2], [0.3, 0.7]])
LENGTHS = np.array([5, 3])
ENTRIES = np.array([[[1, 1], [0, 1], [1, 0], [0, 0], [1, 1]], [[1, 1], [1, 0], [1, 1], [1, 1], [1, 1]]], bool)
STEPS = ENTRIES.any(-1)
LOC, SCALE = np.array([[0.0, 1.0], [2.0, -1.0]]), np.array([[1.0, 0.7], [0.5, 1.5]])
COVARIANCE = np.array([[[1.0, 0.4], [0.4, 0.5]], [[0.7, -0.2], [-0.2, 1.2]]])
VALUE = RNG.normal(size=(B, T, N)) + 1
COUNTS = RNG.poisson(3.0, size=(B, T))
CATEGORIES = RNG.integers(0, 3, size=(B, T))
PROBS = np.array([[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]])

CHAIN_PRIORS = {
    "initial_probs": dist.Dirichlet(np.array([2.0, 3.0])),
    "transition_probs": dist.Dirichlet(np.array([[4.0, 1.0], [1.0, 2.0]])),
}
EMISSIONS = {
    "streams": (
        tsd.Streams(count=dist.Poisson(np.array([2.0, 5.0])), flag=dist.Bernoulli(logits=np.array([-0.5, 1.0]))),
        np.stack([COUNTS, CATEGORIES % 2], -1),
        ENTRIES,
        CHAIN_PRIORS
        | {"emission.count.rate": dist.Gamma(3.0, 2.0), "emission.flag.probs": dist.Beta(3.0, 2.0).expand([K])},
    ),
    "categorical": (
        dist.Categorical(PROBS),
        CATEGORIES,
        STEPS,
        {"emission.probs": dist.Dirichlet(np.array([1.0, 2.0, 3.0]))},
    ),
    "normal": (dist.Normal(LOC, SCALE).to_event(1), VALUE, ENTRIES, {}),
    "multivariate normal": (dist.MultivariateNormal(LOC, COVARIANCE), VALUE, ENTRIES, {}),
}


def chain(emission, **options):
    return tsd.HiddenMarkov(INITIAL, TRANSITION, emission, num_steps=options.pop("num_steps", T), **options)


def one_step(distribution, value, **options):
    return jax.tree.map(np.asarray, em(distribution, value, num_iters=1, tol=-1.0, **options).distribution)


@jax.jit
def log_likelihoods(distribution, value):
    return distribution.potentials(value)[2]


@jax.jit
def log_prob(distribution, value):
    return distribution.log_prob(value).sum()


def check_chain(fitted, first, pairs, priors):
    if priors:
        first = first + np.asarray(priors["initial_probs"].concentration) - 1
        pairs = pairs + np.asarray(priors["transition_probs"].concentration) - 1
    assert_allclose(fitted.initial_probs, first / first.sum())
    assert_allclose(fitted.transition_probs, pairs / pairs.sum(1, keepdims=True))


@pytest.mark.parametrize("name", EMISSIONS)
def test_one_step_of_the_hidden_markov_model_equals_enumeration(name):
    emission, value, mask, priors = EMISSIONS[name]
    model = chain(emission, mask=mask, lengths=LENGTHS)
    fitted = one_step(model, value, priors=priors)
    terms = np.asarray(log_likelihoods(model, value))
    cut = [series[:length] for series, length in zip(terms, LENGTHS, strict=True)]
    first, pairs, probs = reference.expected_states(INITIAL, TRANSITION, cut)
    check_chain(fitted, first, pairs, priors if "initial_probs" in priors else {})

    def series(function):
        """``function(value, observed entries)`` of every step of every series, None where nothing was observed."""
        return [
            [function(value[b, t], ENTRIES[b, t]) if STEPS[b, t] else None for t in range(LENGTHS[b])] for b in range(B)
        ]

    for k in range(K):
        if name == "streams":
            total, mass = reference.weighted_sums(series(lambda v, seen: v[0] if seen[0] else None), probs, k)
            assert_allclose(fitted.emission.streams[0].rate[k], (total + 3 - 1) / (mass + 2))
            total, mass = reference.weighted_sums(series(lambda v, seen: v[1] if seen[1] else None), probs, k)
            logit = fitted.emission.streams[1].logits[k]
            assert_allclose(1 / (1 + np.exp(-logit)), (total + 3 - 1) / (mass + 3 + 2 - 2))
        elif name == "categorical":
            total, _ = reference.weighted_sums(series(lambda v, seen: np.eye(3)[v]), probs, k)
            total = total + np.array([0.0, 1.0, 2.0])
            assert_allclose(fitted.emission.probs[k], total / total.sum())
        elif name == "normal":
            for n in range(N):
                channel = series(lambda v, seen, n=n: v[n] if seen[n] else None)
                loc = reference.weighted_mean(channel, probs, k)
                variance = reference.weighted_mean(channel, probs, k, lambda v, loc=loc: (v - loc) ** 2)
                assert_allclose(fitted.emission.base_dist.loc[k, n], loc)
                assert_allclose(fitted.emission.base_dist.scale[k, n], np.sqrt(variance))
        else:
            completed = series(lambda v, seen, k=k: reference.complete(LOC[k], COVARIANCE[k], v, seen))
            loc = reference.weighted_mean(completed, probs, k, lambda pair: pair[0])
            covariance = reference.weighted_mean(
                completed, probs, k, lambda pair, loc=loc: np.outer(pair[0] - loc, pair[0] - loc) + pair[1]
            )
            assert_allclose(fitted.emission.loc[k], loc)
            assert_allclose(fitted.emission.covariance_matrix[k], covariance)


@pytest.mark.parametrize("diagonal", [True, False])
def test_one_step_of_the_autoregressive_model_equals_enumeration(diagonal):
    weights = 0.3 * RNG.normal(size=(K, 1, N, N))
    noise = dist.Normal(LOC, SCALE).to_event(1) if diagonal else dist.MultivariateNormal(LOC, COVARIANCE)
    mask = np.ones((B, T, N), bool)
    mask[1, 3, 0] = mask[0, 4, 1] = False
    model = AutoregressiveHMM(INITIAL, TRANSITION, weights, noise, num_steps=T, mask=mask)
    fitted = one_step(model, VALUE)
    terms = list(np.asarray(log_likelihoods(model, VALUE)))
    first, pairs, probs = reference.expected_states(INITIAL, TRANSITION, terms)
    check_chain(fitted, first, pairs, {})
    loc, scale_tril = tsd.gaussian_parameters(fitted.noise)
    for k in range(K):
        moments = [[0.0, 0.0, 0.0, 0.0] for _ in range(N if diagonal else 1)]
        for b in range(B):
            for t in range(1, T):
                if not mask[b, t - 1].all():
                    continue
                x, weight = np.append(VALUE[b, t - 1], 1.0), probs[b][t - 1, k]
                if diagonal:
                    for n in np.flatnonzero(mask[b, t]):
                        y = VALUE[b, t, n : n + 1]
                        terms = np.outer(x, x), np.outer(y, x), np.outer(y, y), 1.0
                        moments[n] = [a + weight * c for a, c in zip(moments[n], terms, strict=True)]
                else:
                    mean = weights[k, 0] @ x[:N] + LOC[k]
                    y, spread = reference.complete(mean, COVARIANCE[k], VALUE[b, t], mask[b, t])
                    terms = np.outer(x, x), np.outer(y, x), np.outer(y, y) + spread, 1.0
                    moments[0] = [a + weight * c for a, c in zip(moments[0], terms, strict=True)]
        lines = [reference.regression(sums) for sums in moments]
        coefficients = np.vstack([line[0] for line in lines])
        covariance = np.diag([line[1][0, 0] for line in lines]) if diagonal else lines[0][1]
        assert_allclose(fitted.weights[k, 0], coefficients[:, :N])
        assert_allclose(loc[k], coefficients[:, N])
        assert_allclose(scale_tril[k] @ scale_tril[k].T, covariance)


@pytest.mark.smoke
def test_autoregressive_model_of_one_state_is_least_squares():
    value = RNG.normal(size=(30, N)).cumsum(0) * 0.3
    noise = dist.Normal(np.zeros(N), 1.0).to_event(1)
    model = AutoregressiveHMM(np.ones(1), np.ones((1, 1)), np.zeros((1, 2, N, N)), noise, num_steps=30)
    fitted = jax.tree.map(np.asarray, em(model, value).distribution)
    inputs = np.column_stack([value[1:-1], value[:-2], np.ones(28)])
    coefficients, squares, *_ = np.linalg.lstsq(inputs, value[2:], rcond=None)
    assert_allclose(fitted.weights[0], coefficients[:4].reshape(2, N, N).swapaxes(1, 2))
    assert_allclose(fitted.noise.base_dist.loc[0], coefficients[4])
    assert_allclose(fitted.noise.base_dist.scale[0], np.sqrt(squares / 28))


def linear_gaussian(diagonal, **options):
    rng = np.random.default_rng(3)
    p = {
        "mean": rng.normal(size=2),
        "covariance": np.diag([1.0, 0.5]),
        "weights": np.array([[0.8, 0.2], [-0.1, 0.7]]),
        "bias": rng.normal(size=2),
        "noise": np.diag([0.3, 0.6]),
        "emission_weights": rng.normal(size=(N, 2)),
        "emission_bias": rng.normal(size=N),
        "emission_noise": np.diag([0.5, 0.8]) + (0 if diagonal else 0.2),
    }

    def gaussian(loc, covariance):
        if diagonal:
            return dist.Normal(p[loc], np.sqrt(np.diag(p[covariance]))).to_event(1)
        return dist.MultivariateNormal(p[loc], p[covariance])

    arguments = (
        gaussian("mean", "covariance"),
        p["weights"],
        gaussian("bias", "noise"),
        p["emission_weights"],
        gaussian("emission_bias", "emission_noise"),
    )
    return p, LinearGaussianSSM(*arguments, num_steps=T, **options)


@pytest.mark.parametrize("diagonal", [True, False])
def test_one_step_of_the_linear_gaussian_model_equals_the_dense_joint_gaussian(diagonal):
    start, model = linear_gaussian(diagonal, mask=ENTRIES, lengths=LENGTHS)
    fitted = one_step(model, VALUE)
    cut = [(VALUE[b, : LENGTHS[b]], ENTRIES[b, : LENGTHS[b]]) for b in range(B)]
    expected = reference.linear_gaussian_step(start, *zip(*cut, strict=True), diagonal=diagonal)
    found = {"weights": fitted.transition_matrix, "emission_weights": fitted.emission_matrix}
    for noise, loc, covariance in (
        (fitted.initial, "mean", "covariance"),
        (fitted.transition_noise, "bias", "noise"),
        (fitted.emission_noise, "emission_bias", "emission_noise"),
    ):
        found[loc], scale_tril = tsd.gaussian_parameters(noise)
        found[covariance] = scale_tril @ scale_tril.T
    for name, array in expected.items():
        assert_allclose(found[name], array, rtol=1e-8, atol=1e-10)


def test_driven_noise_changes_only_the_rows_it_reaches_and_priors_enter_an_objective_that_never_falls():
    _, model = linear_gaussian(True)
    driven = LinearGaussianSSM(
        model.initial,
        np.array([[0.5, 0.1], [1.0, 0.0]]),
        dist.Normal(np.zeros(1), 1.0).to_event(1),
        model.emission_matrix,
        model.emission_noise,
        num_steps=T,
        noise_matrix=np.array([[1.0], [0.0]]),
    )
    priors = {"emission_matrix": dist.Normal(0.0, 0.2), "emission_noise.scale": dist.LogNormal(0.0, 0.1)}
    result = em(driven, VALUE, num_iters=20, fixed=("initial", "emission_noise.loc"), priors=priors)
    fitted = jax.tree.map(np.asarray, result.distribution)
    assert np.diff(result.log_likelihoods).min() >= 0
    total = log_prob(fitted, VALUE) + priors["emission_matrix"].log_prob(fitted.emission_matrix).sum()
    total += priors["emission_noise.scale"].log_prob(fitted.emission_noise.base_dist.scale).sum()
    assert_allclose(result.log_likelihoods[-1], total)
    assert abs(fitted.emission_matrix).max() < abs(model.emission_matrix).max()
    assert_allclose(fitted.transition_matrix[1], np.array([1.0, 0.0]))
    assert abs(fitted.transition_matrix[0] - np.array([0.5, 0.1])).max() > 0.01
    assert_allclose(fitted.initial.base_dist.loc, model.initial.base_dist.loc)
    assert_allclose(fitted.emission_noise.base_dist.loc, model.emission_noise.base_dist.loc)


LONG = 40
STATES = np.repeat([0, 1, 0, 1], 10)
LONG_MASK = RNG.random((B, LONG)) > 0.2
LONG_LENGTHS = np.array([40, 33])
SERIES = np.array([0.0, 3.0])[STATES] + RNG.normal(size=(B, LONG))
PAIRS = np.stack([SERIES, SERIES[:, ::-1]], -1)
STICKY = {"transition_probs": dist.Dirichlet(1 + 2 * np.eye(2)), "initial_probs": dist.Dirichlet(np.full(2, 2.0))}


def long_chain(emission, mask=LONG_MASK):
    return chain(emission, num_steps=LONG, mask=mask, lengths=LONG_LENGTHS)


def largest_derivative(distribution, value, priors, argument):
    """Of the objective, by the logits of the transitions and the unconstrained parameters of an emission or noise."""
    values = parameters(getattr(distribution, argument))
    free = {name: biject_to(p.constraint).inv(p.value) for name, p in values.items()}

    def objective(free, logits):
        changed = copy.copy(distribution)
        constrained = {name: biject_to(values[name].constraint)(array) for name, array in free.items()}
        setattr(changed, argument, rebuild(getattr(distribution, argument), constrained))
        changed.transition_probs = jax.nn.softmax(logits)
        return changed.log_prob(value).sum() + steps_of(changed).log_prior(changed, priors)

    gradients = jax.jit(jax.grad(objective, (0, 1)))(free, jnp.log(distribution.transition_probs))
    return max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradients))


CLIMBED = {
    "multivariate normal": (
        dist.MultivariateNormal(LOC, COVARIANCE),
        PAIRS,
        {"emission.covariance_matrix": dist.InverseWishart(6.0, np.eye(2)).expand([2])},
    ),
    "student": (dist.StudentT(4.0, np.array([0.5, 2.0]), 1.0), SERIES, {"emission.df": dist.Gamma(2.0, 0.1)}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multivariate normal", "student"])
def test_climbs_steadily_to_a_mode_of_the_posterior(name):
    emission, value, priors = CLIMBED[name]
    mask = RNG.random(PAIRS.shape) > 0.2 if value.ndim == 3 else LONG_MASK
    priors = priors | STICKY
    result = em(long_chain(emission, mask), value, num_iters=500, tol=1e-11, priors=priors)
    assert result.converged
    assert np.diff(result.log_likelihoods).min() >= 0
    assert result.log_likelihoods[0] < result.log_likelihoods[-1]
    assert largest_derivative(result.distribution, value, priors, "emission") < 2e-3


@pytest.mark.slow
def test_robust_autoregression_climbs_steadily_to_a_mode():
    noise = dist.StudentT(5.0, np.zeros((K, N)), 1.0).to_event(1)
    model = AutoregressiveHMM(
        INITIAL,
        TRANSITION,
        np.array([0.5, -0.5])[:, None, None, None] * np.eye(N),
        noise,
        num_steps=LONG,
        mask=LONG_MASK,
    )
    priors = STICKY | {"weights": dist.Normal(0.0, 0.5), "noise.df": dist.Gamma(2.0, 0.1)}
    result = em(model, PAIRS, num_iters=500, tol=1e-11, priors=priors)
    assert result.converged
    assert np.diff(result.log_likelihoods).min() >= 0
    assert largest_derivative(result.distribution, PAIRS, priors, "noise") < 2e-3


@pytest.mark.smoke
def test_earthquakes_with_restarts_reach_the_best_known_maximum():
    counts, _ = earthquakes()
    start = tsd.HiddenMarkov(np.full(3, 1 / 3), np.full((3, 3), 1 / 3), dist.Poisson(15.0), num_steps=len(counts))
    result = em(start, counts, num_iters=300, num_restarts=4, key=jax.random.key(0), tol=1e-8)
    assert result.distribution.batch_shape == ()
    assert result.restarts.shape == (4,)
    assert result.restarts[0] < result.restarts.max() - 50
    assert_allclose(result.log_likelihoods[-1], result.restarts.max())
    assert_allclose(log_prob(result.distribution, counts), result.log_likelihoods[-1])
    assert_allclose(result.log_likelihoods[-1], -328.5275, atol=1e-3)


def test_parametrisation_and_zeros_of_the_chain_are_kept_and_held_arguments_may_vary_in_time():
    rates = np.exp(RNG.normal(size=(T, K)))
    logits = np.array([[0.0, 1.0], [-np.inf, 0.0]])
    model = tsd.HiddenMarkov(
        np.array([1, 0]),
        None,
        dist.Poisson(rates),
        num_steps=T,
        transition_logits=logits,
        time_varying=("emission",),
    )
    result = em(
        model, COUNTS, fixed=("emission",), num_iters=50, priors={"transition_logits": dist.Dirichlet(np.full(2, 2.0))}
    )
    fitted = jax.tree.map(np.asarray, result.distribution)
    assert_allclose(fitted.initial_probs, np.array([1.0, 0.0]))
    assert fitted.transition_logits[1, 0] == -jnp.inf
    assert_allclose(fitted.emission.rate, rates)
    assert fitted.transition_probs is None
    assert result.log_likelihoods[-1] > result.log_likelihoods[0]
    with pytest.raises(NotImplementedError, match=r"emission varies in time.*fixed=\('emission',\)"):
        em(model, COUNTS)


def test_traced_calls_return_traces_of_one_length_and_agree_with_the_plain_call():
    model = chain(dist.Poisson(np.array([2.0, 5.0])))
    traced = jax.jit(jax.vmap(lambda counts: em(model, counts, num_iters=30, tol=1e-4)))(jnp.asarray(COUNTS))
    assert traced.log_likelihoods.shape == (B, 31)
    for b in range(B):
        plain = em(model, COUNTS[b], num_iters=30, tol=1e-4)
        assert_allclose(traced.log_likelihoods[b, -1], plain.log_likelihoods[-1])
        assert_allclose(traced.distribution.emission.rate[b], plain.distribution.emission.rate)


@pytest.mark.slow
def test_single_precision_survives_a_large_mean():
    value = jnp.asarray(1000 + PAIRS, jnp.float32)
    emission = dist.MultivariateNormal(jnp.asarray(1000 + LOC, jnp.float32), jnp.eye(2, dtype=jnp.float32))
    model = tsd.HiddenMarkov(
        jnp.asarray(INITIAL, jnp.float32), jnp.asarray(TRANSITION, jnp.float32), emission, num_steps=LONG
    )
    single = em(model, value, num_iters=20)
    assert {leaf.dtype for leaf in jax.tree.leaves(single.distribution)} == {jnp.dtype("float32")}
    double = em(chain(dist.MultivariateNormal(LOC, np.eye(2)), num_steps=LONG), PAIRS, num_iters=20)
    assert_allclose(single.distribution.emission.loc, 1000 + double.distribution.emission.loc, atol=2e-3)
    assert_allclose(single.log_likelihoods[-1], double.log_likelihoods[-1], rtol=1e-4)


def test_likelihood_without_a_maximum_stops_with_a_warning_and_a_prior_mends_it():
    value = SERIES[0].copy()
    value[7] = 30.0
    model = chain(dist.MultivariateNormal(np.array([[1.0], [30.0]]), np.eye(1)), num_steps=LONG)
    with pytest.warns(UserWarning, match="collapsed onto few observations"):
        result = em(model, value[:, None])
    assert not result.converged
    assert np.isfinite(result.log_likelihoods).all()


POISSON = chain(dist.Poisson(np.array([2.0, 5.0])))
ERRORS = [
    (dist.Normal(), {}, TypeError, "em takes HiddenMarkov.*not Normal"),
    (POISSON, {"fixed": "emission"}, TypeError, r"pass fixed=\('emission',\)"),
    (POISSON, {"fixed": ("rate",)}, ValueError, "fixed names 'rate'; the parameters are .*'emission.rate'"),
    (POISSON, {"priors": {"rate": dist.Gamma(1.0)}}, ValueError, "priors names 'rate'"),
    (POISSON, {"priors": {"emission.rate": 1.0}}, TypeError, "prior of 'emission.rate' must be a NumPyro distribution"),
    (POISSON, {"priors": {"emission.scale": dist.Gamma(1.0)}}, ValueError, "priors do not fit.*scale"),
    (POISSON, {"priors": {"emission.rate": dist.Gamma(0.5)}}, ValueError, "concentration 0.5: below 1"),
    (POISSON, {"priors": {"initial_probs": dist.Normal()}}, TypeError, "'initial_probs' must be a Dirichlet"),
    (POISSON, {"num_restarts": 2}, ValueError, "needs key="),
    (chain(dist.Poisson(np.ones((B, 1, K)))), {}, NotImplementedError, r"emission has batch shape \(2, 1, 2\)"),
    (chain(dist.Delta(np.array([1.0, 2.0]))), {}, ValueError, "impossible under the starting distribution"),
]


@pytest.mark.parametrize(("distribution", "options", "error", "message"), ERRORS)
def test_bad_input_is_refused(distribution, options, error, message):
    with pytest.raises(error, match=message):
        em(distribution, COUNTS, **options)
