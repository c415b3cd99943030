"""Neyman-Scott processes: three proper sites whose product is the collapsed joint, against every partition."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro import handlers
from numpyro.infer.util import log_density
from scipy import stats
from scipy.special import gammaln, logsumexp

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import neyman_scott as reference
from tsppl.points import canonical_labels, draw_labels, log_count_prob

POINTS = np.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40])
RATES = {"events": 2.0, "concentration": 2.0, "rate": 0.5, "background": 2.0}
WINDOW = (0.0, 5.0)


def process(cluster=None, *, edges="exact", window=WINDOW, event_rate=0.4, background_rate=0.4):
    cluster = tsd.GaussianCluster(0.2, edges=edges) if cluster is None else cluster
    return tsd.NeymanScott(event_rate, dist.Gamma(2.0, 0.5), cluster, background_rate, window)


def plain_posterior(model, points):
    """By enumeration, with the cluster's own marginal density, which has tests of its own."""
    cluster = model.cluster

    @jax.jit
    def of_block(points):
        sums = jax.tree.map(lambda array: array.sum(0), jax.vmap(cluster.point_statistics)(points))
        return cluster.log_marginal(sums, model.window)

    return reference.posterior(
        points,
        **RATES,
        log_marginal=lambda own: float(of_block(jnp.asarray(own))),
        log_background=lambda point: float(cluster.log_background(jnp.asarray(point), model.window)),
    )


FIXED = {  # posterior of the number of clusters, of the number of background points; log evidence; that two points share one
    "ignored": (
        [0.03044918, 0.40854684, 0.47204416, 0.08493174, 0.0039624, 0.00006536, 0.00000032],
        [0.0335914, 0.24952548, 0.20151083, 0.33920533, 0.11865184, 0.02706594, 0.03044918],
        -5.783825965966107,
        [0.733722, 0.724802, 0.740558, 0.369355],
    ),
    "exact": (
        [0.03045532, 0.40861815, 0.47204614, 0.08485769, 0.00395713, 0.00006525, 0.00000032],
        [0.03355222, 0.24954062, 0.20148297, 0.33924086, 0.1186676, 0.02706042, 0.03045532],
        -5.784027425735697,
        [0.733742, 0.724821, 0.740567, 0.369355],
    ),
}


@pytest.mark.parametrize("edges", [pytest.param("ignored", marks=pytest.mark.slow), "exact"])
def test_the_fixed_case(edges):
    """Numbers that another implementation gave, by the reference and by the process."""
    model = process(edges=edges)
    labels, probs, evidence = plain_posterior(model, POINTS)
    clusters, background, log_evidence, together = FIXED[edges]
    assert len(labels) == 877
    joint = jax.jit(jax.vmap(model.log_joint, (0, None)))(jnp.asarray(labels), POINTS) + gammaln(7)
    assert_allclose(evidence, log_evidence)
    assert_allclose(logsumexp(np.asarray(joint)), log_evidence)
    assert_allclose(np.exp(np.asarray(joint) - evidence), probs)
    assert_allclose(np.bincount(labels.max(1) + 1, probs), np.array(clusters), atol=1e-8)
    assert_allclose(np.bincount((labels < 0).sum(1), probs), np.array(background), atol=1e-8)
    pairs = [(labels[:, i] == labels[:, j]) & (labels[:, i] >= 0) for i, j in [(0, 1), (0, 2), (1, 2), (3, 4)]]
    assert_allclose(np.array([probs @ pair for pair in pairs]), np.array(together), atol=1e-6)
    top = dict(zip(map(tuple, labels.tolist()), np.asarray(joint), strict=True))
    if edges == "ignored":
        assert_allclose(top[0, 0, 0, -1, -1, -1], -7.0826475, rtol=1e-7)
        assert_allclose(top[0, 0, 0, 1, 1, -1], -7.3413263, rtol=1e-7)


def test_counts_are_a_distribution():
    """Against the recursion over sizes of clusters; sums to one; a large count by the same two ways."""
    model = process()
    expected = reference.count_probs(150, **RATES)
    found = model.count().log_prob(jnp.arange(151))
    assert_allclose(found, np.log(expected), rtol=1e-9)
    assert_allclose(jnp.exp(found).sum(), 1.0)
    assert jnp.isnan(model.count(largest=5).log_prob(6))
    few = {"events": 0.3, "concentration": 0.2, "rate": 0.02, "background": 0.1}  # so broad that the circle must shrink
    large = log_count_prob(600, *few.values(), largest=1000)
    assert_allclose(large, np.log(reference.count_probs(600, **few)[600]))


