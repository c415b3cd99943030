"""A model is run in one way, and the record of a sequence says which axis is what."""

import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import init_to_median

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.sites.trace import log_probs, replay, sequence_sites


def two_numbers(scale):
    x = numpyro.sample("x", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(x, scale))


def test_given_values_come_before_those_of_the_function_and_these_before_draws():
    trace = replay(random.key(0), two_numbers, {"x": 3.0}, (2.0,), {}, substitute_fn=init_to_median(num_samples=1))
    assert trace["x"]["value"] == 3.0
    assert_allclose(log_probs(trace)["y"], dist.Normal(3.0, 2.0).log_prob(trace["y"]["value"]))
    drawn = replay(random.key(0), two_numbers, {}, (2.0,), {})
    again = replay(random.key(0), two_numbers, {"y": 1.0}, (), {"scale": 5.0})
    assert drawn["x"]["value"] == again["x"]["value"]


def series():
    emission = dist.Normal(jnp.zeros((2, 3)), 1.0).to_event(1)
    return tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.eye(2), emission, num_steps=3)


def test_axes_of_a_sequence_do_not_depend_on_their_sizes():
    def model():
        with numpyro.plate("mouse", 3, dim=-2), numpyro.plate("day", 3, dim=-1):
            numpyro.sample("x", series())
        with numpyro.plate("cage", 3):
            numpyro.sample("y", series().expand((3,)).to_event(1))
        numpyro.sample("z", series())

    sites = sequence_sites(replay(random.key(0), model, {}, (), {}))
    assert sites["x"].axes == ((0, 1), 2, (3,), {"mouse": 0, "day": 1})
    assert sites["y"].axes == ((0, 1), 2, (3,), {"cage": 0})
    assert sites["z"].axes == ((), 0, (1,), {})
