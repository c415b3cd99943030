"""Starts found by climbing: the mode of a model whose mode is known, modes told apart, and failures counted."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.infer.util import potential_energy

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.inference import find_starts, starting_params

RNG = np.random.default_rng(0)
VALUE = np.concatenate([RNG.normal(-4.0, 0.5, 20), RNG.normal(3.0, 0.5, 20)])


def regimes(value, num_steps):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    stay = numpyro.sample("stay", dist.Beta(9.0, 1.0))
    rows = jnp.array([[stay, 1 - stay], [1 - stay, stay]])
    scale = numpyro.sample("scale", dist.HalfNormal(2.0))
    series = tsd.HiddenMarkov(jnp.ones(2) / 2, rows, dist.Normal(loc, scale), num_steps=num_steps)
    numpyro.sample("y", series, obs=value)


def test_climb_ends_at_the_mode_of_the_unconstrained_density():
    """Gamma prior, Poisson counts: of log(rate) the density is highest at (shape + sum) / (rate + n)."""

    def model(counts):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.5))
        numpyro.sample("y", dist.Poisson(rate).expand([3]).to_event(1), obs=counts)

    found = find_starts(model, np.array([3, 5, 1]), num_starts=3)
    assert_allclose(found.values[0]["rate"], (2 + 9) / (0.5 + 3), rtol=1e-3)
    assert (found.log_densities >= found.begun).all()
    assert (np.diff(found.log_densities) <= 0).all()
    wild = find_starts(model, np.array([3, 5, 1]), num_starts=3, num_steps=3, step_size=50.0)
    assert (wild.log_densities >= wild.begun).all()


def test_regimes_are_found_ranked_and_given_to_chains():
    found = find_starts(regimes, VALUE, 40, num_starts=8, num_steps=300, starts=[{"loc": jnp.array([0.0, 0.1])}])
    assert_allclose(np.sort(found.values[0]["loc"]), np.array([VALUE[:20].mean(), VALUE[20:].mean()]), atol=0.15)
    assert len(found.values) == 9
    assert found.mode[0] == 0
    assert (np.diff(found.log_densities)[np.diff(found.mode) > 0] < -0.5).all()
    assert str(found).count("\n") == 9
    params = starting_params(regimes, found.values[:2], VALUE, 40)
    energy = jax.vmap(lambda point: potential_energy(regimes, (VALUE, 40), {}, point))(params)
    assert_allclose(-energy, found.log_densities[:2], rtol=1e-6)


def test_starts_without_a_finite_density_are_dropped_and_counted():
    def model():
        x = numpyro.sample("x", dist.Normal(0.0, 1.0))
        numpyro.factor("half", jnp.where(x > 0, 0.0, jnp.nan))

    found = find_starts(model, num_starts=12, num_steps=5)
    assert 0 < found.num_failed < 12
    assert len(found.values) == 12 - found.num_failed
    assert "met no finite density" in str(found)

    def nowhere():
        numpyro.factor("nothing", numpyro.sample("x", dist.Normal()) * jnp.nan)

    with pytest.raises(ValueError, match="check_model"):
        find_starts(nowhere, num_starts=2, num_steps=2)


def test_discrete_sites_are_refused():
    def model():
        numpyro.sample("z", dist.Bernoulli(0.5))

    with pytest.raises(ValueError, match="'z' is discrete"):
        find_starts(model)
