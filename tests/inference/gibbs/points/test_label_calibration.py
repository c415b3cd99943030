"""Calibration of LabelGibbs beside NUTS: what made a pattern ranks uniformly among draws from its posterior.

All patterns have the same number of points: those of the prior that came with it, which are draws of the joint distribution
given that number; the number stays in the model, so the posterior is the one of that distribution. Patterns are made event by
event, without the library.
"""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax import random
from numpyro.infer import MCMC, NUTS, Gibbs, init_to_median
from scipy import stats

import tsppl.distributions as tsd
from tests.calibration import calibration_ranks, uniformity_p_values
from tsppl.inference import LabelGibbs

NUM_POINTS, NUM_DATASETS, NUM_WRONG, NUM_DRAWS, NUM_WARMUP, THINNING = 24, 112, 48, 63, 100, 3
NAMES = ["event_rate", "scale", "background_rate"]
LENGTH, SIZE, RATES, MEDIAN_SCALE, SPREAD = 10.0, (1.0, 0.125), (6.0, 12.0), 0.05, 0.5
RIGHT, TOO_WIDE, BORN_TOO_EASILY = (1.0, 1.0), (1.3, 1.0), (1.0, 4.0)


def simulate(generator):
    """Parameters and labels, and points sorted by time, of patterns that have the wanted number of points."""
    truth, patterns = [], []
    while len(truth) < NUM_DATASETS:
        event_rate, background_rate = generator.gamma(RATES[0], 1 / RATES[1], 2)
        scale = MEDIAN_SCALE * np.exp(SPREAD * generator.normal())
        sizes = generator.poisson(generator.gamma(SIZE[0], 1 / SIZE[1], generator.poisson(event_rate * LENGTH)))
        alone = generator.poisson(background_rate * LENGTH)
        if sizes.sum() + alone != NUM_POINTS:
            continue
        events = np.repeat(np.arange(len(sizes)), sizes)
        centres = generator.uniform(0, LENGTH, len(sizes))[events]
        points = np.r_[generator.normal(centres, scale), generator.uniform(0, LENGTH, alone)]
        order = np.argsort(points)
        events = np.r_[events, np.full(alone, -1)][order]
        numbers = {-1: -1}
        labels = np.array([numbers.setdefault(event, len(numbers) - 1) for event in events])
        truth.append({"event_rate": event_rate, "scale": scale, "background_rate": background_rate, "x_labels": labels})
        patterns.append(points[order])
    return jax.tree.map(lambda *leaves: jnp.array(leaves), *truth), jnp.array(patterns)


def process_of(event_rate, scale, background_rate):
    return tsd.NeymanScott(event_rate, dist.Gamma(*SIZE), tsd.GaussianCluster(scale), background_rate, (0.0, LENGTH))


def model(points, stretch, births):
    """Mistakes are a factor of the scale, and one of the weight that a new cluster has."""
    event_rate = numpyro.sample("event_rate", dist.Gamma(*RATES))
    scale = stretch * numpyro.sample("scale", dist.LogNormal(jnp.log(MEDIAN_SCALE), SPREAD))
    background_rate = numpyro.sample("background_rate", dist.Gamma(*RATES))
    process = process_of(event_rate, scale, background_rate)
    numpyro.sample("x_count", process.count(largest=NUM_POINTS), obs=NUM_POINTS)
    labels = process_of(births * event_rate, scale, background_rate).labels(NUM_POINTS)
    numpyro.sample("x", process.points(numpyro.sample("x_labels", labels)), obs=points)


@jax.jit
@jax.vmap
def posterior_draws(key, points, mistake):
    block = LabelGibbs(model, "x", method="serial", num_sweeps=2, num_split_merge=1, check=False)
    nuts = NUTS(model, max_tree_depth=2, init_strategy=init_to_median)
    steps = NUM_DRAWS * THINNING
    kernel = Gibbs([(block, ["x_labels"]), (nuts, NAMES)])
    mcmc = MCMC(kernel, num_warmup=NUM_WARMUP, num_samples=steps, thinning=THINNING, progress_bar=False)
    mcmc.run(key, points, *mistake)
    return mcmc.get_samples()


def quantities(draw, points):
    globals_, labels = {name: draw[name] for name in NAMES}, draw["x_labels"]
    counts = {"clusters": labels.max(), "background": (labels < 0).sum()}
    return globals_ | counts | {"log_joint": process_of(**globals_).log_joint(labels, points)}


def p_values(ranks):
    """The smaller one of two tests: chi-square sees any shape, Kolmogorov and Smirnov's sees shifts much better."""
    of_bins = uniformity_p_values(ranks, NUM_DRAWS)
    shifts = {name: stats.kstest((of + 0.5) / (NUM_DRAWS + 1), "uniform").pvalue for name, of in ranks.items()}
    return {name: min(of_bins[name], shifts[name]) for name in ranks}


@pytest.mark.slow
def test_ranks_are_uniform_and_mistakes_are_seen():
    """A scale too large by three tenths, and births four times as easy, are seen on fewer patterns."""
    truth, points = simulate(np.random.default_rng(1))
    cases = [(RIGHT, NUM_DATASETS), (TOO_WIDE, NUM_WRONG), (BORN_TOO_EASILY, NUM_WRONG)]
    lanes = np.concatenate([np.arange(size) for _, size in cases])
    mistakes = jnp.concatenate([jnp.tile(jnp.array(mistake), (size, 1)) for mistake, size in cases])
    draws = posterior_draws(random.split(random.key(1), len(lanes)), points[lanes], mistakes)
    found, start = [], 0
    for _, size in cases:
        drawn = jax.tree.map(lambda array, start=start, size=size: array[start : start + size], draws)
        true = jax.tree.map(lambda array, size=size: array[:size], truth)
        ranks = calibration_ranks(random.key(2), true, drawn, points[:size], quantities)
        found.append(p_values(ranks))
        start += size
    right, wide, births = found
    assert min(right.values()) > 1e-3, right
    assert wide["scale"] < 1e-4, wide
    assert births["clusters"] < 1e-4, births
