"""Windows with gaps: lengths by counting, densities against separate windows, clusters against a grid of centres."""

from functools import partial

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
from tests.inference.gibbs.points.test_label_gibbs import chunked, mixed, serial, total_variation
from tests.reference.neyman_scott import posterior
from tsppl.inference import LabelGibbs
from tsppl.points.clusters.centres import centre_mass, draw_centre, log_centre_mass

ENDS = np.array([[0.0, 2.0], [2.6, 3.1], [4.0, 5.0]])
RECORDED = tsd.Intervals(ENDS)
POINTS = np.array([0.62, 1.75, 1.9, 2.7, 2.85, 4.40])
PARAMETERS = {"events": 1.4, "concentration": 2.0, "rate": 0.5, "background": 1.4}
SPIKES = np.array([[0.5, 0.0], [1.82, 1.0], [1.95, 0.0], [2.7, 1.0], [4.2, 0.0]])
SEQUENCE = partial(
    tsd.SequenceCluster,
    jnp.array([0.4, 0.6]),
    jnp.array([[0.4, 0.6], [0.7, 0.3]]),
    jnp.array([[0.0, 0.2], [0.3, -0.1]]),
    jnp.array([[0.1, 0.2], [0.15, 0.1]]),
    warps=jnp.array([0.8, 1.3]),
)


def inside(places):
    return ((places[:, None] >= ENDS[:, 0]) & (places[:, None] <= ENDS[:, 1])).any(1)


def test_lengths_and_places_by_counting():
    places = (np.arange(60_000) + 0.5) / 10_000 - 0.5
    found = inside(places)
    assert (np.asarray(jax.vmap(RECORDED.contains)(jnp.asarray(places))) == found).all()
    assert_allclose(RECORDED.volume, found.mean() * 6.0)
    assert_allclose(RECORDED.bounds, np.array([0.0, 5.0]))
    for low, high in [(-np.inf, np.inf), (1.0, 2.8), (2.1, 2.5), (1.5, np.inf), (-1.0, 2.0), (7.0, 8.0)]:
        wanted = (found & (places >= low) & (places <= high)).mean() * 6.0
        assert_allclose(RECORDED.overlap((low, high)), wanted, atol=2e-4)
    assert_allclose((RECORDED - 1.5).ends, ENDS - 1.5)
    assert_allclose(jax.vmap(RECORDED.around)(jnp.array([1.0, 2.9, 3.2, 5.0])), ENDS[[0, 1, 1, 2]])
    drawn = np.asarray(jax.vmap(RECORDED.uniform)(random.split(random.key(0), 4000)))
    assert inside(drawn).all()
    assert stats.chisquare(np.histogram(drawn, ENDS.ravel())[0][::2], 4000 * np.diff(ENDS).ravel() / 3.5).pvalue > 1e-3


def test_draws_of_a_centre_have_the_law_of_a_gaussian_cut_off_at_gaps():
    mean, error = 2.4, 0.6

    def cumulative(places):
        below = np.minimum(np.maximum(np.asarray(places)[:, None], ENDS[:, 0]), ENDS[:, 1])
        return np.sum(stats.norm.cdf(below, mean, error) - stats.norm.cdf(ENDS[:, 0], mean, error), axis=1)

    draw = jax.vmap(draw_centre, (0, None, None, None))
    drawn = np.asarray(draw(random.split(random.key(0), 2000), RECORDED, mean, error))
    assert inside(drawn).all()
    total = cumulative([9.0])
    assert stats.kstest(drawn, lambda places: cumulative(places) / total).pvalue > 1e-3
    assert_allclose(jnp.exp(log_centre_mass(RECORDED, mean, error)), total[0])
    assert_allclose(centre_mass(RECORDED, mean, error), total[0])


def wave(height, time):
    return height + jnp.sin(3 * time)


@pytest.mark.parametrize(
    "make", [partial(tsd.PoissonProcess, 3.0), partial(tsd.InhomogeneousPoissonProcess, partial(wave, 1.0))]
)
def test_a_poisson_process_is_one_on_each_interval(make):
    whole, parts = make(tsd.Intervals(ENDS)), [make(tuple(ends)) for ends in ENDS]
    own = [POINTS[(POINTS >= low) & (POINTS <= high)] for low, high in ENDS]
    wanted = sum(part.log_prob(points) + gammaln(len(points) + 1) for part, points in zip(parts, own, strict=True))
    assert_allclose(whole.log_prob(POINTS) + gammaln(len(POINTS) + 1), wanted)
    for window in ((1.0, 4.5), (-np.inf, 2.3), (2.1, 2.2)):
        box = jnp.array(window)
        assert_allclose(whole.compensator(box), sum(part.compensator(box) for part in parts))
    assert whole.log_prob(np.append(POINTS, 2.3)) == -np.inf
    assert_allclose(whole.thinned(0.5).compensator(), 0.5 * whole.compensator())


