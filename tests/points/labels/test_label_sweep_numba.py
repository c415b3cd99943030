"""Sweeps compiled by numba: the posterior of partitions against enumeration, the law of sweeps in JAX, slots, MCMC, mistakes."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import MCMC, NUTS, Gibbs

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.inference.gibbs.points.test_label_gibbs import (
    AMPLITUDE,
    CASES,
    assert_same_law,
    pattern,
    sweep_once,
    total_variation,
)
from tests.inference.gibbs.points.test_sequence_gibbs import NAMES, SPIKES as TINY_SPIKES, tiny_model
from tsppl.inference import LabelGibbs, SequenceGibbs, anneal
from tsppl.points import canonical_labels, chunk_layout, sweep_labels, sweep_labels_chunked, sweep_labels_numba

pytest.importorskip("numba")

NARROW = (0.6, 2.5)
POINTS = np.array([0.62, 0.75, 0.81, 2.10, 2.32, 2.45])
SPIKES = np.array([[0.62, 0.0], [0.7, 2.0], [0.75, 1.0], [2.2, 0.0], [2.4, 2.0]])
LINE = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.3), 0.4, NARROW)
RAMP = tsd.PiecewisePoissonProcess(jnp.array([2.0, 0.2]), jnp.array([0.6, 1.0, 2.5]))
SEQUENCE = tsd.SequenceCluster(
    jnp.array([0.1, 0.9]),
    jnp.array([[0.4, 0.3, 0.3], [0.1, 0.3, 0.6]]),
    jnp.array([[0.0, 0.1, 0.2], [0.3, -0.1, 0.0]]),
    jnp.array([[0.1, 0.2, 0.1], [0.1, 0.05, 0.2]]),
    warps=jnp.array([0.7, 1.4]),
    warp_probs=jnp.array([0.2, 0.8]),
)
EDGES = {
    "line": (LINE, POINTS),
    "edges ignored": (tsd.NeymanScott(0.4, AMPLITUDE, LINE.cluster.interior(), 0.4, NARROW), POINTS),
    "varying background": (tsd.NeymanScott(0.4, AMPLITUDE, LINE.cluster, RAMP, NARROW), POINTS),
    "no background": CASES["no background"],
    "plane": CASES["plane"],
    "sequence": (tsd.NeymanScott(0.6, AMPLITUDE, SEQUENCE, 0.4, NARROW), SPIKES),
    "sequence, edges ignored": (tsd.NeymanScott(0.6, AMPLITUDE, SEQUENCE.interior(), 0.4, NARROW), SPIKES),
}


def compiled(key, process, labels, points, **options):
    """One sweep."""
    arguments = process.cluster, labels, points, process.window, process.rates
    return sweep_labels_numba(key, *arguments, log_background=process.log_background(points), **options)


@pytest.mark.parametrize("name", ["line", *(pytest.param(name, marks=pytest.mark.slow) for name in list(EDGES)[1:])])
def test_draws_have_the_exact_posterior(name):
    """Points close to the edges of the window."""

    def update(key, process, labels, points):
        return compiled(key, process, labels, points).labels

    num_sweeps = 240 if name in ("line", "edges ignored") else 130
    distance, noise = total_variation(update, *EDGES[name], num_chains=40, num_sweeps=num_sweeps)
    assert distance < 2.0 * noise < 0.1


def in_jax(process, points):
    """Chunks of time, or one point after the other in space."""
    layout = None if process.cluster.position_shape else chunk_layout(np.asarray(points), 1.2, num_slots=24)

    def update(key, labels):
        arguments = process.cluster, labels, points, process.window, process.rates
        if layout is None:
            return sweep_labels(key, *arguments, max_clusters=60)
        return sweep_labels_chunked(key, *arguments, layout=layout)

    return update


def in_space():
    """About a hundred points, on a grid of many cells."""
    square = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    process = tsd.NeymanScott(12.0, dist.Gamma(4.0, 0.6), tsd.GaussianCluster(jnp.array([0.008, 0.012])), 20.0, square)
    return process, process.simulate(random.key(1))


@pytest.mark.slow
@pytest.mark.parametrize("make", [lambda: pattern(30.0), in_space])
def test_sweeps_have_the_same_law_as_in_jax(make):
    """On the line and in the plane."""
    process, truth = make()
    updates = in_jax(process, truth.points), lambda key, labels: compiled(key, process, labels, truth.points)
    assert_same_law(updates, process, truth, num_sweeps=180, num_warmup=60)


def test_many_sweeps_of_many_points_inside_a_scan():
    """A hundred thousand points, where a callback could wait for JAX for ever; every label is canonical; one key, one result."""
    process = tsd.NeymanScott(1.0, dist.Gamma(4.0, 0.2), tsd.GaussianCluster(0.1), 2.0, (0.0, 5000.0))
    truth = process.simulate(random.key(0))

    @jax.jit
    def run(key):
        def step(labels, key):
            swept = compiled(key, process, labels, truth.points)
            return swept.labels, swept.overflow

        return lax.scan(step, truth.labels, random.split(key, 4))

    labels, overflow = run(random.key(1))
    assert_allclose(labels, canonical_labels(labels))
    assert_allclose(labels, run(random.key(1))[0])
    assert (labels != run(random.key(2))[0]).any()
    assert int(overflow.sum()) == 0
    assert abs(int(labels.max()) - int(truth.labels.max())) < 100
    assert abs(int(jnp.sum(labels < 0)) - int(jnp.sum(truth.labels < 0))) < 600


def test_points_in_any_order_and_far_from_zero():
    """Three tight pairs, unsorted and a million widths from zero; two sweeps from the background."""
    cluster = tsd.GaussianCluster(jnp.array(0.01))
    process = tsd.NeymanScott(1.0, dist.Gamma(200.0, 100.0), cluster, 1e-6, (1e4, 1e4 + 3.0))
    points = 1e4 + jnp.array([2.5, 0.5, 1.5, 1.501, 2.501, 0.501])
    for seed in range(20):
        swept = compiled(random.key(seed), process, jnp.full(6, -1), points)
        swept = compiled(random.key(100 + seed), process, swept.labels, points)
        assert_allclose(swept.labels, jnp.array([0, 1, 2, 2, 0, 1]))


def test_missing_slots_and_clusters_out_of_sight_are_counted():
    points = jnp.array([0.5, 0.6, 2.0, 2.1, 3.5, 3.6])
    process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    unfit = compiled(random.key(0), process, jnp.array([0, 0, 1, 1, 2, 2]), points, max_clusters=2)
    assert int(unfit.overflow) >= 2
    assert int(unfit.labels.max()) < 2
    full = compiled(random.key(0), process, jnp.array([0, 0, 1, 1, -1, -1]), points, max_clusters=2)
    assert int(full.overflow) > 0
    enough = compiled(random.key(0), process, jnp.array([0, 0, 1, 1, 2, 2]), points, max_clusters=6)
    assert int(enough.overflow) == 0
    stretched = compiled(random.key(0), process, jnp.array([0, 0, 1, 1, 2, 0]), points, reach=0.5)
    assert int(stretched.overflow) == 1
    assert int(stretched.labels[5]) >= 0


def test_no_point_goes_to_an_impossible_background():
    """Rate zero, and full slots with nothing in sight, where a point has nowhere else to go."""
    process, points = CASES["no background"]
    for seed in range(20):
        assert (compiled(random.key(seed), process, jnp.full(6, -1), jnp.asarray(points)).labels >= 0).all()
    kept = compiled(random.key(0), process, jnp.array([0, 1, 0, 1, 0, 1]), jnp.asarray(points), max_clusters=2)
    assert (kept.labels >= 0).all()


@pytest.mark.parametrize("max_clusters", [None, 2])
def test_weights_of_every_magnitude(max_clusters):
    """A point between two clusters, where a new one is ``exp(-440)`` as likely, or impossible, and background is impossible."""
    process = tsd.NeymanScott(0.4, dist.Gamma(400.0, 0.5), tsd.GaussianCluster(0.1), 0.0, (0.0, 3.0))
    points, one = jnp.array([1.0, 1.01, 1.02, 2.0, 2.01, 2.02, 1.5]), jnp.array([0, 0, 0, 1, 1, 1, 0])
    difference = process.log_joint(one.at[-1].set(1), points) - process.log_joint(one, points)
    keys = random.split(random.key(0), 2000)
    options = {"max_clusters": max_clusters, "reach": jnp.inf}
    found = jax.vmap(lambda key: compiled(key, process, one, points, **options).labels)(keys)
    assert_allclose(found[:, :-1], jnp.broadcast_to(one[:-1], (2000, 6)))
    expected = jax.nn.sigmoid(difference)
    assert 0.1 < expected < 0.9
    assert abs(found[:, -1].mean() - expected) < 4 * jnp.sqrt(expected * (1 - expected) / 2000)


def test_log_mass_is_that_of_jax_in_both_tails():
    from tsppl.points.clusters.cluster import log_normal_mass
    from tsppl.points.labels.sweep_compiled import log_mass

    pairs = [(-1.0, 2.0), (3.0, 5.0), (-50.0, -30.0), (25.0, 26.0), (-40.0, 40.0), (19.9, 20.1), (60.0, 1e4)]
    for low, high in pairs:
        assert_allclose(log_mass(low, high), log_normal_mass(jnp.array(low), jnp.array(high)))


@pytest.mark.slow
def test_labels_and_parameters_of_sequences_together():
    """Annealing of one chain, then MCMC of two side by side."""
    labels = LabelGibbs(tiny_model, "x", backend="numba", start="given", check=False, num_split_merge=1)
    parameters = SequenceGibbs(tiny_model, "x", **NAMES, check=False)
    kernel = Gibbs([(labels, [labels.labels_site]), (parameters, parameters.sites)])
    spikes = jnp.asarray(TINY_SPIKES)
    start = anneal(random.key(0), kernel, spikes, num_sweeps=3, progress_bar=False)
    both = jax.tree.map(lambda array: jnp.stack([array, array]), start)
    options = {"num_chains": 2, "chain_method": jax.vmap, "progress_bar": False}
    mcmc = MCMC(kernel, num_warmup=0, num_samples=30, **options)
    mcmc.run(random.key(1), spikes, init_params=both, extra_fields=("block_states.0.overflow",))
    drawn = np.asarray(mcmc.get_samples()["x_labels"])
    assert_allclose(drawn, jax.vmap(canonical_labels)(drawn))
    assert len(np.unique(drawn, axis=0)) > 3
    assert (np.asarray(mcmc.get_extra_fields()["block_states.0.overflow"]) == 0).all()


def scale_model(points):
    scale = numpyro.sample("scale", dist.LogNormal(-1.6, 0.3))
    tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(scale), 0.4, (0.0, 5.0)).sample("x", points)


@pytest.mark.slow
def test_a_block_beside_nuts():
    """One chain after the other, with annealing; the reach follows the scale that NUTS draws."""
    block = LabelGibbs(
        scale_model, "x", backend="numba", num_sweeps=2, num_split_merge=1, annealing=(5.0,), check=False
    )
    kernel = Gibbs([(block, ["x_labels"]), (NUTS(scale_model), ["scale"])])
    mcmc = MCMC(kernel, num_warmup=10, num_samples=20, num_chains=2, chain_method="sequential", progress_bar=False)
    mcmc.run(random.key(2), np.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40]))
    assert len(np.unique(mcmc.get_samples()["x_labels"], axis=0)) > 3
    assert np.isinf(mcmc.last_state.block_states[0].reach_ratio).all()


def test_a_block_warns():
    """Of missing slots, and of a reach that is too short."""
    state, messages = sweep_once(backend="numba", reach=0.5, max_clusters=2, labels=jnp.array([0, 0, 1, 2, 3, 4]))
    assert int(state.overflow) > 0
    assert any("raise max_clusters or reach" in message for message in messages)
    assert any("Pass a larger reach" in message for message in messages)
    state, messages = sweep_once(backend="numba", method="serial", reach=0.5)
    assert np.isinf(state.reach_ratio)
    assert not messages


def test_mistakes(monkeypatch):
    with pytest.raises(ValueError, match="backend is 'torch'"):
        LabelGibbs(scale_model, "x", backend="torch")
    for name in ("documents", "unknown shape"):
        process, points = CASES[name]
        arguments = process.cluster, jnp.full(len(points), -1), jnp.asarray(points), process.window, process.rates
        with pytest.raises(NotImplementedError, match=f'for a {type(process.cluster).__name__} use backend="jax"'):
            sweep_labels_numba(random.key(0), *arguments)
    gaps, arguments = tsd.Intervals([[0.0, 1.0], [2.0, 3.0]]), (jnp.full(6, -1), jnp.asarray(POINTS))
    with pytest.raises(NotImplementedError, match="inside of an interval or a box only"):
        sweep_labels_numba(random.key(0), LINE.cluster, *arguments, gaps, LINE.rates)
    swept = sweep_labels_numba(random.key(0), LINE.cluster.interior(), *arguments, gaps, LINE.rates)
    assert swept.labels.shape == (6,)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "tsppl\[numba\]"'):
        LabelGibbs(scale_model, "x", backend="numba")


def test_not_a_number_comes_out_as_some_labels():
    """Rejected proposals of NUTS may bring parameters that are no numbers: nothing is read or written where it should not."""
    points = jnp.array([0.7, 0.8, 2.0, 2.1])
    for scale, place in ((jnp.nan, 0.7), (0.0, 0.7), (jnp.inf, 0.7), (0.3, jnp.nan), (0.3, jnp.inf)):
        process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(scale), 0.4, NARROW)
        labels = compiled(random.key(0), process, jnp.array([0, 0, 1, 1]), points.at[0].set(place)).labels
        assert ((labels >= -1) & (labels < 4)).all()


def test_polygons():
    """Away from its corners a square polygon is the square."""
    square = jnp.array([[0.0, 0.0], [1.0, 1.0]])
    cluster, points = tsd.GaussianCluster(jnp.full(2, 0.1), edges="ignored"), jnp.asarray(CASES["plane"][1])
    corners = tsd.Polygon([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    found = [
        compiled(random.key(0), tsd.NeymanScott(2.0, AMPLITUDE, cluster, 2.0, window), jnp.full(5, -1), points).labels
        for window in (square, corners)
    ]
    assert_allclose(*found)


def test_no_points():
    swept = compiled(random.key(0), LINE, jnp.zeros(0, jnp.int32), jnp.zeros(0))
    assert swept.labels.shape == (0,)
