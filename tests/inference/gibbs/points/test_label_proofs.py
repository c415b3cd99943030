"""Samplers of labels against laws that do not come from the same formulas: reversible jumps, and Geweke's joint draws."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax, random

import tsppl.distributions as tsd
from tests.distributions.points.test_neyman_scott import FIXED, RATES
from tests.helpers import assert_allclose
from tests.inference.gibbs.points.test_label_gibbs import AMPLITUDE, CASES, POINTS, TIMES, WINDOW, serial
from tests.reference.birth_death import birth_death_draws
from tests.reference.neyman_scott import all_labels, cluster_count_probs, log_joint
from tsppl.points import ChunkLayout, canonical_labels, split_or_merge, sweep_labels_chunked

NUM_POINTS = 6


def test_the_recursion_for_numbers_of_clusters_is_the_sum_over_partitions():
    labels = np.array(list(all_labels(6)))
    free = {"log_marginal": lambda own: 0.0, "log_background": lambda point: 0.0}
    weights = np.exp([log_joint(row, np.zeros(6), **RATES, **free) for row in labels])
    expected = np.zeros((7, 7))
    np.add.at(expected, (labels.max(1) + 1, (labels < 0).sum(1)), weights / weights.sum())
    assert_allclose(cluster_count_probs(6, **RATES), expected)


@pytest.mark.slow
def test_reversible_jumps_over_events_agree_with_enumeration_and_with_collapsed_sweeps():
    """Numbers of clusters and of background points of the fixed case, three ways."""
    settings = {"event_rate": 0.4, "concentration": 2.0, "rate": 0.5, "background_rate": 0.4, "scale": 0.2}
    generator = np.random.default_rng(0)
    jumps = birth_death_draws(generator, POINTS, 12_000, window=(0.0, 5.0), **settings)[200:]

    @jax.jit
    @jax.vmap
    def chain(key):
        def step(labels, key):
            labels = serial(key, TIMES, labels, jnp.asarray(POINTS))
            return labels, jnp.stack([labels.max() + 1, jnp.sum(labels < 0)])

        return lax.scan(step, jnp.full(6, -1, jnp.int32), random.split(key, 400))[1]

    swept = np.asarray(chain(random.split(random.key(0), 50)))[:, 20:].reshape(-1, 2)
    for draws in (jumps, swept):
        for column, expected in enumerate(FIXED["exact"][:2]):
            found = (draws[:, column, None] == np.arange(7)).astype(float)
            batches = found[: len(found) // 50 * 50].reshape(50, -1, 7).mean(1)
            error = batches.std(0, ddof=1) / np.sqrt(50)
            np.testing.assert_array_less(abs(found.mean(0) - expected), 4.5 * error + 1e-3)


def swept_and_moved(key, process, labels, points):
    sweep_key, move_key = random.split(key)
    labels = serial(sweep_key, process, labels, points)
    return split_or_merge(move_key, process.cluster, labels, points, process.window, process.rates).labels


def chunked_anywhere(key, process, labels, points):
    """Chunked sweeps with one layout for all patterns: points are sorted first."""
    order = jnp.argsort(process.cluster.positions(points))
    labels, points = canonical_labels(labels[order]), points[order]
    with jax.ensure_compile_time_eval():
        reach, length = float(process.cluster.reach), float(process.volume)
    layout = ChunkLayout(math.ceil((length / reach + 2) / 4) + 2, len(points), len(points), 2 * reach, reach)
    arguments = process.cluster, labels, points, process.window, process.rates
    return sweep_labels_chunked(key, *arguments, layout=layout).labels


def geweke_distance(process, update, *, num_points=NUM_POINTS, num_chains=100, num_steps=150, num_warmup=30):
    """Distance of (clusters, background points) from their exact law where labels and points are drawn in turn, and what is
    expected of it from chance alone."""

    @jax.jit
    @jax.vmap
    def chain(key):
        start_key, steps_key = random.split(key)

        def step(labels, key):
            points_key, labels_key = random.split(key)
            points = process.points(labels).sample(points_key)
            labels = update(labels_key, process, labels, points)
            return labels, jnp.stack([labels.max() + 1, jnp.sum(labels < 0)])

        labels = process.labels(num_points).sample(start_key)
        return lax.scan(step, labels, random.split(steps_key, num_steps))[1]

    found = np.asarray(chain(random.split(random.key(3), num_chains)))[:, num_warmup:]
    expected = cluster_count_probs(num_points, **dict(zip(RATES, map(float, process.rates), strict=True))).ravel()
    codes = found[..., 0] * (num_points + 1) + found[..., 1]
    by_chain = np.array([np.bincount(row, minlength=expected.size) for row in codes]) / codes.shape[1]
    errors = by_chain.std(0, ddof=1) / np.sqrt(num_chains)
    return 0.5 * abs(by_chain.mean(0) - expected).sum(), 0.5 * np.sqrt(2 / np.pi) * errors.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "update"),
    [("line", swept_and_moved), ("documents", swept_and_moved), ("plane", serial), ("sequence", chunked_anywhere)],
)
def test_labels_and_points_drawn_in_turn_keep_the_law_of_labels(name, update):
    """Geweke 2004, "Getting it right": an error in either direction moves the numbers of clusters and background points."""
    distance, noise = geweke_distance(CASES[name][0], update)
    assert distance < 2.5 * noise < 0.1


@pytest.mark.slow
def test_chunked_sweeps_over_many_chunks_keep_the_law_of_labels():
    """Geweke's test again, with clusters so narrow that a pattern takes up to five chunks, of which a sweep moves half at once."""
    process = tsd.NeymanScott(0.8, AMPLITUDE, tsd.GaussianCluster(0.06), 0.4, WINDOW)
    assert process.volume / (2 * process.cluster.reach) > 3
    distance, noise = geweke_distance(process, chunked_anywhere, num_points=10, num_steps=300)
    assert distance < 2.5 * noise < 0.1