@pytest.mark.slow
def test_draws_avoid_gaps_and_have_uniform_residuals():
    """Rescaled points over their number expected are uniform, and residuals standard exponential, across gaps."""
    for process in (
        tsd.PoissonProcess(600.0, RECORDED),
        tsd.InhomogeneousPoissonProcess(partial(wave, 6.0), RECORDED),
    ):
        points = process.simulate(random.key(0))
        assert inside(np.asarray(points)).all()
        assert abs(len(points) - process.compensator()) < 4 * np.sqrt(process.compensator())
        assert stats.kstest(process.rescaled(points) / process.compensator(), "uniform").pvalue > 1e-3
        assert stats.kstest(process.residuals(points), "expon").pvalue > 1e-3
        later = process.sample_given_history(random.key(1), points[points < 1.0], 4.5, since=1.0)
        assert inside(np.asarray(later)).all()


@pytest.mark.slow
def test_events_and_background_are_drawn_outside_of_gaps():
    process = tsd.NeymanScott(20.0, dist.Gamma(3.0, 1.0), tsd.GaussianCluster(0.2), 50.0, RECORDED)
    pattern = process.simulate(random.key(0))
    assert inside(np.asarray(pattern.points[pattern.labels < 0])).all()
    assert inside(np.asarray(pattern.events.centre)).all()
    assert not inside(np.asarray(pattern.points[pattern.labels >= 0])).all()
    assert_allclose(process.expected_counts().background, 175.0)
    assert_allclose(process.expected_events, 70.0)
    events, _ = process.sample_events(random.key(1), pattern.labels, pattern.points)
    centres = np.asarray(events.centre)[: int(pattern.labels.max()) + 1]
    assert inside(centres).all()
    given = process.given_events(pattern.events, pattern.amplitudes)
    gap = jnp.array([2.0, 2.6])
    assert_allclose(process.expected_background_in(gap), 0.0)
    assert float(given.compensator(gap)) > 0
    assert stats.kstest(given.residuals(pattern.points), "expon").pvalue > 1e-3


@pytest.mark.parametrize("edges", ["exact", pytest.param("ignored", marks=pytest.mark.slow)])
def test_every_partition_beside_gaps(edges):
    """Against clusters summed over a dense grid of centres: inside of the intervals, or everywhere."""
    process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2, edges=edges), 0.4, RECORDED)
    grid = (np.arange(90_000) + 0.5) / 10_000 - 2.0
    centres = grid[inside(grid)] if edges == "exact" else grid

    def log_density(points, centre):
        return stats.norm.logpdf(points[:, None], centre, 0.2).sum(0)

    def log_marginal(points):
        return logsumexp(log_density(points, centres)) - np.log(10_000 * 3.5)

    labels, probs, evidence = posterior(
        POINTS[1:], **PARAMETERS, log_marginal=log_marginal, log_background=lambda point: -np.log(3.5)
    )
    joint = jax.jit(jax.vmap(process.log_joint, (0, None)))(jnp.asarray(labels), POINTS[1:]) + gammaln(len(POINTS))
    assert_allclose(logsumexp(np.asarray(joint)), evidence, rtol=1e-6)
    assert_allclose(np.exp(np.asarray(joint) - evidence), probs, rtol=1e-5)
    in_gap = process.log_joint(jnp.array([0, -1]), jnp.array([1.9, 2.3]))
    assert in_gap == -np.inf
    assert np.isfinite(process.log_joint(jnp.array([0, 0]), jnp.array([1.9, 2.3])))


