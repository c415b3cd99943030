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
from tsppl.distributions.autoregressive_hmm import AutoregressiveHMM
from tsppl.distributions.linear_gaussian_ssm import LinearGaussianSSM
from tsppl.inference.em import em
from tsppl.inference.emission_parameters import parameters, rebuild

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

EMISSIONS = {
    "poisson": (dist.Poisson(np.array([2.0, 5.0])), COUNTS, STEPS),
    "bernoulli": (dist.Bernoulli(logits=np.array([-0.5, 1.0])), CATEGORIES % 2, STEPS),
    "categorical": (dist.Categorical(PROBS), CATEGORIES, STEPS),
    "normal": (dist.Normal(LOC, SCALE).to_event(1), VALUE, ENTRIES),
    "multivariate normal": (dist.MultivariateNormal(LOC, COVARIANCE), VALUE, ENTRIES),
}


def chain(emission, **options):
    return tsd.HiddenMarkov(INITIAL, TRANSITION, emission, num_steps=options.pop("num_steps", T), **options)


def reference_states(distribution, value):
    terms = np.asarray(distribution._potentials(jnp.asarray(value))[2])
    return reference.expected_states(INITIAL, TRANSITION, [t[:n] for t, n in zip(terms, LENGTHS, strict=True)])


@pytest.mark.parametrize("name", EMISSIONS)
def test_one_step_of_the_hidden_markov_model_equals_enumeration(name):
    emission, value, mask = EMISSIONS[name]
    model = chain(emission, mask=mask, lengths=LENGTHS)
    fitted = em(model, value, num_iters=1, tol=-1.0).distribution
    initial, transition, probs = reference_states(model, value)
    assert_allclose(fitted.initial_probs, initial)
    assert_allclose(fitted.transition_probs, transition)
    series = [[v if s else None for v, s in zip(value[b], STEPS[b], strict=True)][: LENGTHS[b]] for b in range(B)]
    for k in range(K):
        if name == "poisson":
            assert_allclose(fitted.emission.rate[k], reference.weighted_mean(series, probs, k))
        elif name == "bernoulli":
            assert_allclose(jax.nn.sigmoid(fitted.emission.logits[k]), reference.weighted_mean(series, probs, k))
        elif name == "categorical":
            assert_allclose(fitted.emission.probs[k], reference.weighted_mean(series, probs, k, lambda v: np.eye(3)[v]))
        elif name == "normal":
            for n in range(N):
                channel = [
                    [v[n] if seen[n] else None for v, seen in zip(value[b], ENTRIES[b], strict=True)][: LENGTHS[b]]
                    for b in range(B)
                ]
                loc = reference.weighted_mean(channel, probs, k)
                variance = reference.weighted_mean(channel, probs, k, lambda v, loc=loc: (v - loc) ** 2)
                assert_allclose(fitted.emission.base_dist.loc[k, n], loc)
                assert_allclose(fitted.emission.base_dist.scale[k, n], np.sqrt(variance))
        else:
            completed = [
                [
                    reference.complete(LOC[k], COVARIANCE[k], v, seen) if seen.any() else None
                    for v, seen in zip(value[b], ENTRIES[b], strict=True)
                ][: LENGTHS[b]]
                for b in range(B)
            ]
            loc = reference.weighted_mean(completed, probs, k, lambda pair: pair[0])
            covariance = reference.weighted_mean(
                completed, probs, k, lambda pair, loc=loc: np.outer(pair[0] - loc, pair[0] - loc) + pair[1]
            )
            assert_allclose(fitted.emission.loc[k], loc)
            assert_allclose(fitted.emission.covariance_matrix[k], covariance)


