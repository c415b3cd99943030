"""Pointwise terms of a user's model, for fitted and for held-out data."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.infer.util import log_likelihood as numpyro_log_likelihood

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.session_models import COUNTS, LENGTHS, NUM_STEPS, flattened, poisson_sessions, session_draws, session_series
from tsppl.posterior.scoring import log_likelihood

DRAWS = session_draws()
FLAT = flattened(DRAWS)
MASK = np.ones((3, NUM_STEPS), bool)
MASK[0, 2] = MASK[2, :2] = False


@pytest.mark.smoke
def test_left_out_terms_equal_those_of_the_distribution():
    answer = log_likelihood(None, poisson_sessions, DRAWS, COUNTS, LENGTHS, MASK)["counts"]
    assert answer.terms.shape == (2, 3, 3, NUM_STEPS)
    expected = jax.jit(
        jax.vmap(lambda draw: session_series(draw, mask=MASK, lengths=LENGTHS).log_prob_left_out(jnp.asarray(COUNTS)))
    )(FLAT)
    assert_allclose(answer.terms.reshape(6, 3, NUM_STEPS), expected)
    assert (answer.scored == MASK & (np.arange(NUM_STEPS) < LENGTHS[:, None])).all()
    assert (answer.terms[:, :, ~answer.scored] == 0).all()
    assert (answer.terms[:, :, answer.scored] < 0).all()


def test_one_step_terms_of_held_out_data_sum_to_its_log_likelihood():
    held_out = np.array([[3, 1, 0, 9, 8, 8], [0, 0, 0, 1, 5, 7]])
    terms = log_likelihood(None, poisson_sessions, FLAT, held_out, kind="one-step", batch_size=4)["counts"].terms
    expected = numpyro_log_likelihood(poisson_sessions, jax.tree.map(jnp.asarray, FLAT), held_out)["counts"]
    assert_allclose(terms.sum(-1), expected)


def mixed_model(counts, weights):
    """A masked batch of series inside an event, a plain site masked in part, and a factor."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
    series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS)
    numpyro.sample("counts", series.expand((3,)).mask(jnp.array([True, False, True])).to_event(1), obs=counts)
    numpyro.sample("weights", dist.Normal(rate, 1.0).mask(jnp.array([True, False])), obs=weights)
    path = tsd.MarkovChain(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), num_steps=2).expand((2,))
    numpyro.sample("paths", path.mask(jnp.array([False, True])), obs=jnp.array([[0, 1], [1, 1]]))
    numpyro.factor("penalty", -rate.sum())


def test_wrappers_and_plain_sites():
    draws = {"rate": np.array([[1.0, 9.0], [2.0, 7.0]])}
    answers = log_likelihood(None, mixed_model, draws, COUNTS, jnp.array([1.5, jnp.nan]))
    assert set(answers) == {"counts", "weights", "paths"}
    assert answers["paths"].scored.tolist() == [[False, False], [True, True]]
    assert_allclose(answers["paths"].terms, np.log(0.5) * jnp.broadcast_to(answers["paths"].scored, (2, 2, 2)))
    assert answers["counts"].scored.tolist() == [[True] * 6, [False] * 6, [True] * 6]
    assert (answers["counts"].terms[:, 1] == 0).all()
    rate = jnp.asarray(draws["rate"])[..., None, None]
    by_step = jnp.log(0.5 * jnp.exp(dist.Poisson(rate).log_prob(COUNTS)).sum(1))
    assert_allclose(answers["counts"].terms[:, [0, 2]], by_step[:, [0, 2]])
    assert answers["weights"].scored.tolist() == [True, False]
    assert_allclose(
        answers["weights"].terms, jnp.stack([dist.Normal(rate[:, 0, 0, 0]).log_prob(1.5), jnp.zeros(2)], -1)
    )


def test_masked_out_series_may_hold_anything():
    def model(counts):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS)
        with numpyro.plate("session", 3), handlers.mask(mask=jnp.array([True, False, True])):
            numpyro.sample("counts", series, obs=counts)

    counts = COUNTS.astype(float)
    counts[1] = np.nan
    terms = log_likelihood(None, model, {"rate": np.array([[1.0, 9.0]])}, counts)["counts"].terms
    assert jnp.isfinite(terms).all()


def test_what_has_no_exact_terms_says_so():
    class WithoutLeftOut(tsd.HiddenMarkov):
        log_prob_left_out = tsd.SequenceDistribution.log_prob_left_out

    def model(counts):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
        series = WithoutLeftOut(jnp.ones(2) / 2, jnp.eye(2), dist.Poisson(rate), num_steps=NUM_STEPS)
        numpyro.sample("counts", series, obs=counts)

    draws = {"rate": np.array([[1.0, 9.0]])}
    with pytest.raises(NotImplementedError, match="site 'counts': WithoutLeftOut has no exact left-out terms"):
        log_likelihood(None, model, draws, COUNTS[0])
    with pytest.raises(ValueError, match="kind is 'loo'; it must be one of 'left-out', 'one-step'"):
        log_likelihood(None, model, draws, COUNTS[0], kind="loo")
    with pytest.raises(ValueError, match="key is None, and draws from a guide need a random key"):
        log_likelihood(None, model, (lambda counts: None, {}), COUNTS[0])
