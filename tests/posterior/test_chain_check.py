"""Chains in a local mode are named with the distance in nats; weights are the best mixture; bad states are told."""

import warnings

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tsppl import check_chains, stacking_weights
from tsppl.posterior.chain_check import _states_in_use
from tsppl.posterior.stacking import left_out_densities

RNG = np.random.default_rng(0)
T = 60
Y = np.where(np.arange(T) // 15 % 2, 3.0, -3.0) + RNG.normal(size=T)


def model(y, lengths=None):
    loc = numpyro.sample("loc", dist.Normal(0.0, 5.0).expand([2]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(3.0).expand([2]).to_event(1))
    stay = numpyro.sample("stay", dist.Beta(1.0, 1.0))
    rows = jnp.array([[1, 0], [0, 1]]) * stay + jnp.array([[0, 1], [1, 0]]) * (1 - stay)
    emission = dist.Normal(loc, scale)
    numpyro.sample("y", tsd.HiddenMarkov(jnp.ones(2) / 2, rows, emission, num_steps=T, lengths=lengths), obs=y)


def draws(loc, scale, stay):
    """Four chains of 60 draws around values per chain."""
    noise = lambda size: 1 + 0.02 * RNG.normal(size=(4, 60) + size)  # noqa: E731
    loc, scale = (np.asarray(array, float)[:, None] * noise((2,)) for array in (loc, scale))
    return {"loc": loc, "scale": scale, "stay": np.clip(np.asarray(stay)[:, None] * noise(()), 0.01, 0.99)}


def test_a_chain_in_a_local_mode_is_named_and_swapped_labels_are_none():
    found = check_chains(
        draws([[-3, 3], [3, -3], [-3, 3], [0.5, 0.4]], [[1, 1], [1, 1], [1, 1], [3, 3]], [0.93] * 4),
        model, (Y,),
    )  # fmt: skip
    assert found.mode.tolist() == [0, 0, 0, 1]
    distance = found.log_density[:3].mean() - found.log_density[3]
    assert distance > 30
    assert found.problems[0].startswith(f"chain 3 is {distance:.1f} nats below the best: a local mode")
    assert found.weights[3] < 0.05
    assert_allclose(found.weights.sum(), 1.0)
    assert_allclose(found.weights[:3], np.full(3, found.weights[0]))
    assert not found.ok
    assert str(found).splitlines()[4].split()[:2] == ["3", "1"]


def test_states_that_are_rare_narrow_or_flickering():
    y = Y.copy()
    y[7::8] = 40.0
    found = check_chains(
        draws([[0, 40], [0, 300], [0, 40], [0, 40]], [[3, 1], [3, 1], [3, 1], [3, 0.003]], [0.8] * 4),
        model, (y, jnp.array(T - 5)),
    )  # fmt: skip
    told = "\n".join(found.problems)
    assert "site 'y', chains 1, 3: some state holds less than 1% of the steps" in told
    assert "site 'y', chain 3: the scale of some state is below 0.001 of the data's" in told
    assert "site 'y', chains 0, 2: most stays in some state last a single step" in told


def test_a_good_fit_has_no_problem():
    found = check_chains(draws([[-3, 3]] * 4, [[1, 1]] * 4, [0.93] * 4), model, (Y,))
    assert found.ok
    assert "no problem found" in str(found)
    with pytest.raises(ValueError, match="grouped by chain"):
        check_chains({"loc": np.ones((9, 2)), "scale": np.ones((9, 2)), "stay": np.full(9, 0.9)}, model, (Y,))
    with pytest.raises(ValueError, match="pass the model"):
        check_chains({"loc": np.ones((9, 2))})
    with pytest.raises(TypeError, match="a guide has no chains"):
        check_chains((model, {}), model, (Y,))


def test_states_that_are_out_of_use_are_not_missed():
    initial, rows = (tsd.restrict_states(jnp.full(shape, 1 / 3), 2) for shape in (3, (3, 3)))
    emission = dist.Normal(jnp.zeros(3), 1.0)
    restricted = tsd.HiddenMarkov(initial, rows, emission, num_steps=T)
    assert _states_in_use(restricted).tolist() == [0, 1]
    whole = tsd.HiddenMarkov(emission=emission, initial_logits=jnp.zeros(3), transition_logits=rows, num_steps=T)
    assert _states_in_use(whole).tolist() == [0, 1, 2]


def test_no_weights_where_terms_are_conditional():
    def labelled():
        label = numpyro.sample("label", dist.Bernoulli(0.5))
        numpyro.sample("x", dist.Normal(label, 1.0), obs=0.3)

    found = check_chains({"label": np.array([[0, 1, 0], [1, 1, 0]])}, labelled)
    assert found.weights is None
    assert found.ok
    assert "nan" in str(found)


@pytest.mark.skipif(not hasattr(az, "InferenceData"), reason="the call is that of ArviZ 0.x")
def test_left_out_densities_equal_those_of_arviz():
    rng = np.random.default_rng(1)
    terms = -0.5 * (rng.standard_t(3, size=(400, 5)) * np.array([0.1, 0.5, 1.0, 1.5, 40.0])) ** 2
    densities, khat = left_out_densities(terms)
    posterior = {"x": rng.normal(size=(4, 100))}
    tree = az.from_dict(posterior=posterior, log_likelihood={"y": terms.reshape(4, 100, 5)})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = az.loo(tree, pointwise=True, reff=1.0)
    assert_allclose(densities, expected.loo_i.values, atol=1e-6)
    assert_allclose(khat, expected.pareto_k.values, atol=1e-6)


def test_stacking_weights_are_the_best_mixture():
    densities = RNG.normal(size=(40, 2))
    weights = stacking_weights(densities)
    grid = np.linspace(0, 1, 2001)
    score = np.log(np.exp(densities[:, :1]) * grid + np.exp(densities[:, 1:]) * (1 - grid)).sum(0)
    assert_allclose(weights[0], grid[score.argmax()], atol=1e-3)
