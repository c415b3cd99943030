"""
How many kinds of year do earthquakes have?
===========================================

Poisson hidden Markov models with one to four states for the yearly number of major earthquakes, 1900 to 2006: fit by
NUTS, compare by leave-one-year-out cross-validation, decode the states, and forecast ten years. ``--quick`` compares one and
three states only, with shorter chains.
"""

# %%
# The model is ordinary NumPyro. The hidden states are summed out inside ``HiddenMarkov``.

import sys
from pathlib import Path

import arviz as az
import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

import tsppl
import tsppl.distributions as tsd
from tsppl.plots import plot_decoded_series

NUMBERS, DRAWS = ((1, 3), 300) if "--quick" in sys.argv else ((1, 2, 3, 4), 500)

counts, years = tsppl.datasets.earthquakes()


def model(counts, num_states, num_steps):
    initial_probs = numpyro.sample("initial_probs", dist.Dirichlet(jnp.ones(num_states)))
    sticky = jnp.ones((num_states, num_states)) + 4 * jnp.eye(num_states)
    transition_probs = numpyro.sample("transition_probs", dist.Dirichlet(sticky).to_event(1))
    rate = numpyro.sample("rate", dist.Gamma(4.0, 0.2).expand([num_states]).to_event(1))
    numpyro.sample(
        "counts",
        tsd.HiddenMarkov(initial_probs, transition_probs, dist.Poisson(rate), num_steps=num_steps),
        obs=counts,
    )


# %%
# Four chains for each number of states. ``to_arviz`` adds the log-probability of each year given all the others,
# which is what PSIS-LOO needs when years depend on each other.

dims = {"initial_probs": ["state"], "transition_probs": ["state", "state_to"], "rate": ["state"]}
fits, trees = {}, {}
for num_states in NUMBERS:
    print(f"{num_states} state(s)")
    mcmc = MCMC(NUTS(model), num_warmup=DRAWS, num_samples=DRAWS, num_chains=4, chain_method="vectorized")
    mcmc.run(jax.random.key(num_states), counts, num_states, len(counts))
    fits[num_states] = mcmc
    trees[f"{num_states} states"] = tsppl.to_arviz(mcmc, coords={"time": years}, dims=dims)

comparison = az.compare(trees)
print(comparison.to_string())
best = int(comparison.index[0].split()[0])

# %%
# Labels mean nothing until the draws agree on them.

tree = tsppl.align_labels(trees[f"{best} states"], model, (counts, best, len(counts)))
print(az.summary(tree, var_names=["rate", "transition_probs"]).to_string())

# %%
# Which state was each year in, and what do the next ten years look like?

arguments = (counts, best, len(counts))
state_probs = tsppl.posterior_latents(jax.random.key(0), model, tree, *arguments, what="marginals")["counts"][
    "state_probs"
]
state_probs = np.asarray(state_probs).mean((0, 1))
rates = np.asarray(tree["posterior"]["rate"]).mean((0, 1))
path = state_probs.argmax(-1)
for state in np.argsort(rates):
    print(f"state {state}: {rates[state]:.1f} earthquakes a year, most probable in {(path == state).sum()} years")

forecast = tsppl.forecast(jax.random.key(1), model, tree, 10, *arguments)["counts"]["value"]
print("forecast 2007 to 2016, median:", np.median(forecast, axis=(0, 1)).astype(int).tolist())

# %%
# One figure: counts with the decoded level and the forecast band above, state probabilities below.

axes = plot_decoded_series(
    years,
    counts,
    state_probs,
    state_names=[f"about {rate:.0f} a year" for rate in rates],
    state_levels=rates,
    future_times=years[-1] + 1 + np.arange(10),
    forecast=forecast,
    ylabel="major earthquakes a year",
)
path = Path("quickstart.png")
axes[0].figure.savefig(path, dpi=150)
print(f"figure: {path.resolve()}")
