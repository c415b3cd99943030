"""The hidden semi-Markov model against enumeration of all paths with the law of every stay, and against its special cases."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm, poisson

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import auto_gibbs

K, T, M = 3, 6, 3
RNG = np.random.default_rng(0)
INITIAL = np.array([0.5, 0.3, 0.2])
TRANSITION = np.array([[0.0, 0.4, 0.6], [0.7, 0.0, 0.3], [0.1, 0.9, 0.0]])
RATE = np.array([0.5, 1.5, 3.0])
LOC = np.array([-1.0, 0.0, 1.5])
VALUE = RNG.normal(size=T)


def build(durations=None, num_steps=T, max_duration=M, **options):
    durations = dist.Poisson(RATE) if durations is None else durations
    return tsd.HiddenSemiMarkov(
        INITIAL, TRANSITION, durations, dist.Normal(LOC, 1.0), num_steps=num_steps, max_duration=max_duration, **options
    )


def poisson_with_tail(state, steps):
    """Probability of ``steps``: Poisson up to ``M``, then geometric."""
    if steps <= M:
        return poisson.pmf(steps - 1, RATE[state])
    beyond = poisson.sf(M - 2, RATE[state])
    stay = 1 - poisson.pmf(M - 1, RATE[state]) / beyond
    return beyond * stay ** (steps - M) * (1 - stay)


def paths(probability, scored=None):
    """Every path of the states and its joint density; the last stay lasts at least as long as it is seen."""
    found = np.array(list(itertools.product(range(K), repeat=T)))
    weights = np.empty(len(found))
    for i, path in enumerate(found):
        stays = [(state, len(list(group))) for state, group in itertools.groupby(path)]
        weight = INITIAL[path[0]]
        for (state, steps), (following, _) in itertools.pairwise(stays):
            weight *= probability(state, steps) * TRANSITION[state, following]
        state, steps = stays[-1]
        weight *= 1 - sum(probability(state, shorter) for shorter in range(1, steps))
        seen = np.ones(T, bool) if scored is None else scored
        weights[i] = weight * norm.pdf(VALUE[seen], LOC[path[seen]]).prod()
    return found, weights


def marginals(found, weights):
    return np.stack([(weights[:, None] * (found == k)).sum(0) for k in range(K)], -1) / weights.sum()


@pytest.mark.smoke
def test_density_marginals_and_mode_equal_enumeration():
    found, weights = paths(poisson_with_tail)
    model = build()
    assert_allclose(model.log_prob(VALUE), np.log(weights.sum()))
    assert_allclose(model.latent_marginals(VALUE)["state_probs"], marginals(found, weights))
    assert model.latent_mode(VALUE)["states"].tolist() == found[weights.argmax()].tolist()
    draws = np.asarray(model.sample_latents(jax.random.key(0), jnp.broadcast_to(VALUE, (4000, T)))["states"])
    assert np.abs((draws[:, None] == found).all(-1).mean(0) - weights / weights.sum()).max() < 0.03


def test_left_out_terms_and_gaps_equal_enumeration():
    whole = np.log(paths(poisson_with_tail)[1].sum())
    without = [np.log(paths(poisson_with_tail, scored=np.arange(T) != t)[1].sum()) for t in range(T)]
    assert_allclose(build().log_prob_left_out(VALUE), whole - np.array(without))
    mask = np.arange(T) != 2
    assert_allclose(build(mask=mask).log_prob(np.where(mask, VALUE, np.nan)), without[2])


def test_categorical_durations_are_never_longer_than_their_categories():
    table = np.array([[0.2, 0.8], [0.0, 1.0], [0.5, 0.5]])
    found, weights = paths(lambda state, steps: table[state, steps - 1] if steps <= 2 else 0.0)
    model = build(dist.Categorical(table), max_duration=None)
    assert_allclose(model.log_prob(VALUE), np.log(weights.sum()))
    gradient = jax.grad(lambda probs: build(dist.Categorical(probs), max_duration=None).log_prob(VALUE))(table)
    assert np.isfinite(gradient).all()


def test_geometric_durations_are_a_hidden_markov_model():
    leave = np.array([0.3, 0.6, 0.1])
    transition = np.diag(1 - leave) + leave[:, None] * TRANSITION
    ordinary = tsd.HiddenMarkov(INITIAL, transition, dist.Normal(LOC, 1.0), num_steps=T)
    semi = build(dist.Geometric(leave), max_duration=2)
    for model in (semi, build(dist.Geometric(leave), max_duration=5)):
        assert_allclose(model.log_prob(VALUE), ordinary.log_prob(VALUE))
    for given in ("all", "past"):
        assert_allclose(semi.latent_marginals(VALUE, given), ordinary.latent_marginals(VALUE, given))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_stays_of_draws_have_the_law_of_the_durations(dtype):
    """Far in the tail too, in both precisions: 40 is 10 standard deviations from the mean."""
    law = dist.NegativeBinomial2(np.array([2.0, 3.0, 1.0], dtype), dtype(4.0))
    model = build(law, num_steps=60_000, max_duration=40)
    states = np.asarray(model.sample_with_latents(jax.random.key(0))[1]["states"])
    stays = [(state, len(list(group))) for state, group in itertools.groupby(states)][:-1]
    steps = np.arange(1, 12)
    for k in range(K):
        lengths = np.array([length for state, length in stays if state == k])
        expected = np.exp(law.log_prob((steps - 1)[:, None]))[:, k]
        error = np.sqrt(expected * (1 - expected) / len(lengths))
        assert (np.abs((lengths == steps[:, None]).mean(1) - expected) < 4.5 * error + 1e-3).all()


def test_batches_of_any_argument():
    rates = np.stack([RATE, 2 * RATE])
    both = build(dist.Poisson(rates)).log_prob(VALUE)
    assert_allclose(both, np.array([build(dist.Poisson(rate)).log_prob(VALUE) for rate in rates]))


def test_what_it_cannot_do_is_refused():
    sticky = np.array([[0.5, 0.5], [0.2, 0.8]])
    with pytest.raises(ValueError, match="0.5 on its diagonal, at state 0"):
        tsd.HiddenSemiMarkov(
            np.ones(2) / 2, sticky, dist.Poisson(3.0), dist.Normal(0.0, np.ones(2)), num_steps=5, max_duration=9
        )
    with pytest.raises(ValueError, match="max_duration is None"):
        build(max_duration=None)
    with pytest.raises(ValueError, match="chain of 3000 states"):
        build(max_duration=1000)
    with pytest.raises(ValueError, match="whole number"):
        build(dist.Exponential(1.0))
    with pytest.raises(ValueError, match="only the emission"):
        build(time_varying=("transition_probs",))


def test_gibbs_blocks_refuse_it_because_its_states_are_no_markov_chain():
    def model(value):
        loc = numpyro.sample("loc", dist.Normal(0.0, 1.0).expand([K]).to_event(1))
        series = tsd.HiddenSemiMarkov(
            INITIAL, TRANSITION, dist.Poisson(RATE), dist.Normal(loc, 1.0), num_steps=T, max_duration=M
        )
        numpyro.sample("y", series, obs=value)

    with pytest.raises(ValueError, match="use NUTS alone"):
        auto_gibbs(model, VALUE)
