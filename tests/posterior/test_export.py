"""The tree for ArviZ: what is in it, what is kept out of it, and that ArviZ's functions simply work on it."""

import arviz as az
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.session_models import (
    COUNTS,
    LENGTHS,
    NUM_STEPS,
    poisson_sessions,
    session_draws,
    switching_trajectories,
    trajectory_draws,
)
from tsppl.posterior import export
from tsppl.posterior.draws import tree_groups
from tsppl.posterior.export import to_arviz
from tsppl.posterior.latents import posterior_latents
from tsppl.posterior.scoring import log_likelihood

pytestmark = pytest.mark.filterwarnings(
    "ignore:Estimated shape parameter", "ignore:invalid value", "ignore:divide by zero"
)
MASK = np.ones((3, NUM_STEPS), bool)
MASK[0, 2] = MASK[2, :2] = False
SCORED = MASK & (np.arange(NUM_STEPS) < LENGTHS[:, None])
DRAWS = session_draws(chains=2, size=25)
NAMES = {"sequence": ["a", "b", "c"], "time": np.arange(1990, 1990 + NUM_STEPS)}


@pytest.fixture(scope="module")
def tree():
    return to_arviz(DRAWS, poisson_sessions, (COUNTS, LENGTHS, MASK), coords=NAMES)


@pytest.fixture(scope="module")
def mcmc():
    mcmc = MCMC(
        NUTS(poisson_sessions, max_tree_depth=3),
        num_warmup=10,
        num_samples=10,
        num_chains=2,
        chain_method="vectorized",
        progress_bar=False,
    )
    mcmc.run(random.PRNGKey(1), COUNTS, lengths=LENGTHS, extra_fields=("potential_energy", "num_steps", "accept_prob"))
    return mcmc


def dims(tree, group, name):
    return tree[group][name].dims


@pytest.mark.smoke
def test_groups_dimensions_and_labels(tree):
    assert set(tree_groups(tree)) == {"posterior", "log_likelihood", "one_step_ahead", "observed_data"}
    assert dims(tree, "posterior", "rate") == ("chain", "draw", "state")
    assert dims(tree, "posterior", "transition_probs") == ("chain", "draw", "state", "state_to")
    assert dims(tree, "posterior", "log_rate") == ("chain", "draw", "log_rate_dim_0")
    assert dims(tree, "posterior", "counts_states") == ("chain", "draw", "sequence", "time")
    assert tree["posterior"]["counts_states"].dtype == np.int16
    assert tree["posterior"]["time"].values.tolist() == NAMES["time"].tolist()
    assert dims(tree, "observed_data", "counts") == ("sequence", "time")
    assert (np.isnan(tree["observed_data"]["counts"].values) == ~SCORED).all()


@pytest.mark.smoke
def test_scored_steps_alone_reach_loo(tree):
    terms = tree["log_likelihood"]["counts"]
    assert terms.dims == ("chain", "draw", "counts_obs")
    assert terms.sizes["counts_obs"] == SCORED.sum()
    assert terms["time"].values.tolist() == NAMES["time"][np.nonzero(SCORED)[1]].tolist()
    assert terms["sequence"].values.tolist() == np.array(NAMES["sequence"])[np.nonzero(SCORED)[0]].tolist()
    expected = log_likelihood(None, poisson_sessions, DRAWS, COUNTS, LENGTHS, MASK)["counts"].terms
    assert_allclose(terms.values, np.asarray(expected)[..., SCORED])
    assert tree["log_likelihood"].attrs["kind"] == "left-out"
    loo = az.loo(tree)
    assert loo.n_data_points == SCORED.sum()
    assert np.isfinite(loo.elpd_loo if hasattr(loo, "elpd_loo") else loo.elpd)


def test_one_step_terms_are_elsewhere_under_the_same_name(tree):
    terms = tree["one_step_ahead"]["counts"]
    expected = log_likelihood(None, poisson_sessions, DRAWS, COUNTS, LENGTHS, MASK, kind="one-step")["counts"].terms
    assert_allclose(terms.values, np.asarray(expected)[..., SCORED])
    assert tree["one_step_ahead"].attrs["kind"] == "one-step"
    assert np.abs(terms.values - tree["log_likelihood"]["counts"].values).max() > 0.01


@pytest.mark.smoke
def test_arviz_summarises_compares_and_saves(tree, tmp_path, key):
    assert len(az.summary(tree, var_names=["rate", "transition_probs"])) == 6
    other = to_arviz(session_draws(chains=2, size=25, seed=3), poisson_sessions, (COUNTS, LENGTHS, MASK), latents=False)
    assert len(az.compare({"one": tree, "two": other})) == 2
    tree.to_netcdf(tmp_path / "tree.nc")
    saved = az.from_netcdf(tmp_path / "tree.nc")
    assert az.loo(saved).n_data_points == SCORED.sum()
    assert saved["one_step_ahead"].attrs["kind"] == "one-step"
    for posterior in (saved, tree, DRAWS):
        mode = posterior_latents(key, poisson_sessions, posterior, COUNTS, what="mode", num_draws=8)
        assert mode["counts"]["states"].shape == (2, 4, 3, NUM_STEPS)


