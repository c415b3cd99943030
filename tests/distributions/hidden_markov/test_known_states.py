"""States that were observed, against enumeration of the paths that agree with them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random

import tsppl.distributions as tsd
from tests.distributions.autoregressive import test_mean_switching_autoregression as hamilton
from tests.helpers import assert_allclose
from tests.reference import hidden_markov as reference
from tsppl.inference import em

T, K = 5, 3
RNG = np.random.default_rng(3)
INITIAL, TRANSITION = RNG.dirichlet(np.ones(K)), RNG.dirichlet(np.ones(K), K)
LOC = np.array([-1.0, 0.0, 2.0])
VALUE = RNG.normal(size=T)
MASK = np.array([True, True, False, True, True])
KNOWN = np.array([-1, 2, 0, -1, -1])


def hidden_markov(**options):
    return tsd.HiddenMarkov(
        INITIAL, TRANSITION, dist.Normal(LOC, 1.0), num_steps=T, **{"mask": MASK, "known_states": KNOWN, **options}
    )


def potentials(log_likelihoods, known):
    possible = (known[:, None] < 0) | (known[:, None] == np.arange(K))
    return np.log(INITIAL), np.log(TRANSITION), np.where(possible, log_likelihoods, -np.inf)


def emission_potentials(value=VALUE, known=KNOWN):
    log_likelihoods = -0.5 * (value[:, None] - LOC) ** 2 - 0.5 * np.log(2 * np.pi)
    return potentials(np.where(MASK[:, None], log_likelihoods, 0.0), known)


def autoregression(**options):
    weights = jnp.array([[0.5], [-0.3], [0.9]])
    return tsd.AutoregressiveHMM(
        INITIAL, TRANSITION, weights, dist.Normal(LOC, 1.0), num_steps=T, **{"known_states": KNOWN, **options}
    )


def autoregressive_potentials():
    means = np.array([0.5, -0.3, 0.9]) * VALUE[:-1, None] + LOC
    log_likelihoods = -0.5 * (VALUE[1:, None] - means) ** 2 - 0.5 * np.log(2 * np.pi)
    return potentials(log_likelihoods, KNOWN[1:])


@pytest.mark.smoke
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_every_answer_of_a_hidden_markov_model_is_given_the_known_states():
    expected, model = emission_potentials(), hidden_markov()
    assert_allclose(model.log_prob(VALUE), reference.log_normalizer(*expected))
    assert_allclose(model.log_prob_steps(VALUE), reference.log_normalizers(*expected))
    assert_allclose(model.log_prob_left_out(VALUE), reference.left_out(*expected))
    assert_allclose(model.latent_marginals(VALUE)["state_probs"], reference.smoothed(*expected))
    assert_allclose(model.latent_marginals(VALUE, given="past")["state_probs"], reference.filtered(*expected))
    assert model.latent_mode(VALUE)["states"].tolist() == reference.most_likely_path(*expected).tolist()
    states = jax.vmap(lambda key: model.sample_latents(key, VALUE)["states"])(random.split(random.key(0), 4000))
    np.testing.assert_allclose(
        jax.nn.one_hot(states, K).mean(0), reference.smoothed(*expected), atol=4 * np.sqrt(0.25 / 4000)
    )
    assert (np.asarray(states)[:, 1:3] == [2, 0]).all()


def test_draws_of_data_are_given_the_known_states():
    states = np.asarray(hidden_markov().sample_with_latents(random.key(1), (4000,))[1]["states"])
    expected = reference.smoothed(*potentials(np.zeros((T, K)), KNOWN))
    np.testing.assert_allclose((states[..., None] == np.arange(K)).mean(0), expected, atol=4 * np.sqrt(0.25 / 4000))


@pytest.mark.filterwarnings("ignore:divide by zero")
def test_every_answer_of_an_autoregression_is_given_the_known_states():
    expected, model = autoregressive_potentials(), autoregression()
    assert_allclose(model.log_prob(VALUE), reference.log_normalizer(*expected))
    assert_allclose(model.log_prob_steps(VALUE)[1:], reference.log_normalizers(*expected))
    assert_allclose(model.latent_marginals(VALUE)["state_probs"][1:], reference.smoothed(*expected))
    assert model.latent_mode(VALUE)["states"][1:].tolist() == reference.most_likely_path(*expected).tolist()
    with pytest.raises(NotImplementedError, match="left-out terms with known_states"):
        model.log_prob_left_out(VALUE)


def test_the_last_known_state_decides_the_forecast():
    known = np.array([-1, -1, -1, -1, 1])
    keys = random.split(random.key(2), 4000)
    for model in (hidden_markov(known_states=known), autoregression(known_states=known)):
        ahead = jax.vmap(lambda key, model=model: model.forecast(key, VALUE, 2)["states"])(keys)
        share = jax.nn.one_hot(ahead, K).mean(0)
        np.testing.assert_allclose(share[0], TRANSITION[1], atol=0.03)
        np.testing.assert_allclose(share[1], (TRANSITION @ TRANSITION)[1], atol=0.03)


def test_batches_gradients_and_labels_after_the_end():
    """Labels after the end of a series do not count, and -1 everywhere is a model without labels."""
    nothing, after = np.full(T, -1), np.array([-1, 2, 0, 1, 1])
    batch = hidden_markov(known_states=np.stack([KNOWN, nothing, after]), lengths=np.array([T, T, 3]))
    expected = [hidden_markov(), hidden_markov(known_states=None), hidden_markov(lengths=np.int32(3))]
    assert_allclose(batch.log_prob(np.stack([VALUE] * 3)), jnp.stack([model.log_prob(VALUE) for model in expected]))

    def log_prob(loc):
        return tsd.HiddenMarkov(
            INITIAL, TRANSITION, dist.Normal(loc, 1.0), num_steps=T, mask=MASK, known_states=KNOWN
        ).log_prob(VALUE)

    step = 1e-6 * np.array([0.0, 0.0, 1.0])
    gradient = jax.grad(log_prob)(LOC)
    assert np.isfinite(gradient).all()
    np.testing.assert_allclose(gradient[2], (log_prob(LOC + step) - log_prob(LOC - step)) / 2e-6, rtol=1e-6)


@pytest.mark.parametrize(
    ("known", "error", "message"),
    [
        (np.full(4, -1), ValueError, r"known_states has shape \(4,\)"),
        (np.full(T, -1.0), TypeError, "known_states must be integers"),
        (np.array([0, 1, 2, 3, -1]), ValueError, r"known_states is 3 at index \(3,\); states are 0 to 2"),
    ],
)
def test_wrong_labels_are_named(known, error, message):
    with pytest.raises(error, match=message):
        hidden_markov(known_states=known)


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
    draws = model.sample_with_latents(jax.random.key(0), (20,))[1]["states"]
    assert (np.asarray(draws)[:, 2] == 1).all()


def test_hamiltons_autoregression_knows_states_of_its_lags_too():
    """Against enumeration: labels of lags before the first step scored, of that step, and of a later one."""
    cases, num_lags = [[-1, 1, -1, -1, -1, -1], [1, -1, 0, -1, 1, -1], [-1, -1, -1, 1, -1, 0]], 2
    for known in np.array(cases):
        found, weights = hamilton.paths()
        weights = weights * ((known < 0) | (found == known)).all(1)
        model = hamilton.build(known_states=known)
        assert_allclose(model.log_prob(hamilton.VALUE), np.log(weights.sum()))
        assert_allclose(model.latent_marginals(hamilton.VALUE)["state_probs"], hamilton.marginals(found, weights))
        assert model.latent_mode(hamilton.VALUE)["states"].tolist() == found[weights.argmax()].tolist()
        past = model.latent_marginals(hamilton.VALUE, given="past")["state_probs"]
        for step in range(hamilton.T):
            found, weights = hamilton.paths(upto=max(step + 1, num_lags))
            seen = np.where(np.arange(hamilton.T) <= step, known, -1)
            weights = weights * ((seen < 0) | (found == seen)).all(1)
            assert_allclose(past[step], hamilton.marginals(found, weights)[step])


def test_residuals_count_known_states_as_past_only():
    """A value above all others has probability one below it, also where its state is known; and without weights of lags an
    autoregression has the residuals of a hidden Markov model."""
    value = np.where(np.arange(T) == 2, 100.0, VALUE)
    assert_allclose(autoregression().cdf_steps(value)[1][2], 1.0)
    emission, known = dist.Normal(LOC, 1.0), {"known_states": KNOWN[1:]}
    plain = tsd.HiddenMarkov(INITIAL, TRANSITION, emission, num_steps=T - 1, **known)
    model = tsd.AutoregressiveHMM(
        INITIAL, TRANSITION, jnp.zeros((K, 1)), emission, num_steps=T, known_states=KNOWN, mask=MASK
    )
    expected = np.where(MASK[1:] & MASK[:-1], plain.cdf_steps(VALUE[1:])[1], np.nan)
    assert_allclose(model.cdf_steps(VALUE)[1][:3], np.append(np.nan, expected)[:3])
    assert np.isnan(model.cdf_steps(VALUE)[1][3])


def test_em_keeps_to_the_known_states():
    found = em(hidden_markov(), VALUE, num_iters=2)
    assert found.log_likelihoods[-1] >= found.log_likelihoods[0]
    assert_allclose(found.distribution.latent_marginals(VALUE)["state_probs"][2, 0], 1.0)
