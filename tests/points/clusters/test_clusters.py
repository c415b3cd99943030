"""Families of clusters: closed forms against integration over a grid of events, and the laws that every family obeys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import random
from scipy import integrate, stats
from scipy.special import logsumexp

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.neyman_scott import log_marginal_on_grid
from tsppl.points.clusters.cluster import log_normal_mass, normal_mass

LINE, SQUARE = jnp.array([0.0, 2.0]), jnp.array([[0.0, -1.0], [1.0, 2.0]])
SEQUENCE = {
    "type_probs": jnp.array([0.3, 0.7]),
    "neuron_probs": jnp.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]]),
    "offsets": jnp.array([[0.0, 0.4, -0.2], [0.3, 0.1, 0.2]]),
    "widths": jnp.array([[0.1, 0.2, 0.15], [0.2, 0.1, 0.3]]),
    "warps": jnp.array([0.8, 1.0, 1.3]),
    "warp_probs": jnp.array([0.2, 0.5, 0.3]),
}
SPIKES = np.array([[0.1, 1.0], [0.02, 0.0], [0.3, 2.0], [0.25, 1.0]])
DOCUMENTS = np.array([[0.1, 1.0, 2.0, 0.0, 1.0], [0.3, 1.0, 0.0, 0.0, 3.0], [0.25, 0.0, 1.0, 1.0, 0.0]])
FAMILIES = {
    "line": (tsd.GaussianCluster(0.2), np.array([0.05, 0.21, 0.3, -0.1]), LINE),
    "line, edges ignored": (tsd.GaussianCluster(0.2, edges="ignored"), np.array([0.05, 0.21, 0.3, 0.1]), LINE),
    "plane": (
        tsd.GaussianCluster(jnp.array([0.2, 0.5])),
        np.array([[0.9, 1.8], [1.1, 1.9], [0.7, 2.2]]),
        SQUARE,
    ),
    "unknown shape": (
        tsd.GaussianInverseWishartCluster(4.0, jnp.array([[0.3, 0.1], [0.1, 0.2]])),
        np.array([[0.2, 0.3], [0.5, 0.7], [0.4, 0.1], [0.9, 0.3]]),
        SQUARE,
    ),
    "sequence": (tsd.SequenceCluster(**SEQUENCE), SPIKES, LINE),
    "documents": (
        tsd.DocumentCluster(0.2, jnp.array([0.5, 1.2]), jnp.array([0.3, 0.8, 2.0]), mean_length=3.0),
        DOCUMENTS,
        LINE,
    ),
    "sequence, edges ignored": (tsd.SequenceCluster(**SEQUENCE, edges="ignored"), SPIKES, LINE),
}


@jax.jit
def statistics(cluster, points):
    return jax.tree.map(lambda array: array.sum(0), jax.vmap(cluster.point_statistics)(jnp.asarray(points)))


@jax.jit
def log_marginal(cluster, points, window):
    return cluster.log_marginal(statistics(cluster, points), window)


SLOW = ("line, edges ignored", "sequence, edges ignored")


@pytest.fixture(params=[pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in FAMILIES])
def family(request):
    return FAMILIES[request.param]


def test_laws_of_every_family(family):
    """Order does not matter, adding is predicting, removing undoes it, and neither the origin nor the form of call does."""
    cluster, points, window = family

    @jax.jit
    def answers(points):
        singles = jax.vmap(cluster.point_statistics)(points)
        sums = jax.tree.map(lambda array: array.sum(0), singles)
        without = jax.tree.map(lambda total, array: total - array[-1], sums, singles)
        last = jax.tree.map(lambda array: array[-1], singles)
        stacked = jax.tree.map(lambda *arrays: jnp.stack(arrays), without, sums)
        marginals = jax.vmap(cluster.log_marginal, (0, None))(stacked, window)
        return marginals, jax.vmap(cluster.log_predictive, (0, None, None))(stacked, last, window)[0]

    points = jnp.asarray(points)
    marginals, predicted = answers(points)
    assert_allclose(marginals[0], log_marginal(cluster, points[:-1], window))
    assert_allclose(predicted, marginals[1] - marginals[0])
    assert_allclose(answers(points[::-1])[0][1], marginals[1])
    origin = cluster.positions(points[0]) + 0.7
    moved = log_marginal(cluster, cluster.shifted(points, origin), window - origin)
    assert_allclose(moved, marginals[1])


def grid(edges, size):
    """Places of an event on the line, and the weights of an integral over its uniform density there."""
    low, high = (0.0, 2.0) if edges == "exact" else (-3.0, 5.0)
    weights = np.full(size, (high - low) / (size - 1) / 2.0)
    weights[[0, -1]] /= 2
    return np.linspace(low, high, size), weights


@pytest.mark.parametrize("edges", ["exact", "ignored"])
def test_gaussian_marginal_by_integration(edges):
    centres, weights = grid(edges, 8001)

    def log_density(points, centre):
        return stats.norm.logpdf(points, centre, 0.2).sum()

    for points in (np.array([0.05]), np.array([0.05, 0.21, 0.3, -0.1])):
        expected = log_marginal_on_grid(log_density, centres, weights)(points)
        found = log_marginal(tsd.GaussianCluster(0.2, edges=edges), points, LINE)
        assert_allclose(found, expected, rtol=1e-5)


def test_unknown_shape_marginal_by_integration():
    """Centre and variance on a grid; the density of one more point integrates to one."""
    cluster = tsd.GaussianInverseWishartCluster(5.0, jnp.eye(1) * 0.4)
    points, window = np.array([[0.2], [0.5], [0.6]]), jnp.array([[0.0], [2.0]])
    centres, log_variances = np.linspace(-8, 9, 1201), np.linspace(-8, 8, 801)
    prior = stats.invgamma(2.5, scale=0.2).pdf(np.exp(log_variances)) * np.exp(log_variances)
    log_density = stats.norm.logpdf(points[:, :, None], centres[:, None], np.exp(0.5 * log_variances)).sum(0)
    step = (centres[1] - centres[0]) * (log_variances[1] - log_variances[0])
    assert_allclose(log_marginal(cluster, points, window), logsumexp(log_density, b=prior * step / 2.0), rtol=1e-6)

    axis = jnp.linspace(-60, 61, 20_001)[:, None]
    more, sums = jax.vmap(cluster.point_statistics)(axis), statistics(cluster, points)
    density = jnp.exp(jax.vmap(cluster.log_predictive, (None, 0, None))(sums, more, window))
    assert_allclose(jnp.trapezoid(density, axis[:, 0]), 1.0, rtol=1e-6)


@pytest.mark.parametrize("edges", ["exact", "ignored"])
def test_sequence_marginal_by_integration(edges):
    starts, weights = grid(edges, 4001)
    arrays = jax.tree.map(np.asarray, SEQUENCE)
    total, neurons = 0.0, SPIKES[:, 1].astype(int)
    for kind, warp in np.ndindex(2, 3):
        stretch = arrays["warps"][warp]
        means = starts[:, None] + stretch * arrays["offsets"][kind, neurons]
        density = stats.norm.pdf(SPIKES[:, 0], means, stretch * arrays["widths"][kind, neurons])
        density = np.prod(density * arrays["neuron_probs"][kind, neurons], 1) @ weights
        total += arrays["type_probs"][kind] * arrays["warp_probs"][warp] * density
    found = log_marginal(tsd.SequenceCluster(**SEQUENCE, edges=edges), SPIKES, LINE)
    assert_allclose(found, np.log(total), rtol=1e-5)


def test_document_marginal_by_integration():
    """Times, sources and words apart, with the coefficients of the multinomial distribution; documents sum to one."""
    cluster = tsd.DocumentCluster(0.2, jnp.array([0.5, 1.2]), jnp.array([2.0, 1.3]), mean_length=1.5)
    documents = np.array([[0.1, 1.0, 2.0, 1.0], [0.3, 1.0, 0.0, 3.0], [0.25, 0.0, 1.0, 0.0]])
    words = documents[:, 2:].astype(int)

    def density_of_words(prob):
        return np.prod([stats.multinomial.pmf(row, row.sum(), [prob, 1 - prob]) for row in words])

    of_words = integrate.quad(lambda prob: stats.beta(2.0, 1.3).pdf(prob) * density_of_words(prob), 0, 1)[0]
    of_sources = integrate.quad(lambda prob: stats.beta(0.5, 1.2).pdf(prob) * prob * (1 - prob) ** 2, 0, 1)[0]
    lengths = stats.poisson(1.5).pmf(words.sum(1)).prod()
    of_times = log_marginal(cluster.times, documents[:, 0], LINE)
    expected = of_times + np.log(of_words * of_sources * lengths)
    assert_allclose(log_marginal(cluster, documents, LINE), expected, rtol=1e-6)

    every = np.array([[1.0, source, *words] for source in (0, 1) for words in np.ndindex(15, 15)])
    singles = jax.jit(jax.vmap(lambda one: cluster.log_marginal(cluster.point_statistics(one), LINE)))(every)
    apart = jax.jit(jax.vmap(lambda one: cluster.log_background(one, LINE)))(every)
    event = cluster.sample_event(random.key(0), LINE)
    given = jax.jit(jax.vmap(cluster.log_density, (0, None)))(every, event)
    of_time = stats.norm.pdf(1.0, event.time, 0.2)
    assert_allclose(jnp.exp(jnp.stack([singles, apart])).sum(1), jnp.array([0.5, 0.5]), rtol=1e-6)
    assert_allclose(jnp.exp(given).sum(), of_time, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["line", "plane", "sequence", "documents"])
def test_events_given_points_have_the_density_of_bayes_rule(name):
    """``p(event | points) p(points) = p(event) p(points | event)``, so the mean of 1 / p(points | event) over draws given
    the points is 1 / p(points); and points drawn from the prior have the mean density that the marginal says."""
    cluster, points, window = FAMILIES[name]
    points = jnp.asarray(points)[:2]
    sums = statistics(cluster, points)

    @jax.jit
    def draws(keys):
        events = jax.vmap(cluster.sample_event, (0, None))(keys, window)
        prior = jax.vmap(lambda event: jax.vmap(cluster.log_density, (0, None))(points, event).sum())(events)
        given = jax.vmap(cluster.sample_event_given, (0, None, None))(keys, sums, window)
        return prior, given, events

    prior, given, events = draws(random.split(random.key(0), 40_000))
    density = np.exp(prior)
    expected = np.exp(log_marginal(cluster, points, window))
    assert abs(density.mean() - expected) < 4.5 * density.std() / 200
    found, wanted = np.asarray(given[0]), np.asarray(events[0])
    weights = density.reshape((-1,) + (1,) * (wanted.ndim - 1)) / density.sum()
    mean = (weights * wanted).sum(0)
    error = np.sqrt((weights**2 * (wanted - mean) ** 2).sum(0) + found.var(0) / len(found))
    np.testing.assert_array_less(abs(found.mean(0) - mean), 4.5 * error)


@pytest.mark.slow
def test_shape_given_points_follows_the_conjugate_posterior():
    """Mean of the inverse-Wishart posterior, centre within its own covariance; the prior's mean likewise."""
    cluster, points, window = FAMILIES["unknown shape"]
    keys = random.split(random.key(1), 40_000)
    sums = statistics(cluster, points)
    given = jax.jit(jax.vmap(cluster.sample_event_given, (0, None, None)))(keys, sums, window)
    prior = jax.jit(jax.vmap(cluster.sample_event, (0, None)))(keys, window)
    scatter = np.cov(points.T, bias=True) * 4
    wanted = (np.asarray(cluster.scale_matrix) + scatter) / (4.0 + 3 - 3)
    for found, mean in ((given.covariance, wanted), (prior.covariance, np.asarray(cluster.scale_matrix) / 1.0)):
        found = np.asarray(found)
        tail = 6.0 if mean is wanted else 12.0  # the prior's variance is infinite
        np.testing.assert_array_less(abs(found.mean(0) - mean), tail * found.std(0) / 200)
    centre = np.asarray(given.centre)
    np.testing.assert_allclose(centre.mean(0), points.mean(0), atol=0.02)
    np.testing.assert_allclose(np.cov(centre.T), wanted / 4, rtol=0.1, atol=0.01)