def test_states_are_draws_given_the_data_and_the_key_is_fixed(tree):
    marginals = posterior_latents(random.key(1), poisson_sessions, DRAWS, COUNTS, LENGTHS, MASK, what="marginals")
    states = tree["posterior"]["counts_states"].values
    error = np.abs(states.mean((0, 1)) - np.asarray(marginals["counts"]["state_probs"][..., 1]).mean((0, 1)))
    assert error.max() < 4 * 0.5 / np.sqrt(50)
    again = to_arviz(DRAWS, poisson_sessions, (COUNTS, LENGTHS, MASK))
    assert (again["posterior"]["counts_states"].values == states).all()


@pytest.mark.smoke
def test_an_mcmc_object_brings_its_model_arguments_and_diagnostics(mcmc, key):
    tree = to_arviz(mcmc)
    stats = tree["sample_stats"]
    assert set(stats.data_vars) == {"diverging", "lp", "n_steps", "acceptance_rate"}
    assert_allclose(stats["lp"].values, -np.asarray(mcmc.get_extra_fields(group_by_chain=True)["potential_energy"]))
    assert tree["posterior"].sizes["draw"] == 10
    assert tree["log_likelihood"].sizes["counts_obs"] == LENGTHS.sum()
    assert_allclose(tree["posterior"]["rate"].values, np.asarray(mcmc.get_samples(group_by_chain=True)["rate"]))
    of_mcmc = posterior_latents(key, poisson_sessions, mcmc, COUNTS, LENGTHS, what="mode")["counts"]["states"]
    of_tree = posterior_latents(key, poisson_sessions, tree, COUNTS, LENGTHS, what="mode")["counts"]["states"]
    assert (of_mcmc == of_tree).all()


def test_diagnostics_of_gibbs_blocks_lose_their_prefix_unless_that_is_ambiguous():
    class Stub:
        def get_extra_fields(self, group_by_chain):
            names = (
                "block_states.2.diverging",
                "block_states.2.num_steps",
                "block_states.0.accept_prob",
                "block_states.1.accept_prob",
            )
            return {name: np.zeros((2, 3)) for name in names} | {"block_states.0": {"inner": np.zeros(2)}}

    assert set(export._sample_stats(Stub())) == {
        "diverging", "n_steps", "block_states.0.accept_prob", "block_states.1.accept_prob"
    }  # fmt: skip


def two_chains(y, path, weights, num_steps):
    """Two sequence sites of different length, and a plain site masked in part."""
    rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
    uniform = jnp.full((2, 2), 0.5)
    numpyro.sample("y", tsd.HiddenMarkov(uniform[0], uniform, dist.Poisson(rate), num_steps=num_steps), obs=y)
    numpyro.sample("path", tsd.MarkovChain(uniform[0], uniform, num_steps=len(path)), obs=path)
    numpyro.sample("weights", dist.Normal(rate, 1.0).mask(jnp.array([True, False])), obs=weights)
    numpyro.factor("penalty", -rate.sum())


def test_several_sites_of_unlike_size():
    draws = {"rate": np.random.default_rng(0).gamma(5, 1, (40, 2))}
    args = (COUNTS[0], np.array([0, 1, 1]), np.array([1.0, 2.0]), NUM_STEPS)
    tree = to_arviz(draws, two_chains, args, coords={"time": np.arange(NUM_STEPS)}, dims={"weights": ["item"]})
    assert dims(tree, "posterior", "y_states") == ("chain", "draw", "time")
    assert tree["posterior"].sizes["chain"] == 1
    assert dims(tree, "observed_data", "path") == ("path_time",)
    assert np.isnan(tree["observed_data"]["weights"].values).tolist() == [False, True]
    terms = tree["log_likelihood"]
    assert {name: terms.sizes[f"{name}_obs"] for name in terms.data_vars} == {"y": 6, "path": 3, "weights": 1}
    assert terms["weights_item"].values.tolist() == [0]
    assert set(tree["one_step_ahead"].data_vars) == {"y", "path"}
    assert az.loo(tree, var_name="y").n_data_points == 6
    with pytest.raises(ValueError, match=r"coords\['time'\] has 5 labels, and the time axis of 'path' has 3 entries"):
        to_arviz(draws, two_chains, args, latents=False, coords={"time": np.arange(5)})


def test_names_given_for_a_site_reach_all_that_is_made_of_it():
    tree = to_arviz(
        DRAWS,
        poisson_sessions,
        (COUNTS,),
        coords={"mouse": ["x", "y", "z"]},
        dims={"counts": ["mouse", "trial"], "rate": ["regime"]},
    )
    assert dims(tree, "posterior", "counts_states") == ("chain", "draw", "mouse", "trial")
    assert dims(tree, "posterior", "rate") == ("chain", "draw", "regime")
    assert dims(tree, "observed_data", "counts") == ("mouse", "trial")
    assert tree["log_likelihood"]["mouse"].values[0] == "x"


