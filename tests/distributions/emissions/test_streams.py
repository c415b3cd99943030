"""Several emission streams side by side against their parts."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import scipy.stats
from jax import random
from numpyro.infer.util import log_density

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference
from tsppl.distributions.emissions.scoring import partial_log_prob

STEP = dist.Gamma(2.0, jnp.array([1.0, 0.2]))
TURN = dist.VonMises(0.0, jnp.array([0.5, 4.0]))
PLACE = dist.MultivariateNormal(jnp.array([[0.0, 0.0], [2.0, -1.0]]), jnp.array([[1.0, 0.5], [0.5, 2.0]]))
COUNT = dist.Poisson(jnp.array([3.0, 8.0]))
STREAMS = tsd.Streams(step=STEP, turn=TURN, place=PLACE, count=COUNT)
VALUE = np.array([1.5, -3.0, 0.3, 0.8, 4.0])


def test_shapes_and_names():
    assert STREAMS.names == ("step", "turn", "place", "count")
    assert (STREAMS.batch_shape, STREAMS.event_shape) == ((2,), (5,))
    assert tsd.Streams(a=dist.Normal(0.0, jnp.ones((4, 1))), b=COUNT).batch_shape == (4, 2)
    assert STREAMS.sample(random.key(0), (3,)).shape == (3, 2, 5)
    assert not STREAMS.has_rsample
    assert not STREAMS.is_discrete
    assert tsd.Streams(a=COUNT, b=COUNT).is_discrete


def test_log_prob_is_the_sum_of_the_parts():
    desired = STEP.log_prob(1.5) + TURN.log_prob(-3.0) + PLACE.log_prob(VALUE[2:4]) + COUNT.log_prob(4.0)
    assert_allclose(STREAMS.log_prob(VALUE), desired)
    assert_allclose(jax.jit(lambda streams, value: streams.log_prob(value))(STREAMS, VALUE), desired)
    in_a_model = log_density(lambda: numpyro.sample("y", STREAMS, obs=jnp.stack([VALUE] * 2)), (), {}, {})[0]
    assert_allclose(in_a_model, desired.sum())


def test_partial_log_prob_leaves_out_what_was_not_observed():
    observed = np.array([True, False, False, True, True])
    second = dist.Normal(PLACE.loc[:, 1], jnp.sqrt(2.0)).log_prob(0.8)
    desired = STEP.log_prob(1.5) + second + COUNT.log_prob(4.0)
    assert_allclose(partial_log_prob(STREAMS, VALUE, observed), desired)
    assert_allclose(partial_log_prob(STREAMS, VALUE, np.zeros(5, bool)), np.zeros(2))


def test_support_is_the_product_of_the_supports():
    assert STREAMS.support(VALUE)
    for position, outside in enumerate([-1.0, 4.0, np.nan, np.nan, 0.5]):
        assert not STREAMS.support(np.where(np.arange(5) == position, outside, VALUE))
    assert STREAMS.support(STREAMS.support.feasible_like(jnp.zeros(5)))
    assert jax.vmap(STREAMS.support)(STREAMS.sample(random.key(1), (50,))).all()


def test_draws_have_the_means_of_the_parts():
    draws = STREAMS.sample(random.key(2), (4000,))
    mean = jnp.concatenate([STEP.mean[:, None], jnp.zeros((2, 1)), PLACE.mean, COUNT.mean[:, None]], -1)
    assert (abs(draws.mean(0) - mean) < 4.5 * draws.std(0) / np.sqrt(4000)).all()


def test_each_stream_has_its_own_gaps():
    """A hidden Markov model with gaps in single streams, by enumeration."""
    rate, loc = np.array([1.0, 6.0]), np.array([-1.0, 2.0])
    counts, levels = np.array([2.0, np.nan, 7.0, np.nan]), np.array([-0.5, 1.0, np.nan, np.nan])
    value = np.stack([counts, levels], -1)
    emission = tsd.Streams(count=dist.Poisson(rate), level=dist.Normal(loc, 1.0))
    initial, transition = np.array([0.4, 0.6]), np.array([[0.9, 0.1], [0.3, 0.7]])
    distribution = tsd.HiddenMarkov(initial, transition, emission, num_steps=4, mask=~np.isnan(value))
    log_likelihoods = np.nan_to_num(scipy.stats.poisson.logpmf(counts[:, None], rate))
    log_likelihoods += np.nan_to_num(scipy.stats.norm.logpdf(levels[:, None], loc))
    exact = np.log(initial), np.log(transition), log_likelihoods
    assert_allclose(distribution.log_prob(value), reference.log_normalizer(*exact))
    np.testing.assert_array_equal(distribution.scored_steps(value), [True, True, True, False])


def test_covariates_in_one_stream():
    """A stream that varies in time beside one that does not."""
    slope = np.arange(3.0)[:, None] * np.array([1.0, -1.0])
    both = tsd.Streams(choice=dist.Bernoulli(logits=slope), count=COUNT)
    assert both.batch_shape == (3, 2)
    distribution = tsd.HiddenMarkov(
        np.array([0.5, 0.5]), np.full((2, 2), 0.5), both, num_steps=3, time_varying=("emission",)
    )
    value = np.array([[1.0, 3.0], [0.0, 5.0], [1.0, 9.0]])
    terms = dist.Bernoulli(logits=slope).log_prob(value[:, :1]) + COUNT.log_prob(value[:, 1:])
    assert_allclose(distribution.log_prob(value), np.logaddexp.reduce(terms + np.log(0.5), axis=-1).sum())


def test_batches_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)|Incompatible shapes"):
        tsd.Streams(a=COUNT, b=dist.Normal(jnp.zeros(3), 1.0))
