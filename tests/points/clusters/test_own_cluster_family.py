"""A family of clusters that a user writes: points follow their event at exponential times, never before it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy.special import logsumexp

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.inference.gibbs.points.test_label_gibbs import total_variation
from tests.inference.gibbs.points.test_label_proofs import swept_and_moved
from tsppl.inference.gibbs.points.label_starts import neighbouring_labels


class DecayStatistics(NamedTuple):
    size: jax.Array
    total: jax.Array
    too_late: jax.Array


class DecayEvent(NamedTuple):
    onset: jax.Array


@jax.tree_util.register_pytree_node_class
class DecayCluster(tsd.Cluster):
    """Events at one of the ``onsets``, points after it at exponential times; the sum over onsets is exact.

    The first point is no sum over points. How many points are earlier than an onset is: an onset is possible if none is.
    """

    def __init__(self, rate, onsets):
        self.rate, self.onsets = rate, onsets

    def shifted(self, points, origin):
        return points

    def moved(self, event, origin):
        return event

    def point_statistics(self, point):
        return DecayStatistics(jnp.ones((), point.dtype), point, (point < self.onsets).astype(point.dtype))

    def log_onsets(self, statistics):
        delays = statistics.total - statistics.size * self.onsets
        log_density = statistics.size * jnp.log(self.rate) - self.rate * delays - jnp.log(self.onsets.size)
        return jnp.where(statistics.too_late < 0.5, log_density, -jnp.inf)

    def log_marginal(self, statistics, window):
        return jax.nn.logsumexp(self.log_onsets(statistics))

    def sample_event(self, key, window):
        return DecayEvent(random.choice(key, self.onsets))

    def sample_event_given(self, key, statistics, window):
        return DecayEvent(self.onsets[random.categorical(key, self.log_onsets(statistics))])

    def sample_point(self, key, event):
        return event.onset + random.exponential(key) / self.rate

    def log_density(self, point, event):
        return jnp.where(point < event.onset, -jnp.inf, jnp.log(self.rate) - self.rate * (point - event.onset))

    def tree_flatten(self):
        return (self.rate, self.onsets), None

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children)


POINTS = np.array([1.02, 1.1, 1.35, 2.05, 2.3, 4.4])
ONSETS = jnp.linspace(0.0, 4.75, 20)
PROCESS = tsd.NeymanScott(0.6, dist.Gamma(2.0, 0.5), DecayCluster(4.0, ONSETS), 0.4, (0.0, 5.0))


def test_its_marginal_is_the_sum_over_onsets_and_points_may_come_and_go():
    cluster = PROCESS.cluster
    singles = jax.vmap(cluster.point_statistics)(jnp.asarray(POINTS[:3]))
    sums = jax.tree.map(lambda array: array.sum(0), singles)
    late = POINTS[:3] - np.asarray(ONSETS)[:, None]
    with np.errstate(divide="ignore"):
        expected = logsumexp(np.log(np.where(late < 0, 0.0, 4.0 * np.exp(-4.0 * late))).sum(1)) - np.log(20)
    assert_allclose(cluster.log_marginal(sums, PROCESS.window), expected)
    fewer = jax.tree.map(lambda total, array: total - array[0], sums, singles)
    more = jax.tree.map(lambda array: array[0], singles)
    change = cluster.log_predictive(fewer, more, PROCESS.window)
    assert_allclose(cluster.log_marginal(fewer, PROCESS.window) + change, expected)


def test_points_that_cannot_belong_together_start_apart_and_stay_apart():
    """Points before every onset are background at the start, and no point joins a cluster that cannot be."""
    cluster = DecayCluster(4.0, ONSETS[ONSETS >= 2.0])
    process = tsd.NeymanScott(0.6, dist.Gamma(2.0, 0.5), cluster, 0.4, (0.0, 5.0))
    labels = jax.jit(neighbouring_labels)(process, jnp.asarray(POINTS))
    assert labels[:3].tolist() == [-1, -1, -1]
    assert jnp.isfinite(process.log_joint(labels, POINTS))
    early, late = (cluster.point_statistics(jnp.asarray(point)) for point in (1.0, 3.0))
    assert cluster.log_predictive(early, late, process.window) == -jnp.inf


def test_a_lone_point_outside_of_the_window_starts_as_a_cluster():
    """Points of clusters fall outside of the window, background points do not."""
    process = tsd.NeymanScott(0.6, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.1), 0.4, (0.0, 5.0))
    points = jnp.array([-0.3, 2.0, 2.05, 4.0])
    labels = jax.jit(neighbouring_labels)(process, points)
    assert labels[0] == 0
    assert jnp.isfinite(process.log_joint(labels, points))


@pytest.mark.slow
def test_its_labels_have_the_exact_posterior():
    """By sweeps, splits and merges that know nothing of the family."""
    distance, noise = total_variation(swept_and_moved, PROCESS, POINTS[:5], num_sweeps=300, num_warmup=50)
    assert distance < 2.5 * noise < 0.09


def test_its_events_come_before_their_points():
    labels = jnp.array([0, 0, 0, 1, 1, -1])
    draw = jax.jit(lambda key: PROCESS.sample_events(key, labels, jnp.asarray(POINTS))[0].onset)
    onsets = np.asarray(jax.vmap(draw)(random.split(random.key(2), 500)))[:, :2]
    assert onsets.max(0).tolist() == [1.0, 2.0]
    assert abs((onsets[:, 0] == 1.0).mean() - (1 - np.exp(-3.0))) < 4.5 * np.sqrt(0.05 / 500)
