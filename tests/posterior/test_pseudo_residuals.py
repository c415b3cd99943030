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
from tests.reference import hidden_markov as reference
from tsppl.distributions.emissions.marginal_cdf import marginal_cdf

INITIAL, ROWS = jnp.array([0.4, 0.6]), jnp.array([[0.8, 0.2], [0.3, 0.7]])
RNG = np.random.default_rng(0)
T = 4


def test_counts_sum_over_smaller_values():
    """At most y_t, given the past: the sum of the one-step probabilities of 0 .. y_t; less: without the last."""
    counts = jnp.array([[2, 0, 5, 1], [4, 3, 0, 7]])
    mask = jnp.array([[True, True, False, True], [True, True, True, True]])
    known = jnp.array([[-1, -1, -1, -1], [-1, 1, -1, -1]])

    def series(known):
        return tsd.HiddenMarkov(
            INITIAL, ROWS, dist.Poisson(jnp.array([1.0, 5.0])), num_steps=4, mask=mask,
            lengths=jnp.array([4, 3]), known_states=known,
        )  # fmt: skip

    below, up_to = series(None).cdf_steps(counts)
    altered = jnp.stack([counts.at[:, step].set(number) for step in range(4) for number in range(8)])
    probs = jnp.exp(series(None).log_prob_steps(altered)).reshape(4, 8, 2, 4)
    probs = jnp.stack([probs[step, :, :, step] for step in range(4)], -1)
    numbers = jnp.arange(8)[:, None, None]
    scored = mask & jnp.array([[True] * 4, [True, True, True, False]])
    assert_allclose(up_to, jnp.where(scored, (probs * (numbers <= counts)).sum(0), jnp.nan))
    assert_allclose(below, jnp.where(scored, (probs * (numbers < counts)).sum(0), jnp.nan))
    with_known = series(known).cdf_steps(counts)[1]
    assert_allclose(with_known[1, :2], up_to[1, :2])
    after = ROWS[1] @ jax.scipy.special.gammaincc(1.0, jnp.array([1.0, 5.0]))
    assert_allclose(with_known[1, 2], after)


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
    assert_allclose(marginal_cdf(law, angle)[1], np.array(expected), atol=1e-5)
    lower, upper = marginal_cdf(dist.Categorical(jnp.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])), jnp.array([[1], [0]]))
    assert_allclose(lower, jnp.array([[0.2, 1.0], [0.0, 0.0]]))
    assert_allclose(upper, jnp.array([[0.5, 1.0], [0.2, 1.0]]))
    normal = dist.MultivariateNormal(jnp.zeros(2), jnp.array([[4.0, 1.0], [1.0, 9.0]]))
    assert_allclose(marginal_cdf(normal, jnp.array([2.0, -3.0]))[0], stats.norm.cdf([1.0, -1.0]))
    with pytest.raises(NotImplementedError, match="entries of Dirichlet"):
        marginal_cdf(dist.Dirichlet(jnp.ones(2)), jnp.ones(2) / 2)


