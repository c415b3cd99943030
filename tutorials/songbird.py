"""
Sequences in a songbird's brain
===============================

While a zebra finch sings, neurons of its song nucleus HVC fire in stereotyped order. From 3336 spikes of 75 neurons, with
nothing known about the order, PPSeq finds which spikes belong together in a sequence, when each sequence happened, of which
of two types it was, and in which order the neurons fire: the experiment of Williams, Degleris, Wang and Linderman (NeurIPS
2020), with the settings of their published code but for one prior.

The spikes are downloaded once; without a network, name the folder that holds ``songbird_spikes.txt`` in the environment
variable ``TSPPL_DATA``. ``--quick`` makes fewer draws, ``--seed=1`` others, ``--published`` takes the published prior.
"""

# %%
# The file lists neurons in an order that already shows the sequences, found by another method (Mackevicius et al. 2019). To
# make things interesting, neurons are renumbered at random; at the end, the two orders are compared.

import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, Gibbs
from scipy.stats import spearmanr

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import LabelGibbs, SequenceGibbs, anneal
from tsppl.plots import plot_sequence_raster

quick, published = "--quick" in sys.argv, "--published" in sys.argv
seed = int(next((word.removeprefix("--seed=") for word in sys.argv if word.startswith("--seed=")), 0))
num_sweeps, num_draws = (20, 100) if quick else (100, 2000)
num_types, length = 2, 22.2

times, file_numbers = tsppl.datasets.songbird_spikes()
num_neurons = 75
place_in_file = np.random.default_rng(0).permutation(num_neurons)
neurons = np.argsort(place_in_file)[file_numbers]
spikes = jnp.stack([jnp.asarray(times), jnp.asarray(neurons, float)], -1)

# %%
# The model. Sequences start at a rate of one a second, each with 100 spikes expected, give or take 32. Every type has its
# own probabilities of neurons, delays and widths; their prior is a normal-inverse-gamma distribution, here two sites.
# As in the published code, a sequence may start before the recording or after its end (``edges="ignored"``).
#
# That code expects delays to vary by half a second and more from one sequence to the next, which is longer than most
# sequences of this bird: then two that follow each other become one, and their order is blurred. Here delays are expected to
# repeat within one or two tenths of a second. A fifth of the spikes, held out at random (``tsppl.hold_out_points``), were likelier by 70
# nats under this prior than under the published one, and by 260 nats than under neurons that fire at constant rates.

width_prior = dist.InverseGamma(0.5, 0.25) if published else dist.InverseGamma(2.0, 0.04)


def sequences(type_probs, neuron_probs, offsets, variances, background_probs, background_rate):
    cluster = tsd.SequenceCluster(
        type_probs, neuron_probs, offsets, jnp.sqrt(variances), background_probs=background_probs, edges="ignored"
    )
    return tsd.NeymanScott(1.0, dist.Gamma(10.0, 0.1), cluster, background_rate, (0.0, length))


def model(spikes):
    shape = (num_types, num_neurons)
    variances = numpyro.sample("variances", width_prior.expand(shape).to_event(2))
    parameters = {
        "type_probs": numpyro.sample("type_probs", dist.Dirichlet(jnp.ones(num_types))),
        "neuron_probs": numpyro.sample("neuron_probs", dist.Dirichlet(jnp.full(shape, 0.1)).to_event(1)),
        "offsets": numpyro.sample("offsets", dist.Normal(0.0, jnp.sqrt(variances)).to_event(2)),
        "background_probs": numpyro.sample("background_probs", dist.Dirichlet(jnp.full(num_neurons, 0.3))),
        "background_rate": numpyro.sample("background_rate", dist.Gamma(30.0, 1.0)),
    }
    sequences(variances=variances, **parameters).sample("spikes", spikes)


# %%
# One block draws which spikes belong together, another all parameters. From a cold start, everything in the background and
# parameters drawn from the prior, they would hardly find anything: at first the number of spikes of a sequence is left
# more open, forty times in variance, and then less and less (annealing). With ``pip install "tsppl[numba]"`` sweeps are faster.

names = ("type_probs", "neuron_probs", "offsets", "variances", "background_probs", "background_rate")
backend = "numba" if find_spec("numba") else "jax"
options = {"method": "serial", "backend": backend, "max_clusters": 64, "start": "given", "num_split_merge": 2}
labels = LabelGibbs(model, "spikes", **options)
parameters = SequenceGibbs(model, "spikes", **{name: name for name in names})
kernel = Gibbs([(labels, [labels.labels_site]), (parameters, parameters.sites)])