@pytest.mark.parametrize("edges", ["exact", pytest.param("ignored", marks=pytest.mark.slow)])
def test_sequences_beside_gaps(edges):
    """The density of a sequence's spikes against a grid over starts, types and warps."""
    cluster = SEQUENCE(edges=edges)
    step = 0.0005
    grid = np.arange(-2.0, 7.0, step) + step / 2
    starts = jnp.asarray(grid[inside(grid)] if edges == "exact" else grid)
    event = type(cluster.sample_event(random.key(0), RECORDED))
    spikes = jnp.asarray(SPIKES[1:4])

    def at(start, kind, warp):
        return jax.vmap(cluster.log_density, (0, None))(spikes, event(start, kind, warp)).sum()

    kinds, warps = jnp.array([0, 0, 1, 1]), jnp.array([0, 1, 0, 1])
    density = jax.jit(jax.vmap(jax.vmap(at, (0, None, None)), (None, 0, 0)))(starts, kinds, warps)
    wanted = logsumexp(density + np.log(0.5 * step / 3.5 * np.array([0.4, 0.4, 0.6, 0.6]))[:, None])
    sums = jax.tree.map(lambda array: array.sum(0), jax.vmap(cluster.point_statistics)(spikes))
    assert_allclose(cluster.log_marginal(sums, RECORDED), wanted, rtol=1e-5)
    if edges == "exact":
        draw = jax.jit(jax.vmap(cluster.sample_event_given, (0, None, None)))
        times = np.asarray(draw(random.split(random.key(0), 500), sums, RECORDED).time)
        assert inside(times).all()


LONG = tsd.Intervals([[0.0, 10.0], [10.3, 30.0]])
AROUND_THE_GAP = np.array([0.1, 9.92, 9.98, 10.32, 10.4, 29.8])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cluster", "window", "points", "update", "num_sweeps"),
    [
        (tsd.GaussianCluster(0.2), RECORDED, POINTS, mixed, 800),
        (SEQUENCE(), RECORDED, SPIKES, serial, 200),
        (tsd.GaussianCluster(0.1), LONG, AROUND_THE_GAP, partial(chunked, reach=1.2), 200),
    ],
    ids=["mixed", "sequence", "chunked"],
)
def test_sweeps_have_the_exact_posterior_beside_gaps(cluster, window, points, update, num_sweeps):
    """Chunks that are far from the ends of the window too: there are nine of each colour, and the gap is in the third or so."""
    process = tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), cluster, 0.4, window)
    distance, noise = total_variation(update, process, points, num_sweeps=num_sweeps, num_warmup=50)
    assert distance < 2.5 * noise < 0.1


def recorded_model(points, window):
    background = tsd.InhomogeneousPoissonProcess(partial(wave, -1.0), window)
    tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), background, window).sample("x", points)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["serial", "chunked"])
def test_a_block_takes_a_window_with_gaps_as_an_argument(method):
    """Beside a background that varies. A point in a gap never is background."""
    points = jnp.sort(jnp.append(POINTS, 2.3))
    block = LabelGibbs(recorded_model, "x", method=method, num_split_merge=1)
    arguments = points, RECORDED
    state = block.init(random.key(0), 0, {"x_labels": jnp.full(7, -1)}, arguments, {})
    sample = jax.jit(lambda state: block.sample(state, arguments, {}))
    for _ in range(30):
        state = sample(state)
        assert int(state.z["x_labels"][3]) >= 0
    assert int(state.overflow) == 0


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tsd.Intervals([0.0, 1.0]), ValueError, r"ends has shape \(2,\); pass begin and end"),
        (lambda: tsd.Intervals(np.zeros((0, 2))), ValueError, r"ends has shape \(0, 2\)"),
        (lambda: tsd.Intervals([[0.0, 1.0], [3.0, 2.0]]), ValueError, r"interval 1, \[3.0, 2.0\], is empty"),
        (lambda: tsd.Intervals([[0.0, 2.0], [1.0, 3.0]]), ValueError, r"intervals 0, .*, and 1, .*, overlap"),
        (lambda: tsd.Intervals(ENDS[::-1]), ValueError, "not in order of time: sort them"),
        (lambda: tsd.PoissonProcess(1.0, (0.0, 5.0)).compensator(RECORDED), NotImplementedError, "is the sum"),
        (
            lambda: tsd.NeymanScott(1.0, dist.Gamma(1.0, 1.0), tsd.GaussianCluster(jnp.ones(2)), 1.0, RECORDED),
            ValueError, r"window has shape \(2,\); a GaussianCluster of this shape needs \(2, 2\)",
        ),
        (
            lambda: tsd.NeymanScott(
                1.0, dist.Gamma(1.0, 1.0), tsd.GaussianCluster(0.1), tsd.PoissonProcess(1.0, (0.0, 5.0)), RECORDED
            ),
            ValueError, "another window",
        ),
        (lambda: RECORDED[0], NotImplementedError, "no lowest and highest place"),
    ],
)  # fmt: skip
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()