def test_labels_given_the_count_are_a_distribution():
    for num_points in (0, 1, 5):
        labels = np.array(list(reference.all_labels(num_points)), np.int32)
        found = jax.jit(process().labels(num_points).log_prob)(labels)
        assert_allclose(jnp.exp(found).sum(), 1.0)
        assert bool(process().labels(num_points).support(labels).all())


def restaurant_probs(labels, concentration):
    """Of seatings of customers in turn (Blackwell and MacQueen 1973)."""
    probs = []
    for row in labels:
        prob = 1.0
        for customer, table in enumerate(row):
            others = np.sum(row[:customer] == table)
            prob *= (others if others else concentration) / (concentration + customer)
        probs.append(prob)
    return np.array(probs)


def test_labels_of_a_dirichlet_process_follow_the_chinese_restaurant():
    """Without a background, whatever the rate; and it is where ever smaller events lead to."""
    labels, concentration, rate = np.array(list(reference.all_labels(5))), 1.5, 0.7
    limit = tsd.NeymanScott.dirichlet_process(concentration, tsd.GaussianCluster(0.2), WINDOW, rate=rate)
    found = np.exp(np.asarray(jax.jit(limit.labels(5).log_prob)(jnp.asarray(labels))))
    clustered = (labels >= 0).all(1)
    assert_allclose(found[clustered], restaurant_probs(labels[clustered], concentration))
    assert (found[~clustered] == 0).all()
    small = tsd.NeymanScott(concentration / 1e-6 / 5.0, dist.Gamma(1e-6, rate), tsd.GaussianCluster(0.2), 1e-9, WINDOW)
    assert_allclose(np.exp(small.labels(5).log_prob(jnp.asarray(labels[clustered]))), found[clustered], rtol=1e-4)