def test_one_step_of_the_autoregressive_model_equals_enumeration():
    weights, mask = 0.3 * RNG.normal(size=(K, 1, N, N)), np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 1]], bool)
    model = AutoregressiveHMM(
        INITIAL, TRANSITION, weights, dist.MultivariateNormal(LOC, COVARIANCE), num_steps=T, mask=mask
    )
    fitted = em(model, VALUE, num_iters=1, tol=-1.0).distribution
    terms = list(np.asarray(model._potentials(jnp.asarray(VALUE))[2]))
    initial, transition, probs = reference.expected_states(INITIAL, TRANSITION, terms)
    assert_allclose(fitted.initial_probs, initial)
    assert_allclose(fitted.transition_probs, transition)
    for k in range(K):
        rows = [
            (np.append(VALUE[b, t - 1], 1.0), VALUE[b, t], probs[b][t - 1, k])
            for b in range(B)
            for t in range(1, T)
            if mask[b, t - 1 : t + 1].all()
        ]
        sums = [
            sum(w * np.outer(u, v) for u, v, w in ((r[i], r[j], r[2]) for r in rows))
            for i, j in ((0, 0), (1, 0), (1, 1))
        ]
        coefficients, covariance = reference.regression((*sums, sum(row[2] for row in rows)))
        assert_allclose(fitted.weights[k, 0], coefficients[:, :N])
        assert_allclose(fitted.noise.loc[k], coefficients[:, N])
        assert_allclose(fitted.noise.covariance_matrix[k], covariance)


@pytest.mark.smoke
def test_autoregressive_model_of_one_state_is_least_squares():
    value = RNG.normal(size=(30, N)).cumsum(0) * 0.3
    noise = dist.Normal(jnp.zeros(N), 1.0).to_event(1)
    model = AutoregressiveHMM(jnp.ones(1), jnp.ones((1, 1)), jnp.zeros((1, 2, N, N)), noise, num_steps=30)
    fitted = em(model, value).distribution
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
    fitted = em(model, VALUE, num_iters=1, tol=-1.0).distribution
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


def test_driven_noise_changes_only_the_rows_it_reaches_and_held_parameters_stay():
    _, model = linear_gaussian(True)
    driven = LinearGaussianSSM(
        model.initial,
        np.array([[0.5, 0.1], [1.0, 0.0]]),
        dist.Normal(jnp.zeros(1), 1.0).to_event(1),
        model.emission_matrix,
        model.emission_noise,
        num_steps=T,
        noise_matrix=np.array([[1.0], [0.0]]),
    )
    result = em(driven, VALUE, num_iters=20, fixed=("initial", "emission_noise.loc"))
    assert np.diff(result.log_likelihoods).min() >= 0
    assert_allclose(result.distribution.log_prob(VALUE).sum(), result.log_likelihoods[-1])
    assert_allclose(result.distribution.transition_matrix[1], np.array([1.0, 0.0]))
    assert abs(result.distribution.transition_matrix[0] - np.array([0.5, 0.1])).max() > 0.01
    assert_allclose(result.distribution.initial.base_dist.loc, model.initial.base_dist.loc)
    assert_allclose(result.distribution.emission_noise.base_dist.loc, model.emission_noise.base_dist.loc)


LONG = 40
STATES = np.repeat([0, 1, 0, 1], 10)
LONG_MASK = RNG.random((B, LONG)) > 0.2
LONG_LENGTHS = np.array([40, 33])
SERIES = np.array([0.0, 3.0])[STATES] + RNG.normal(size=(B, LONG))
CLIMBED = {
    "gamma": (dist.Gamma(np.array([1.0, 3.0]), np.ones(2)), np.exp(0.5 * SERIES), {}),
    "student": (dist.StudentT(4.0, np.array([0.5, 2.0]), 1.0), SERIES, {"emission.df": dist.Gamma(2.0, 0.1)}),
    "streams": (
        tsd.Streams(
            count=dist.Poisson(np.array([1.0, 3.0])), angle=dist.VonMises(0.0, np.array([0.5, 2.0])), name=dist.Normal()
        ),
        np.stack([np.floor(np.exp(0.5 * SERIES)), np.sin(SERIES), SERIES], -1),
        {"emission.count.rate": dist.Gamma(2.0, 1.0)},
    ),
}


