"""
How many states? Six models, one compilation
============================================

Hidden Markov models with one to six states for a century of earthquakes: compared by leaving out single years, and by
predicting the future from the past. Each number of states, and each stretch of years that a model may see, is an argument
of one compiled program, so the second fit costs seconds where the first costs the compilation. ``--quick`` takes three states and
shorter chains.
"""

# %%
# A model with room for ``ROOM`` states, of which ``num_states`` are in use: ``restrict_states`` leaves the others without
# probability. Restricted Dirichlet vectors are Dirichlet, so this is the model of ``num_states`` states, exactly; what is left
# over follows its prior. Years after ``num_seen`` are not looked at.

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import compile_once
from tsppl.plots import plot_model_scores

QUICK = "--quick" in sys.argv
ROOM, WARMUP, DRAWS = (3, 100, 100) if QUICK else (6, 300, 300)

counts, years = tsppl.datasets.earthquakes()
NUM_YEARS, FIRST = len(counts), 50
REFITS = range(FIRST, NUM_YEARS, 40 if QUICK else 20)


def model(counts, num_states, num_seen):
    initial_probs = numpyro.sample("initial_probs", dist.Dirichlet(jnp.ones(ROOM)))
    transition_probs = numpyro.sample("transition_probs", tsd.sticky_dirichlet(ROOM, stickiness=4.0))
    rate = numpyro.sample("rate", dist.Gamma(4.0, 0.2).expand([ROOM]).to_event(1))
    hidden_markov = tsd.HiddenMarkov(
        tsd.restrict_states(initial_probs, num_states),
        tsd.restrict_states(transition_probs, num_states),
        dist.Poisson(rate),
        num_steps=NUM_YEARS,
        lengths=num_seen,
    )
    numpyro.sample("counts", hidden_markov, obs=counts)


# %%
# ``jit_model_args`` makes the arguments inputs of the program, ``compile_once`` keeps it from run to run. For each number of
# states a fit to all years, and fits to the first years alone, from which later years are predicted one by one.

mcmc = MCMC(
    NUTS(model),
    num_warmup=WARMUP,
    num_samples=DRAWS,
    num_chains=4,
    chain_method="vectorized",
    jit_model_args=True,
    progress_bar=False,
)
trees, futures, in_use = {}, {}, {}
print("compiling in the first fit")
with compile_once():
    for num_states in range(1, ROOM + 1):
        start, key = time.perf_counter(), jax.random.key(num_states)
        mcmc.run(key, counts, num_states, NUM_YEARS)
        tree = trees[str(num_states)] = tsppl.to_arviz(mcmc, coords={"time": years})
        seconds = time.perf_counter() - start
        states = np.asarray(tree["posterior"]["counts_states"])
        in_use[num_states] = sum((states == k).any(-1).mean() for k in range(ROOM))
        scores = []
        for num_seen in REFITS:
            mcmc.run(key, counts, num_states, num_seen)
            terms = tsppl.log_likelihood(key, model, mcmc, counts, num_states, NUM_YEARS, kind="one-step")["counts"]
            scores.append((terms, num_seen))
        futures[num_states] = tsppl.leave_future_out(scores, first=FIRST)
        print(f"{num_states} states, fit to all years in {seconds:.1f} s, {in_use[num_states]:.1f} visited")
        unreliable = int((futures[num_states].khat > 0.7).sum())
        print(
            f"    future years: {futures[num_states].densities.sum():.1f} nats, {unreliable} of {NUM_YEARS - FIRST} not reliable"
        )

# %%
# Two questions, two scores. A year left out is told by the years around it. The future is not: the steps are those after the
# first fifty years, each given those before, from the nearest fit that had seen less, reweighted. Scores are nats; what matters
# are differences, with their standard errors.

comparison = tsppl.compare(trees)
print(comparison)
densities = np.stack([future.densities for future in futures.values()])
behind = densities - densities[densities.sum(1).argmax()]
error = np.sqrt(behind.shape[1]) * behind.std(1)
for num_states, total, uncertain in zip(futures, behind.sum(1), error, strict=True):
    print(f"future years, {num_states} states: {total:.1f} nats from the best, standard error {uncertain:.1f}")

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
plot_model_scores(comparison, ax=axes[0])
axes[0].set_title("a year left out, given all others")
axes[1].errorbar(list(futures), behind.sum(1), error, fmt="o-", color="black", linewidth=0.8, capsize=4)
axes[1].axhline(0.0, color="0.6", linestyle=":", linewidth=1)
axes[1].set(xlabel="number of states", ylabel=f"score below the best (nats)\nover {behind.shape[1]} years")
axes[1].set_title("a year given those before")
axes[2].bar(list(in_use), list(in_use.values()), color="0.6")
axes[2].plot(list(in_use), list(in_use), color="black", linestyle=":", label="all")
axes[2].set(xlabel="number of states", ylabel="states visited, mean over draws", title="states that the years need")
axes[2].legend()
for panel in axes[1:]:
    panel.set_xticks(list(futures))
figure.savefig("number_of_states.png", dpi=120)
print(f"figure: {Path('number_of_states.png').resolve()}")
