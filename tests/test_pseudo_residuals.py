"""Cumulative probabilities against sums and quadrature of the one-step predictive density, and uniform under the truth."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.integrate import quad

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.distributions.cumulative import cdf_bounds

INITIAL, ROWS = jnp.array([0.4, 0.6]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
RNG = np.random.default_rng(0)
T = 4


def beginnings(build, value, step, last):
    """Density of the first ``step + 1`` observations with ``last`` in the last place."""
    series = np.append(np.asarray(value)[:step], last)
    return float(jnp.exp(build(step + 1).log_prob(jnp.asarray(series))))


def test_hidden_markov_counts_equal_sums_of_the_predictive():
    def build(num_steps):
        return tsd.HiddenMarkov(INITIAL, ROWS, dist.Poisson(jnp.array([1.0, 6.0])), num_steps=num_steps)

    value = np.array([2, 7, 0, 3])
    lower, upper = build(T).cdf_steps(value)
    for step in range(T):
        weights = np.array([beginnings(build, value, step, count) for count in range(value[step] + 1)])
        total = 1.0 if step == 0 else float(jnp.exp(build(step).log_prob(value[:step])))
        assert_allclose(upper[step], weights.sum() / total)
        assert_allclose(lower[step], weights[:-1].sum() / total)


def scalar_autoregression(num_steps):
    return tsd.AutoregressiveHMM(
        INITIAL, ROWS, jnp.array([[0.5], [-0.3]]), dist.StudentT(5.0, jnp.array([-1.0, 1.0]), 0.7), num_steps=num_steps
    )


def state_space(num_steps):
    noise = dist.Normal(jnp.zeros(2), jnp.array([0.5, 0.3])).to_event(1)
    matrix = jnp.array([[0.9, 0.2], [0.0, 0.7]])
    return tsd.LinearGaussianSSM(
        noise, matrix, noise, jnp.array([1.0, 0.5]), dist.Normal(0.3, 0.4), num_steps=num_steps
    )


@pytest.mark.parametrize("build", [scalar_autoregression, state_space])
def test_continuous_series_equal_quadrature_of_the_predictive(build):
    value = RNG.normal(size=T)
    lower, upper = build(T).cdf_steps(value)
    assert_allclose(lower, upper)
    step = T - 1
    density = jax.jit(lambda last: jnp.exp(build(T).log_prob(jnp.append(value[:step], last))))
    below, total = quad(density, -30, value[step])[0], quad(density, -30, 30, points=[0.0])[0]
    assert_allclose(upper[step], below / total, atol=1e-6)
    assert np.isnan(np.asarray(upper)).tolist() == [build is scalar_autoregression, False, False, False]


def test_streams_with_gaps_are_taken_one_by_one():
    emission = tsd.Streams(
        step=tsd.ZeroInflated(dist.Gamma(jnp.array([1.0, 3.0])), jnp.array([0.3, 0.1])),
        turn=dist.VonMises(jnp.array([jnp.pi, 0.0]), 1.5),
        kind=dist.Bernoulli(jnp.array([0.2, 0.9])),
    )
    mask = jnp.array([[True, True, True], [True, False, True], [False, False, False], [True, True, True]])
    value = np.array([[0.0, 1.0, 1], [2.0, np.nan, 0], [np.nan, np.nan, np.nan], [1.0, -2.0, 1]])
    model = tsd.HiddenMarkov(INITIAL, ROWS, emission, num_steps=T, mask=mask)
    lower, upper = map(np.asarray, model.cdf_steps(value))
    assert np.isnan(upper).tolist() == (~np.asarray(mask)).tolist()
    assert_allclose(upper[0, 0], 0.4 * 0.3 + 0.6 * 0.1, rtol=1e-6)
    assert lower[0, 0] == 0.0
    wrapped = stats.vonmises(1.5, loc=0.0)
    rest = stats.vonmises(1.5, loc=np.pi)
    expected = 0.4 * (rest.cdf(1.0) - rest.cdf(-np.pi)) + 0.6 * (wrapped.cdf(1.0) - wrapped.cdf(-np.pi))
    assert_allclose(upper[0, 1], expected, atol=1e-5)
    assert_allclose(lower[0, 2], 0.4 * 0.8 + 0.6 * 0.1)
    assert upper[0, 2] == pytest.approx(1.0)


def test_families_without_their_own_cdf_and_refusals():
    law = tsd.WrappedCauchy(0.3, jnp.array([0.2, 0.6]))
    angle = jnp.array([0.1, -2.0])
    expected = [quad(lambda x, k=k: jnp.exp(law.log_prob(x))[k], -np.pi, angle[k])[0] for k in range(2)]
    assert_allclose(cdf_bounds(law, angle)[1], np.array(expected), atol=1e-5)
    lower, upper = cdf_bounds(dist.Categorical(jnp.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])), jnp.array([[1], [0]]))
    assert_allclose(lower, jnp.array([[0.2, 1.0], [0.0, 0.0]]))
    assert_allclose(upper, jnp.array([[0.5, 1.0], [0.2, 1.0]]))
    normal = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[4.0, 1.0], [1.0, 9.0]]))
    assert_allclose(cdf_bounds(normal, jnp.array([2.0, -3.0]))[0], stats.norm.cdf([1.0, -1.0]))
    with pytest.raises(NotImplementedError, match="Dirichlet has no cumulative"):
        cdf_bounds(dist.Dirichlet(jnp.ones(2)), jnp.ones(2) / 2)


def model(y, num_steps):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    numpyro.sample("y", tsd.HiddenMarkov(INITIAL, ROWS, dist.Normal(loc, 1.0), num_steps=num_steps), obs=y)


def test_residuals_are_normal_and_independent_under_the_truth_alone():
    truth = tsd.HiddenMarkov(INITIAL, ROWS, dist.Normal(jnp.array([-2.0, 2.0]), 1.0), num_steps=1500)
    y = truth.sample(jax.random.key(1))
    found = tsppl.residuals(jax.random.key(0), model, {"loc": jnp.array([[-2.0, 2.0]])}, y, 1500, batch_ndims=1)["y"]
    assert stats.kstest(np.asarray(found.uniform), "uniform").pvalue > 0.01
    assert_allclose(stats.norm.cdf(found.normal), np.asarray(found.uniform), atol=1e-6)
    assert abs(np.corrcoef(found.normal[1:], found.normal[:-1])[0, 1]) < 0.06
    wrong = tsppl.residuals(jax.random.key(0), model, {"loc": jnp.array([[-2.0, 1.0]])}, y, 1500, batch_ndims=1)["y"]
    assert stats.kstest(np.asarray(wrong.uniform), "uniform").pvalue < 1e-4
