"""Conjugate priors: closed forms against the definition of a posterior, textbook formulas, and simulation."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.distributions.transforms import biject_to
from numpyro.infer import MCMC, NUTS

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import switching_regression
from tsppl.conjugate import draw_probabilities, regression_statistics, transition_counts

RNG = np.random.default_rng(0)
LOC = np.array([[1.0, 0.0, 2.0], [0.0, 1.0, -1.0]])
COLUMN_COVARIANCE = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.1], [0.0, 0.1, 0.5]])
SCALE = np.array([[2.0, 0.5], [0.5, 1.0]])
PRIOR = tsd.MatrixNormalInverseWishart(LOC, np.linalg.cholesky(COLUMN_COVARIANCE), 7.0, SCALE)
INPUTS, OUTPUTS = RNG.normal(size=(6, 3)), RNG.normal(size=(6, 2))


def test_log_density_is_that_of_the_two_sites():
    value = PRIOR.sample(random.key(0), (3,))
    coefficients, covariance = PRIOR.split(value)
    two = dist.InverseWishart(7.0, SCALE).log_prob(covariance) + dist.MatrixNormal(
        LOC, jnp.linalg.cholesky(covariance), np.linalg.cholesky(COLUMN_COVARIANCE)
    ).log_prob(coefficients)
    assert_allclose(PRIOR.log_prob(value), two)


def test_posterior_and_marginal_likelihood():
    """Bayes' rule at any point, the textbook's formulas, and one row after the other."""
    posterior, value = PRIOR.posterior(INPUTS, OUTPUTS), PRIOR.sample(random.key(1))
    coefficients, covariance = PRIOR.split(value)
    likelihood = dist.MultivariateNormal(INPUTS @ coefficients.T, covariance).log_prob(OUTPUTS).sum()
    log_marginal = PRIOR.log_marginal_likelihood(INPUTS, OUTPUTS)
    assert_allclose(likelihood + PRIOR.log_prob(value) - posterior.log_prob(value), log_marginal)
    mean, _, expected = switching_regression.regression_posterior(INPUTS, OUTPUTS, LOC, COLUMN_COVARIANCE, 7.0, SCALE)
    assert_allclose((posterior.loc, log_marginal), (jnp.asarray(mean), jnp.asarray(expected)))
    in_turn, current = 0.0, PRIOR
    for row in range(6):
        in_turn += current.log_marginal_likelihood(INPUTS[row : row + 1], OUTPUTS[row : row + 1])
        current = current.posterior(INPUTS[row : row + 1], OUTPUTS[row : row + 1])
    assert_allclose((in_turn, current.loc, current.scale_tril), (log_marginal, posterior.loc, posterior.scale_tril))
    twice = PRIOR.posterior(INPUTS, OUTPUTS, weights=jnp.full(6, 2.0))
    assert_allclose(twice.loc, PRIOR.posterior(np.tile(INPUTS, (2, 1)), np.tile(OUTPUTS, (2, 1))).loc)


def test_a_mean_is_a_regression_on_a_constant():
    prior = tsd.NormalInverseWishart(jnp.array([1.0, 2.0]), 0.5, 5.0, SCALE)
    posterior = prior.posterior(OUTPUTS)
    assert_allclose(posterior.loc[:, 0], (0.5 * jnp.array([1.0, 2.0]) + OUTPUTS.sum(0)) / 6.5)
    scatter = np.cov(OUTPUTS.T, bias=True) * 6
    gap = OUTPUTS.mean(0) - np.array([1.0, 2.0])
    scale = SCALE + scatter + 0.5 * 6 / 6.5 * np.outer(gap, gap)
    assert_allclose(posterior.scale_tril @ posterior.scale_tril.T, jnp.asarray(scale))
    mean, covariance = prior.split(prior.sample(random.key(0), (4,)))
    assert mean.shape == (4, 2)
    assert covariance.shape == (4, 2, 2)


@pytest.mark.slow
def test_sampling_batches_and_plates():
    draws = PRIOR.sample(random.key(2), (50_000,))
    error = np.asarray(draws).std(0) / np.sqrt(50_000)
    assert (abs(np.asarray(draws).mean(0) - PRIOR.mean) < 5 * error).all()
    coefficients, covariance = PRIOR.split(draws)
    scaled = np.linalg.solve(np.linalg.cholesky(covariance), coefficients - LOC)
    moments = np.einsum("sij,sik->sijk", scaled, scaled).mean((0, 1))
    np.testing.assert_allclose(moments, COLUMN_COVARIANCE, atol=0.05)
    batch = tsd.MatrixNormalInverseWishart(LOC, np.eye(3), jnp.array([5.0, 9.0]), SCALE)
    assert batch.batch_shape == (2,)
    assert batch.sample(random.key(0), (4,)).shape == (4, 2, 2, 5)
    assert_allclose(
        batch.log_prob(draws[:2])[1], tsd.MatrixNormalInverseWishart(LOC, np.eye(3), 9.0, SCALE).log_prob(draws[1])
    )

    def model():
        with numpyro.plate("state", 3):
            return numpyro.sample("value", PRIOR)

    assert numpyro.handlers.seed(model, 0)().shape == (3, 2, 5)


def test_the_constraint_is_one_to_one_and_its_volume_right():
    transform = biject_to(PRIOR.support)
    free = random.normal(random.key(0), (9,))
    value = transform(free)
    assert PRIOR.support(value)
    assert not PRIOR.support(value.at[0, 3].set(-1.0))
    assert_allclose(transform._inverse(value), free)
    assert transform.forward_shape((4, 9)) == (4, 2, 5)
    assert transform.inverse_shape((4, 2, 5)) == (4, 9)
    upper = np.triu_indices(2)

    def independent(free):
        coefficients, covariance = PRIOR.split(transform(free))
        return jnp.concatenate([coefficients.reshape(-1), covariance[upper]])

    assert_allclose(transform.log_abs_det_jacobian(free, value), jnp.linalg.slogdet(jax.jacobian(independent)(free))[1])


@pytest.mark.slow
def test_nuts_samples_the_prior():
    chain = MCMC(NUTS(lambda: numpyro.sample("value", PRIOR)), num_warmup=500, num_samples=4_000, progress_bar=False)
    chain.run(random.key(1))
    np.testing.assert_allclose(chain.get_samples()["value"].mean(0), PRIOR.mean, atol=0.08)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((LOC, np.eye(2), 5.0, SCALE), r"scale_tril_column has shape \(2, 2\)"),
        ((LOC, np.eye(3), 5.0, np.eye(3)), r"scale_matrix has shape \(3, 3\)"),
        ((LOC, np.eye(3), 5.0), "give one of scale_matrix and scale_tril"),
    ],
)
def test_shapes_that_do_not_fit(arguments, message):
    with pytest.raises(ValueError, match=message):
        tsd.MatrixNormalInverseWishart(*arguments)


@pytest.mark.parametrize("num_rows", [5, 700])
def test_sums_of_each_state_against_a_loop(num_rows):
    """Unequal and empty states, rows that count nowhere, and more rows than a block holds."""
    inputs, outputs = RNG.normal(size=(num_rows, 3)), RNG.normal(size=(num_rows, 2))
    states = RNG.choice([-1, 0, 0, 0, 2], size=num_rows)
    found = jax.jit(regression_statistics, static_argnums=3)(inputs, outputs, states, 3)
    for state in range(3):
        x, y = inputs[states == state], outputs[states == state]
        expected = x.T @ x, y.T @ x, y.T @ y, np.array(float(len(x)))
        for part, desired in zip(found, expected, strict=True):
            assert_allclose(part[state], jnp.asarray(desired))


def test_counts_of_ragged_paths():
    paths = jnp.array([[-1, 0, 1, 1, 0], [-1, 1, 1, 0, 0]])
    starts, transitions = transition_counts(paths, 2, jnp.array([5, 3]))
    assert starts.tolist() == [1, 1]
    assert transitions.tolist() == [[0, 1], [1, 2]]


def test_probabilities_of_tiny_concentration_stay_positive():
    probs = draw_probabilities(random.key(0), jnp.full((100, 4), 1e-4))
    assert (probs > 0).all()
    assert_allclose(probs.sum(-1), 1.0)


def test_lag_weights_are_the_regression_cut_up():
    """The mean of an autoregression is the coefficients times lags and a constant, in that order."""
    coefficients = jnp.asarray(RNG.normal(size=(2, 2 * 3 + 1)))
    weights, bias = tsd.lag_weights(coefficients)
    lags = jnp.asarray(RNG.normal(size=(3, 2)))
    expected = sum(weights[lag] @ lags[lag] for lag in range(3)) + bias
    assert_allclose(coefficients @ jnp.concatenate([lags.reshape(-1), jnp.ones(1)]), expected)
    assert_allclose(tsd.lag_coefficients(weights, bias), coefficients)
    with pytest.raises(ValueError, match="one more for the constant"):
        tsd.lag_weights(coefficients[:, :-1])
