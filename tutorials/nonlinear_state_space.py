"""
A nonlinear state-space model with NUTS, ten times longer than you thought
==========================================================================

A population is counted every year. Its size follows the Ricker map with noise, and the counts are Poisson, as in Wood
(2010, Statistical inference for noisy nonlinear ecological dynamic systems, Nature 466):

    N_t = r N_{t-1} exp(-N_{t-1} + sigma e_t),    y_t ~ Poisson(phi N_t).

NUTS draws the growth rate, the noise and all e_t together. Every leapfrog step runs the recurrence and its gradient
over the whole series, here of 10,000 counts, and ``deer_scan`` runs many steps of it at a time.

    python tutorials/nonlinear_state_space.py            # 10,000 counts, a few minutes
    python tutorials/nonlinear_state_space.py --quick    # 300 counts, under a minute
"""

import argparse
import time

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.diagnostics import effective_sample_size, split_gelman_rubin
from numpyro.handlers import reparam
from numpyro.infer import MCMC, NUTS, init_to_value
from numpyro.infer.reparam import TransformReparam
from numpyro.infer.util import log_density

import tsppl.distributions as tsd
from tsppl.recurrence import deer_scan

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="300 counts instead of 10,000")
quick = parser.parse_args().quick
num_steps, num_warmup, num_samples = (300, 300, 200) if quick else (10_000, 400, 300)

# %%
# The model. ``NonlinearDynamics`` is the law of the whole trajectory of log N; ``reparam`` makes its noise the parameter,
# which leaves NUTS with nearly independent normals in place of states that all hang together.


def ricker(log_r):
    return lambda log_n, _: log_r + log_n - jnp.exp(log_n)


def model(counts=None, num_steps=num_steps, solver="auto"):
    log_r = numpyro.sample("log_r", dist.Normal(1.5, 0.5))
    sigma = numpyro.sample("sigma", dist.HalfNormal(0.5))
    phi = numpyro.sample("phi", dist.LogNormal(2.0, 1.0))
    dynamics = tsd.NonlinearDynamics(ricker(log_r), jnp.zeros(1), sigma, num_steps=num_steps, solver=solver)
    log_n = numpyro.sample("log_n", dynamics)
    numpyro.sample("counts", dist.Poisson(phi * jnp.exp(log_n[:, 0])).to_event(1), obs=counts)


by_noise = reparam(model, config={"log_n": TransformReparam()})

truth = {"log_r": 1.5, "sigma": 0.3, "phi": 10.0}
simulated = numpyro.infer.Predictive(numpyro.handlers.condition(model, truth), num_samples=1)(random.key(1))
counts, log_n = simulated["counts"][0], simulated["log_n"][0, :, 0]

# %%
# Does the recurrence forget? The largest Lyapunov exponent says so before anything is fitted: below zero, stretches of the
# series can be run side by side. Wood's own growth rate, log r = 3.8, is chaotic, and there the plain loop takes over.

noise = random.normal(random.key(2), (num_steps,))
for log_r in (1.5, 3.8):

    def step(log_n, e, log_r=log_r):
        log_n = ricker(log_r)(log_n, None) + 0.3 * e
        return log_n, log_n

    _, values, info = deer_scan(step, 0.0, noise, solver="chunked", return_info=True)
    error = np.abs(values - jax.lax.scan(step, 0.0, noise)[1]).max()
    print(
        f"log r = {log_r}: Lyapunov exponent {info.lyapunov_exponent:.2f}, "
        f"{'settled after' if info.converged else 'plain loop after'} {info.iterations} run(s), "
        f"largest difference from lax.scan {error:.1e}"
    )

# %%
# The price of a gradient of the log density, by a plain loop and by stretches.


