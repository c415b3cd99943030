"""Gibbs sampling of labels: the whole posterior of partitions against enumeration, for each sweep, family and mix."""

import warnings
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro.infer import HMC, MCMC, NUTS, Gibbs

import tsppl.distributions as tsd
from tests.helpers import assert_allclose
from tests.reference.neyman_scott import all_labels
from tsppl.inference import LabelGibbs, best_start
from tsppl.points import chunk_layout, split_or_merge, sweep_labels, sweep_labels_chunked

POINTS = np.array([0.62, 0.75, 0.81, 2.10, 2.32, 4.40])
AMPLITUDE, WINDOW = dist.Gamma(2.0, 0.5), (0.0, 5.0)
TIMES = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(0.2), 0.4, WINDOW)
SPIKES = np.array([[0.5, 0.0], [0.62, 1.0], [0.7, 2.0], [1.5, 0.0], [1.8, 2.0]])
SEQUENCE = tsd.SequenceCluster(
    jnp.array([0.4, 0.6]),
    jnp.array([[0.4, 0.3, 0.3], [0.2, 0.2, 0.6]]),
    jnp.array([[0.0, 0.1, 0.2], [0.0, -0.1, 0.3]]),
    jnp.full((2, 3), 0.1),
    warps=jnp.array([0.8, 1.3]),
)
DOCUMENT = tsd.DocumentCluster(0.1, jnp.array([0.5, 1.2]), jnp.array([0.3, 0.8]), mean_length=3.0)
DOCUMENTS = np.array([[0.5, 0, 3, 0], [0.62, 0, 2, 1], [0.7, 1, 0, 4], [1.5, 1, 1, 3], [1.6, 0, 2, 2]], float)
PLANE = np.array([[0.2, 0.3], [0.25, 0.35], [0.3, 0.2], [0.8, 0.7], [0.85, 0.9]])
UNIT = jnp.array([[0.0, 0.0], [1.0, 1.0]])
CASES = {
    "line": (TIMES, POINTS),
    "Dirichlet process": (
        tsd.NeymanScott.dirichlet_process(1.5, tsd.GaussianCluster(0.2), WINDOW, background_rate=0.4, rate=0.7),
        POINTS,
    ),
    "no background": (tsd.NeymanScott.dirichlet_process(1.5, tsd.GaussianCluster(0.2), WINDOW), POINTS),
    "sequence": (tsd.NeymanScott(0.4, AMPLITUDE, SEQUENCE, 0.4, WINDOW), SPIKES),
    "documents": (tsd.NeymanScott(0.4, AMPLITUDE, DOCUMENT, 0.4, WINDOW), DOCUMENTS),
    "plane": (tsd.NeymanScott(2.0, AMPLITUDE, tsd.GaussianCluster(jnp.array([0.1, 0.2])), 2.0, UNIT), PLANE),
    "unknown shape": (
        tsd.NeymanScott(2.0, AMPLITUDE, tsd.GaussianInverseWishartCluster(5.0, 0.03 * jnp.eye(2)), 2.0, UNIT),
        PLANE,
    ),
}


def total_variation(update, process, points, *, num_chains=100, num_sweeps=150, num_warmup=20):
    """Distance between draws of independent chains and the exact posterior, and what is expected from chance alone."""
    points = jnp.asarray(points)
    labels = np.array(list(all_labels(len(points))), np.int32)
    joint = np.asarray(jax.jit(jax.vmap(process.log_joint, (0, None)))(jnp.asarray(labels), points))
    probs = np.exp(joint - joint.max())
    probs /= probs.sum()
    powers = (len(points) + 1) ** np.arange(len(points))

    @jax.jit
    @jax.vmap
    def chain(key):
        def step(labels, key):
            labels = update(key, process, labels, points)
            return labels, ((labels + 1) * powers).sum()

        return lax.scan(step, jnp.full(len(points), -1, jnp.int32), random.split(key, num_sweeps))[1]

    codes = np.asarray(chain(random.split(random.key(5), num_chains)))[:, num_warmup:]
    order = np.argsort(((labels + 1) * powers).sum(1))
    which = order[np.searchsorted(((labels + 1) * powers).sum(1)[order], codes)]
    by_chain = np.array([np.bincount(row, minlength=len(labels)) for row in which]) / codes.shape[1]
    errors = np.sqrt(np.maximum(by_chain.var(0, ddof=1) / num_chains, probs * (1 - probs) / codes.size))
    return 0.5 * abs(by_chain.mean(0) - probs).sum(), 0.5 * np.sqrt(2 / np.pi) * errors.sum()