@pytest.mark.slow
def test_draws_of_points_follow_their_density():
    """Sequences: how often each neuron fires, and when, given an event; a spike's density sums to one over neurons."""
    cluster = tsd.SequenceCluster(**SEQUENCE)
    event = jax.jit(cluster.sample_event)(random.key(0), LINE)
    spikes = jax.jit(jax.vmap(cluster.sample_point, (0, None)))(random.split(random.key(1), 20_000), event)
    spikes = np.asarray(spikes)
    for neuron in range(3):
        own = spikes[spikes[:, 1] == neuron, 0]
        share = float(SEQUENCE["neuron_probs"][event.type, neuron])
        assert abs(len(own) / 20_000 - share) < 4.5 * np.sqrt(share * (1 - share) / 20_000)
        warp = SEQUENCE["warps"][event.warp]
        scale = float(warp * SEQUENCE["widths"][event.type, neuron])
        mean = float(event.time + warp * SEQUENCE["offsets"][event.type, neuron])
        assert stats.kstest(own, stats.norm(mean, scale).cdf).pvalue > 1e-3
        places = np.linspace(mean - 9 * scale, mean + 9 * scale, 501)
        pairs = jnp.stack([jnp.asarray(places), jnp.full(501, float(neuron))], -1)
        density = np.exp(jax.vmap(cluster.log_density, (0, None))(pairs, event))
        assert_allclose(np.trapezoid(density, places), share, rtol=1e-8)