def milliseconds_per_gradient(num_steps, solver, repeats=50):
    y = jnp.resize(counts, num_steps)

    @jax.jit
    @jax.grad
    def gradient(params):
        return log_density(by_noise, (y, num_steps, solver), {}, params)[0]

    params = {name: jnp.asarray(value) for name, value in truth.items()}
    params["log_n_base"] = random.normal(random.key(3), (num_steps, 1))
    jax.block_until_ready(gradient(params))
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        jax.block_until_ready(gradient(params))
        times.append(time.perf_counter() - begun)
    return 1e3 * np.median(times)


lengths = (300, 1000, 3000) if quick else (1000, 10_000, 100_000)
costs = {solver: [milliseconds_per_gradient(n, solver) for n in lengths] for solver in ("scan", "chunked")}
for n, loop, chunked in zip(lengths, costs["scan"], costs["chunked"], strict=True):
    print(f"{n:>7} counts: gradient by a loop {loop:.2f} ms, by stretches {chunked:.2f} ms")

# %%
# NUTS. Every chain starts at rough values of the parameters and quiet noise.

start = init_to_value(
    values={"log_r": 1.3, "sigma": 0.4, "phi": float(counts.mean()), "log_n_base": 0 * log_n[:, None]}
)
mcmc = MCMC(
    NUTS(by_noise, init_strategy=start, max_tree_depth=8),
    num_warmup=num_warmup,
    num_samples=num_samples,
    num_chains=2,
    chain_method="sequential",
    progress_bar=False,
)
begun = time.perf_counter()
mcmc.run(random.key(4), counts, extra_fields=("num_steps",))
seconds = time.perf_counter() - begun
leapfrogs = int(mcmc.get_extra_fields()["num_steps"].sum())
by_chain = mcmc.get_samples(group_by_chain=True)
print(
    f"\nNUTS on {num_steps + 3:,} unknowns: {seconds:.0f} s, compilation included; {leapfrogs:,} leapfrog steps after warm-up"
)
print(f"{'':>6} {'truth':>7} {'mean':>7} {'5 %':>7} {'95 %':>7} {'ESS':>6} {'R-hat':>6}")
for name, value in truth.items():
    draws = np.asarray(by_chain[name])
    low, high = np.quantile(draws, [0.05, 0.95])
    print(
        f"{name:>6} {value:7.3f} {draws.mean():7.3f} {low:7.3f} {high:7.3f} "
        f"{effective_sample_size(draws):6.0f} {split_gelman_rubin(draws):6.3f}"
    )

# %%
# Populations that nobody saw directly, with the counts from which they were inferred.

population = np.exp(np.asarray(mcmc.get_samples()["log_n"])[..., 0])
low, middle, high = np.quantile(population, [0.05, 0.5, 0.95], axis=0)
inside = np.mean((np.exp(log_n) >= low) & (np.exp(log_n) <= high))
print(f"\ntrue populations inside their 90 % intervals: {100 * inside:.0f} %")

shown = slice(100, 160)
years = np.arange(num_steps)[shown]
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.8), width_ratios=(2, 1), layout="constrained")
left.fill_between(years, low[shown], high[shown], color="tab:blue", alpha=0.25, label="90 % of posterior draws")
left.plot(years, middle[shown], color="tab:blue", label="posterior median")
left.plot(years, np.exp(log_n)[shown], "k.", label="true population")
left.plot(years, counts[shown] / truth["phi"], "x", color="tab:orange", label=r"count / true $\phi$")
left.set_ylim(top=1.25 * high[shown].max())
left.set(xlabel="year", ylabel="population", title=f"60 of {num_steps:,} years")
left.legend(fontsize=8, ncols=2)
for solver, label in {"scan": "plain loop", "chunked": "stretches side by side"}.items():
    right.loglog(lengths, costs[solver], "o-", label=label)
right.set(xlabel="number of counts", ylabel="ms per gradient of the log density", title="One leapfrog step")
right.legend(fontsize=8)
figure.savefig("nonlinear_state_space.png", dpi=150)
print("figure saved to nonlinear_state_space.png")