def serial(key, process, labels, points):
    return sweep_labels(key, process.cluster, labels, points, process.window, process.rates).labels


def chunked(key, process, labels, points, reach=2.4):
    layout = chunk_layout(process.cluster.positions(np.asarray(points)), reach, reaches_per_chunk=2.0, num_slots=8)
    return sweep_labels_chunked(
        key, process.cluster, labels, points, process.window, process.rates, layout=layout
    ).labels


def mixed(key, process, labels, points, num_moves=3):
    """Splits and merges, and background moves of one sweep in four, so that an error in either shows."""
    sweep_key, moves_key, coin_key = random.split(key, 3)
    swept = serial(sweep_key, process, labels, points)
    labels = jnp.where(random.bernoulli(coin_key, 0.25), swept, labels)

    def move(labels, key):
        return split_or_merge(key, process.cluster, labels, points, process.window, process.rates).labels, None

    return lax.scan(move, labels, random.split(moves_key, num_moves))[0]


@pytest.mark.parametrize(
    ("name", "update"),
    [(name, serial) for name in CASES]
    + [(name, mixed) for name in CASES if name not in ("Dirichlet process", "documents")]
    + [("line", chunked), ("sequence", chunked), ("no background", chunked)],
)
@pytest.mark.slow
def test_draws_have_the_exact_posterior(name, update):
    """Distances of mistakes are 0.1 and more; from chance alone they are 0.02. Chunks are for points in time."""
    distance, noise = total_variation(update, *CASES[name], num_sweeps=800, num_warmup=100)
    assert distance < 2.5 * noise < 0.07


def test_a_sweep_has_the_exact_posterior():
    distance, noise = total_variation(serial, *CASES["line"])
    assert distance < 2.0 * noise < 0.08


def pattern(length, seed=0):
    process = tsd.NeymanScott(1.0, dist.Gamma(4.0, 0.4), tsd.GaussianCluster(0.1), 2.0, (0.0, length))
    return process, process.simulate(random.key(seed))


def assert_same_law(updates, process, truth, *, num_sweeps, num_warmup, num_chains=8):
    """Of labels under two sweeps: means of the number of clusters, of background points, and of the joint density."""
    found = []
    for update in updates:

        @jax.jit
        @jax.vmap
        def chain(key, update=update):
            def step(labels, key):
                swept = update(key, labels)
                labels, density = swept.labels, process.log_joint(swept.labels, truth.points)
                return labels, (jnp.stack([labels.max() + 1.0, jnp.sum(labels < 0), density]), swept.overflow)

            return lax.scan(step, truth.labels, random.split(key, num_sweeps))[1]

        numbers, overflow = chain(random.split(random.key(1), num_chains))
        assert int(overflow.sum()) == 0
        found.append(np.asarray(numbers)[:, num_warmup:].mean(1))
    error = np.sqrt(sum(means.var(0, ddof=1) / num_chains for means in found))
    np.testing.assert_array_less(abs(found[0].mean(0) - found[1].mean(0)), 4 * error)
    assert (error < [1.0, 1.5, 8.0]).all()


@pytest.mark.slow
def test_chunked_and_serial_sweeps_have_the_same_law():
    """A pattern over many chunks."""
    process, truth = pattern(60.0)
    layout = chunk_layout(np.asarray(truth.points), 1.2, reaches_per_chunk=2.0, num_slots=24)
    arguments = truth.points, process.window, process.rates
    updates = [
        lambda key, labels: sweep_labels(key, process.cluster, labels, *arguments, max_clusters=200),
        lambda key, labels: sweep_labels_chunked(key, process.cluster, labels, *arguments, layout=layout),
    ]
    assert_same_law(updates, process, truth, num_sweeps=300, num_warmup=100)


