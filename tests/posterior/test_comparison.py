"""Models are compared on one kind of terms and on the same steps, or refused with what to pass."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl.posterior.stacking import left_out_densities

RNG = np.random.default_rng(0)
T = 8
Y = RNG.normal(size=(3, T)).cumsum(-1)
DRAWS = {"scale": 1 + 0.05 * RNG.normal(size=(2, 40))}


def autoregression(y, num_lags):
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    weights = jnp.eye(num_lags)[:1] if num_lags else jnp.zeros((1, 1))
    one = jnp.ones((1, 1))
    series = tsd.AutoregressiveHMM(one[0], one, weights, dist.Normal(jnp.zeros(1), scale), num_steps=T)
    with numpyro.plate("session", 3):
        numpyro.sample("y", series, obs=y)


def independent(y):
    """Left-out terms are refused for Student-t lags of zero, so one-step terms are all it has."""
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    one = jnp.ones((1, 1))
    noise = dist.StudentT(9.0, jnp.zeros(1), 2 * scale)
    with numpyro.plate("session", 3):
        numpyro.sample("y", tsd.AutoregressiveHMM(one[0], one, 0 * one, noise, num_steps=T), obs=y)


@pytest.fixture(scope="module")
def trees():
    made = {
        f"lags {num_lags}": tsppl.to_arviz(DRAWS, autoregression, (Y, num_lags), latents=False) for num_lags in (1, 2)
    }
    return made | {"independent": tsppl.to_arviz(DRAWS, independent, (Y,), latents=False)}


def pick(trees, *names):
    return {name: trees[name] for name in names}


def test_refusals_say_what_is_stored_and_what_to_pass(trees):
    with pytest.raises(
        ValueError, match="lags 1 stores left-out terms of 21 steps, lags 2 stores left-out terms of 18"
    ):
        tsppl.compare(pick(trees, "lags 1", "lags 2"))
    with pytest.raises(
        ValueError, match=r"independent stores one-step terms of 21 steps: compare\(..., kind='one-step'\)"
    ):
        tsppl.compare(pick(trees, "lags 1", "independent"))
    other = {"other": tsppl.to_arviz(DRAWS, autoregression, (Y + 1, 1), latents=False)}
    with pytest.raises(ValueError, match="'lags 1' and 'other' were fitted to different data"):
        tsppl.compare(pick(trees, "lags 1") | other)
    with pytest.raises(ValueError, match="do not sum"):
        tsppl.compare(trees, kind="left-out", leave_out="sequence")
    with pytest.raises(ValueError, match="two or more trees"):
        tsppl.compare(pick(trees, "lags 1"))
    with pytest.raises(ValueError, match="no terms to compare of site 'x'"):
        tsppl.compare(trees, site="x")


def test_common_steps_are_the_same_steps(trees):
    """Both autoregressions are the same random walk, so on the steps that both score they are equal."""
    found = tsppl.compare(pick(trees, "lags 1", "lags 2"), kind="one-step", steps="common")
    assert found.num_terms == 18
    assert_allclose(found.below, np.zeros(2), atol=1e-9)
    assert_allclose(found.weights, np.full(2, 0.5))


def test_scores_weights_and_table(trees):
    found = tsppl.compare(pick(trees, "independent", "lags 1"), kind="one-step")
    assert found.names == ("lags 1", "independent")
    groups = {name: trees[name]["one_step_ahead"]["y"].values.reshape(80, -1) for name in found.names}
    each = np.stack([left_out_densities(groups[name])[0] for name in found.names], -1)
    assert_allclose(found.scores, each.sum(0))
    behind = each[:, 0] - each[:, 1]
    assert_allclose(found.below_errors, np.array([0.0, np.sqrt(21) * behind.std()]))
    assert found.below[1] > found.below_errors[1]
    assert str(found).splitlines()[0] == "one-step terms of the same 21 steps, in nats"
    whole = tsppl.compare(pick(trees, "independent", "lags 1"), leave_out="sequence")
    assert whole.num_terms == 3
    sums = groups["lags 1"].reshape(80, 3, 7).sum(-1)
    assert_allclose(whole.scores[0], left_out_densities(sums)[0].sum())
