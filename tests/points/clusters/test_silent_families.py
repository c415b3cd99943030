"""Families that say no more than they must: the one of the tutorial, and one that states the required answers alone."""

import ast
import itertools
import math
import warnings
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import Gibbs

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.points.windows.test_own_window import Disc
from tsppl.inference import LabelGibbs, anneal
from tsppl.inference.gibbs.points.sweepers import SerialSweeper, choose_sweeper
from tsppl.points import chunk_layout, split_or_merge, sweep_labels, sweep_labels_chunked
from tsppl.points.clusters.centres import log_centre_mass

AMPLITUDE = dist.Gamma(2.0, 0.5)
TUTORIAL = Path(__file__).parents[3] / "tutorials" / "neuron_bursts.py"


def family_of_the_tutorial():
    """The classes as they stand there, without the fit around them."""
    tree = ast.parse(TUTORIAL.read_text())
    names = {"tsd": tsd, "jax": jax, "jnp": jnp, "random": random, "NamedTuple": NamedTuple}
    tree.body = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    exec(compile(tree, str(TUTORIAL), "exec"), names)
    return names["BurstCluster"]


BurstCluster = family_of_the_tutorial()
BURSTS = BurstCluster(0.05, jnp.full(2, 0.5), jnp.array([0.4, 0.6]))
SPIKES = jnp.array([[0.62, 0.0], [0.65, 0.0], [0.7, 0.0], [2.1, 1.0], [2.15, 1.0], [4.4, 0.0]])


class Sums(NamedTuple):
    size: jax.Array
    total: jax.Array
    squares: jax.Array


class Place(NamedTuple):
    place: jax.Array


@jax.tree_util.register_pytree_node_class
class SilentCluster(tsd.Cluster):
    """A Gaussian cluster, in the words that the documentation requires and in no others."""

    def __init__(self, scale):
        self.scale = scale

    @property
    def position_shape(self):
        return jnp.shape(self.scale)

    def point_statistics(self, point):
        return Sums(jnp.ones((), point.dtype), point, point**2)

    def log_marginal(self, statistics, window):
        size, mean = statistics.size, statistics.total / statistics.size
        log_density = -0.5 * (statistics.squares - statistics.total * mean) / self.scale**2
        log_density += -0.5 * (size - 1) * jnp.log(2 * jnp.pi * self.scale**2) - 0.5 * jnp.log(size)
        if self.edges == "exact":
            log_density += log_centre_mass(window, mean, self.scale / jnp.sqrt(size))
        return log_density.sum() - window.log_volume

    def sample_event_given(self, key, statistics, window):
        noise = random.normal(key, self.position_shape)
        return Place(statistics.total / statistics.size + self.scale / jnp.sqrt(statistics.size) * noise)

    def tree_flatten(self):
        return (self.scale,), None

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children)


@jax.tree_util.register_pytree_node_class
class IgnoringCluster(SilentCluster):
    """The same without edges."""

    edges = "ignored"


TIMES = jnp.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40])
PLACES = jnp.array([[0.2, 0.3], [0.25, 0.35], [0.3, 0.2], [0.8, 0.7], [0.85, 0.8], [0.4, 0.9]])
CORNERS = [[0.0, 0.0], [1.2, 0.0], [1.0, 1.1], [0.0, 1.0]]
WINDOWS = {
    "interval": (0.0, 5.0),
    "gaps": tsd.Intervals([[0.0, 1.5], [2.0, 5.0]]),
    "box": [[0.0, 0.0], [1.0, 1.0]],
    "polygon": tsd.Polygon(CORNERS),
    "disc": Disc([0.5, 0.5], 0.8),
}


@pytest.mark.parametrize(
    ("edges", "name"),
    [("exact", "gaps"), ("ignored", "disc")]
    + [
        pytest.param(*case, marks=pytest.mark.slow)
        for case in itertools.product(("exact", "ignored"), WINDOWS)
        if case not in (("exact", "gaps"), ("ignored", "disc"), ("exact", "polygon"), ("exact", "disc"))
    ],
)
def test_sweeps_splits_and_merges_are_those_of_the_gaussian_family(edges, name):
    """By every kernel, draw for draw: that family states everything."""
    in_time = name in ("interval", "gaps")
    scale, points = (0.2, TIMES) if in_time else (jnp.array([0.1, 0.2]), PLACES)
    silent = SilentCluster(scale) if edges == "exact" else IgnoringCluster(scale)
    layout = chunk_layout(np.asarray(points), math.inf, num_slots=8) if in_time else None

    @jax.jit
    def found(process):
        arguments = process.cluster, jnp.array([0, 0, -1, 1, 1, 2]), points, process.window, process.rates
        keys = random.split(random.key(0), 10)
        labels = [jax.vmap(lambda key: sweep_labels(key, *arguments).labels)(keys)]
        labels.append(jax.vmap(lambda key: split_or_merge(key, *arguments).labels)(keys))
        if in_time:
            swept = jax.vmap(lambda key: sweep_labels_chunked(key, *arguments, layout=layout))(keys)
            labels += [swept.labels, swept.overflow[:, None]]
        return labels, process.sample_events(keys[0], arguments[1], points)[0][0].shape

    known = tsd.GaussianCluster(scale, edges=edges)
    window = WINDOWS[name]
    draws, wanted = (found(tsd.NeymanScott(0.5, AMPLITUDE, one, 0.5, window)) for one in (silent, known))
    for one, other in zip(draws[0], wanted[0], strict=True):
        assert_allclose(one, other)
    assert len({tuple(row) for row in np.asarray(draws[0][0]).tolist()}) > 3
    if in_time:
        assert int(draws[0][-1].max()) == 0


