"""Parameters of PPSeq by conjugate updates: exact posteriors, recovery from a cold start, and models that are refused."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import lax, random
from numpyro import handlers
from numpyro.infer import MCMC, NUTS, Gibbs
from scipy import stats

import tsppl.distributions as tsd
from tests.reference.neyman_scott import all_labels
from tsppl.inference import LabelGibbs, SequenceGibbs, anneal
from tsppl.inference.gibbs.block import NotConjugateError
from tsppl.inference.gibbs.points.annealing import heat
from tsppl.inference.gibbs.points.sequence_conditionals import PARAMETERS, conditionals, draw_all, draw_shift
from tsppl.points import sequence_counts
from tsppl.points.clusters.sequence_cluster import SequenceEvent

SPIKES = np.array([[0.15, 0.0], [0.4, 1.0], [0.55, 1.0], [2.0, 0.0]])
WINDOW = (0.0, 2.5)
NAMES = {name: name for name in PARAMETERS}


def tiny_model(points, edges="exact", warps=(0.8, 1.3), keep_prob=None, shape=None):
    """Two types, two neurons, two warps; every parameter is drawn."""
    type_probs = numpyro.sample("type_probs", dist.Dirichlet(jnp.array([2.0, 1.0])))
    neuron_probs = numpyro.sample("neuron_probs", dist.Dirichlet(jnp.array([[1.0, 0.5], [2.0, 2.0]])).to_event(1))
    variances = numpyro.sample("variances", dist.InverseGamma(3.0, 0.1).expand([2, 2]).to_event(2))
    middle = jnp.array([[0.0, 0.2], [0.1, -0.2]])
    offsets = numpyro.sample("offsets", dist.Normal(middle, jnp.sqrt(variances / 0.5)).to_event(2))
    background_probs = numpyro.sample("background_probs", dist.Dirichlet(jnp.array([1.5, 1.0])))
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, 3.0))
    background_rate = numpyro.sample("background_rate", dist.Gamma(2.0, 2.0))
    cluster = tsd.SequenceCluster(
        type_probs,
        neuron_probs,
        offsets,
        jnp.sqrt(variances),
        background_probs=background_probs,
        warps=jnp.array(warps),
        edges=edges,
    )
    if shape is not None:
        background_rate = tsd.PiecewisePoissonProcess(background_rate * jnp.array(shape), jnp.array([0.0, 1.0, 2.5]))
    process = tsd.NeymanScott(event_rate, dist.Gamma(2.0, 0.8), cluster, background_rate, WINDOW)
    (process if keep_prob is None else process.thinned(keep_prob)).sample("x", points)


def questions(values, labels):
    """What is compared: one or two functions of each parameter, all of which have a variance."""
    return jnp.stack(
        [
            values["type_probs"][0],
            values["neuron_probs"][0, 0],
            values["neuron_probs"][1, 1],
            jnp.tanh(values["offsets"][0, 1]),
            jnp.tanh(values["offsets"][1, 0] - values["offsets"][1, 1]),
            jnp.log(values["variances"][0, 1]),
            jnp.log(values["variances"][1, 0]),
            values["background_probs"][0],
            values["event_rate"],
            values["background_rate"],
            jnp.sum(labels < 0),
            labels.max() + 1.0,
        ]
    )


def exact_means(model, points, num_draws=120_000, num_batches=40):
    """Posterior means and their errors: labels summed out, parameters drawn from the prior and weighted."""
    labels = jnp.array(list(all_labels(len(points))), jnp.int32)
    points = jnp.asarray(points)

    @jax.jit
    def batch(key):
        def one(key):
            trace = handlers.trace(handlers.seed(model, key)).get_trace(points)
            values = {name: trace[name]["value"] for name in PARAMETERS}
            joint = jax.vmap(trace["x_labels"]["fn"].process.log_joint, (0, None))(labels, points)
            weight = jnp.exp(joint)
            found = jax.vmap(partial(questions, values))(labels)
            return weight.sum(), weight @ found

        weight, weighted = lax.map(jax.vmap(one), random.split(key, (num_draws // num_batches // 500, 500)))
        return weight.sum(), weighted.sum((0, 1))

    weights, sums = zip(*(batch(key) for key in random.split(random.key(11), num_batches)), strict=True)
    weights, sums = np.array(weights), np.array(sums)
    mean = sums.sum(0) / weights.sum()
    residual = (sums - weights[:, None] * mean) / weights.mean()
    return mean, residual.std(0, ddof=1) / np.sqrt(num_batches)


def chain_means(kernel, points, num_chains=40, num_samples=1000, num_warmup=50):
    """Means over independent chains, and their errors."""
    points = jnp.asarray(points)
    sites = [*PARAMETERS, "x_labels"]
    first = kernel.init(random.key(0), 0, None, (points,), {})

    @jax.jit
    @jax.vmap
    def chain(key):
        keys = random.split(key, 1 + len(first.block_states))
        blocks = tuple(block._replace(rng_key=own) for block, own in zip(first.block_states, keys[1:], strict=True))
        state = first._replace(block_states=blocks, rng_key=keys[0])

        def step(state, _):
            state = kernel.sample(state, (points,), {})
            values = {name: state.z[name] for name in sites}
            return state, questions(values, values["x_labels"])

        return lax.scan(step, state, None, length=num_samples)[1][num_warmup:].mean(0)

    means = np.asarray(chain(random.split(random.key(3), num_chains)))
    return means.mean(0), means.std(0, ddof=1) / np.sqrt(num_chains)


def tiny_kernel(model, **options):
    labels = LabelGibbs(model, "x", method="serial", start="given", check=False)
    parameters = SequenceGibbs(model, "x", **NAMES, **options)
    return Gibbs([(labels, [labels.labels_site]), (parameters, parameters.sites)])


@pytest.mark.slow
def test_labels_and_all_parameters_have_the_exact_posterior():
    """Every partition summed out, parameters by importance sampling from the prior, against the mix of the two blocks."""
    expected, error = exact_means(tiny_model, SPIKES)
    found, noise = chain_means(tiny_kernel(tiny_model), SPIKES)
    error = np.hypot(error, noise)
    np.testing.assert_array_less(abs(found - expected) / error, 4.5)
    np.testing.assert_array_less(error, 0.012 * np.maximum(1, abs(expected)))


@pytest.mark.slow
def test_offsets_or_variances_alone_are_drawn_from_their_conditional_distribution():
    """One event per cluster known to be where it is: closed forms by hand, for offsets given widths and the reverse."""
    counts = counts_of_fixed_spikes()[0]
    trace = handlers.trace(handlers.seed(tiny_model, random.key(0))).get_trace(jnp.asarray(SPIKES))
    process = trace["x_labels"]["fn"].process
    (alone,) = conditionals({"variances": "variances"}, trace, process, counts)
    offsets, number = process.cluster.offsets, counts.spikes
    squares = counts.scatter + number * (counts.mean_delay - offsets) ** 2
    drawn = jax.vmap(lambda key: draw_all(key, [alone])["variances"])(random.split(random.key(1), 4000))
    law = stats.invgamma(3.0 + np.asarray(number)[0, 0] / 2, scale=0.1 + np.asarray(squares)[0, 0] / 2)
    assert stats.kstest(np.asarray(drawn)[:, 0, 0], law.cdf).pvalue > 1e-3
    (alone,) = conditionals({"offsets": "offsets"}, trace, process, counts)
    variance = process.cluster.widths[0, 0] ** 2
    precision = 0.5 / variance + number[0, 0] / variance
    mean = number[0, 0] / variance * counts.mean_delay[0, 0] / precision
    drawn = jax.vmap(lambda key: draw_all(key, [alone])["offsets"])(random.split(random.key(2), 4000))
    assert stats.kstest(np.asarray(drawn)[:, 0, 0], stats.norm(mean, precision**-0.5).cdf).pvalue > 1e-3


def counts_of_fixed_spikes():
    """Counts of spikes of two sequences, types 0 and 1, and of one background spike; and the same by a loop."""
    labels = jnp.array([0, 0, 1, 1, 0, -1])
    spikes = np.array([[0.1, 0.0], [0.3, 0.0], [1.0, 1.0], [1.2, 0.0], [0.5, 1.0], [2.0, 1.0]])
    times, types, warps = np.array([0.05, 0.9]), np.array([0, 1]), np.array([1, 0])
    padded = [np.r_[array, np.zeros(4, array.dtype)] for array in (times, types, warps)]
    origins = np.r_[0.02, 0.5, np.zeros(4)]
    events = SequenceEvent(*map(jnp.asarray, (padded[0] - origins, padded[1], padded[2])))
    cluster = tsd.SequenceCluster(jnp.full(2, 0.5), *[jnp.full((2, 2), 0.5)] * 3, warps=jnp.array([0.8, 1.3]))
    occupied = jnp.arange(6) < 2
    found = sequence_counts(cluster, labels, jnp.asarray(spikes), events, occupied, jnp.asarray(origins))
    delays = {}
    for (time, neuron), label in zip(spikes, np.asarray(labels), strict=True):
        if label >= 0:
            stretch = (0.8, 1.3)[warps[label]]
            delays.setdefault((types[label], int(neuron)), []).append((time - times[label]) / stretch)
    return found, delays


def test_counts_by_a_loop():
    counts, delays = counts_of_fixed_spikes()
    assert counts.types.tolist() == [1, 1]
    assert counts.background.tolist() == [0, 1]
    for cell in np.ndindex(2, 2):
        own = np.array(delays.get(cell, []))
        assert counts.spikes[cell] == len(own)
        if len(own):
            np.testing.assert_allclose(counts.mean_delay[cell], own.mean(), atol=1e-12)
            np.testing.assert_allclose(counts.scatter[cell], ((own - own.mean()) ** 2).sum(), atol=1e-12)


def test_a_common_shift_keeps_starts_inside_the_window():
    """Its law is the prior of the offsets, cut off where a start would leave the window; free where there is no event."""
    mean, precision = jnp.zeros((2, 3)), jnp.full((2, 3), 4.0)
    offsets = jnp.array([[0.5, 0.1, 0.6], [0.3, 0.3, 0.3]])
    times, warps, types = jnp.array([0.1, 1.5, 0.0]), jnp.array([1.0, 2.0, 1.0]), jnp.array([0, 0, 2])
    low, high = jnp.zeros(3), jnp.full(3, 1.8)
    draw = jax.vmap(lambda key: draw_shift(key, (mean, precision), offsets, times, warps, types, low, high, 2))
    first, second = np.asarray(draw(random.split(random.key(0), 4000))).T
    scale = 12.0**-0.5
    lowest, highest = (1.5 - 1.8) / 2.0, 0.1
    centre = -0.4
    law = stats.truncnorm((lowest - centre) / scale, (highest - centre) / scale, centre, scale)
    assert stats.kstest(first, law.cdf).pvalue > 1e-3
    assert stats.kstest(second, stats.norm(-0.3, scale).cdf).pvalue > 1e-3


def other_prior(points, prior):
    """The tiny model with one thing that is not conjugate, or not what the block would read off it."""
    type_probs = numpyro.sample("type_probs", dist.Dirichlet(jnp.ones(2)))
    family = dist.LogNormal(-2.0, 0.5) if prior == "family" else dist.InverseGamma(3.0, 0.1)
    variances = numpyro.sample("variances", family.expand([2, 2]).to_event(2))
    scale = 0.3 if prior == "unscaled offsets" else jnp.sqrt(variances)
    offsets = numpyro.sample("offsets", dist.Normal(0.0, scale).expand([2, 2]).to_event(2))
    background_rate = numpyro.sample("background_rate", dist.Gamma(2.0, 2.0))
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, background_rate if prior == "rates" else 2.0))
    if prior == "used twice":
        numpyro.factor("more", type_probs[0])
    widths = variances if prior == "widths" else jnp.sqrt(variances)
    cluster = tsd.SequenceCluster(type_probs, jnp.full((2, 2), 0.5), offsets, widths)
    tsd.NeymanScott(event_rate, dist.Gamma(2.0, 0.8), cluster, background_rate, WINDOW).sample("x", points)


OWN = ("type_probs", "offsets", "variances", "event_rate", "background_rate")


def start(model, names=OWN, **options):
    block = SequenceGibbs(model, "x", **{name: name for name in names}, **options)
    trace = handlers.trace(handlers.seed(model, random.key(0))).get_trace(jnp.asarray(SPIKES))
    return block.init(random.key(1), 0, {name: trace[name]["value"] for name in names}, (jnp.asarray(SPIKES),), {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ("family", "the prior of 'variances' is a LogNormal; a plain InverseGamma can be drawn"),
        ("unscaled offsets", "offsets, variances cannot be drawn"),
        ("rates", "background_rate cannot be drawn"),
        ("used twice", "type_probs cannot be drawn"),
        ("widths", "offsets, variances cannot be drawn"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(prior, message):
    with pytest.raises(NotConjugateError, match=message):
        start(partial(other_prior, prior=prior))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"keep_prob": 0.7}, {"shape": (0.5, 2.0)}])
def test_models_that_fit_are_accepted(options):
    """All conditional distributions against the joint density of the model, in double precision; of thinned spikes and beside
    a background that varies, too."""
    start(partial(tiny_model, **options), PARAMETERS)


def test_mistakes():
    with pytest.raises(ValueError, match="name at least one of"):
        SequenceGibbs(tiny_model, "x")
    with pytest.raises(ValueError, match="none twice"):
        SequenceGibbs(tiny_model, "x", event_rate="a", background_rate="a")
    with pytest.raises(ValueError, match=r"the sites \['offsets', 'variances'\] do not fit"):
        SequenceGibbs(tiny_model, "x", variances="variances").init(random.key(0), 0, {"offsets": 0.0}, (), {})

    def no_process(points):
        numpyro.sample("variances", dist.InverseGamma(1.0, 1.0))

    def no_sequences(points):
        numpyro.sample("variances", dist.InverseGamma(1.0, 1.0))
        tsd.NeymanScott(0.4, dist.Gamma(2.0, 0.5), tsd.GaussianCluster(0.2), 0.4, WINDOW).sample("x", points[:, 0])

    for model, message in ((no_process, "no plain sites 'x'"), (no_sequences, "needs observed spikes of a Sequence")):
        with pytest.raises(ValueError, match=message):
            start(model, ("variances",), check=False)
    with pytest.raises(TypeError, match=r"pass a numpyro.infer.Gibbs"):
        anneal(random.key(0), NUTS(tiny_model), SPIKES)
    with pytest.raises(ValueError, match="must be positive"):
        anneal(random.key(0), tiny_kernel(tiny_model), SPIKES, temperatures=[2.0, 0.0])


def test_heat_keeps_the_mean_and_multiplies_the_variance():
    process = tsd.NeymanScott(0.4, dist.Gamma(20.0, 0.5), tsd.GaussianCluster(0.2), 0.4, WINDOW)
    hot = heat(process, 4.0)
    np.testing.assert_allclose(hot.amplitude.mean, process.amplitude.mean)
    np.testing.assert_allclose(hot.amplitude.variance, 4 * process.amplitude.variance)


@pytest.mark.slow
def test_annealing_ends_in_the_model_itself():
    """A chain that goes on from annealing has the posterior; at one temperature only, annealing is Gibbs sampling of the
    hot model: with all events certain to have points, a hot process has more, smaller clusters."""
    kernel = tiny_kernel(tiny_model, check=False)
    start = anneal(random.key(0), kernel, jnp.asarray(SPIKES), num_sweeps=3, progress_bar=False)
    assert set(start) == {*PARAMETERS, "x_labels"}
    assert start["x_labels"].dtype == jnp.int32
    mcmc = MCMC(kernel, num_warmup=0, num_samples=20, progress_bar=False)
    mcmc.run(random.key(1), jnp.asarray(SPIKES), init_params=start)
    assert np.isfinite(mcmc.get_samples()["offsets"]).all()


def sequences_model(points, length, num_neurons):
    """Two types of sequences, nothing known but rough sizes."""
    type_probs = numpyro.sample("type_probs", dist.Dirichlet(jnp.ones(2)))
    neuron_probs = numpyro.sample("neuron_probs", dist.Dirichlet(jnp.full((2, num_neurons), 0.5)).to_event(1))
    variances = numpyro.sample("variances", dist.InverseGamma(2.0, 0.01).expand([2, num_neurons]).to_event(2))
    offsets = numpyro.sample("offsets", dist.Normal(0.0, jnp.sqrt(variances / 0.02)).to_event(2))
    background_probs = numpyro.sample("background_probs", dist.Dirichlet(jnp.ones(num_neurons)))
    background_rate = numpyro.sample("background_rate", dist.Gamma(2.0, 0.2))
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, 4.0))
    cluster = tsd.SequenceCluster(
        type_probs, neuron_probs, offsets, jnp.sqrt(variances), background_probs=background_probs
    )
    tsd.NeymanScott(event_rate, dist.Gamma(20.0, 0.5), cluster, background_rate, (0.0, length)).sample("x", points)


@pytest.mark.slow
def test_sequences_are_recovered_from_a_cold_start():
    """Times and types of events, the order of neurons, and the background, with nothing known beforehand."""
    length, num_neurons = 30.0, 20
    keys = random.split(random.key(4), 2)
    probs = random.dirichlet(keys[0], jnp.full(num_neurons, 2.0), (2,))
    offsets = jnp.stack([jnp.linspace(0.0, 0.8, num_neurons), jnp.linspace(0.7, 0.0, num_neurons)])
    cluster = tsd.SequenceCluster(jnp.array([0.5, 0.5]), probs, offsets, jnp.full((2, num_neurons), 0.04))
    truth = tsd.NeymanScott(0.6, dist.Gamma(20.0, 0.5), cluster, 5.0, (0.0, length)).simulate(keys[1])
    arguments = jnp.asarray(truth.points), length, num_neurons

    # The comparison of densities is tested above, and in full size by the tutorial on the songbird.
    labels = LabelGibbs(
        sequences_model, "x", method="serial", max_clusters=64, start="given", num_split_merge=1, check=False
    )
    parameters = SequenceGibbs(sequences_model, "x", **NAMES, check=False)
    kernel = Gibbs([(labels, [labels.labels_site]), (parameters, parameters.sites)])
    start = anneal(random.key(0), kernel, *arguments, num_sweeps=60, progress_bar=False)
    mcmc = MCMC(kernel, num_warmup=50, num_samples=100, progress_bar=False)
    mcmc.run(random.key(1), *arguments, init_params=start, extra_fields=("block_states.0.overflow",))
    draws = {name: np.asarray(values) for name, values in mcmc.get_samples().items()}

    last = {name: values[-1] for name, values in draws.items()}
    model = handlers.substitute(handlers.seed(sequences_model, random.key(0)), data=last)
    process = handlers.trace(model).get_trace(*arguments)["x_labels"]["fn"].process
    events = process.sample_events(random.key(2), last["x_labels"], arguments[0])[0]
    wanted, found = np.asarray(truth.labels), last["x_labels"]
    both = (wanted >= 0) & (found >= 0)
    assert (wanted >= 0).sum() > 400
    assert both.sum() > 0.94 * (wanted >= 0).sum()
    assert abs((draws["x_labels"] < 0).mean() - (wanted < 0).mean()) < 0.03

    # Types have no names: the assignment that fits most spikes.
    same = np.asarray(truth.events.type)[wanted[both]] == np.asarray(events.type)[found[both]]
    swapped = same.mean() < 0.5
    assert max(same.mean(), 1 - same.mean()) > 0.94
    order = np.array([1, 0]) if swapped else np.array([0, 1])
    for kind in range(2):
        estimate = draws["offsets"][:, order[kind]].mean(0)
        heard = np.asarray(probs)[kind] > 0.01
        rank = stats.spearmanr(estimate[heard], np.asarray(offsets)[kind][heard]).statistic
        assert rank > 0.97

    # Each true event has a found one at the same time, up to the shift of its type.
    sizes = np.bincount(wanted[wanted >= 0])
    heard = np.flatnonzero(sizes >= 5)
    true_types, true_times = np.asarray(truth.events.type)[heard], np.asarray(truth.events.time)[heard]
    number = found.max() + 1
    times, types = np.asarray(events.time)[:number], np.asarray(events.type)[:number]
    for kind in range(2):
        own = true_times[true_types == kind]
        near = times[types == order[kind]]
        shift = (np.asarray(offsets)[kind] - draws["offsets"][-1, order[kind]])[np.asarray(probs)[kind] > 0.01]
        gaps = abs(near[:, None] - np.median(shift) - own).min(0)
        assert (gaps < 0.1).mean() > 0.9, gaps
    assert (np.asarray(mcmc.get_extra_fields()["block_states.0.overflow"]) == 0).all()
