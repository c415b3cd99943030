"""
A family of clusters of one's own: bursts of single neurons
===========================================================

Neurons of a singing zebra finch fire in bursts. How many bursts are there, how long do they last, how many spikes has each?
tsppl knows clusters that are Gaussian, sequences of many neurons, or documents; a burst is none of these: its spikes are near in
time and all of the same neuron. A family of clusters is one small class, and this tutorial writes it, checks it, and lets
NUTS and label sweeps use it. ``--quick`` takes 3 seconds of song in place of 10, and shorter chains.
"""

# %%
# A cluster is asked for the density of its points with its event (here: when the burst is, and of which neuron) integrated out.
# All that the density needs are sums over spikes, so that a spike can be added and taken out again. For times these are number,
# sum and sum of squares. For neurons too: they are all the same if their variance is zero.

import inspect
import sys
from pathlib import Path
from typing import NamedTuple

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.infer import MCMC, NUTS, Gibbs, init_to_median

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import LabelGibbs

QUICK = "--quick" in sys.argv
SECONDS, WARMUP, DRAWS = (3.0, 100, 100) if QUICK else (10.0, 250, 250)


class Sums(NamedTuple):
    size: jax.Array
    time: jax.Array
    square: jax.Array
    neuron: jax.Array
    neuron_square: jax.Array


class Burst(NamedTuple):
    time: jax.Array
    neuron: jax.Array


@jax.tree_util.register_pytree_node_class
class BurstCluster(tsd.Cluster):
    """Spikes ``(time, neuron)`` of one neuron, scattered in time around a burst; edges of the window are ignored."""

    point_shape = (2,)

    def __init__(self, width, neuron_probs, background_probs):
        self.width, self.neuron_probs, self.background_probs = width, neuron_probs, background_probs

    def positions(self, points):
        return points[..., 0]

    def shifted(self, points, origin):
        return points.at[..., 0].add(-origin)

    def point_statistics(self, point):
        time, neuron = point
        return Sums(jnp.ones_like(time), time, time**2, neuron, neuron**2)

    def log_marginal(self, sums, window):
        size, mean = sums.size, sums.neuron / sums.size
        spread = (sums.square - sums.time**2 / size) / self.width**2
        log_times = -0.5 * spread - (size - 1) * jnp.log(self.width * jnp.sqrt(2 * jnp.pi)) - 0.5 * jnp.log(size)
        same = size * sums.neuron_square - sums.neuron**2 < 0.5 * size
        log_neuron = jnp.where(same, jnp.log(self.neuron_probs[mean.round().astype(int)]), -jnp.inf)
        return log_times + log_neuron - jnp.log(window[1] - window[0])

    def log_background(self, point, window):
        return super().log_background(point[0], window) + jnp.log(self.background_probs[point[1].astype(int)])

    def sample_event_given(self, key, sums, window):
        time = sums.time / sums.size + self.width / jnp.sqrt(sums.size) * random.normal(key)
        return Burst(time, (sums.neuron / sums.size).round())

    def tree_flatten(self):
        return (self.width, self.neuron_probs, self.background_probs), None

    @classmethod
    def tree_unflatten(cls, static, children):
        return cls(*children)


family = "".join(inspect.getsource(part) for part in (Sums, Burst, BurstCluster))
print(f"a family of clusters in {sum(bool(line.strip()) for line in family.splitlines())} lines")

# %%
# One check finds nearly every slip. ``log_marginal`` is a density of all spikes of a burst, so what it gains by one spike more is
# the log density of that spike given the others: over all neurons and times it must integrate to one, whatever these are.

times, neurons = tsppl.datasets.songbird_spikes()
spikes = jnp.asarray(np.stack([times, neurons], -1)[times < SECONDS], float)
num_neurons = int(neurons.max()) + 1
even, share = jnp.full(num_neurons, 1 / num_neurons), (jnp.bincount(spikes[:, 1].astype(int), length=num_neurons) + 0.5)
share /= share.sum()
window = jnp.array([0.0, SECONDS])

