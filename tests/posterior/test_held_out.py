"""Points held out at random: the law of what is kept, the predictive density by enumeration, and known sequences."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, Gibbs
from scipy import stats
from scipy.special import gammaln, logsumexp

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference import neyman_scott as reference
from tsppl.inference import LabelGibbs, best_start

KEPT, HELD_OUT, PROB = np.array([0.62, 0.75, 2.10]), np.array([0.81, 4.40]), 0.3
EDGES = np.array([0.0, 2.0, 5.0])


def process(background=0.4, scale=0.2):
    return tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(scale), background, (0.0, 5.0))


def log_evidence(process, points):
    """Of points as a set."""
    labels = jnp.asarray(list(reference.all_labels(len(points))), jnp.int32)
    joint = jax.jit(jax.vmap(process.log_joint, (0, None)))(labels, points) + gammaln(len(points) + 1)
    return labels, joint - logsumexp(np.asarray(joint)), logsumexp(np.asarray(joint))


def test_the_number_of_points_kept_is_binomial():
    whole = reference.count_probs(150, events=2.0, concentration=2.0, rate=0.5, background=2.0)
    wanted = stats.binom.pmf(np.arange(20)[:, None], np.arange(151), 1 - PROB) @ whole
    found = process().thinned(1 - PROB).count().log_prob(jnp.arange(20))
    assert_allclose(jnp.exp(found), wanted, rtol=1e-9)
    kept, held_out = tsppl.hold_out_points(random.key(0), np.arange(10_000.0), PROB)
    assert abs(len(held_out) - 3000) < 4.5 * np.sqrt(2100)
    assert_allclose(np.sort(np.concatenate([kept, held_out])), np.arange(10_000.0))


@pytest.mark.slow
def test_the_density_of_points_kept_is_that_of_the_whole_summed_over_those_lost():
    """Lost points go to clusters with points kept, to clusters of their own, or to the background, and are integrated
    out: each such density integrates to one. All partitions of up to six lost points beside two kept."""
    faint = tsd.NeymanScott(0.1, dist.Gamma(1.5, 2.0), tsd.GaussianCluster(0.2), 0.05, (0.0, 5.0))
    kept, lost_prob = KEPT[:2], 0.05
    numbers = {"events": 0.5, "concentration": 1.5, "rate": 2.0, "background": 0.25}
    cluster = faint.cluster

    @jax.jit
    def of_block(points):
        sums = jax.tree.map(lambda array: array.sum(0), jax.vmap(cluster.point_statistics)(points))
        return cluster.log_marginal(sums, faint.window)

    total = -np.inf
    for number in range(7):
        points = np.concatenate([kept, np.full(number, np.nan)])  # lost anywhere
        joint = [
            reference.log_joint(
                labels, points, **numbers,
                log_marginal=lambda own: float(of_block(jnp.asarray(own[~np.isnan(own)]))) if (own == own).any() else 0.0,
                log_background=lambda point: 0.0 if np.isnan(point) else -np.log(5.0),
            )
            for labels in reference.all_labels(len(points))
        ]  # fmt: skip
        term = logsumexp(joint) + number * np.log(lost_prob) - gammaln(number + 1) + 2 * np.log(1 - lost_prob)
        total = np.logaddexp(total, term)
    assert term < total - 15
    assert_allclose(log_evidence(faint.thinned(1 - lost_prob), kept)[2], total, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("background", [0.4, tsd.PiecewisePoissonProcess(np.array([0.2, 0.6]), EDGES)])
def test_the_score_is_the_predictive_density(background):
    """Evidence of all points over that of the points kept, both by enumeration; labels drawn from the exact posterior."""
    whole = process(background)
    labels, log_probs, evidence = log_evidence(whole.thinned(1 - PROB), KEPT)
    joint = log_evidence(whole, np.concatenate([KEPT, HELD_OUT]))[2] + 3 * np.log(1 - PROB) + 2 * np.log(PROB)
    wanted = joint - evidence - gammaln(3)
    drawn = labels[random.categorical(random.key(0), jnp.asarray(log_probs), shape=(40_000,))]
    score = tsppl.held_out_log_prob(random.key(1), whole, drawn, KEPT, HELD_OUT, PROB)
    density = np.exp(np.asarray(score.draws))
    assert abs(density.mean() - np.exp(wanted)) < 4.5 * density.std() / 200
    assert density.std() / 200 < 0.03 * density.mean()
    assert_allclose(score.log_prob, np.log(density.mean()))
    assert_allclose(score.effective_draws, density.sum() ** 2 / (density**2).sum())


@pytest.mark.slow
def test_scores_of_processes_that_vary():
    """A leading axis of draws gives the same as one after the other; mistakes."""
    scales, labels = jnp.array([0.1, 0.3]), jnp.array([[0, 0, -1], [0, 0, 1]])
    processes = jax.vmap(lambda scale: process(scale=scale))(scales)
    found = tsppl.held_out_log_prob(random.key(0), processes, labels, KEPT, HELD_OUT, PROB)
    same = jax.vmap(lambda _: process(scale=0.1))(scales)
    fixed = tsppl.held_out_log_prob(random.key(0), process(scale=0.1), labels, KEPT, HELD_OUT, PROB)
    assert_allclose(tsppl.held_out_log_prob(random.key(0), same, labels, KEPT, HELD_OUT, PROB).draws, fixed.draws)
    assert found.draws.shape == (2,)
    assert found.draws[0] == fixed.draws[0] != found.draws[1]
    with pytest.raises(ValueError, match=r"labels has shape \(2, 3\)"):
        tsppl.held_out_log_prob(random.key(0), process(), labels, KEPT[:2], HELD_OUT, PROB)
    with pytest.raises(ValueError, match="2 draws of the process and 1 of the labels"):
        tsppl.held_out_log_prob(random.key(0), processes, labels[:1], KEPT, HELD_OUT, PROB)
    many = tsd.NeymanScott(1e6, dist.Gamma(1e-6, 1.0), tsd.GaussianCluster(0.2), 0.4, (0.0, 5.0))
    with pytest.raises(ValueError, match="no Dirichlet process"):
        tsppl.held_out_log_prob(random.key(0), many, labels, KEPT, HELD_OUT, PROB)
    with pytest.raises(ValueError, match="above 0 and below 1"):
        tsppl.hold_out_points(random.key(0), KEPT, 1.0)


@pytest.mark.slow
def test_events_without_a_point_complete_the_process():
    """Labels and points of a simulated pattern, events drawn anew: residuals stay uniform, and numbers and amplitudes of
    empty events have their laws."""
    whole = tsd.NeymanScott(4.0, dist.Gamma(1.0, 0.5), tsd.GaussianCluster(0.1), 1.0, (0.0, 100.0))
    pattern = whole.simulate(random.key(0))
    events, amplitudes = whole.sample_events(random.key(1), pattern.labels, pattern.points, num_empty=250)
    empty = np.asarray(amplitudes[len(pattern.points) :])
    empty = empty[empty > 0]
    assert abs(len(empty) - 400 / 3) < 4.5 * np.sqrt(400 / 3)
    assert stats.kstest(empty, stats.gamma(1.0, scale=1 / 1.5).cdf).pvalue > 1e-3
    given = whole.given_events(events, amplitudes)
    assert abs(float(given.compensator()) - len(pattern.points)) < 4.5 * np.sqrt(len(pattern.points))
    assert stats.kstest(given.residuals(pattern.points), "expon").pvalue > 1e-3


def labels_kernel(process, **options):
    """Of labels alone, everything else known."""

    def model(points):
        process.sample("x", points)

    return Gibbs([(LabelGibbs(model, "x", **options), ["x_labels"])])


def labels_given(process, points, num_draws=100, num_warmup=50, init_params=None, **options):
    """Posterior draws of labels."""
    kernel = labels_kernel(process, **options)
    mcmc = MCMC(kernel, num_warmup=num_warmup, num_samples=num_draws, progress_bar=False)
    mcmc.run(random.key(1), points, init_params=init_params)
    return mcmc.get_samples()["x_labels"]


@pytest.mark.slow
def test_the_true_process_beats_others():
    """Clusters five times as wide, clusters a fifth as wide, and no clusters at all, on the same points."""

    def make(scale):
        return tsd.NeymanScott(1.0, dist.Gamma(4.0, 0.4), tsd.GaussianCluster(scale), 2.0, (0.0, 20.0))

    kept, held_out = tsppl.hold_out_points(random.key(3), make(0.1).simulate(random.key(0)).points, 0.1)
    scores = {}
    for scale in (0.1, 0.5, 0.02):
        labels = labels_given(make(scale).thinned(0.9), kept, method="serial", max_clusters=64)
        scores[scale] = float(tsppl.held_out_log_prob(random.key(2), make(scale), labels, kept, held_out, 0.1).log_prob)
    rate = len(kept) / 0.9 / 20.0
    scores["none"] = float(tsd.PoissonProcess(rate, (0.0, 20.0)).thinned(0.1).log_prob(held_out))
    best = scores.pop(0.1)
    assert all(best > other + 1 for other in scores.values()), (best, scores)


def sequences():
    """As learned elsewhere: two types over twenty neurons, in opposite order."""
    order = jnp.linspace(0.0, 0.8, 20)
    cluster = tsd.SequenceCluster(
        jnp.array([0.5, 0.5]), jnp.full((2, 20), 0.05), jnp.stack([order, order[::-1]]), jnp.full((2, 20), 0.03)
    )
    return tsd.NeymanScott(0.05, dist.Gamma(5.0, 0.25), cluster, 4.0, (0.0, 60.0))


SERIAL = {"method": "serial", "max_clusters": 32}


@pytest.mark.slow
def test_known_sequences_are_found_in_new_data():
    """Labels alone are drawn: each planted sequence is one cluster of its type and time, and nothing else is. Some of
    eight searches end elsewhere, which ones depends on the last digits of a machine; the best does not."""
    known = sequences()
    times, types = jnp.array([6.3, 20.1, 20.9, 47.5]), jnp.array([0, 1, 0, 1])
    event = jax.vmap(known.cluster.sample_event, (0, None))(random.split(random.key(0), 4), known.window)
    event = event._replace(time=times, type=types)
    planted = known.given_events(event, jnp.full(4, 20.0)).simulate(random.key(8))
    options, search = {"start": "given", **SERIAL}, {"num_sweeps": 20, "progress_bar": False}
    start = best_start(random.key(7), labels_kernel(known, **options), planted, num_starts=8, **search)
    assert_allclose(known.log_joint(start.params["x_labels"], planted), start.log_densities.max())
    assert start.log_densities.max() > start.log_densities.min() + 10
    assert start.params["x_labels"].max() + 1 == 4
    labels = labels_given(known, planted, init_params=start.params, **options)
    events, amplitudes = jax.jit(jax.vmap(known.sample_events, (0, 0, None)))(
        random.split(random.key(3), len(labels)), labels, planted
    )
    numbers = np.asarray(labels).max(1) + 1
    assert (numbers == 4).mean() > 0.9
    for found in np.flatnonzero(numbers == 4)[::10]:
        order = np.argsort(np.asarray(events.time[found, :4]))
        assert_allclose(np.asarray(events.time[found, :4])[order], times, atol=0.06)
        assert (np.asarray(events.type[found, :4])[order] == types).all()
        assert (np.asarray(amplitudes[found, :4]) > 8).all()


@pytest.mark.slow
def test_known_sequences_are_not_found_in_background():
    known = sequences()
    nothing = jax.vmap(known.cluster.sample_event, (0, None))(random.split(random.key(0), 0), known.window)
    alone = known.given_events(nothing, jnp.zeros(0)).simulate(random.key(5))
    assert len(alone) > 150
    labels = labels_given(known, alone, num_warmup=200, annealing=tuple(np.geomspace(40.0, 1.0, 100)), **SERIAL)
    assert (np.asarray(labels).max(1) == -1).mean() > 0.95