def test_normal_mass_in_the_tails():
    low, high = np.array([-1.0, 5.0, -9.0, 30.0, -50.0, -1e-3]), np.array([2.0, 6.0, -8.0, 35.0, 50.0, 1e-3])
    wanted = np.where(low > 0, stats.norm.sf(low) - stats.norm.sf(high), stats.norm.cdf(high) - stats.norm.cdf(low))
    assert_allclose(log_normal_mass(jnp.asarray(low), jnp.asarray(high)), np.log(wanted), rtol=1e-8)
    assert_allclose(normal_mass(jnp.asarray(low), jnp.asarray(high)), wanted, rtol=1e-8, atol=0.0)
    assert np.isfinite(jax.grad(log_normal_mass)(50.0, 60.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: tsd.GaussianCluster(jnp.ones((2, 2))), r"scale has shape \(2, 2\); pass a number"),
        (lambda: tsd.GaussianCluster(1.0, edges="none"), r"edges is 'none'; pass one of \('exact', 'ignored'\)"),
        (
            lambda: tsd.GaussianInverseWishartCluster(3.0, jnp.ones(2)),
            r"scale_matrix has shape \(2,\); it must be \(D, D\)",
        ),
        (lambda: tsd.GaussianInverseWishartCluster(jnp.ones(2), jnp.eye(2)), r"concentration has shape \(2,\)"),
        (
            lambda: tsd.DocumentCluster(
                0.1, jnp.ones(2), jnp.ones(3), mean_length=1.0, background_word_probs=jnp.ones(2)
            ),
            r"background_word_probs has shape \(2,\) and word_concentration \(3,\)",
        ),
        (
            lambda: tsd.SequenceCluster(jnp.ones(1), jnp.ones((1, 3)), jnp.ones((1, 2)), jnp.ones((1, 3))),
            r"offsets has shape \(1, 2\)",
        ),
        (
            lambda: tsd.SequenceCluster(jnp.ones(1), *[jnp.ones((1, 3))] * 3, background_probs=jnp.ones(2)),
            r"background_probs has shape \(2,\); it must be \(3,\)",
        ),
        (
            lambda: tsd.SequenceCluster(
                jnp.ones(1), *[jnp.ones((1, 3))] * 3, warps=jnp.ones(2), warp_probs=jnp.ones(3)
            ),
            r"warps has shape \(2,\) and warp_probs \(3,\)",
        ),
    ],
)
def test_mistakes(make, message):
    with pytest.raises(ValueError, match=message):
        make()
