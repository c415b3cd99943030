"""What people look at after labels were sampled: event tables, co-assignment, one partition, the tree for ArviZ."""

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, Gibbs

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.neyman_scott import all_labels
from tsppl.inference import LabelGibbs
from tsppl.points import canonical_labels
from tsppl.posterior.draws import tree_groups

POINTS = np.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40])
LABELS = np.array([[0, 0, 0, 1, 1, -1], [0, 0, -1, 1, 1, -1], [-1] * 6, [0, 0, 0, 1, 2, 2]], np.int32)
AMPLITUDE = dist.Gamma(2.0, 0.5)
SEQUENCE = tsd.SequenceCluster(
    jnp.array([0.4, 0.6]),
    jnp.full((2, 3), 1 / 3),
    jnp.array([[0.0, 0.1, 0.2], [0.2, 0.1, 0.0]]),
    jnp.full((2, 3), 0.05),
)


def in_time(points):
    scale = numpyro.sample("scale", dist.LogNormal(-1.6, 0.3))
    tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(scale), 0.4, (0.0, 5.0)).sample("x", points)


def known(points):
    tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0)).sample("x", points)


def time_draws(shape=(4,)):
    return {"scale": jnp.full(shape, 0.2), "x_labels": jnp.asarray(LABELS.reshape(*shape, 6))}


def test_event_tables_are_sorted_padded_and_tell_each_point_its_row():
    """Points in any order: rows follow places, and events lie near the points that name them."""
    order = np.array([4, 0, 5, 2, 1, 3])
    labels = jax.vmap(canonical_labels)(jnp.asarray(LABELS[:, order]))
    draws = {"scale": jnp.full(4, 1e-3), "x_labels": labels}
    events = tsppl.posterior_events(random.key(0), in_time, draws, POINTS[order])["x"]
    assert events["num_clusters"].tolist() == [2, 2, 0, 3]
    assert events["num_background"].tolist() == [1, 2, 6, 0]
    assert events["size"].tolist() == [[3, 2, 0], [2, 2, 0], [0, 0, 0], [3, 1, 2]]
    assert events["labels"][:, np.argsort(order)].tolist() == LABELS.tolist()
    centres, amplitudes = np.asarray(events["centre"]), np.asarray(events["amplitude"])
    assert (np.isnan(centres) == (events["size"] == 0)).all()
    assert (np.isnan(amplitudes) == (events["size"] == 0)).all()
    assert (np.diff(centres, axis=1)[~np.isnan(centres[:, 1:])] > 0).all()
    assert_allclose(centres[0, :2], np.array([POINTS[:3].mean(), POINTS[3:5].mean()]), atol=0.01)


def test_event_tables_have_the_fields_of_the_family():
    """Types and warps as whole numbers; places and covariances of clusters in the plane; chains kept."""

    def sequences(points):
        tsd.NeymanScott(0.4, AMPLITUDE, SEQUENCE, 0.4, (0.0, 5.0)).sample("x", points)

    spikes = jnp.array([[1.0, 0.0], [1.1, 1.0], [1.2, 2.0], [3.0, 2.0], [3.1, 1.0], [3.2, 0.0]])
    labels = jnp.array([[[0, 0, 0, 1, 1, 1]], [[0, 0, 0, -1, -1, -1]]], jnp.int32)
    events = tsppl.posterior_events(random.key(0), sequences, {"x_labels": labels}, spikes)["x"]
    assert events["type"].tolist() == [[[0, 1]], [[0, -1]]]
    assert events["warp"].tolist() == [[[0, 0]], [[0, -1]]]
    assert events["time"].shape == (2, 1, 2)

    def shapes(points):
        cluster = tsd.GaussianInverseWishartCluster(5.0, 0.01 * jnp.eye(2))
        tsd.NeymanScott(2.0, AMPLITUDE, cluster, 2.0, jnp.array([[0.0, 0.0], [5.0, 5.0]])).sample("x", points)

    found = tsppl.posterior_events(random.key(0), shapes, {"x_labels": labels[:, 0]}, spikes)["x"]
    assert found["centre"].shape == (2, 2, 2)
    assert found["covariance"].shape == (2, 2, 2, 2)
    assert bool(jnp.isnan(found["covariance"][1, 1]).all())


def test_co_assignment_counts_pairs_and_keeps_far_ones_out():
    together = tsppl.co_assignment(LABELS)
    same = (LABELS[:, :, None] == LABELS[:, None]) & (LABELS[:, :, None] >= 0)
    assert_allclose(together.toarray(), same.mean(0))
    assert together.nnz == (same.any(0)).sum()
    many = np.tile(LABELS, (50, 1)).reshape(5, 40, 6)
    assert_allclose(tsppl.co_assignment(many).toarray(), same.mean(0))
    large = np.repeat(np.arange(20_000, dtype=np.int32), 2)[None].repeat(3, 0)
    assert tsppl.co_assignment(large).nnz == 80_000


def test_the_point_estimate_is_the_draw_nearest_to_the_co_assignment():
    """Against all squares written out, over many draws of small partitions."""
    every = np.array(list(all_labels(5)), np.int32)
    rng = np.random.default_rng(0)
    for _ in range(20):
        draws = every[rng.choice(len(every), 90, p=rng.dirichlet(np.full(len(every), 0.05)))]
        same = (draws[:, :, None] == draws[:, None]) & (draws[:, :, None] >= 0)
        loss = ((same - same.mean(0)) ** 2).sum((1, 2))
        found = tsppl.least_squares_labels(draws)
        assert_allclose(((same[(draws == found).all(1)][0] - same.mean(0)) ** 2).sum(), loss.min())
    assert tsppl.least_squares_labels(np.array([[3, -1, 1, 3]])).tolist() == [0, -1, 1, 0]