def gradient_at(distribution, value, priors=None, argument="emission"):
    """Largest derivative of the objective by the logits of the transitions and the unconstrained emission."""
    from tsppl.inference.em_steps import steps_of

    values = parameters(getattr(distribution, argument))
    free = {name: biject_to(p.constraint).inv(p.value) for name, p in values.items()}

    def objective(free, logits):
        changed = copy.copy(distribution)
        constrained = {name: biject_to(values[name].constraint)(array) for name, array in free.items()}
        setattr(changed, argument, rebuild(getattr(distribution, argument), constrained))
        changed.transition_probs = jax.nn.softmax(logits)
        return changed.log_prob(value).sum() + steps_of(changed).log_prior(changed, priors or {})

    gradients = jax.jit(jax.grad(objective, (0, 1)))(free, jnp.log(distribution.transition_probs))
    return max(float(abs(leaf).max()) for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", CLIMBED)
def test_any_family_climbs_to_a_stationary_point(name):
    emission, value, priors = CLIMBED[name]
    priors = priors | {
        "transition_probs": dist.Dirichlet(1 + 2 * jnp.eye(2)),
        "initial_probs": dist.Dirichlet(jnp.full(2, 2.0)),
    }
    model = chain(emission, num_steps=LONG, mask=LONG_MASK, lengths=LONG_LENGTHS)
    result = em(model, value, num_iters=400, tol=1e-11, priors=priors)
    assert result.converged
    assert np.diff(result.log_likelihoods).min() >= 0
    assert gradient_at(result.distribution, value, priors) < 2e-3


def test_exact_families_are_monotone_with_masks_lengths_and_priors_and_end_where_the_gradient_vanishes():
    value = np.stack([SERIES, SERIES[:, ::-1]], -1)
    mask = RNG.random(value.shape) > 0.2
    priors = {
        "emission.covariance_matrix": dist.InverseWishart(6.0, jnp.eye(2)).expand([2]),
        "transition_probs": dist.Dirichlet(jnp.full((2, 2), 2.0)),
    }
    model = chain(dist.MultivariateNormal(LOC, COVARIANCE), num_steps=LONG, mask=mask, lengths=LONG_LENGTHS)
    result = em(model, value, num_iters=400, tol=1e-12, priors=priors)
    assert result.converged
    rises = np.diff(result.log_likelihoods)
    assert rises.min() >= 0
    assert gradient_at(result.distribution, value, priors) < 1e-3


def test_conjugate_priors_agree_with_the_gradient():
    counts = np.asarray(np.floor(np.exp(0.5 * SERIES)))
    model = chain(dist.Poisson(np.array([1.0, 3.0])), num_steps=LONG, mask=LONG_MASK, lengths=LONG_LENGTHS)
    priors = {
        "emission.rate": dist.Gamma(np.array([3.0, 9.0]), 2.0),
        "transition_probs": dist.Dirichlet(jnp.full(2, 3.0)),
    }
    result = em(model, counts, num_iters=400, tol=1e-12, priors=priors)
    assert gradient_at(result.distribution, counts, priors) < 1e-4
    free = em(model, counts, num_iters=400, tol=1e-12).log_likelihoods[-1]
    assert result.distribution.log_prob(counts).sum() < free


@pytest.mark.smoke
def test_earthquakes_with_restarts_reach_the_published_maximum():
    """Zucchini, MacDonald and Langrock (2016), table 3.1: minus log-likelihood 329.4603 with three states."""
    counts, _ = earthquakes()
    start = tsd.HiddenMarkov(
        jnp.full(3, 1 / 3), jnp.full((3, 3), 1 / 3), dist.Poisson(jnp.array([15.0, 16.0, 17.0])), num_steps=len(counts)
    )
    result = em(start, counts, num_iters=300, num_restarts=4, key=jax.random.key(0), tol=1e-8)
    assert result.distribution.batch_shape == () and result.restarts.shape == (4,)
    assert_allclose(result.log_likelihoods[-1], result.restarts.max())
    assert_allclose(result.distribution.log_prob(counts), result.log_likelihoods[-1])
    assert_allclose(result.log_likelihoods[-1], -328.5275, atol=1e-3)
