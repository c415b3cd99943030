"""The prior of low-rank weights for NUTS."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.diagnostics import split_gelman_rubin
from numpyro.infer import MCMC, NUTS

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import em, starting_params
from tsppl.messages.autoregressive.low_rank import dense_weights


def model(series, initial):
    """Two states, two channels, two lags, rank one, known transitions and noise."""
    factors = tsd.sample_low_rank_factors("weights", 2, 2, 2, rank=1)
    bias = numpyro.sample("bias", dist.Normal(0.0, jnp.ones((2, 2))).to_event(2))
    noise = dist.MultivariateNormal(bias, 0.2 * jnp.eye(2))
    rows = jnp.array([[0.97, 0.03], [0.03, 0.97]])
    salt = tsd.SALT(jnp.full(2, 0.5), rows, *factors, noise, num_steps=initial["num_steps"], initial=initial["block"])
    numpyro.deterministic("tensor", salt.weights)
    numpyro.sample("y", salt, obs=series)


def test_columns_have_unit_length_and_fall_in_strength():
    def factors():
        return tsd.sample_low_rank_factors("w", 2, 3, 4, rank=3)

    outputs, inputs, lags = handlers.seed(factors, 0)()
    strength = jnp.linalg.norm(outputs, axis=-2)
    assert (jnp.diff(strength, axis=-1) < 0).all()
    assert_allclose((jnp.linalg.norm(inputs, axis=-2), jnp.linalg.norm(lags, axis=-2)), (jnp.ones((2, 3)),) * 2)


def test_values_of_given_factors_give_the_same_weights():
    """Whatever the order and the sizes of the columns."""
    rng = np.random.default_rng(0)
    outputs, inputs, lags = (jnp.asarray(rng.normal(size=shape)) for shape in ((2, 3, 2), (2, 3, 2), (2, 4, 2)))
    values = tsd.low_rank_values("w", outputs, inputs, lags)

    def factors():
        return tsd.sample_low_rank_factors("w", 2, 3, 4, rank=2)

    found = handlers.seed(handlers.substitute(factors, values), 0)()
    assert_allclose(dense_weights(*found, None), dense_weights(outputs, inputs, lags, None))


@pytest.mark.slow
def test_chains_agree_on_the_tensor():
    """Split R-hat of every entry of the dense tensors, chains started around an EM fit of simulated data. The largest was
    below 1.01 on two kinds of processors and 1.023 on a third, whose rounding makes other chains."""
    block = dist.Normal(jnp.zeros((2, 2)), 1.0).to_event(2)
    truth = {
        "output_factors": jnp.array([[[0.8], [0.4]], [[-0.5], [0.7]]]),
        "input_factors": jnp.array([[[0.6], [0.8]], [[0.6], [-0.8]]]),
        "lag_factors": jnp.array([[[1.0], [0.3]], [[0.8], [-0.5]]]),
    }
    bias, rows = jnp.array([[1.0, -1.0], [-1.0, 0.5]]), jnp.array([[0.97, 0.03], [0.03, 0.97]])
    noise = dist.MultivariateNormal(bias, 0.2 * jnp.eye(2))
    salt = tsd.SALT(jnp.full(2, 0.5), rows, **truth, noise=noise, num_steps=200, initial=block)
    series = salt.sample(random.key(0))
    fit = em(
        salt, series, fixed=("initial_probs", "transition_probs", "noise.covariance_matrix"), num_iters=50
    ).distribution
    values = tsd.low_rank_values("weights", fit.output_factors, fit.input_factors, fit.lag_factors)
    starts = [
        values
        | {"bias": fit.noise.loc}
        | {f"weights_{part}": values[f"weights_{part}"] + shift for part in ("outputs", "inputs")}
        for shift in (0.0, 0.05, -0.05, 0.1)
    ]
    arguments = (series, {"num_steps": 200, "block": block})
    chains = MCMC(
        NUTS(model, dense_mass=True, max_tree_depth=7),
        num_warmup=300,
        num_samples=500,
        num_chains=4,
        chain_method="vectorized",
        progress_bar=False,
    )
    chains.run(random.key(1), *arguments, init_params=starting_params(model, starts, *arguments))
    tensors = np.asarray(chains.get_samples(group_by_chain=True)["tensor"])
    assert split_gelman_rubin(tensors).max() < 1.04
    error = np.abs(tensors.mean((0, 1)) - salt.weights) / tensors.std((0, 1))
    assert np.median(error) < 1.5