def test_sites_without_exact_terms_never_reach_loo():
    class WithoutLeftOut(tsd.HiddenMarkov):
        log_prob_left_out = tsd.SequenceDistribution.log_prob_left_out

    def model(y):
        rate = numpyro.sample("rate", dist.Gamma(2.0, 0.4).expand([2]).to_event(1))
        series = WithoutLeftOut(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), dist.Poisson(rate), num_steps=NUM_STEPS)
        numpyro.sample("y", series, obs=y)

    tree = to_arviz({"rate": np.array([[1.0, 9.0]] * 3)}, model, (COUNTS[0],), latents=False)
    assert set(tree_groups(tree)) == {"posterior", "one_step_ahead", "observed_data"}
    assert "y: none, site 'y': WithoutLeftOut has no exact" in tree["posterior"].attrs["log_likelihood"]


def test_terms_conditional_on_an_explicit_sequence_are_left_out():
    tree = to_arviz(trajectory_draws(), switching_trajectories, (jnp.zeros((3, 4, 2)), 4))
    assert set(tree_groups(tree)) == {"posterior", "observed_data"}
    assert tree["posterior"].attrs["log_likelihood"] == ("y: none, it would be conditional on the explicit sequence x")
    assert dims(tree, "posterior", "x") == ("chain", "draw", "sequence", "time", "latent")
    assert dims(tree, "posterior", "x_states") == ("chain", "draw", "sequence", "time")
    assert dims(tree, "posterior", "dynamics")[2] == "state"


def test_state_axes_are_seen_where_they_are_not_the_only_axis_of_their_size():
    def model(y):
        loc = numpyro.sample("loc", dist.Normal(0, 1).expand([2, 2]).to_event(2))
        scale = numpyro.sample("scale", dist.HalfNormal(1).expand([2]).to_event(1))
        emission = dist.Normal(loc, scale).to_event(1)
        series = tsd.HiddenMarkov(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), emission, num_steps=len(y))
        numpyro.sample("y", series, obs=y)

    draws = {"loc": np.zeros((1, 3, 2, 2)), "scale": np.ones((1, 3, 2))}
    tree = to_arviz(draws, model, (np.zeros((3, 2)),), latents=False, dims={"y": ["time", "axis"]})
    assert dims(tree, "posterior", "loc") == ("chain", "draw", "state", "loc_dim_1")
    assert dims(tree, "posterior", "scale") == ("chain", "draw", "scale_dim_0")
    assert dims(tree, "observed_data", "y") == ("time", "axis")


def test_steps_that_are_conditioned_on_are_no_data_points():
    def model(y):
        weights = numpyro.sample("weights", dist.Normal(0, 1).expand([2, 1]).to_event(2))
        noise = dist.Normal(jnp.zeros(2), 1.0)
        series = tsd.AutoregressiveHMM(jnp.ones(2) / 2, jnp.full((2, 2), 0.5), weights, noise, num_steps=len(y))
        numpyro.sample("y", series, obs=y)

    draws = {"weights": np.random.default_rng(0).normal(size=(30, 2, 1))}
    tree = to_arviz(draws, model, (np.arange(5.0),))
    assert tree["log_likelihood"]["time"].values.tolist() == [1, 2, 3, 4]
    assert (tree["posterior"]["y_states"].values[..., 0] == -1).all()
    assert (tree["posterior"]["y_states"].values[..., 1:] >= 0).all()
    assert az.loo(tree).n_data_points == 4


def test_latents_that_would_be_large_are_left_out(monkeypatch, caplog):
    monkeypatch.setattr(export, "LARGE_BYTES", 100)
    monkeypatch.setattr(export, "_pointwise", lambda *args: ({}, {}))
    tree = to_arviz(DRAWS, poisson_sessions, (COUNTS,))
    assert "counts_states" not in tree["posterior"].data_vars
    assert "the latents of counts would take" in caplog.text


def test_draws_alone_need_to_know_their_leading_axes():
    tree = to_arviz(DRAWS, batch_ndims=2, dims={"rate": ["state"]})
    assert dims(tree, "posterior", "rate") == ("chain", "draw", "state")
    with pytest.raises(ValueError, match="pass the model, or batch_ndims"):
        to_arviz(DRAWS)
    with pytest.raises(TypeError, match="not of another tree"):
        to_arviz(tree)
    with pytest.raises(TypeError, match=r"args must be a tuple of the model's arguments, such as args=\(y,\)"):
        to_arviz(DRAWS, poisson_sessions, COUNTS)


def test_parameters_given_as_plain_numbers_are_no_obstacle():
    def model(y):
        scale = numpyro.sample("scale", dist.HalfNormal(1.0))
        start = dist.Normal(0.0, 1.0).expand([1]).to_event(1)
        walk = tsd.LinearGaussianSSM(start, jnp.eye(1), start, jnp.ones(1), dist.Normal(0.0, scale), num_steps=3)
        numpyro.sample("y", walk, obs=y)

    tree = to_arviz({"scale": jnp.ones((1, 2))}, model, (jnp.arange(3.0),), latents=False)
    assert tree["log_likelihood"]["y"].shape == (1, 2, 3)