def test_points_of_a_dirichlet_process_are_negative_binomial():
    """Beside a Poisson number in the background; in single precision too."""
    counts = np.arange(60)
    clustered = stats.nbinom(1.5, 0.7 / 1.7).pmf(counts)
    found = jax.jit(jax.vmap(partial(log_count_prob, largest=60), (0, None, None, None, None)))
    for background, expected in [(0.0, clustered), (0.4, np.convolve(clustered, stats.poisson(2.0).pmf(counts))[:60])]:
        process = tsd.NeymanScott.dirichlet_process(
            1.5, tsd.GaussianCluster(0.2), WINDOW, background_rate=background, rate=0.7
        )
        for dtype, tolerance in [(jnp.float64, 1e-9), (jnp.float32, 2e-5)]:
            rates = [jnp.asarray(rate, dtype) for rate in process.rates]
            log_probs = found(counts, *rates)
            assert log_probs.dtype == dtype
            assert_allclose(jnp.exp(log_probs), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.slow
def test_draws_of_a_dirichlet_process():
    """Counts, numbers of clusters given the count, whole patterns; the joint density is finite and has a gradient."""
    process = tsd.NeymanScott.dirichlet_process(3.0, tsd.GaussianCluster(0.01), (0.0, 50.0), rate=0.1)
    counts = np.asarray(process.count().sample(random.key(0), (20_000,)))
    law = stats.nbinom(3.0, 0.1 / 1.1)
    edges = law.ppf(np.arange(1, 20) / 20)
    observed = np.bincount(np.searchsorted(edges, counts), minlength=20)
    probs = np.diff(np.concatenate([[0.0], law.cdf(edges), [1.0]]))
    assert stats.chisquare(observed, 20_000 * probs).pvalue > 1e-3

    labels = np.asarray(process.labels(40).sample(random.key(1), (4000,)))
    assert labels.min() == 0
    shares = 3.0 / (3.0 + np.arange(40))
    spread = np.sqrt(np.sum(shares * (1 - shares)) / 4000)
    assert abs((labels.max(1) + 1).mean() - shares.sum()) < 4.5 * spread
    assert abs((labels[:, 0] == labels[:, 1]).mean() - 0.25) < 4.5 * np.sqrt(0.25 * 0.75 / 4000)

    pattern = process.simulate(random.key(2))
    assert len(pattern.amplitudes) == len(pattern.events.centre) == int(pattern.labels.max()) + 1
    away = pattern.points - pattern.events.centre[pattern.labels]
    assert float(jnp.abs(away).max()) < 0.06

    def joint(concentration, background_rate):
        model = tsd.NeymanScott.dirichlet_process(
            concentration, tsd.GaussianCluster(0.2), WINDOW, background_rate=background_rate
        )
        return model.log_joint(jnp.array([0, 0, 0, 1, 1, 2]), POINTS)

    step = 1e-5
    slope = (joint(1.5 + step, 0.0) - joint(1.5 - step, 0.0)) / (2 * step)
    assert_allclose(jax.grad(joint)(1.5, 0.0), slope, rtol=1e-6)
    assert np.isfinite(jax.grad(joint, 1)(1.5, 0.4))


def test_the_sites_sum_to_the_joint():
    model, labels = process(), jnp.array([0, 0, -1, 1, 1, -1])

    def program(points):
        model.sample("x", points)

    found, trace = log_density(program, (POINTS,), {}, {"x_labels": labels})
    assert list(trace) == ["x_count", "x_labels", "x"]
    assert [site["is_observed"] for site in trace.values()] == [True, False, True]
    assert_allclose(found, model.log_joint(labels, POINTS))
    parts = model.count().log_prob(6) + model.labels(6).log_prob(labels) + model.points(labels).log_prob(POINTS)
    assert_allclose(parts, found)
    assert_allclose(jax.jit(model.count(largest=6).log_prob)(6), model.count().log_prob(6))


@pytest.mark.slow
def test_points_given_labels_are_a_density():
    """Two points of a cluster, by integration, and a point of the background, which is never outside of the window."""
    axis = np.linspace(-2.5, 7.5, 301)
    pairs = jnp.asarray(reference.product_grid(axis, axis))
    total = jnp.exp(process().points(jnp.array([0, 0])).log_prob(pairs)).sum() * (axis[1] - axis[0]) ** 2
    assert_allclose(total, 1.0, rtol=1e-8)
    alone = process().points(jnp.array([-1])).log_prob(jnp.array([[2.0], [-0.1]]))
    assert_allclose(alone, jnp.array([-np.log(5.0), -np.inf]))


@pytest.mark.slow
def test_draws_follow_the_densities():
    """Counts, labels given four points (every configuration), and means and squares of points given labels."""
    model = process()
    counts = np.asarray(model.count().sample(random.key(0), (20_000,)))
    expected = reference.count_probs(200, **RATES)
    observed = np.bincount(np.minimum(counts, 30), minlength=31)
    wanted = 20_000 * np.append(expected[:30], expected[30:].sum())
    assert stats.chisquare(observed, wanted * observed.sum() / wanted.sum()).pvalue > 1e-3

    labels = np.array(list(reference.all_labels(4)))
    drawn = np.asarray(jax.jit(partial(model.labels(4).sample, sample_shape=(20_000,)))(random.key(1)))
    which = {tuple(row): index for index, row in enumerate(labels.tolist())}
    observed = np.bincount([which[tuple(row)] for row in drawn.tolist()], minlength=len(labels))
    probs = np.exp(np.asarray(model.labels(4).log_prob(jnp.asarray(labels))))
    assert stats.chisquare(observed, 20_000 * probs / probs.sum()).pvalue > 1e-3

    points = np.asarray(model.points(jnp.array([0, -1, 0])).sample(random.key(2), (20_000,)))
    assert stats.kstest(points[:, 1], stats.uniform(0, 5).cdf).pvalue > 1e-3
    assert stats.kstest(points[:, 0] - points[:, 2], stats.norm(0, 0.2 * 2**0.5).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_labels_of_many_points():
    """The share of the background and the number of clusters, against the law of the whole process."""
    rates = (50.0, 3.0, 0.2, 100.0)
    labels = np.asarray(jax.jit(jax.vmap(lambda key: draw_labels(key, 850, *rates)))(random.split(random.key(0), 400)))
    background, clusters = (labels < 0).sum(1), labels.max(1) + 1
    tables = [
        reference.count_probs(850, **dict(zip(RATES, (50.0, 3.0, 0.2, rate), strict=True))) for rate in (100.0, 1e-9)
    ]
    share = 100.0 * tables[0][849] / (850 * tables[0][850])  # of the background at one point, by size-biased choice
    assert abs(background.mean() - 850 * share) < 4.5 * background.std() / 20
    step = 1e-4
    more = reference.count_probs(850, **dict(zip(RATES, (50.0 * (1 + step), 3.0, 0.2, 100.0), strict=True)))[850]
    empty = 50.0 * (0.2 / 1.2) ** 3.0
    events = (np.log(more) - np.log(tables[0][850])) / step  # d log P(n) / d log L = E[events | n] - E[events]
    assert abs(clusters.mean() - (events + 50.0 - empty)) < 4.5 * clusters.std() / 20 + 0.01
    assert (canonical_labels(jnp.asarray(labels[0])) == labels[0]).all()


def globals_density(values, labels):
    scale, event_rate, background_rate, concentration, rate = values
    model = tsd.NeymanScott(
        event_rate, dist.Gamma(concentration, rate), tsd.GaussianCluster(scale), background_rate, WINDOW
    )
    parts = (
        model.count(largest=6).log_prob(6) + model.labels(6).log_prob(labels) + model.points(labels).log_prob(POINTS)
    )
    return jnp.stack([model.log_joint(labels, POINTS), parts])


@pytest.mark.parametrize("labels", [[0, 0, 0, 1, 1, -1], pytest.param([-1] * 6, marks=pytest.mark.slow)])
def test_gradients_in_globals(labels):
    """Finite, and those of finite differences, for the joint and for the sum of the sites."""
    values, labels = jnp.array([0.2, 0.4, 0.4, 2.0, 0.5]), jnp.array(labels)
    found = jax.jit(jax.jacrev(globals_density))(values, labels)
    step = 1e-5 * jnp.eye(5)
    density = jax.jit(jax.vmap(globals_density, (0, None)))
    expected = (density(values + step, labels) - density(values - step, labels)).T / 2e-5
    assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
def test_given_events_and_collapsed_agree():
    """Averaging the Poisson density over events from their prior gives the evidence, by simulation of two points."""
    model = tsd.NeymanScott(0.2, dist.Gamma(3.0, 2.0), tsd.GaussianCluster(0.3), 0.3, (0.0, 4.0))
    points = jnp.array([1.0, 1.5])
    labels = jnp.array(list(reference.all_labels(2)))
    evidence = float(jnp.exp(jax.vmap(model.log_joint, (0, None))(labels, points)).sum())

    @jax.jit
    def densities(key):
        keys = random.split(key, 3)
        number = random.poisson(keys[0], model.expected_events)
        events = jax.vmap(model.cluster.sample_event, (0, None))(random.split(keys[1], 12), model.window)
        amplitudes = jnp.where(jnp.arange(12) < number, model.amplitude.sample(keys[2], (12,)), 0.0)
        return jnp.exp(model.log_prob_given_events(points, events, amplitudes))

    found = np.asarray(jax.vmap(densities)(random.split(random.key(0), 40_000)))
    assert abs(found.mean() - evidence) < 4.5 * found.std() / 200


@pytest.mark.slow
def test_predictive_intensity_is_the_ratio_of_joint_densities():
    """Density with one more point, summed over what it may belong to, over density without (as sets)."""
    model, labels, points = process(), jnp.array([0, 0, -1]), jnp.array([0.6, 0.8, 2.0])
    places = jnp.array([0.7, 1.2, 4.9])
    found = model.predictive_intensity(places, labels, points)
    before = jnp.exp(model.log_joint(labels, points)) * 6

    def after(place, label):
        return jnp.exp(model.log_joint(jnp.append(labels, label), jnp.append(points, place))) * 24

    ratio = sum(jax.vmap(after, (0, None))(places, label) for label in (-1, 0, 1)) / before
    assert_allclose(found, ratio)
    nothing = model.predictive_intensity(places, jnp.zeros(0, jnp.int32), jnp.zeros(0))
    alone = jax.vmap(lambda place: sum(jnp.exp(model.log_joint(jnp.array([one]), place[None])) for one in (-1, 0)))(
        places
    )
    assert_allclose(nothing, alone / jnp.exp(model.log_joint(jnp.zeros(0, jnp.int32), jnp.zeros(0))))


@pytest.mark.slow
def test_events_behind_points():
    """Amplitudes have the posterior Gamma(a + n, b + 1), and centres lie around the means of their points."""
    model, labels = process(), jnp.array([0, 0, 0, 1, 1, -1])
    draw = jax.jit(lambda key: model.sample_events(key, labels, POINTS))
    events, amplitudes = jax.vmap(draw)(random.split(random.key(0), 4000))
    assert events.centre.shape == amplitudes.shape == (4000, 6)
    for label, own in ((0, POINTS[:3]), (1, POINTS[3:5])):
        size = len(own)
        assert stats.kstest(amplitudes[:, label], stats.gamma(2 + size, scale=1 / 1.5).cdf).pvalue > 1e-3
        assert stats.kstest(events.centre[:, label], stats.norm(own.mean(), 0.2 / size**0.5).cdf).pvalue > 1e-3


@pytest.mark.slow
def test_simulated_patterns():
    """Numbers of points, sorted places, canonical labels, and events in the rows of their labels."""
    model = tsd.NeymanScott(2.0, dist.Gamma(3.0, 1.0), tsd.GaussianCluster(0.01), 3.0, (0.0, 40.0))
    pattern = model.simulate(random.key(3))
    expected = model.expected_counts()
    assert_allclose(jnp.array([expected.points, expected.background, expected.events]), jnp.array([360.0, 120.0, 80.0]))
    spread = np.sqrt(120 + 80 * (3 + 3 + 9))
    assert abs(len(pattern.points) - 360) < 4 * spread
    assert bool((jnp.diff(pattern.points) >= 0).all())
    assert (canonical_labels(pattern.labels) == pattern.labels).all()
    clustered = pattern.labels >= 0
    away = pattern.points - pattern.events.centre[pattern.labels]
    assert float(jnp.abs(away)[clustered].max()) < 0.05
    occupied = int(pattern.labels.max()) + 1
    assert abs(occupied - float(expected.occupied_events)) < 4 * np.sqrt(80)
    assert len(pattern.amplitudes) == len(pattern.events.centre) >= occupied


@pytest.mark.slow
def test_prior_predictive_and_plain_draws():
    def program(points=None, num_points=None):
        return process().sample("x", points, num_points=num_points)

    trace = handlers.trace(handlers.seed(program, 0)).get_trace()
    assert trace["x"]["value"].shape == (int(trace["x_count"]["value"]),)
    draws = jax.jit(partial(numpyro.infer.Predictive(program, num_samples=3), num_points=5))(random.key(0))
    assert draws["x"].shape == draws["x_labels"].shape == (3, 5)
    with pytest.raises(ValueError, match="pass num_points="):
        jax.jit(lambda key: handlers.seed(program, key)())(random.key(0))


def test_a_process_is_a_pytree():
    model, labels = process(), jnp.array([0, 0, 0, 1, 1, -1])
    joint = jax.jit(lambda model: model.log_joint(labels, POINTS))
    twice = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), model)
    assert_allclose(jax.vmap(joint)(twice), jnp.repeat(joint(model), 2))
    assert not bool(model.labels(3).support(jnp.array([1, 0, 0])))
    assert not bool(model.labels(3).support(jnp.array([0, 0, 3])))


