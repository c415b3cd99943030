"""An explicit discrete path against products of probabilities."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.hidden_markov import all_paths

NUM_STEPS, NUM_STATES = 4, 3
INITIAL = np.array([0.5, 0.3, 0.2])
TRANSITION = np.array([[0.8, 0.15, 0.05], [0.1, 0.6, 0.3], [0.25, 0.25, 0.5]])
VARYING = np.random.default_rng(0).dirichlet(np.ones(3), size=(NUM_STEPS - 1, 3))
PATHS = all_paths(NUM_STEPS, NUM_STATES)

CHAINS = {
    "constant": (tsd.MarkovChain(INITIAL, TRANSITION, num_steps=NUM_STEPS), np.stack([TRANSITION] * 3)),
    "time-varying": (
        tsd.MarkovChain(INITIAL, VARYING, num_steps=NUM_STEPS, time_varying=("transition_probs",)),
        VARYING,
    ),
    "logits": (
        tsd.MarkovChain(
            initial_logits=np.log(INITIAL) + 1.0,
            transition_logits=np.log(VARYING) - 2.0,
            num_steps=NUM_STEPS,
            time_varying=("transition_logits",),
        ),
        VARYING,
    ),
}


def probability(path, transition):
    total = INITIAL[path[0]]
    for t in range(1, NUM_STEPS):
        total *= transition[t - 1, path[t - 1], path[t]]
    return total


@pytest.mark.parametrize("name", CHAINS)
def test_probability_of_every_path(name):
    chain, transition = CHAINS[name]
    desired = np.array([probability(path, transition) for path in PATHS])
    assert_allclose(jnp.exp(jax.jit(chain.log_prob)(PATHS)), desired)
    assert desired.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("name", CHAINS)
def test_left_out_terms(name):
    """`p(z_t | all other states)`: the path against the paths that differ in one step."""
    chain, transition = CHAINS[name]
    terms = jax.jit(chain.log_prob_left_out)(PATHS[::7])
    for path, actual in zip(PATHS[::7], terms, strict=True):
        for t in range(NUM_STEPS):
            others = [np.concatenate([path[:t], [k], path[t + 1 :]]) for k in range(NUM_STATES)]
            desired = probability(path, transition) / sum(probability(other, transition) for other in others)
            assert_allclose(jnp.exp(actual[t]), desired)


def test_impossible_paths_have_finite_gradients():
    def log_prob(transition):
        return tsd.MarkovChain(INITIAL, transition, num_steps=NUM_STEPS).log_prob(np.array([0, 2, 1, 1]))

    transition = np.array([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.3, 0.5]])
    value, gradient = jax.value_and_grad(log_prob)(transition)
    assert value == -jnp.inf
    assert jnp.isfinite(gradient).all()


def test_forecast_continues_the_last_state():
    chain, _ = CHAINS["constant"]
    path = np.array([0, 1, 1, 2])
    forecast = jax.jit(jax.vmap(lambda key: chain.forecast(key, path, 2)["value"]))
    draws = np.asarray(forecast(random.split(random.key(0), 4000)))
    assert draws.shape == (4000, 2)
    for h, probs in enumerate((TRANSITION[2], TRANSITION[2] @ TRANSITION)):
        frequencies = np.bincount(draws[:, h], minlength=NUM_STATES) / len(draws)
        assert (abs(frequencies - probs) < 4.5 * np.sqrt(probs * (1 - probs) / len(draws))).all()


def test_observed_paths_inform_the_transitions():
    """The gradient of the log probability in the logarithm of the transitions counts the moves."""
    path = np.array([0, 0, 1, 2])

    def log_prob(logs):
        return tsd.MarkovChain(INITIAL, jnp.exp(logs), num_steps=NUM_STEPS).log_prob(path)

    assert_allclose(jax.jit(jax.grad(log_prob))(np.log(TRANSITION)), np.array([[1.0, 1, 0], [0, 0, 1], [0, 0, 0]]))
