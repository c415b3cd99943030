"""Points that were not seen, of some neurons in some stretches of time: drawn with the labels, and scored."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import MCMC, NUTS, Gibbs
from scipy.special import logsumexp
from scipy.stats import norm

import tsppl
import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.neyman_scott import all_labels
from tsppl.distributions.points.neyman_scott_unseen import draw_unseen
from tsppl.inference import LabelGibbs, SequenceGibbs

OFFSETS, WIDTHS, NEURON_PROBS = np.array([0.0, 0.4]), np.array([0.1, 0.15]), np.array([0.4, 0.6])
EVENT_RATE, SHAPE, RATE, BACKGROUND, END = 0.8, 2.0, 0.9, 0.7, 3.0
REGIONS = tsd.Regions([[0.5, 1.5], [1.5, 2.5]], neurons=[[True, False], [True, True]])
NUM_SLOTS, NUM_UNSEEN = 56, 26


def sequences(event_rate=EVENT_RATE):
    cluster = tsd.SequenceCluster(
        jnp.ones(1), NEURON_PROBS[None], OFFSETS[None], WIDTHS[None], background_probs=jnp.array([0.3, 0.7])
    )
    return tsd.NeymanScott(event_rate, dist.Gamma(SHAPE, RATE), cluster, BACKGROUND, (0.0, END))


@functools.cache
def patterns(number=2500):
    """Labels and points by the definition of the process: those seen, then those in the regions, on slots."""
    rng = np.random.default_rng(3)
    labels, points = np.full((number, NUM_SLOTS), -2), np.tile([0.1, 0.0], (number, NUM_SLOTS, 1))
    for row in range(number):
        starts = rng.uniform(0, END, rng.poisson(EVENT_RATE * END))
        own = np.repeat(np.arange(len(starts)), rng.poisson(rng.gamma(SHAPE, 1 / RATE, len(starts))))
        alone = rng.poisson(BACKGROUND * END)
        neurons = np.append(rng.uniform(size=len(own)) < NEURON_PROBS[1], rng.uniform(size=alone) < 0.7).astype(int)
        times = starts[own] + OFFSETS[neurons[: len(own)]] + WIDTHS[neurons[: len(own)]] * rng.normal(size=len(own))
        times, own = np.append(times, rng.uniform(0, END, alone)), np.append(own, np.full(alone, -1))
        hidden = ((neurons == 0) & (times >= 0.5) & (times < 2.5)) | ((neurons == 1) & (times >= 1.5) & (times < 2.5))
        for where, begin in ((~hidden, 0), (hidden, NUM_SLOTS - NUM_UNSEEN)):
            labels[row, begin : begin + where.sum()] = own[where]
            points[row, begin : begin + where.sum()] = np.stack([times, neurons], 1)[where]
    return jnp.asarray(labels), jnp.asarray(points)


@functools.cache
def chains(num_steps, backend="jax"):
    """Several steps of the block, on many patterns at once: labels and points."""
    block, process = LabelGibbs(None, "x", num_split_merge=1, backend=backend, method="serial"), sequences()

    def step(state, key):
        labels, points = state
        unseen_key, sweep_key = random.split(key)
        drawn = draw_unseen(unseen_key, process, labels, points, REGIONS, NUM_UNSEEN)
        points = jnp.concatenate([points[: NUM_SLOTS - NUM_UNSEEN], drawn.unseen])
        labels, missing, _ = block._sweep(sweep_key, process, drawn.labels, points)
        return (labels.astype(state[0].dtype), points), drawn.overflow + missing

    @jax.jit
    @jax.vmap
    def run(key, labels, points):
        state, missing = lax.scan(step, (labels, points), random.split(key, num_steps))
        return *state, missing.sum()

    return run


def summaries(labels, points):
    labels, unseen = np.asarray(labels), np.asarray(labels)[:, NUM_SLOTS - NUM_UNSEEN :]
    times = np.asarray(points)[:, NUM_SLOTS - NUM_UNSEEN :, 0]
    clusters = np.array([len(np.unique(row[row >= 0])) for row in labels])
    hidden_only = [
        len(set(row[NUM_SLOTS - NUM_UNSEEN :]) - set(row[: NUM_SLOTS - NUM_UNSEEN]) - {-1, -2}) for row in labels
    ]
    return {
        "unseen": (unseen != -2).sum(1),
        "unseen, squared": (unseen != -2).sum(1) ** 2,
        "clusters": clusters,
        "background": (labels == -1).sum(1),
        "clusters of unseen points alone": np.array(hidden_only),
        "times": np.where(unseen != -2, times, 0.0).sum(1),
    }


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "numba"])
def test_whole_patterns_keep_their_law_when_unseen_points_and_labels_are_drawn_anew(backend):
    """Seen points from the process, so unseen points and labels drawn given these have the law that they began with."""
    if backend == "numba":
        pytest.importorskip("numba")
    labels, points = patterns()
    first = summaries(labels, points)
    *last, missing = chains(4, backend)(random.split(random.key(0), len(labels)), labels, points)
    last = summaries(*last)
    assert int(missing.sum()) < 10
    for name in first:
        difference = last[name] - first[name]
        error = difference.std() / len(labels) ** 0.5
        assert abs(difference.mean()) < 4.5 * error + 1e-12, (name, first[name].mean(), last[name].mean(), error)
    assert (last["unseen"] != first["unseen"]).mean() > 0.5


@pytest.mark.slow
def test_the_score_of_regions_is_the_predictive_density():
    """Where nothing was seen that density is known: of two points and no others, over that of no point outside."""
    process, held_out = sequences(), jnp.array([[1.2, 0.0], [1.7, 1.0]])
    joint = [float(process.log_joint(jnp.asarray(labels), held_out)) for labels in all_labels(2)]
    starts = (np.arange(4000) + 0.5) * END / 4000
    hidden = sum(
        NEURON_PROBS[neuron]
        * (
            norm.cdf(stop - starts, OFFSETS[neuron], WIDTHS[neuron])
            - norm.cdf(begin - starts, OFFSETS[neuron], WIDTHS[neuron])
        )
        for neuron, begin, stop in ((0, 0.5, 2.5), (1, 1.5, 2.5))
    )
    events = EVENT_RATE * END * np.mean(1 - (RATE / (RATE + 1 - hidden)) ** SHAPE)
    log_nothing_seen = -events - BACKGROUND * (END - 0.3 * 2.0 - 0.7 * 1.0)
    number = 400
    labels, points = jnp.full((number, NUM_SLOTS), -2), jnp.tile(jnp.array([0.1, 0.0]), (number, NUM_SLOTS, 1))
    labels, points, _ = chains(4)(random.split(random.key(1), number), labels, points)
    for seed in range(4):
        labels, points, _ = chains(4)(random.split(random.key(2 + seed), number), labels, points)
    labels, unseen = labels[:, NUM_SLOTS - NUM_UNSEEN :], points[:, NUM_SLOTS - NUM_UNSEEN :]
    kept = jnp.zeros((0, 2))
    score = tsppl.region_log_prob(random.key(9), process, labels, unseen, kept, held_out, REGIONS)
    weights = np.exp(np.asarray(score.draws))
    error = weights.std() / weights.mean() / number**0.5
    wanted = logsumexp(joint) - log_nothing_seen
    assert error < 0.2
    assert abs(float(score.log_prob) - wanted) < 4.5 * error, (score.log_prob, wanted, error)


def test_what_is_expected_in_regions_adds_up():
    process = sequences()
    given = process.given_events(
        process.cluster.sample_event(random.key(0), process.window)._replace(
            time=jnp.array([0.7, 1.6]), type=jnp.zeros(2, int), warp=jnp.zeros(2, int)
        ),
        jnp.array([3.0, 5.0]),
    )
    others = tsd.Regions([[0.5, 1.5]], neurons=[[False, True]])
    parts = given.compensator(REGIONS) + given.compensator(others)
    assert_allclose(parts, given.compensator(jnp.array([0.5, 2.5])), rtol=1e-9)
    line = tsd.NeymanScott(1.0, dist.Gamma(2.0, 1.0), tsd.GaussianCluster(0.2), 0.4, (0.0, END))
    given = line.given_events(
        line.cluster.sample_event(random.key(0), line.window)._replace(centre=jnp.array([1.0])), jnp.ones(1)
    )
    parts = given.compensator(tsd.Regions([[0.0, 1.0], [1.0, 2.0]]))
    assert_allclose(parts, given.compensator(jnp.array([0.0, 2.0])), rtol=1e-9)


def test_regions_know_what_they_hide():
    points = jnp.array([[0.4, 0], [0.6, 0], [0.6, 1], [1.7, 0], [1.7, 1], [2.6, 1]])
    kept, hidden = REGIONS.split(points)
    assert np.asarray(hidden).tolist() == np.asarray(points)[[1, 3, 4]].tolist()
    assert len(kept) == 3
    boxes = tsd.Regions([[[0.0, 0.0], [1.0, 1.0]]])
    assert boxes.contains(jnp.array([[0.5, 0.5], [0.5, 1.5]])).tolist() == [True, False]
    checkerboard = tsd.random_regions(random.key(0), (0.0, 10.0), 200, length=0.5, prob=0.2)
    assert checkerboard.boxes.shape == (20, 2)
    assert abs(float(checkerboard.neurons.mean()) - 0.2) < 0.03
    with pytest.raises(ValueError, match="boxes 0 and 1 overlap"):
        tsd.Regions([[0.0, 1.0], [0.5, 2.0]])
    tsd.Regions([[0.0, 1.0], [0.5, 2.0]], neurons=[[True, False], [False, True]])
    with pytest.raises(ValueError, match="box 0, .*, is empty"):
        tsd.Regions([[1.0, 1.0]])
    with pytest.raises(ValueError, match=r"pass \(Q, M\)"):
        tsd.Regions([[0.0, 1.0]], neurons=[True])


def model(spikes, **options):
    variances = numpyro.sample("variances", dist.InverseGamma(3.0, 0.03).expand([1, 2]).to_event(2))
    offsets = numpyro.sample("offsets", dist.Normal(0.2, jnp.sqrt(variances / 0.1)).to_event(2))
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, 2.0))
    cluster = tsd.SequenceCluster(jnp.ones(1), NEURON_PROBS[None], offsets, jnp.sqrt(variances))
    process = tsd.NeymanScott(event_rate, dist.Gamma(SHAPE, RATE), cluster, BACKGROUND, (0.0, END))
    process.sample("spikes", spikes, unseen=REGIONS, **options)


def seen():
    labels, points = patterns(1)
    return points[0][: NUM_SLOTS - NUM_UNSEEN][labels[0][: NUM_SLOTS - NUM_UNSEEN] != -2]


@pytest.mark.slow
def test_a_program_with_unseen_points_runs_with_other_blocks_and_its_events_are_found():
    block = LabelGibbs(model, "spikes")
    globals_ = SequenceGibbs(model, "spikes", offsets="offsets", variances="variances")
    kernel = Gibbs(
        [
            (block, [block.labels_site, block.unseen_site]),
            (globals_, globals_.sites),
            (NUTS(model, max_tree_depth=3), ["event_rate"]),
        ]
    )
    mcmc = MCMC(kernel, num_warmup=20, num_samples=30, progress_bar=False)
    mcmc.run(random.key(0), seen(), num_unseen=10)
    draws = mcmc.get_samples()
    is_point = draws["spikes_labels"][:, len(seen()) :] >= -1
    assert draws["spikes_unseen"].shape == (30, 10, 2)
    assert 0 < is_point.mean() < 1
    inside = jax.vmap(REGIONS.contains)(draws["spikes_unseen"])
    assert bool(inside[is_point].all())
    events = tsppl.posterior_events(random.key(1), model, mcmc, seen(), num_unseen=10)["spikes"]
    assert events["num_background"].ravel().tolist() == (draws["spikes_labels"] == -1).sum(1).tolist()
    assert (events["size"].sum(-1) + events["num_background"]).ravel().tolist() == (
        is_point.sum(1) + len(seen())
    ).tolist()


def test_mistakes_with_unseen_points_are_named():
    process, key = sequences(), random.key(0)

    def run(model, spikes=None, sites=("x_labels", "x_unseen"), **options):
        block = LabelGibbs(model, "x", **options)
        blocks = [(block, sites)] if len(sites) == 2 else [(block, sites), (NUTS(model), ["x_unseen"])]
        MCMC(Gibbs(blocks), num_warmup=1, num_samples=1, progress_bar=False).run(key, spikes)

    with numpyro.handlers.seed(rng_seed=0):
        with pytest.raises(ValueError, match="1 points lie in unseen"):
            process.sample("x", jnp.array([[0.6, 0.0]]), unseen=REGIONS)
        with pytest.raises(ValueError, match="hides some of 3 neurons"):
            process.sample("x", seen(), unseen=tsd.Regions([[0.0, 0.01]], neurons=[[True, True, False]]))
        limit = tsd.NeymanScott.dirichlet_process(1.0, process.cluster, process.window, background_rate=1.0)
        with pytest.raises(NotImplementedError, match="Dirichlet process"):
            limit.sample("x", seen(), unseen=REGIONS)
    with pytest.raises(ValueError, match="block.unseen_site"):
        run(lambda spikes: process.sample("x", spikes, unseen=REGIONS), seen(), sites=("x_labels",))
    with pytest.raises(NotImplementedError, match="serial"):
        run(lambda spikes: process.sample("x", spikes, unseen=REGIONS), seen(), method="chunked")
    with pytest.raises(ValueError, match="points held out are in no region"):
        tsppl.region_log_prob(
            key, process, jnp.full((1, 3), -2), jnp.zeros((1, 3, 2)), jnp.zeros((0, 2)), seen(), REGIONS
        )
