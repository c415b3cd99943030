"""
How many clusters of redwood seedlings are there?
=================================================

A Thomas process for the places of 62 redwood seedlings: parents that nobody sees, each with a Poisson number of seedlings
scattered around it. The rate of parents, the mean number of seedlings of each and the width of the scatter are NUTS's; which
seedlings have the same parent is drawn by Gibbs sampling. Then a Dirichlet process mixture is put beside it on patterns whose
clusters are known. ``--quick`` takes shorter chains.
"""

# %%
# The model is ordinary NumPyro. ``process.sample`` makes three sites: the number of points, which of them belong together, and
# where they are. Places of parents, and parents without a seedling, are integrated out. All parents expect nearly the same
# number of seedlings, and there is no background: so says the Thomas process.

import sys
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, Gibbs

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import LabelGibbs
from tsppl.plots import plot_clusters, plot_intensity

QUICK = "--quick" in sys.argv
WARMUP, DRAWS, SWEEPS = (200, 200, 3) if QUICK else (500, 1000, 10)

points, window = tsppl.datasets.redwood()
NEARLY_EQUAL = 50.0


def model(points, window):
    event_rate = numpyro.sample("event_rate", dist.Gamma(2.0, 0.1))
    mean_size = numpyro.sample("mean_size", dist.Gamma(2.0, 0.5))
    width = numpyro.sample("width", dist.LogNormal(jnp.log(0.05), 0.7))
    amplitude = dist.Gamma(NEARLY_EQUAL, NEARLY_EQUAL / mean_size)
    process = tsd.NeymanScott(event_rate, amplitude, tsd.GaussianCluster(width * jnp.ones(2)), 0.0, window)
    process.sample("seedlings", points)


# %%
# One block draws the labels, by sweeps over all seedlings and by splits and merges of whole clusters; NUTS has the rest.

names = ["event_rate", "mean_size", "width"]
block = LabelGibbs(model, "seedlings", num_sweeps=SWEEPS, num_split_merge=SWEEPS)
kernel = Gibbs([(block, [block.labels_site]), (NUTS(model), names)])
mcmc = MCMC(kernel, num_warmup=WARMUP, num_samples=DRAWS, num_chains=2, chain_method="sequential", progress_bar=False)
mcmc.run(jax.random.key(0), jnp.asarray(points), jnp.asarray(window))

tree = tsppl.to_arviz(mcmc)
print(az.summary(tree, var_names=[*names, "seedlings_num_clusters"]).to_string())

# %%
# The package spatstat fits the same process by matching Ripley's K function (``kppm(redwood ~ 1, "Thomas")``, as printed in
# public workshop notes on spatstat): 23.6 parents per unit of area, a scatter of 0.047, 2.6 seedlings each. It corrects for what
# the edges of the plot hide; here parents are within the plot, and their seedlings may be outside.

SPATSTAT = {"event_rate": 23.55, "mean_size": 2.633, "width": 0.04705}
for name, value in SPATSTAT.items():
    low, middle, high = np.quantile(tree["posterior"][name], [0.05, 0.5, 0.95])
    print(f"{name}: median {middle:.3g}, 90 % from {low:.3g} to {high:.3g}; spatstat {value:.3g}")

# %%
# One partition for the eye: of all draws the one nearest, in least squares, to how often two seedlings are together. And
# where would more seedlings be?

labels = np.asarray(tree["posterior"]["seedlings_labels"])
estimate = tsppl.least_squares_labels(labels)
grid = [np.linspace(*window[:, axis], 50) for axis in (0, 1)]
places = jnp.asarray(np.stack(np.meshgrid(*grid, indexing="ij"), -1).reshape(-1, 2))
arguments = jnp.asarray(points), jnp.asarray(window)
intensity = tsppl.posterior_intensity(jax.random.key(1), model, mcmc, places, *arguments, num_draws=100)["seedlings"]
num_clusters = np.asarray(tree["posterior"]["seedlings_num_clusters"]).ravel()
print(f"parents with seedlings: mean {num_clusters.mean():.1f}, {estimate.max() + 1} in the least-squares partition")