def bursts(spikes):
    tsd.NeymanScott(0.4, AMPLITUDE, BURSTS, 0.4, (0.0, 5.0)).sample("x", spikes)


@pytest.mark.parametrize("options", [{"method": "serial"}, {"method": "chunked"}, {"method": "chunked", "reach": 0.6}])
def test_the_family_of_the_tutorial_under_a_block(options):
    """Sweeps, splits and merges; a family that does not know its reach is not said to have outgrown it."""
    block = LabelGibbs(bursts, "x", num_split_merge=2, annealing=(4.0,), **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        state = block.init(random.key(0), 0, {"x_labels": jnp.full(6, -1)}, (SPIKES,), {})
        sample = jax.jit(lambda state: block.sample(state, (SPIKES,), {}))
        for _ in range(10):
            state = sample(state)
    assert int(state.overflow) == 0
    assert np.isinf(state.reach_ratio)
    assert int(state.num_clusters) > 0


def test_the_family_of_the_tutorial_is_annealed():
    kernel = Gibbs([(LabelGibbs(bursts, "x", method="chunked", start="given"), ["x_labels"])])
    found = anneal(random.key(0), kernel, SPIKES, temperatures=(4.0, 1.0), num_sweeps=10, progress_bar=False)
    assert int(found["x_labels"].max()) >= 0


def test_many_points_of_a_family_of_unknown_reach_are_swept_one_after_the_other():
    sweeper = choose_sweeper("jax", "auto", None, None)
    process = tsd.NeymanScott(0.4, AMPLITUDE, BURSTS, 0.4, (0.0, 5.0))
    assert isinstance(sweeper.init(process, jnp.zeros((300, 2)), has_unseen=False), SerialSweeper)


def test_a_place_comes_first_in_a_point_with_marks():
    class Marked(tsd.Cluster):
        point_shape = (4,)
        position_shape = (2,)

    points = jnp.array([[1.0, 2.0, 7.0, 8.0], [3.0, 4.0, 5.0, 6.0]])
    assert_allclose(Marked().positions(points), points[:, :2])
    assert_allclose(Marked().shifted(points[0], jnp.array([0.5, 1.0])), jnp.array([0.5, 1.0, 7.0, 8.0]))


def test_what_a_family_does_not_say_is_named_where_it_is_needed():
    process = tsd.NeymanScott(0.4, AMPLITUDE, BURSTS, 0.4, (0.0, 5.0))
    with pytest.raises(NotImplementedError, match=r"BurstCluster .* sample_event\(key, window\)"):
        process.simulate(random.key(0))
    with pytest.raises(NotImplementedError, match=r"BurstCluster .* sample_background\(key, window\)"):
        process.sample_background(random.key(0))
    silent = tsd.NeymanScott(0.4, AMPLITUDE, SilentCluster(0.2), 0.4, (0.0, 5.0))
    with pytest.raises(NotImplementedError, match=r"SilentCluster .* log_density\(point, event\)"):
        silent.log_prob_given_events(TIMES, Place(jnp.ones(1)), jnp.ones(1))
    with pytest.raises(NotImplementedError, match='edges="ignored"'):
        tsd.NeymanScott(1.0, AMPLITUDE, SilentCluster(jnp.ones(2)), 1.0, tsd.Polygon(CORNERS))
    hidden = tsd.Regions([[1.0, 2.0]], neurons=[[True, False]])
    with pytest.raises(ValueError, match="num_neurons of the BurstCluster is None"):
        process.sample("x", SPIKES, unseen=hidden)


def test_regions_of_all_marks_are_regions_of_time():
    """Also where points are times and marks: a mark says nothing about the place."""
    spikes = jnp.array([[1.5, 7.0], [2.5, 1.0]])
    assert tsd.Regions([[1.0, 2.0]]).contains(spikes).tolist() == [True, False]
