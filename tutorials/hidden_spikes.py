"""
How many types of sequences? Spikes that were hidden tell
=========================================================

Each neuron of a singing zebra finch is hidden in one of ten stretches of half a second, at random, a checkerboard of neurons and
times. Sequences are looked for in the spikes that are left, for one, two and three types; then the hidden spikes are scored. A
model that knows when a sequence happened, and which neuron fires when in it, knows where hidden spikes are. (Held-out
neurons and times as in Williams, Degleris, Wang and Linderman, NeurIPS 2020; the data as in ``songbird.py``.)

Where nothing was seen, "no spike" would be a lie: hidden spikes are drawn with everything else, ``unseen=``. The same is good
for electrodes that were off for a while.

The spikes are downloaded once; without a network, name the folder that holds ``songbird_spikes.txt`` in the environment
variable ``TSPPL_DATA``. ``--quick`` makes a short run with two types only.
"""

# %%

import sys
import time
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, Gibbs

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import LabelGibbs, SequenceGibbs, anneal

quick = "--quick" in sys.argv
num_sweeps, num_draws, numbers_of_types = (10, 40, (2,)) if quick else (50, 400, (1, 2, 3))
num_neurons, length = 75, 22.2

times, neurons = tsppl.datasets.songbird_spikes()
spikes = jnp.stack([jnp.asarray(times), jnp.asarray(neurons, float)], -1)
regions = tsd.random_regions(jax.random.key(1), (0.0, length), num_neurons, length=0.5, prob=0.1)
kept, hidden = regions.split(spikes)

# %%
# The model of ``songbird.py``, for any number of types; one argument more says where spikes were not seen.

NAMES = ("type_probs", "neuron_probs", "offsets", "variances", "background_probs", "background_rate")


def sequences(type_probs, neuron_probs, offsets, variances, background_probs, background_rate):
    cluster = tsd.SequenceCluster(
        type_probs, neuron_probs, offsets, jnp.sqrt(variances), background_probs=background_probs, edges="ignored"
    )
    return tsd.NeymanScott(1.0, dist.Gamma(10.0, 0.1), cluster, background_rate, (0.0, length))


def model(spikes, num_types):
    shape = (num_types, num_neurons)
    variances = numpyro.sample("variances", dist.InverseGamma(2.0, 0.04).expand(shape).to_event(2))
    parameters = {
        "type_probs": numpyro.sample("type_probs", dist.Dirichlet(jnp.ones(num_types))),
        "neuron_probs": numpyro.sample("neuron_probs", dist.Dirichlet(jnp.full(shape, 0.1)).to_event(1)),
        "offsets": numpyro.sample("offsets", dist.Normal(0.0, jnp.sqrt(variances)).to_event(2)),
        "background_probs": numpyro.sample("background_probs", dist.Dirichlet(jnp.full(num_neurons, 0.3))),
        "background_rate": numpyro.sample("background_rate", dist.Gamma(30.0, 1.0)),
    }
    sequences(variances=variances, **parameters).sample("spikes", spikes, unseen=regions)


# %%
# What there is to beat: neurons that fire at constant rates, estimated where they were seen (with one spike each to begin
# with, so that no rate is zero).

lengths = jnp.diff(regions.boxes, axis=1)[:, 0]
seconds_hidden = lengths @ regions.neurons
rates = (1.0 + jnp.bincount(kept[:, 1].astype(int), length=num_neurons)) / (length - seconds_hidden)
constant = jnp.log(rates)[hidden[:, 1].astype(int)].sum() - seconds_hidden @ rates
constant -= jax.scipy.special.gammaln(len(hidden) + 1.0)

# %%
# Each model in turn: annealing, draws, and the score, a mean over draws of the probability of all hidden spikes.

backend = "numba" if find_spec("numba") else "jax"
print(f"{len(hidden)} of {len(spikes)} spikes hidden; scores in nats above constant rates, per hidden spike")
print("types      score   effective draws   hidden spikes drawn (90%)   background   seconds")
scores, last = [], {}
for num_types in numbers_of_types:
    begin = time.perf_counter()
    options = {"method": "serial", "backend": backend, "max_clusters": 80, "start": "given", "num_split_merge": 2}
    labels = LabelGibbs(model, "spikes", num_sweeps=2, **options)
    parameters = SequenceGibbs(model, "spikes", **{name: name for name in NAMES})
    kernel = Gibbs([(labels, [labels.labels_site, labels.unseen_site]), (parameters, parameters.sites)])
    start_key, run_key, score_key = jax.random.split(jax.random.key(num_types), 3)
    start = anneal(start_key, kernel, kept, num_types, num_sweeps=num_sweeps, progress_bar=False)
    mcmc = MCMC(kernel, num_warmup=num_draws // 4, num_samples=num_draws, thinning=4, progress_bar=False)
    mcmc.run(run_key, kept, num_types, init_params=start)
    draws = mcmc.get_samples()
    processes = jax.vmap(lambda values: sequences(**values))({name: draws[name] for name in NAMES})
    found = draws["spikes_labels"], draws["spikes_unseen"]
    score = tsppl.region_log_prob(score_key, processes, *found, kept, hidden, regions)
    scores.append((score.draws - constant) / len(hidden))
    is_spike = draws["spikes_labels"][:, len(kept) :] >= -1
    low, high = np.quantile(is_spike.sum(1), [0.05, 0.95])
    background = float((draws["spikes_labels"] == -1).sum(1).mean())
    print(
        f"{num_types:>5}   {float((score.log_prob - constant) / len(hidden)):8.3f}   {float(score.effective_draws):15.1f}   "
        f"{low:18.0f} to {high:.0f}   {background:10.0f}   {time.perf_counter() - begin:7.0f}"
    )
    last[num_types] = draws

# %%
# One draw of the hidden spikes for two types, beside those that really were there; and the scores.

figure, (raster, bars) = plt.subplots(1, 2, figsize=(11, 5), width_ratios=[2.2, 1], layout="constrained")
for (begin, end), row in zip(np.asarray(regions.boxes), np.asarray(regions.neurons), strict=True):
    for neuron in np.flatnonzero(row):
        raster.fill_between([begin, end], neuron - 0.5, neuron + 0.5, color="0.85", linewidth=0)
drawn = np.asarray(last[2]["spikes_unseen"][-1])[np.asarray(last[2]["spikes_labels"][-1, len(kept) :]) >= -1]
raster.scatter(*np.asarray(kept).T, s=2, color="0.55", linewidths=0, label="seen")
raster.scatter(*np.asarray(hidden).T, s=14, color="black", marker="|", linewidths=1, label="hidden, as they were")
raster.scatter(
    *drawn.T, s=14, facecolors="none", edgecolors="tab:red", linewidths=0.8, label="hidden, one draw of them"
)
raster.set(xlim=(0, 8), xlabel="time (s)", ylabel="neuron, in the order of the file", ylim=(-1, num_neurons))
raster.set_title("Grey cells were hidden; two types of sequences fill them in")
figure.legend(*raster.get_legend_handles_labels(), loc="outside lower left", ncols=3, markerscale=1.5)
bars.boxplot([np.asarray(score) for score in scores], tick_labels=list(numbers_of_types), showfliers=False)
bars.axhline(0.0, color="0.5", linestyle=":")
bars.set(xlabel="types of sequences", ylabel="nats per hidden spike above constant rates, by draw")
bars.set_title("Score of hidden spikes")
path = Path("hidden_spikes.png")
figure.savefig(path, dpi=150)
print(f"\nfigure: {path.resolve()}")