@pytest.mark.slow
def test_chunked_sweeps_visit_every_point():
    """Where the background is next to impossible, no point stays in it; chunks of very different numbers of points."""
    process, truth = pattern(200.0)
    process = tsd.NeymanScott(1.0, process.amplitude, process.cluster, 1e-20, (0.0, 200.0))
    layout = chunk_layout(np.asarray(truth.points), 1.2, reaches_per_chunk=2.0, num_slots=40)
    sweep = jax.jit(partial(sweep_labels_chunked, layout=layout))
    nothing = jnp.full(len(truth.points), -1)
    for seed in range(5):
        swept = sweep(random.key(seed), process.cluster, nothing, truth.points, process.window, process.rates)
        assert (np.asarray(swept.labels) >= 0).all()
        assert int(swept.overflow) == 0


def test_missing_slots_are_counted():
    """Serial: clusters beyond the slots go to the background. Chunked: likewise kept from opening."""
    points = jnp.array([0.5, 0.6, 2.0, 2.1, 3.5, 3.6])
    labels = jnp.array([0, 0, 1, 1, 2, 2])
    arguments = TIMES.cluster, labels, points, TIMES.window, TIMES.rates
    few = jax.jit(partial(sweep_labels, max_clusters=2))
    unfit = few(random.key(0), *arguments)
    assert int(unfit.overflow) > 0
    assert int(unfit.labels.max()) < 2
    full = few(random.key(0), TIMES.cluster, jnp.array([0, 0, 1, 1, -1, -1]), *arguments[2:])
    assert int(full.overflow) > 0
    layout = chunk_layout(np.asarray(points), 2.4, reaches_per_chunk=2.0, num_slots=2)
    assert int(jax.jit(partial(sweep_labels_chunked, layout=layout))(random.key(0), *arguments).overflow) > 0


def scale_model(points):
    scale = numpyro.sample("scale", dist.LogNormal(-1.6, 0.3))
    tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(scale), 0.4, WINDOW).sample("x", points)


def kernel(model=scale_model, **options):
    return Gibbs([(LabelGibbs(model, "x", **options), ["x_labels"]), (NUTS(model), ["scale"])])


@pytest.mark.slow
def test_a_block_beside_nuts_has_the_exact_posterior_of_the_scale():
    """Against a grid over the scale with all labels summed out; serial sweeps, splits and merges."""
    grid = jnp.linspace(-3.2, 0.0, 61)
    labels = jnp.array(list(all_labels(len(POINTS))), jnp.int32)

    @jax.jit
    @jax.vmap
    def log_evidence(log_scale):
        process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(jnp.exp(log_scale)), 0.4, WINDOW)
        joint = jax.vmap(process.log_joint, (0, None))(labels, POINTS)
        return jax.nn.logsumexp(joint) + dist.Normal(-1.6, 0.3).log_prob(log_scale)

    weights = np.asarray(jax.nn.softmax(log_evidence(grid)))
    expected = weights @ grid
    block = kernel(num_split_merge=1, num_sweeps=2)
    mcmc = MCMC(block, num_warmup=150, num_samples=1200, num_chains=2, chain_method="sequential", progress_bar=False)
    mcmc.run(random.key(2), POINTS)
    draws = np.log(np.asarray(mcmc.get_samples(group_by_chain=True)["scale"]))
    batches = draws.reshape(24, -1).mean(1)
    assert abs(draws.mean() - expected) < 4.5 * batches.std(ddof=1) / np.sqrt(24)
    state = mcmc.last_state.block_states[0]
    assert (np.asarray(state.overflow) == 0).all()
    assert (np.asarray(state.accepted) > 0).all()


@pytest.mark.slow
def test_the_best_of_several_starts_beside_hmc():
    """Values of HMC are not constrained, as MCMC takes them; densities are those of what they stand for."""
    one_step = HMC(scale_model, trajectory_length=None, num_steps=1)
    both = Gibbs([(LabelGibbs(scale_model, "x", start="given", check=False), ["x_labels"]), (one_step, ["scale"])])
    search = {"num_starts": 3, "temperatures": [4.0, 1.0], "num_sweeps": 20, "progress_bar": False}
    start = best_start(random.key(0), both, POINTS, **search)
    process = tsd.NeymanScott(0.4, AMPLITUDE, tsd.GaussianCluster(jnp.exp(start.params["scale"])), 0.4, WINDOW)
    assert start.params["x_labels"].max() >= 0
    assert len(np.unique(start.log_densities)) == 3
    assert_allclose(start.log_densities.max(), process.log_joint(start.params["x_labels"], POINTS))
    with pytest.raises(ValueError, match="num_starts is 0; it must be at least 1"):
        best_start(random.key(0), both, POINTS, num_starts=0)


