"""The protocol of Gibbs blocks, by one that brings nothing but its arithmetic."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer import Gibbs
from numpyro.infer.util import log_density

from tests.helpers import assert_allclose
from tsppl.inference.gibbs.block import (
    GibbsBlock,
    NotConjugateError,
    check_ratio,
    exactly,
    in_double,
    random_values,
)

VALUE = jnp.array([0.4, -0.2, 1.1])


def model(value, more=0.0):
    loc = numpyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.factor("more", more * loc**2)
    numpyro.sample("y", dist.Normal(loc, scale).expand([3]).to_event(1), obs=value)


class LocState(NamedTuple):
    z: dict
    mean: jax.Array
    rng_key: jax.Array | None = None


class LocGibbs(GibbsBlock):
    sites = ("loc",)
    num_keys = 0, 1

    def law(self, values, args, kwargs):
        trace = handlers.trace(handlers.substitute(handlers.seed(self.model, 0), data=values)).get_trace(
            *args, **kwargs
        )
        weight = trace["scale"]["value"] ** -2.0
        precision = 1.0 + 3 * weight
        return dist.Normal(weight * trace["y"]["value"].sum() / precision, precision**-0.5)

    def compare(self, values, args, kwargs):
        with exactly():
            args, kwargs = in_double((args, kwargs))
            here, there = (random_values(self.model, random.key(seed), args, kwargs) for seed in range(2))
            law, moved = self.law(here, args, kwargs), here | {"loc": there["loc"]}
            found = law.log_prob(moved["loc"]) - law.log_prob(here["loc"])
            before, after = (log_density(self.model, args, kwargs, values)[0] for values in (here, moved))
            check_ratio(found, before, after, subject="loc cannot be drawn")

    def start(self, keys, values, args, kwargs):
        assert not keys
        return LocState(values, jnp.zeros(()))

    def draw(self, keys, state, args, kwargs):
        (key,) = keys
        law = self.law(state.z, args, kwargs)
        return LocState({"loc": law.sample(key)}, law.loc)


class ScaleGibbs(LocGibbs):
    """Stays where it is."""

    sites = ("scale",)

    def compare(self, values, args, kwargs):
        assert "_gibbs_sites" not in kwargs

    def draw(self, keys, state, args, kwargs):
        assert set(kwargs["_gibbs_sites"]) == {"loc"}
        return state


def test_a_block_of_arithmetic_alone_runs_beside_another():
    kernel = Gibbs([(LocGibbs(model), ["loc"]), (ScaleGibbs(model), ["scale"])])
    state = kernel.init(random.key(0), 0, {"scale": jnp.asarray(0.5)}, (VALUE,), {})
    sample = jax.jit(lambda state: kernel.sample(state, (VALUE,), {}))
    first, second = sample(state), sample(sample(state))
    assert_allclose(first.block_states[0].mean, 4 * VALUE.sum() / 13)
    assert first.z["loc"] != second.z["loc"]
    assert first.block_states[0].rng_key != second.block_states[0].rng_key


def test_a_mismatch_is_an_error_unless_told_not_to_look():
    LocGibbs(model, check=False).init(random.key(0), 0, {"loc": 0.0}, (VALUE,), {"more": 1.0})
    with pytest.raises(NotConjugateError, match=r"loc cannot be drawn: .* the model uses them in another way"):
        LocGibbs(model).init(random.key(0), 0, {"loc": 0.0}, (VALUE,), {"more": 1e-4})
    with pytest.raises(ValueError, match=r"the block draws \['loc'\]; the sites \['loc', 'scale'\] do not fit"):
        LocGibbs(model).init(random.key(0), 0, {"scale": 0.0}, (VALUE,), {})


def test_a_wrapped_copy_leaves_the_block_as_it_was():
    block = LocGibbs(model)
    copy = block.wrap_model(lambda own: handlers.scale(own, 2.0))
    assert block.model is model
    assert isinstance(copy.model, handlers.scale)


def test_rounding_is_no_mismatch_and_constants_in_single_precision_round_more():
    check_ratio(3.0 + 1e-5, 1000.0, 1003.0, subject="x")
    with pytest.raises(NotConjugateError):
        check_ratio(3.0 + 1e-2, 1000.0, 1003.0, subject="x", constants=jnp.ones(2))
    check_ratio(3.0 + 1e-2, 1000.0, 1003.0, subject="x", constants=jnp.ones(2, jnp.float32))
    with pytest.raises(NotConjugateError):
        check_ratio(jnp.nan, 1000.0, 1003.0, subject="x")
