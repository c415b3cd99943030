"""Every Gibbs update leaves the prior as it is, when data are drawn anew before each sweep (Geweke 2004).

Thousands of chains start at exact draws from the prior; each alternates a draw of the data given the parameters with a sweep.
Whatever the number of rounds, parameters are then distributed as the prior if, and only if, the sweep leaves the posterior
as it is. Chains are independent, so that no autocorrelation blurs the comparison.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro import handlers

import tsppl.distributions as tsd
from tsppl.inference import HierarchicalRowsUpdate, ProbabilityUpdate, RateUpdate, RegressionUpdate, StateGibbs
from tsppl.sites.trace import latent_sites, replay

NUM_CHAINS, NUM_ROUNDS, NUM_STATES = 20_000, 12, 3


def autoregression(series, num_steps):
    """Sticky hierarchical rows, one lag of two components."""
    initial = numpyro.sample("initial", dist.Dirichlet(jnp.array([1.0, 2.0, 1.0])))
    base = numpyro.sample("base", dist.Dirichlet(jnp.full(NUM_STATES, 1.5)))
    rows = numpyro.sample("rows", dist.Dirichlet(4.0 * base + 2.0 * jnp.eye(NUM_STATES)).to_event(1))
    loc = jnp.zeros((NUM_STATES, 2, 3)).at[:, 0, 2].set(jnp.array([-2.0, 0.0, 2.0]))
    prior = tsd.MatrixNormalInverseWishart(loc, 0.4 * jnp.eye(3), 6.0, jnp.eye(2))
    coefficients, covariance = prior.split(numpyro.sample("regression", prior.to_event(1)))
    weights, bias = tsd.lag_weights(coefficients)
    start = dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2))
    process = tsd.AutoregressiveHMM(
        initial, rows, weights, dist.MultivariateNormal(bias, covariance), num_steps=num_steps, initial=start
    )
    numpyro.sample("y", process, obs=series)


def counts_and_ragged(series, num_steps):
    """Poisson emissions, and two series of unequal length that share the parameters."""
    rows = numpyro.sample("rows", dist.Dirichlet(jnp.ones((NUM_STATES, NUM_STATES)) + jnp.eye(NUM_STATES)).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(jnp.array([1.0, 3.0, 9.0]), 1.0).to_event(1))
    with numpyro.plate("series", 2):
        process = tsd.HiddenMarkov(
            jnp.full(NUM_STATES, 1 / 3),
            rows,
            dist.Poisson(rate),
            num_steps=num_steps,
            lengths=jnp.array([num_steps, 3]),
        )
        numpyro.sample("y", process, obs=series)


def switches(series, num_steps):
    """Bernoulli emissions of two components."""
    prior = dist.Beta(jnp.array([[1.0, 2.0], [3.0, 1.0], [2.0, 2.0]]), 1.5)
    probs = numpyro.sample("probs", prior.to_event(2))
    rows = jnp.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]])
    emission = dist.Bernoulli(probs).to_event(1)
    process = tsd.HiddenMarkov(jnp.full(NUM_STATES, 1 / 3), rows, emission, num_steps=num_steps)
    numpyro.sample("y", process, obs=series)


CASES = {
    "autoregression": (
        autoregression,
        [
            ProbabilityUpdate("initial", "initial_probs"),
            HierarchicalRowsUpdate("base", "rows"),
            RegressionUpdate("regression"),
        ],
    ),
    "counts_and_ragged": (counts_and_ragged, [ProbabilityUpdate("rows", "transition_probs"), RateUpdate("rate")]),
    "switches": (switches, [RateUpdate("probs")]),
}


def summaries(values):
    """Bounded functions of the parameters, their squares and their products with one another's neighbours."""
    flat = jnp.concatenate([jnp.tanh(values[name]).reshape(-1) for name in sorted(values)])
    return jnp.concatenate([flat, flat**2, flat[1:] * flat[:-1]])


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_sweeps_leave_the_prior_as_it_is(name):
    model, updates = CASES[name]
    num_steps = 8
    block = StateGibbs(model, "y", updates, check=False)

    def prior(key):
        trace = handlers.trace(handlers.seed(model, key)).get_trace(None, num_steps)
        return {site: entry["value"] for site, entry in latent_sites(trace).items() if site != "y"}

    def chain(key):
        key, prior_key = random.split(key)
        values = prior(prior_key)
        start = summaries(values)

        def turn(carry, _):
            key, values = carry
            key, data_key, state_key = random.split(key, 3)
            series = replay(data_key, model, values, (None, num_steps), {})["y"]["value"]
            state = block.init(state_key, 0, values, (series, num_steps), {})
            return (key, block.sample(state, (series, num_steps), {}).z), None

        (_, values), _ = lax.scan(turn, (key, values), None, length=NUM_ROUNDS)
        return start, summaries(values)

    keys = random.split(random.key(11), NUM_CHAINS)
    before, after = map(np.asarray, jax.jit(lambda keys: lax.map(chain, keys, batch_size=2_000))(keys))
    error = np.sqrt((before.var(0) + after.var(0)) / NUM_CHAINS)
    moved = (after.mean(0) - before.mean(0)) / np.where(error > 0, error, 1)
    assert np.abs(moved).max() < 4.5, moved.round(1)
