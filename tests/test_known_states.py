"""Known states against enumeration of the paths that agree with them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference
from tsppl.inference import em

K, T = 3, 5
RNG = np.random.default_rng(0)
INITIAL, ROWS = RNG.dirichlet(np.ones(K)), RNG.dirichlet(np.ones(K), size=K)
LOC = np.array([-1.0, 0.0, 2.0])
VALUE = RNG.normal(size=T)
KNOWN = np.array([-1, 2, -1, -1, 0])


def build(known=KNOWN, **options):
    return tsd.HiddenMarkov(
        INITIAL, ROWS, dist.Normal(LOC, 1.0), num_steps=options.pop("num_steps", T), known_states=known, **options
    )


def potentials(known=KNOWN, seen=None):
    terms = np.asarray(dist.Normal(LOC, 1.0).log_prob(VALUE[:, None]))
    if seen is not None:
        terms = np.where(seen[:, None], terms, 0.0)
    allowed = (known < 0)[:, None] | (known[:, None] == np.arange(K))
    return np.log(INITIAL), np.log(ROWS), np.where(allowed, terms, -np.inf)


@pytest.mark.smoke
def test_every_answer_agrees_with_enumeration():
    model = build()
    assert_allclose(model.log_prob(VALUE), reference.log_normalizer(*potentials()))
    assert_allclose(model.log_prob_steps(VALUE), reference.log_normalizers(*potentials()))
    assert_allclose(model.latent_marginals(VALUE)["state_probs"], reference.smoothed(*potentials()))
    assert model.latent_mode(VALUE)["states"].tolist() == list(reference.most_likely_path(*potentials()))
    draws = np.asarray(model.sample_latents(jax.random.key(0), np.tile(VALUE, (50, 1)))["states"])
    assert (draws[:, KNOWN >= 0] == KNOWN[KNOWN >= 0]).all()
    ahead = model.forecast(jax.random.key(1), VALUE, 2)
    assert ahead["states"].shape == (2,)


def test_known_state_of_a_step_that_was_not_observed_counts():
    seen = np.array([True, False, True, True, True])
    model = build(mask=seen)
    assert_allclose(model.log_prob(VALUE), reference.log_normalizer(*potentials(seen=seen)))
    assert_allclose(model.log_prob_steps(VALUE).sum(), model.log_prob(VALUE))
    assert bool(model.scored_steps(VALUE)[1])


def test_all_states_known_is_a_markov_chain_beside_the_emissions():
    path = np.array([1, 1, 2, 0, 0])
    chain = tsd.MarkovChain(INITIAL, ROWS, num_steps=T).log_prob(path)
    assert_allclose(build(path).log_prob(VALUE), chain + dist.Normal(LOC[path], 1.0).log_prob(VALUE).sum())


def test_semi_markov_models_know_states_too():
    rows = np.array([[0.0, 1.0], [1.0, 0.0]])
    emission, known = dist.Normal(np.array([0.0, 1.0]), 1.0), np.array([-1, -1, 1, -1, -1])
    model = tsd.HiddenSemiMarkov(
        np.ones(2) / 2, rows, dist.Poisson(2.0), emission, num_steps=T, max_duration=4, known_states=known
    )
    assert_allclose(model.latent_marginals(VALUE)["state_probs"][2], np.array([0.0, 1.0]), atol=1e-12)
    free = tsd.HiddenSemiMarkov(np.ones(2) / 2, rows, dist.Poisson(2.0), emission, num_steps=T, max_duration=4)
    there = free.latent_marginals(VALUE)["state_probs"][2, 1]
    assert_allclose(model.log_prob(VALUE), free.log_prob(VALUE) + jnp.log(there))


def test_batch_of_known_states_and_em():
    both = np.stack([KNOWN, np.full(T, -1)])
    assert_allclose(build(both).log_prob(VALUE), np.array([build(k).log_prob(VALUE) for k in both]))
    found = em(build(), VALUE, num_iters=2)
    assert found.log_likelihoods[-1] >= found.log_likelihoods[0]
    assert_allclose(found.distribution.latent_marginals(VALUE)["state_probs"][4, 0], 1.0)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="from 0 to 2, or -1"):
        build(np.array([0, 1, 3, 0, 0]))
    with pytest.raises(ValueError, match=r"whole numbers of shape \(..., 5\)"):
        build(np.array([0.0, np.nan, 1.0, 1.0, 1.0]))
