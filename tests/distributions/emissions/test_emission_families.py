"""Wrapped Cauchy, zero-inflated and transition helpers: densities against quadrature, draws against densities."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats
from scipy.linalg import expm

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import auto_gibbs

ROWS = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 3))


def test_wrapped_cauchy_equals_scipy_and_its_draws_have_its_law():
    law = tsd.WrappedCauchy(jnp.array([0.5, -3.0]), jnp.array([0.7, 0.2]))
    angles = np.linspace(-np.pi, np.pi, 2001)
    density = np.exp(np.asarray(law.log_prob(angles[:, None])))
    assert_allclose(np.trapezoid(density, angles, axis=0), np.ones(2), atol=1e-6)
    assert_allclose(density[:, 0], stats.wrapcauchy(0.7).pdf((angles - 0.5) % (2 * np.pi)))
    draws = np.asarray(law.sample(jax.random.key(0), (20_000,)))
    assert (np.abs(draws) <= np.pi).all()
    resultant = np.exp(1j * draws).mean(0)
    assert_allclose(np.abs(resultant), np.array([0.7, 0.2]), atol=0.02)
    assert_allclose(np.angle(resultant), np.array(law.mean), atol=0.1)
    slope = jax.grad(lambda rho: tsd.WrappedCauchy(0.0, rho).log_prob(0.0))(0.999)
    assert np.isfinite(slope)


def test_zero_inflated_scores_zeros_and_the_rest():
    base = dist.Gamma(jnp.array([0.5, 2.0]), 1.0)
    law = tsd.ZeroInflated(base, jnp.array([0.3, 0.0]))
    value = jnp.array([0.0, 1.5])
    assert_allclose(law.log_prob(value[:, None])[0], jnp.log(jnp.array([0.3, 0.0])))
    assert_allclose(law.log_prob(value[:, None])[1], jnp.log1p(-law.prob) + base.log_prob(1.5))
    draws = np.asarray(law.sample(jax.random.key(0), (20_000,)))
    assert_allclose((draws == 0).mean(0), np.array([0.3, 0.0]), atol=0.015)
    assert_allclose(draws.mean(0), np.asarray(law.mean), rtol=0.06)
    assert_allclose(draws.var(0), np.asarray(law.variance), rtol=0.1)


def test_zero_inflated_gradients_are_finite_and_a_hidden_markov_model_takes_it():
    def log_prob(shape, prob):
        emission = tsd.ZeroInflated(dist.Gamma(jnp.stack([shape, 2.0]), 1.0), prob)
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.ones((2, 2)) / 2, emission, num_steps=3)
        return series.log_prob(jnp.array([0.0, 0.7, 0.0]))

    assert all(np.isfinite(jax.grad(log_prob, (0, 1))(0.5, 0.2)))
    with pytest.raises(ValueError, match=r"tsd.ZeroInflated\(Gamma"):
        tsd.HiddenMarkov(np.ones(1), np.ones((1, 1)), dist.Gamma(jnp.ones(1)), num_steps=2).log_prob(
            jnp.array([0.0, 1.0])
        )
    with pytest.raises(ValueError, match="outside the support"):
        tsd.HiddenMarkov(
            np.ones(1), np.ones((1, 1)), tsd.ZeroInflated(dist.Gamma(jnp.ones(1)), 0.5), num_steps=2
        ).log_prob(jnp.array([0.0, -1.0]))
    with pytest.raises(ValueError, match="ZeroInflatedDistribution"):
        tsd.ZeroInflated(dist.Poisson(2.0), 0.5)


def test_stationary_probabilities_do_not_move():
    probs = tsd.stationary_probs(ROWS)
    assert_allclose(jnp.einsum("bk,bkj->bj", probs, ROWS), probs)
    assert_allclose(probs.sum(-1), np.ones(2))


def test_rates_give_the_matrix_exponential_and_compose():
    rates = np.array([[9.0, 1.0, 0.5], [0.2, 9.0, 0.0], [3.0, 0.1, 9.0]])
    generator = np.where(np.eye(3), 0, rates)
    generator -= np.diag(generator.sum(1))
    probs = tsd.transition_probs_from_rates(rates, np.array([0.0, 0.4, 1.0, 1.4]))
    assert_allclose(probs, np.stack([expm(generator * dt) for dt in (0.0, 0.4, 1.0, 1.4)]))
    assert_allclose(probs[1] @ probs[2], probs[3])


def test_sticky_rows():
    prior = tsd.sticky_dirichlet(3, concentration=jnp.array([1.0, 2.0, 3.0]), stickiness=4.0)
    assert prior.event_shape == (3, 3)
    assert_allclose(prior.base_dist.concentration, jnp.array([[5.0, 2, 3], [1, 6, 3], [1, 2, 7]]))


def test_hierarchical_rows_share_a_base_and_gibbs_draws_both_exactly():
    def model(value):
        base, rows = tsd.sample_hierarchical_transitions(
            "rows", 3, base_concentration=3.0, concentration=5.0, stickiness=8.0
        )
        emission = dist.Normal(jnp.array([-2.0, 0.0, 2.0]), 1.0)
        numpyro.sample("y", tsd.HiddenMarkov(jnp.full(3, 1 / 3), rows, emission, num_steps=5), obs=value)

    plan = str(auto_gibbs(model, np.zeros(5)))
    assert "rows_base, rows: weak-limit hierarchical Dirichlet process" in plan
    base, row = np.array([0.2, 0.3, 0.5]), np.array([[0.6, 0.2, 0.2]] * 3)
    prior = numpyro.handlers.trace(
        numpyro.handlers.substitute(numpyro.handlers.seed(model, 0), data={"rows_base": base, "rows": row})
    ).get_trace(np.zeros(5))["rows"]["fn"]
    assert_allclose(prior.mean, (5.0 * base + 8.0 * np.eye(3)) / 13.0)