start_key, run_key, event_key = jax.random.split(jax.random.key(seed), 3)
begin = time.perf_counter()
start = anneal(start_key, kernel, spikes, num_sweeps=num_sweeps)
annealed = time.perf_counter()
mcmc = MCMC(kernel, num_warmup=0, num_samples=num_draws, thinning=max(1, num_draws // 200))
mcmc.run(run_key, spikes, init_params=start, extra_fields=("block_states.0.overflow",))
draws = jax.block_until_ready(mcmc.get_samples())
end = time.perf_counter()

# %%
# Events are integrated out in sampling; here they are drawn for every kept draw of labels and parameters. Types have no
# names: the one whose neurons come first in the file is called the first.


def numbers(draw, key):
    """Sequences of each type, and spikes in the background."""
    labels = draw["spikes_labels"]
    events, _ = sequences(**{name: draw[name] for name in names}).sample_events(key, labels, spikes)
    is_there = jnp.arange(len(labels)) <= labels.max()
    counts = jnp.zeros(num_types, int).at[jnp.where(is_there, events.type, num_types)].add(1, mode="drop")
    return events, counts, jnp.sum(labels < 0)


keys = jax.random.split(event_key, len(draws["spikes_labels"]))
events, counts, backgrounds = jax.lax.map(lambda pair: numbers(*pair), (draws, keys))
last = {name: np.asarray(values[-1]) for name, values in draws.items()}
order = np.argsort(last["neuron_probs"] @ place_in_file)

print(f"{len(times)} spikes of {num_neurons} neurons in {length} seconds")
for number, kind in enumerate(order):
    low, high = np.quantile(counts[:, kind], [0.05, 0.95])
    print(f"type {number + 1}: {np.mean(counts[:, kind]):.1f} sequences (90%: {low:.0f} to {high:.0f})")
low, high = np.quantile(backgrounds, [0.05, 0.95])
print(f"background: {np.mean(backgrounds):.0f} spikes (90%: {low:.0f} to {high:.0f})")
print(f"missing slots: {int(mcmc.get_extra_fields()['block_states.0.overflow'][-1])}")

# %%
# The neurons that take part in one in a hundred spikes of a type, against the file, whose first 36 neurons are one sequence
# and the others another. And does the order repeat? Delays in every other sequence are compared with those in the rest.


def median_delays(chosen):
    """Of each neuron, over the spikes chosen; not a number for fewer than three."""
    delays = times - np.asarray(events.time[-1])[last["spikes_labels"]]
    spikes_of = [delays[chosen & (neurons == neuron)] for neuron in range(num_neurons)]
    return np.array([np.median(found) if len(found) > 2 else np.nan for found in spikes_of])


offsets, shares = np.asarray(draws["offsets"]).mean(0), np.asarray(draws["neuron_probs"]).mean(0)
rank_in_time = np.argsort(np.argsort(np.asarray(events.time[-1])))[last["spikes_labels"]]
for number, kind in enumerate(order):
    busy = (shares[kind] > 0.01) & (shares[kind] >= shares.max(0))
    own_half = np.mean((place_in_file[busy] >= 36) == number)
    rank = spearmanr(offsets[kind, busy], place_in_file[busy]).statistic
    of_kind = (last["spikes_labels"] >= 0) & (np.asarray(events.type[-1])[last["spikes_labels"]] == kind)
    halves = np.stack([median_delays(of_kind & (rank_in_time % 2 == half))[busy] for half in (0, 1)])
    repeats = spearmanr(*halves, nan_policy="omit").statistic
    print(
        f"type {number + 1}: {busy.sum()} neurons, {own_half:.0%} in one part of the file; rank correlation {rank:.2f} with "
        f"the file's order, {repeats:.2f} between halves of the sequences"
    )
print(
    f"time: {annealed - begin:.0f} s for annealing, {end - annealed:.0f} s for {num_draws} draws, with compilation ({backend})"
)

# %%
# The raster of the last draw: neurons as they came, and sorted by type and mean offset. Two sequences take turns.

axes = plot_sequence_raster(
    times,
    neurons,
    last["spikes_labels"],
    np.argsort(order)[np.asarray(events.type[-1])],
    shares[order],
    offsets[order],
    event_times=np.asarray(events.time[-1]),
)
path = Path("songbird.png")
axes[0].figure.savefig(path, dpi=150)
print(f"\nfigure: {path.resolve()}")