def known_model(points, event_rate=0.4, scale=0.2):
    tsd.NeymanScott(event_rate, AMPLITUDE, tsd.GaussianCluster(scale), 0.4, WINDOW).sample("x", points)


def test_a_block_refuses_what_it_cannot_draw():
    def other_name(points):
        numpyro.sample("x_labels", dist.Normal(0.0, 1.0))

    def uses_labels(points):
        labels = TIMES.sample("x", points)
        numpyro.factor("more", 0.5 * jnp.sum(labels < 0))

    start = {"x_labels": jnp.array([0, 0, 0, 1, 1, -1])}
    cases = [
        (uses_labels, "uses 'x_labels' elsewhere too"),
        (numpyro.handlers.scale(known_model, 2.0), "scaled; labels can be drawn for a plain ClusterLabels only"),
        (other_name, "the model has no sites 'x' and 'x_labels'"),
    ]
    for model, message in cases:
        with pytest.raises(ValueError, match=message):
            LabelGibbs(model, "x").init(random.key(0), 0, start, (POINTS,), {})
    with pytest.raises(ValueError, match="elsewhere too"):  # also where one point cannot be background
        LabelGibbs(uses_labels, "x").init(random.key(0), 0, start, (np.r_[-0.1, POINTS[1:]],), {})
    with pytest.raises(ValueError, match="where the model has it; it was given"):
        LabelGibbs(known_model, "x").init(random.key(0), 0, {}, (POINTS,), {})
    for options, message in [
        ({"method": "fast"}, "method is 'fast'"),
        ({"start": "prior"}, "start is 'prior'"),
        ({"annealing": (0.5,)}, "at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            LabelGibbs(scale_model, "x", **options)
    with pytest.raises(ValueError, match="must be .* sorted"):
        chunk_layout(np.array([1.0, 0.0]), 1.0)
    with pytest.raises(ValueError, match="reaches_per_chunk 1.0 at least 2"):
        chunk_layout(np.array([0.0, 1.0]), 1.0, reaches_per_chunk=1.0)


def sweep_once(points=POINTS, model=known_model, labels=None, num_draws=1, **options):
    block = LabelGibbs(model, "x", check=False, start="given", **options)
    labels = jnp.full(len(points), -1, jnp.int32) if labels is None else labels
    state = block.init(random.key(0), 0, {"x_labels": labels}, (points,), {})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample = jax.jit(lambda state: block.sample(state, (points,), {}))
        for _ in range(num_draws):
            state = sample(state)
        jax.effects_barrier()
    return state, [str(warning.message) for warning in caught]


@pytest.mark.slow
def test_a_block_warns():
    """Of missing slots, of a reach that is too short, and of nothing but background, once."""
    state, messages = sweep_once(method="chunked", reach=0.5, max_clusters=2, labels=jnp.array([0, 0, 1, 2, 3, 4]))
    assert int(state.overflow) > 0
    assert any("raise max_clusters or reach" in message for message in messages)
    assert any("Pass a larger reach" in message for message in messages)
    _, messages = sweep_once(model=partial(known_model, event_rate=1e-12), num_draws=30)
    assert len(messages) == 1
    assert "every point into the background for twenty draws" in messages[0]


def recovery_model(points, length):
    event_rate = numpyro.sample("event_rate", dist.Gamma(4.0, 4.0))
    mean_size = numpyro.sample("mean_size", dist.Gamma(4.0, 0.3))
    scale = numpyro.sample("scale", dist.LogNormal(-2.0, 0.5))
    background_rate = numpyro.sample("background_rate", dist.Gamma(2.0, 1.0))
    amplitude = dist.Gamma(4.0, 4.0 / mean_size)
    process = tsd.NeymanScott(event_rate, amplitude, tsd.GaussianCluster(scale), background_rate, (0.0, length))
    process.sample("x", points)


@pytest.mark.slow
def test_truth_is_recovered():
    """NUTS on rates and scale, chunked sweeps with splits and merges on labels, from a cold start."""
    length = 40.0
    process = tsd.NeymanScott(1.0, dist.Gamma(4.0, 0.4), tsd.GaussianCluster(0.1), 2.0, (0.0, length))
    truth = process.simulate(random.key(0))
    block = LabelGibbs(
        recovery_model,
        "x",
        method="chunked",
        reach=2.4,
        num_sweeps=3,
        num_split_merge=3,
        annealing=(20.0,) * 5 + (5.0,) * 5,
    )
    names = ["event_rate", "mean_size", "scale", "background_rate"]
    kernel = Gibbs([(block, ["x_labels"]), (NUTS(recovery_model), names)])
    mcmc = MCMC(kernel, num_warmup=300, num_samples=500, progress_bar=False)
    mcmc.run(
        random.key(1), truth.points, length, extra_fields=("block_states.0.num_clusters", "block_states.0.overflow")
    )
    draws = mcmc.get_samples()
    for name, value in {"event_rate": 1.0, "mean_size": 10.0, "scale": 0.1, "background_rate": 2.0}.items():
        low, high = np.quantile(draws[name], [0.0005, 0.9995])
        assert low < value < high, name
    assert abs(float(draws["scale"].mean()) - 0.1) < 0.01
    occupied = int(truth.labels.max()) + 1
    assert abs(float(mcmc.get_extra_fields()["block_states.0.num_clusters"].mean()) - occupied) < 8
    together = np.asarray(draws["x_labels"])
    found = (together[:, :, None] == together[:, None]) & (together >= 0)[:, :, None]
    wanted = np.asarray(truth.labels)[:, None] == np.asarray(truth.labels)
    wanted &= (np.asarray(truth.labels) >= 0)[:, None]
    assert found.mean(0)[wanted].mean() > 0.7
    overflow = np.asarray(mcmc.get_extra_fields()["block_states.0.overflow"])
    assert overflow[-1] == overflow[0]  # none after the warm-up, in which the scale was larger than the reach allows


def test_a_kept_start_is_the_given_one():
    labels = jnp.array([0, 1, 0, -1, 2, 2])
    block = LabelGibbs(known_model, "x", start="given", check=False)
    state = block.init(random.key(0), 0, {"x_labels": labels}, (POINTS,), {})
    assert_allclose(state.z["x_labels"], labels)
    assert int(state.num_clusters) == 3
    assert int(state.num_background) == 1


@pytest.mark.slow
def test_sequences_are_found_and_told_apart():
    """Two types of sequences over twenty neurons, in opposite order and overlapping in time: their spikes, and their types."""
    order = jnp.linspace(0.0, 0.8, 20)
    cluster = tsd.SequenceCluster(
        jnp.array([0.5, 0.5]), jnp.full((2, 20), 0.05), jnp.stack([order, order[::-1]]), jnp.full((2, 20), 0.03)
    )
    process = tsd.NeymanScott(0.7, dist.Gamma(30.0, 1.0), cluster, 5.0, (0.0, 60.0))
    truth = process.simulate(random.key(0))

    def model(points):
        process.sample("x", points)

    block = LabelGibbs(
        model, "x", method="chunked", reach=2.0, annealing=(20.0,) * 10 + (5.0,) * 10, num_split_merge=20
    )
    mcmc = MCMC(Gibbs([(block, ["x_labels"])]), num_warmup=50, num_samples=50, progress_bar=False)
    mcmc.run(random.key(1), truth.points)
    labels, wanted = np.asarray(mcmc.get_samples()["x_labels"][-1]), np.asarray(truth.labels)
    clustered = wanted >= 0
    assert (labels >= 0)[clustered].mean() > 0.95
    assert (labels < 0)[~clustered].mean() > 0.8
    assert abs(labels.max() - wanted.max()) <= 6
    types = np.asarray(process.sample_events(random.key(2), labels, truth.points)[0].type)
    both = clustered & (labels >= 0)
    assert (types[labels[both]] == np.asarray(truth.events.type)[wanted[both]]).mean() > 0.95