figure, axes = plt.subplots(2, 2, figsize=(11, 9.5), layout="constrained")
plot_clusters(points, estimate, window=window, ax=axes[0, 0])
plot_intensity(grid, np.asarray(intensity).reshape(-1, 50, 50), points=points, ax=axes[0, 1])
values, counts = np.unique(num_clusters, return_counts=True)
axes[1, 0].bar(values, counts / num_clusters.size, color="0.45")
axes[1, 0].xaxis.get_major_locator().set_params(integer=True)
axes[1, 0].set(xlabel="parents with at least one seedling", ylabel="posterior probability")
axes[1, 1].hist(np.asarray(tree["posterior"]["width"]).ravel(), 40, density=True, color="0.7", label="posterior")
axes[1, 1].axvline(SPATSTAT["width"], color="black", linestyle="--", label="spatstat, by Ripley's K")
axes[1, 1].set(xlabel="width of the scatter, in sides of the plot", ylabel="density")
axes[1, 1].legend()
figure.savefig("redwood.png", dpi=120)
print(f"figure: {Path('redwood.png').resolve()}")

# %%
# Is a Dirichlet process mixture not simpler? It has no typical size of a cluster, so it always expects more clusters, small
# ones above all. Wang, Degleris, Williams and Linderman (2023) compare the two on clusters of unknown shape in the unit
# square, ten events with ten points each expected. Here are patterns like theirs, under three models: the process that made
# them; its limit of ever smaller events, which is a Dirichlet process whose concentration is that of all amplitudes together;
# and a Dirichlet process that learns its concentration, given the number of points, as is usual.

square = jnp.array([[0.0, 0.0], [1.0, 1.0]])
cluster = tsd.GaussianInverseWishartCluster(5.0, 1e-3 * jnp.eye(2))
truth = tsd.NeymanScott(10.0, dist.Gamma(11.1, 1.11), cluster, 3.0, square)
limit = tsd.NeymanScott.dirichlet_process(111.0, cluster, square, background_rate=3.0, rate=1.11)


def known(points, process):
    process.sample("x", points)


def learned(points, process):
    concentration = numpyro.sample("concentration", dist.Gamma(1.0, 0.1))
    process = tsd.NeymanScott.dirichlet_process(concentration, cluster, square, background_rate=3.0, rate=1.11)
    labels = numpyro.sample("x_labels", process.labels(len(points)))
    numpyro.sample("x", process.points(labels), obs=points)


def cluster_sizes(key, model, points, process):
    """Clusters of each draw, and how many of them have one or two points."""
    block = LabelGibbs(model, "x", num_sweeps=2, num_split_merge=10)
    blocks = [(block, [block.labels_site])]
    if model is learned:
        blocks.append((NUTS(model), ["concentration"]))
    mcmc = MCMC(Gibbs(blocks), num_warmup=WARMUP, num_samples=DRAWS, progress_bar=False)
    mcmc.run(key, points, process)
    events = tsppl.posterior_events(key, model, mcmc, points, process)["x"]
    size = np.asarray(events["size"])
    return (size > 0).sum(-1), ((size > 0) & (size < 3)).sum(-1)


print(f"{'pattern':>7} {'model':>28} {'clusters':>9} {'of one or two points':>21}")
for pattern_number in range(1 if QUICK else 3):
    pattern = truth.simulate(jax.random.key(10 + pattern_number))
    sizes = np.bincount(np.asarray(pattern.labels)[np.asarray(pattern.labels) >= 0])
    print(f"{pattern_number:>7} {'truth':>28} {len(sizes):>9} {(sizes < 3).sum():>21}")
    found = {}
    for name, program, process in [
        ("Neyman-Scott", known, truth),
        ("its Dirichlet-process limit", known, limit),
        ("Dirichlet process, learned", learned, truth),
    ]:
        found[name], small = cluster_sizes(jax.random.key(pattern_number), program, pattern.points, process)
        print(f"{pattern_number:>7} {name:>28} {found[name].mean():>9.1f} {small.mean():>21.1f}")
