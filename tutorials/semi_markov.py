"""
How long does a behaviour last? Stays that a hidden Markov model cannot have
============================================================================

In a hidden Markov model one step is the most likely length of every stay. Bouts of grooming, notes of a song or stages of sleep
have typical lengths. A hidden semi-Markov model gives each state a law of durations; here two behaviours of like mean
speed, whose bouts last about 12 and about 5 steps. We sample in chunks, so that a run that is killed goes on, and compare
the stays that both models make with those in the data.

    python tutorials/semi_markov.py            # 1,000 steps, about three minutes
    python tutorials/semi_markov.py --quick    # 200 steps, fewer draws
"""

import argparse
import tempfile

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import run_in_chunks
from tsppl.plots import plot_dwell_times

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="a shorter series and fewer draws")
quick = parser.parse_args().quick
num_steps, num_draws = (200, 30) if quick else (1000, 201)
SWAP = jnp.array([[0.0, 1.0], [1.0, 0.0]])

# %%
# Durations are one step plus a draw: negative binomial with means 11 and 4, and hardly any spread beyond Poisson's.


def series(mean, concentration, loc, num_steps):
    durations = dist.NegativeBinomial2(mean, concentration)
    return tsd.HiddenSemiMarkov(
        jnp.full(2, 0.5), SWAP, durations, dist.Normal(loc, 1.0), num_steps=num_steps, max_duration=24
    )


def sample_locations():
    """Of two states, the slower one first, so that labels do not switch."""
    slow, gap = numpyro.sample("slow", dist.Normal(0.0, 1.0)), numpyro.sample("gap", dist.Gamma(4.0, 3.0))
    return numpyro.deterministic("loc", jnp.stack([slow, slow + gap]))


TRUTH = {"mean": jnp.array([11.0, 4.0]), "concentration": jnp.array([50.0, 50.0]), "loc": jnp.array([0.0, 1.5])}
speed, latents = series(**TRUTH, num_steps=num_steps).sample_with_latents(random.key(0))
states = np.asarray(latents["states"])


def semi_markov(speed, num_steps):
    mean = numpyro.sample("mean", dist.LogNormal(1.5, 1.0).expand([2]).to_event(1))
    concentration = numpyro.sample("concentration", dist.LogNormal(2.0, 1.5).expand([2]).to_event(1))
    loc = sample_locations()
    numpyro.sample("speed", series(mean, concentration, loc, num_steps), obs=speed)


def markov(speed, num_steps):
    leave = numpyro.sample("leave", dist.Beta(1.0, 9.0).expand([2]).to_event(1))
    loc = sample_locations()
    rows = jnp.stack([jnp.array([1 - leave[0], leave[0]]), jnp.array([leave[1], 1 - leave[1]])])
    chain = tsd.HiddenMarkov(jnp.full(2, 0.5), rows, dist.Normal(loc, 1.0), num_steps=num_steps)
    numpyro.sample("speed", chain, obs=speed)


# %%
# Every chunk of draws is on disk before the next begins. The same call, made again after a crash, goes on.

fits = {}
with tempfile.TemporaryDirectory() as folder:
    for model in (semi_markov, markov):
        mcmc = MCMC(NUTS(model), num_warmup=num_draws, num_samples=num_draws, num_chains=2, chain_method="vectorized")
        path = f"{folder}/{model.__name__}"
        fits[model] = run_in_chunks(
            mcmc, random.key(1), speed, num_steps, path=path, chunk_size=num_draws // 3, progress_bar=False
        )

print(f"{'semi-Markov':24}{'truth':>8}{'mean':>8}{'5 %':>8}{'95 %':>8}{'R-hat':>8}")
draws = fits[semi_markov].get_samples(group_by_chain=True)
for name, row in summary({name: draws[name] for name in TRUTH}).items():
    for state in range(2):
        numbers = [TRUTH[name][state], *(np.asarray(row[key])[state] for key in ("mean", "5.0%", "95.0%", "r_hat"))]
        print(f"{f'{name}, state {state}':24}" + "".join(f"{number:8.2f}" for number in numbers))

# %%
# Which model predicts the next step better, and which finds the states.

for model, mcmc in fits.items():
    scored = tsppl.log_likelihood(random.key(2), model, mcmc, speed, num_steps, kind="one-step", num_draws=50)
    terms = scored["speed"].terms
    probs = tsppl.posterior_latents(random.key(2), model, mcmc, speed, num_steps, what="marginals", num_draws=50)
    probs = np.asarray(probs["speed"]["state_probs"]).reshape(-1, num_steps, 2).mean(0)
    found = (probs.argmax(-1) == states).mean()
    print(
        f"{model.__name__}: log-likelihood {np.asarray(terms).sum(-1).mean():.1f}, state found at {found:.1%} of the steps"
    )

# %%
# Stays in the data, which are known here, and in data that each fitted model makes.

figure, axes = plt.subplots(2, 2, figsize=(9, 5.5), sharex=True, layout="constrained")
for row, (model, mcmc) in zip(axes, fits.items(), strict=True):
    draws = {name: array[:: len(array) // 20] for name, array in mcmc.get_samples().items() if name != "loc"}

    def simulate(key, draw, model=model):
        seeded = numpyro.handlers.seed(numpyro.handlers.condition(model, draw), key)
        site = numpyro.handlers.trace(seeded).get_trace(None, 500)["speed"]
        return site["fn"].sample_with_latents(key)[1]["states"]

    simulated = jax.vmap(simulate)(random.split(random.key(3), len(draws["gap"])), draws)
    stays = tsppl.dwell_times(states, 2)
    plot_dwell_times(stays, simulated=tsppl.dwell_times(simulated, 2), label="in the data", largest=25, axes=row)
    row[0].set_ylabel(f"{model.__name__.replace('_', '-')}\nshare of stays")
figure.savefig("semi_markov.png", dpi=150)
print("figure: semi_markov.png")