GAMMA, GAUSS = dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: tsd.NeymanScott(1.0, dist.Normal(0.0, 1.0), GAUSS, 1.0, WINDOW), TypeError, "amplitude is a Normal"),
        (lambda: tsd.NeymanScott(1.0, GAMMA, dist.Normal(0.0, 1.0), 1.0, WINDOW), TypeError, "cluster is a Normal"),
        (
            lambda: tsd.NeymanScott(1.0, GAMMA, GAUSS, 1.0, (0.0, 1.0, 2.0)),
            ValueError,
            r"window has shape \(3,\).*\(2,\)",
        ),
        (lambda: tsd.NeymanScott(1.0, GAMMA, GAUSS, 1.0, (5.0, 0.0)), ValueError, "is empty"),
        (lambda: tsd.NeymanScott(jnp.ones(2), GAMMA, GAUSS, 1.0, WINDOW), ValueError, r"event_rate has shape \(2,\)"),
        (
            lambda: tsd.NeymanScott(1.0, dist.Gamma(jnp.ones(2), 1.0), GAUSS, 1.0, WINDOW),
            ValueError,
            r"batch shape \(2,\)",
        ),
        (lambda: process().sample("x", jnp.ones((3, 2))), ValueError, r"points has shape \(3, 2\); the shape \(N,\)"),
        (lambda: process().points(jnp.zeros(3)), ValueError, "labels are float64"),
        (lambda: jax.jit(process().count().log_prob)(3), ValueError, r"pass count\(largest=...\)"),
    ],
)
def test_mistakes(make, error, message):
    with pytest.raises(error, match=message):
        make()