cluster = BurstCluster(0.05, even, share)
grid = jnp.linspace(0.0, 2.0, 2001)
places = jnp.stack(jnp.meshgrid(grid, jnp.arange(num_neurons, dtype=grid.dtype), indexing="ij"), -1).reshape(-1, 2)
three = jax.vmap(cluster.point_statistics)(jnp.array([[1.02, 3.0], [1.1, 3.0], [0.97, 3.0]]))
others = jax.tree.map(lambda array: array.sum(0), three)
more = jax.vmap(lambda place: cluster.log_predictive(others, cluster.point_statistics(place), window))(places)
print(f"a fourth spike of a burst has probability {float(jnp.exp(more).sum() * (grid[1] - grid[0])):.4f}, all in all")

# %%
# From here on it is a family like any other. Rates, the mean number of spikes and the width of a burst are NUTS's; which spikes
# are a burst is drawn by sweeps over all spikes.


def model(spikes, window):
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, 0.05))
    mean_size = numpyro.sample("mean_size", dist.Gamma(4.0, 1.0))
    width = numpyro.sample("width", dist.LogNormal(jnp.log(0.05), 0.3))
    background_rate = numpyro.sample("background_rate", dist.Gamma(2.0, 0.05))
    amplitude = dist.Gamma(4.0, 4.0 / mean_size)
    process = tsd.NeymanScott(event_rate, amplitude, BurstCluster(width, even, share), background_rate, window)
    process.sample("spikes", spikes)


block = LabelGibbs(model, "spikes", method="serial", max_clusters=len(spikes) // 2, num_sweeps=2)
names = ["event_rate", "mean_size", "width", "background_rate"]
kernel = Gibbs([(block, [block.labels_site]), (NUTS(model, init_strategy=init_to_median), names)])
mcmc = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=2, chain_method="sequential", progress_bar=False)
mcmc.run(random.key(0), spikes, window, extra_fields=("block_states.0.overflow",))
print(f"missing slots: {int(mcmc.get_extra_fields()['block_states.0.overflow'].max())}")

tree = tsppl.to_arviz(mcmc)
print(az.summary(tree, var_names=[*names, "spikes_num_clusters", "spikes_num_background"]).to_string())

# %%
# What the bursts are: how many spikes each has, beside what all spikes of a neuron at random times would give, and how much of
# the activity is bursts. A spike alone may be a burst of one, so the share of bursts with several spikes says more.

posterior = tree["posterior"]
labels = np.asarray(posterior["spikes_labels"])
estimate = tsppl.least_squares_labels(labels)
sizes = np.asarray(posterior["spikes_event_size"]).reshape(-1)
sizes = sizes[sizes > 0].astype(int)
share_in_bursts = (labels >= 0).mean()
print(
    f"{share_in_bursts:.0%} of the spikes are in bursts; a burst has {sizes.mean():.1f} spikes, {(sizes > 1).mean():.0%} more than one"
)
low, middle, high = 1000 * np.quantile(posterior["width"], [0.05, 0.5, 0.95])
print(f"spikes of a burst have a standard deviation of {middle:.0f} ms (90 % from {low:.0f} to {high:.0f})")

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), layout="constrained", width_ratios=(2, 1))
begin, duration = 1.0, 2.0
shown = (spikes[:, 0] >= begin) & (spikes[:, 0] < begin + duration)
alone = np.asarray(shown & (estimate < 0))
left.plot(spikes[alone, 0], spikes[alone, 1] + 1, "x", color="0.6", markersize=4, label="background")
colours = plt.get_cmap("tab10")
for burst in np.unique(estimate[np.asarray(shown) & (estimate >= 0)]):
    own = spikes[estimate == burst]
    label = "bursts" if burst == estimate[np.asarray(shown)].max() else None
    left.plot(
        own[:, 0], own[:, 1] + 1, "o-", color=colours(int(burst) % 10), markersize=3.5, linewidth=2.5, label=label
    )
left.set(
    xlabel="time (s)",
    ylabel="neuron",
    xlim=(begin, begin + duration),
    title="spikes of two seconds, joined within a burst",
)
left.legend(loc="upper right")
counts = np.bincount(sizes, minlength=9)[1:9] / len(sizes)
right.bar(np.arange(1, 9), counts, color="0.55")
right.set(
    xlabel="spikes of a burst", ylabel="share of bursts", title=f"{share_in_bursts:.0%} of all spikes are in bursts"
)
figure.savefig("neuron_bursts.png", dpi=120)
print(f"figure: {Path('neuron_bursts.png').resolve()}")
