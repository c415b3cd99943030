"""Neyman-Scott processes as point processes: given their events, over varying backgrounds, in polygons, and thinned."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from scipy import stats
from scipy.special import gammaln, logsumexp

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.inference.gibbs.points.test_label_gibbs import SEQUENCE, total_variation
from tests.reference import neyman_scott as reference
from tsppl.inference import LabelGibbs

POINTS = np.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40])
AMPLITUDE, WINDOW = dist.Gamma(2.0, 0.5), (0.0, 5.0)
RATES, EDGES = np.array([0.1, 3.0, 0.2]), np.array([0.0, 2.0, 2.5, 5.0])
CORNERS = np.array([[0.0, 0.0], [3.0, 0.5], [1.5, 1.0], [2.5, 3.0], [0.5, 2.0]])


def cells(scale=1.0):
    return tsd.PiecewisePoissonProcess(scale * RATES, EDGES)


def wave(time):
    return 1.0 + jnp.sin(2 * time)


MANY = dist.Gamma(3.0, 0.5)
PATTERNS = {
    "line": tsd.NeymanScott(2.0, MANY, tsd.GaussianCluster(0.3), 4.0, (0.0, 60.0)),
    "varying background": tsd.NeymanScott(
        1.0, MANY, tsd.GaussianCluster(0.3),
        tsd.InhomogeneousPoissonProcess(wave, (0.0, 60.0), num_panels=60), (0.0, 60.0),
    ),
    "sequence": tsd.NeymanScott(2.0, MANY, SEQUENCE, 4.0, (0.0, 60.0)),
    "unknown shape": tsd.NeymanScott(
        0.4, MANY, tsd.GaussianInverseWishartCluster(6.0, jnp.array([[1.0, 0.8], [0.8, 1.0]])), 1.0,
        ((0.0, 0.0), (20.0, 10.0)),
    ),
    "polygon": tsd.NeymanScott(
        6.0, MANY, tsd.GaussianCluster(jnp.array([0.1, 0.2]), edges="ignored"), 40.0, tsd.Polygon(3 * CORNERS)
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "line" else [pytest.mark.slow]) for name in PATTERNS]
)
def test_residuals_are_uniform_given_the_events(name):
    """All points wherever they fall, and those within a window only; a model without its background is found out."""
    process = PATTERNS[name]
    pattern = process.simulate(random.key(1))
    given = process.given_events(pattern.events, pattern.amplitudes)
    total = given.compensator()
    assert len(pattern.points) > 400
    assert abs(len(pattern.points) - total) < 4.5 * np.sqrt(total)
    rescaled = jax.jit(given.rescaled)(pattern.points)
    assert stats.kstest(rescaled / total, "uniform").pvalue > 1e-3
    assert stats.kstest(jnp.diff(rescaled, prepend=0.0), "expon").pvalue > 1e-3
    positions = np.asarray(process.cluster.positions(pattern.points))
    low, high = (np.asarray(end) for end in (process.window.bounds if name == "polygon" else process.window))
    part = jnp.stack([low + 0.2 * (high - low), low + 0.7 * (high - low)])
    inside = np.all(((positions >= part[0]) & (positions <= part[1])).reshape(len(positions), -1), axis=1)
    expected = given.compensator(part)
    assert abs(inside.sum() - expected) < 4.5 * np.sqrt(expected)
    assert stats.kstest(given.rescaled(pattern.points[inside], part) / expected, "uniform").pvalue > 1e-3
    wrong = given.process.given_events(pattern.events, 0.3 * pattern.amplitudes)
    assert stats.kstest(jax.jit(wrong.residuals)(pattern.points), "expon").pvalue < 1e-3


def test_given_events_density_is_that_of_bumps_and_background():
    """Written out; the probability of background, with and without events; marks; thinned."""
    process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.2), cells(), WINDOW)
    centres, amplitudes = np.array([0.7, 2.2]), np.array([3.0, 1.5])
    event = type(process.cluster.sample_event(random.key(0), process.window))(jnp.asarray(centres))
    given = process.given_events(event, amplitudes)
    background = RATES[np.searchsorted(EDGES, POINTS) - 1]
    bumps = (amplitudes * stats.norm.pdf(POINTS[:, None], centres, 0.2)).sum(1)
    assert_allclose(given.log_intensity(POINTS), np.log(background + bumps))
    assert_allclose(process.background_prob(POINTS, event, amplitudes), background / (background + bumps))
    wanted = np.log(background + bumps).sum() - (0.2 + 1.5 + 0.5 + 4.5) - gammaln(7)
    assert_allclose(process.log_prob_given_events(POINTS, event, amplitudes), wanted)
    assert_allclose(given.thinned(0.25).log_intensity(POINTS), np.log(0.25 * (background + bumps)))
    assert_allclose(given.thinned(0.25).compensator(), 0.25 * 6.7)
    nothing = process.given_events(jax.tree.map(lambda array: array[:0], event), amplitudes[:0])
    assert_allclose(nothing.log_prob(POINTS), cells().log_prob(POINTS))
    assert_allclose(nothing.background_prob(POINTS), np.ones(6))
    assert nothing.thinned(1e-9).simulate(random.key(0)).shape == (0,)
    few = tsd.NeymanScott(1e-9, AMPLITUDE, tsd.GaussianCluster(jnp.ones(2)), 1e-9, ((0.0, 0.0), (1.0, 1.0)))
    assert few.simulate(random.key(0)).points.shape == (0, 2)


def varying(cluster=None, background=None, points=POINTS):
    cluster = tsd.GaussianCluster(0.2) if cluster is None else cluster
    return tsd.NeymanScott(0.4, AMPLITUDE, cluster, cells() if background is None else background, WINDOW), points


SPIKES = np.array([[0.5, 0.0], [0.62, 1.0], [2.2, 2.0], [2.3, 0.0], [1.8, 2.0]])
SQUARE = np.array([[0.9, 0.6], [1.0, 0.7], [0.8, 0.5], [1.6, 2.0], [1.5, 2.2], [2.6, 0.5]])
CASES = {
    "cells": varying(),
    "function": varying(background=tsd.InhomogeneousPoissonProcess(wave, WINDOW)),
    "sequence": varying(SEQUENCE, points=SPIKES),
    "polygon": (
        tsd.NeymanScott(
            0.5, AMPLITUDE, tsd.GaussianCluster(jnp.array([0.2, 0.3]), edges="ignored"), 0.5, tsd.Polygon(CORNERS)
        ),
        SQUARE,
    ),
}


def enumerated(process, points):
    """Every partition by the reference, with the background written out here."""
    cluster = process.cluster
    in_time = name_of(process) != "polygon"

    @jax.jit
    def of_block(points):
        sums = jax.tree.map(lambda array: array.sum(0), jax.vmap(cluster.point_statistics)(points))
        return cluster.log_marginal(sums, process.window)

    def log_background(point):
        if not in_time:
            return -np.log(3.875)
        time = np.atleast_1d(point)[0]
        if isinstance(process.background_rate, tsd.PiecewisePoissonProcess):
            log_density = np.log(RATES[np.searchsorted(EDGES, time) - 1] / 2.2)
        else:
            log_density = 1.0 + np.sin(2 * time) - np.log(np.trapezoid(np.exp(1 + np.sin(2 * GRID)), GRID))
        return log_density - (np.log(3) if np.ndim(point) else 0.0)

    concentration, rate = 2.0, 0.5
    events = 0.5 * 3.875 if not in_time else 2.0
    background = {"cells": 2.2, "sequence": 2.2, "polygon": 0.5 * 3.875}.get(
        name_of(process), np.trapezoid(np.exp(1 + np.sin(2 * GRID)), GRID)
    )
    return reference.posterior(
        points, events=events, concentration=concentration, rate=rate, background=background,
        log_marginal=lambda own: float(of_block(jnp.asarray(own))), log_background=log_background,
    )  # fmt: skip


GRID = np.linspace(0.0, 5.0, 200_001)


def name_of(process):
    return next(name for name, (one, _) in CASES.items() if one is process)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "cells" else [pytest.mark.slow]) for name in CASES]
)
def test_evidence_and_partitions_over_a_varying_background(name):
    """Joint density of every partition against the reference; the three sites sum to it."""
    process, points = CASES[name]
    labels, probs, evidence = enumerated(process, points)
    joint = jax.jit(jax.vmap(process.log_joint, (0, None)))(jnp.asarray(labels), points) + gammaln(len(points) + 1)
    assert_allclose(logsumexp(np.asarray(joint)), evidence, rtol=1e-8)
    assert_allclose(np.exp(np.asarray(joint) - evidence), probs, rtol=1e-7, atol=1e-12)
    one = jnp.asarray(labels[len(labels) // 2])
    parts = process.count().log_prob(len(points)) + process.labels(len(points)).log_prob(one)
    assert_allclose(parts + process.points(one).log_prob(points), process.log_joint(one, points))


UPDATES = {
    "serial": {"method": "serial"},
    "chunked": {"method": "chunked", "reach": 2.4, "max_clusters": 8},
    "moves": {"method": "serial", "num_split_merge": 3},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "update"),
    [("cells", "serial"), ("cells", "chunked"), ("cells", "moves"), ("polygon", "moves")],
)
def test_draws_of_labels_have_the_exact_posterior(name, update):
    """As LabelGibbs makes them, the model compared with the process first; mistakes are at a distance of 0.1 and more."""
    process, points = CASES[name]
    block = LabelGibbs(lambda points: process.sample("x", points), "x", start="given", **UPDATES[update])
    start = {"x_labels": jnp.full(len(points), -1, jnp.int32)}
    order = np.argsort(np.asarray(points).reshape(len(points), -1)[:, 0], kind="stable")
    points = points[order]
    block.init(random.key(0), 0, start, (points,), {})
    distance, noise = total_variation(
        lambda key, process, labels, points: block._sweep(key, process, labels, points)[0],
        process, points, num_sweeps=500, num_warmup=100,
    )  # fmt: skip
    assert distance < 2.5 * noise < 0.09


@pytest.mark.slow
def test_patterns_over_a_varying_background_and_in_polygons():
    """Simulated background follows its intensity, marks are kept, and events fall inside of the polygon."""
    spikes = tsd.NeymanScott(0.01, AMPLITUDE, SEQUENCE, cells(1000.0), WINDOW).simulate(random.key(0))
    alone = np.asarray(spikes.points)[np.asarray(spikes.labels) < 0]
    found = np.histogram(alone[:, 0], EDGES)[0]
    assert stats.chisquare(found, len(alone) * RATES * np.diff(EDGES) / 2.2).pvalue > 1e-3
    assert stats.chisquare(np.bincount(alone[:, 1].astype(int), minlength=3)).pvalue > 1e-3
    process = PATTERNS["polygon"]
    pattern = process.simulate(random.key(0))
    assert bool(jax.vmap(process.window.contains)(pattern.events.centre).all())
    labels = process.labels(5).sample(random.key(1))
    assert process.points(labels).sample(random.key(2)).shape == (5, 2)
    labels, places = pattern.labels[:40], pattern.points[:5]
    assert bool((process.predictive_intensity(places, labels, pattern.points[:40]) > 0).all())
    block = LabelGibbs(lambda points: process.sample("x", points), "x", check=False)
    state = block.init(random.key(3), 0, {"x_labels": jnp.zeros(len(pattern.points), jnp.int32)}, (pattern.points,), {})
    assert 0 < int(state.num_clusters) < len(pattern.points)


def test_mistakes_in_windows_and_backgrounds():
    cluster = tsd.GaussianCluster(jnp.ones(2))
    with pytest.raises(NotImplementedError, match='edges="ignored"'):
        tsd.NeymanScott(1.0, AMPLITUDE, cluster, 1.0, tsd.Polygon(CORNERS))
    with pytest.raises(ValueError, match="another window"):
        tsd.NeymanScott(1.0, AMPLITUDE, tsd.GaussianCluster(0.2), cells(), (0.0, 4.0))
    with pytest.raises(ValueError, match="background_rate has shape"):
        tsd.NeymanScott(1.0, AMPLITUDE, tsd.GaussianCluster(0.2), RATES, WINDOW)
    with pytest.raises(TypeError, match="pass a number or a Poisson process"):
        tsd.NeymanScott(1.0, AMPLITUDE, tsd.GaussianCluster(0.2), tsd.PointProcess(), WINDOW)