CONTINUOUS = {
    "HiddenSemiMarkov": lambda: tsd.HiddenSemiMarkov(
        INITIAL, 1 - jnp.eye(2), dist.Geometric(jnp.array([0.4, 0.7])), dist.Normal(jnp.array([-1.0, 2.0]), 0.7),
        num_steps=5, max_duration=3,
    ),
    "AutoregressiveHMM": lambda: tsd.AutoregressiveHMM(
        INITIAL, ROWS, jnp.array([[0.5], [-0.4]]), dist.StudentT(4.0, jnp.array([0.0, 1.0]), 0.8),
        num_steps=5, initial=dist.Normal(0.0, 1.0).expand([1]).to_event(1),
    ),
    "MeanSwitchingAutoregression": lambda: tsd.MeanSwitchingAutoregression(
        INITIAL, ROWS, jnp.array([-1.0, 1.0]), jnp.array([[0.5]]), dist.Normal(0.0, 0.6), num_steps=5
    ),
    "LinearGaussianSSM": lambda: tsd.LinearGaussianSSM(
        dist.Normal(jnp.zeros(1), 1.0).to_event(1), 0.8 * jnp.eye(1), dist.Normal(jnp.zeros(1), 0.5).to_event(1),
        jnp.ones(1), dist.Normal(0.2, 0.6), num_steps=5, mask=jnp.array([True, True, False, True, True]),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTINUOUS)
def test_slope_is_the_one_step_density(name):
    """The derivative with respect to the observation is the one-step density, and far below the probability is zero."""
    series = CONTINUOUS[name]()
    value = jnp.asarray(np.random.default_rng(0).normal(size=5))
    step = 1e-5 * jnp.eye(5)
    values = jnp.concatenate([value + step, value - step, value - 1e6 * jnp.eye(5)])
    (up_to, same), log_probs = jax.jit(lambda v: (series.cdf_steps(v), series.log_prob_steps(value)))(values)
    assert_allclose(same, up_to)
    higher, lower, lowest = (jnp.diagonal(part) for part in up_to.reshape(3, 5, 5))
    first = 1 if "Autoregress" in name else 0
    scored = jnp.asarray(series.scored_steps(value)).at[:first].set(False)
    assert scored.sum() == 4 + (name == "HiddenSemiMarkov")
    assert (jnp.isnan(higher) == ~scored).all()
    np.testing.assert_allclose(((higher - lower) / 2e-5)[scored], jnp.exp(log_probs)[scored], rtol=1e-6)
    assert (lowest[scored] < 1e-12).all()


def test_joint_gaussian_channels():
    """Channels of one step, each given earlier steps only: states by enumeration, the trajectory by its dense law."""
    rng = np.random.default_rng(3)
    value, root = jnp.asarray(rng.normal(size=(4, 2))), jnp.array([[1.0, 0.0], [0.8, 0.5]])
    weights = jnp.asarray(0.4 * rng.normal(size=(2, 1, 2, 2)))
    noise = dist.MultivariateNormal(jnp.array([[0.0, 1.0], [-1.0, 0.5]]), scale_tril=root)
    series = tsd.AutoregressiveHMM(INITIAL, ROWS, weights, noise, num_steps=4)
    potentials = [np.asarray(array, float) for array in series.potentials(value)]
    predicted = reference.predicted(*potentials)
    means = np.einsum("knm,tm->tkn", np.asarray(weights)[:, 0], np.asarray(value)[:-1]) + np.asarray(noise.loc)
    scale = np.sqrt(np.diag(root @ root.T))
    each = stats.norm.cdf(np.asarray(value)[1:, None], means, scale)
    assert_allclose(series.cdf_steps(value)[1][1:], (predicted[..., None] * each).sum(1))

    step = dist.MultivariateNormal(jnp.array([0.5, 0.0]), scale_tril=root)
    matrix = jnp.array([[0.7, 0.2], [0.0, 0.9]])
    model = tsd.LinearGaussianSSM(step, matrix, step, matrix, step, num_steps=2)
    covariance, a = np.asarray(root @ root.T), np.asarray(matrix)
    x0, x1 = np.asarray(step.loc), a @ np.asarray(step.loc) + np.asarray(step.loc)
    p1 = a @ covariance @ a.T + covariance
    y0, s0 = a @ x0 + x0, a @ covariance @ a.T + covariance
    gain = a @ (a @ covariance) @ a.T @ np.linalg.inv(s0)
    mean = a @ x1 + x0 + gain @ (np.asarray(value)[0] - y0)
    s1 = a @ p1 @ a.T + covariance - gain @ s0 @ gain.T
    expected = [stats.norm.cdf(np.asarray(value)[0], y0, np.sqrt(np.diag(s0)))]
    expected.append(stats.norm.cdf(np.asarray(value)[1], mean, np.sqrt(np.diag(s1))))
    assert_allclose(model.cdf_steps(value[:2])[1], np.stack(expected))


def test_families_that_are_summed_or_integrated():
    y = jnp.array([0, 1, 2])
    pairs = [
        (dist.Binomial(4, 0.3), y, stats.binom(4, 0.3).cdf(y)),
        (dist.ZeroInflatedPoisson(0.25, 2.0), y, 0.25 + 0.75 * stats.poisson(2.0).cdf(y)),
        (dist.VonMises(0.5, 20.0), 0.1 * y + 0.4, stats.vonmises(20.0, 0.5).cdf(0.1 * y + 0.4)),
    ]
    for family, value, expected in pairs:
        assert_allclose(marginal_cdf(family, value)[1], expected)
    student = dist.MultivariateStudentT(5.0, jnp.array([1.0, 2.0]), jnp.array([[1.0, 0.0], [0.8, 0.6]]))
    assert_allclose(marginal_cdf(student, jnp.zeros(2))[0], stats.t.cdf([-1.0, -2.0], 5.0))


def model(y, num_steps):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    numpyro.sample("y", tsd.HiddenMarkov(INITIAL, ROWS, dist.Normal(loc, 1.0), num_steps=num_steps), obs=y)


def test_residuals_are_normal_and_independent_under_the_truth_alone():
    truth = tsd.HiddenMarkov(INITIAL, ROWS, dist.Normal(jnp.array([-2.0, 2.0]), 1.0), num_steps=1500)
    y = truth.sample(jax.random.key(1))
    found = tsppl.pseudo_residuals(jax.random.key(0), model, {"loc": jnp.array([[-2.0, 2.0]])}, y, 1500, batch_ndims=1)[
        "y"
    ]
    assert stats.kstest(np.asarray(found.uniform), "uniform").pvalue > 0.01
    assert_allclose(stats.norm.cdf(found.normal), np.asarray(found.uniform), atol=1e-6)
    assert abs(np.corrcoef(found.normal[1:], found.normal[:-1])[0, 1]) < 0.06
    wrong = tsppl.pseudo_residuals(jax.random.key(0), model, {"loc": jnp.array([[-2.0, 1.0]])}, y, 1500, batch_ndims=1)[
        "y"
    ]
    assert stats.kstest(np.asarray(wrong.uniform), "uniform").pvalue < 1e-4