def test_events_of_one_partition_are_found_in_every_draw():
    events = {
        "labels": np.array([[0, 0, 1, 1], [1, 1, 0, 0], [-1, 0, 0, 0], [-1, -1, -1, 0]]),
        "num_clusters": np.array([2, 2, 1, 1]),
        "size": np.array([[2, 2], [2, 2], [3, 0], [1, 0]]),
        "centre": np.array([[1.0, 2.0], [2.5, 1.5], [1.8, np.nan], [2.0, np.nan]]),
        "type": np.array([[0, 1], [1, 0], [1, -1], [0, -1]]),
    }
    found = tsppl.match_events(np.array([0, 0, 1, 1]), events)
    assert set(found) == {"size", "centre", "type"}
    assert found["size"].tolist() == [[2, 2], [2, 2], [0, 3], [0, 0]]
    assert found["type"].tolist() == [[0, 1], [0, 1], [-1, 1], [-1, -1]]
    assert_allclose(found["centre"], np.array([[1.0, 2.0], [1.5, 2.5], [np.nan, 1.8], [np.nan, np.nan]]))
    assert tsppl.match_events(np.full(4, -1), events)["centre"].shape == (4, 0)


def test_intensity_of_each_draw_is_that_of_the_process():
    places = jnp.array([0.7, 3.0])
    found = tsppl.posterior_intensity(random.key(0), in_time, time_draws((2, 2)), places, POINTS)["x"]
    assert found.shape == (2, 2, 2)
    process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    assert_allclose(found[0, 1], process.predictive_intensity(places, jnp.asarray(LABELS[1]), jnp.asarray(POINTS)))


@pytest.fixture(scope="module")
def tree():
    kernel = Gibbs([(LabelGibbs(known, "x", check=False), ["x_labels"])])
    mcmc = MCMC(kernel, num_warmup=5, num_samples=15, num_chains=2, chain_method="sequential", progress_bar=False)
    mcmc.run(random.key(0), POINTS, extra_fields=("block_states.0.overflow",))
    return tsppl.to_arviz(mcmc)


def test_the_tree_for_arviz(tree):
    """Labels and events with their dimensions; numbers that agree with labels; no terms that condition on labels."""
    assert set(tree_groups(tree)) == {"posterior", "observed_data", "sample_stats"}
    posterior = tree["posterior"]
    assert posterior["x_labels"].dims == ("chain", "draw", "x_point")
    assert posterior["x_labels"].dtype == np.int32
    assert posterior["x_event_centre"].dims == ("chain", "draw", "x_event")
    labels = posterior["x_labels"].values
    assert (posterior["x_num_clusters"].values == labels.max(-1) + 1).all()
    assert (posterior["x_num_background"].values == (labels < 0).sum(-1)).all()
    assert (posterior["x_event_size"].values.sum(-1) == (labels >= 0).sum(-1)).all()
    assert tree["observed_data"]["x"].dims == ("x_point",)
    assert int(tree["observed_data"]["x_count"]) == 6
    assert "conditional on the explicit labels x_labels" in posterior.attrs["log_likelihood"]
    assert list(tree["sample_stats"].data_vars) == ["overflow"]
    summary = az.summary(tree, var_names=["x_num_clusters"])
    assert summary.index.tolist() == ["x_num_clusters"]


def test_a_tree_is_a_posterior(tree):
    events = tsppl.posterior_events(random.key(0), known, tree, POINTS, num_draws=10)["x"]
    assert events["num_clusters"].shape == (2, 5)


def test_coordinates_in_the_plane_have_a_dimension():
    def plane(points):
        cluster = tsd.GaussianCluster(jnp.array([0.1, 0.1]))
        tsd.NeymanScott(2.0, AMPLITUDE, cluster, 2.0, jnp.array([[0.0, 0.0], [5.0, 5.0]])).sample("x", points)

    points = np.stack([POINTS, POINTS[::-1]], -1)
    tree = tsppl.to_arviz({"x_labels": LABELS}, plane, (points,), coords={"coordinate": ["east", "north"]})
    assert tree["posterior"]["x_event_centre"].dims == ("chain", "draw", "x_event", "coordinate")
    assert tree["observed_data"]["x"].dims == ("x_point", "coordinate")
    assert tree["posterior"]["coordinate"].values.tolist() == ["east", "north"]


def test_a_number_that_is_observed_alone_has_its_term():
    def model(y):
        numpyro.sample("y", dist.Normal(numpyro.sample("mean", dist.Normal(0.0, 1.0)), 1.0), obs=y)

    tree = tsppl.to_arviz({"mean": jnp.zeros(3)}, model, (0.5,))
    assert tree["log_likelihood"]["y"].shape == (1, 3, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: tsppl.co_assignment(np.zeros((2, 3))), "labels are float64"),
        (lambda: tsppl.least_squares_labels(np.zeros((0, 3), int)), r"of shape \(0, 3\); pass integers"),
        (
            lambda: tsppl.posterior_events(
                random.key(0), lambda: numpyro.sample("a", dist.Normal()), {"a": jnp.ones(2)}
            ),
            "no points of a Neyman-Scott process",
        ),
    ],
)
def test_mistakes(call, message):
    with pytest.raises(ValueError, match=message):
        call()
