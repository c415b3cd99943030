"""
Engaged or biased: a GLM-HMM of decisions, partly pooled over subjects
======================================================================

Eight subjects decide left or right in forty sessions. They switch between an engaged state, in which the stimulus decides,
and two biased ones (Ashwood et al. 2022). The weights of each subject are drawn around those of all: forty short
sessions tell more together. The data are simulated, so the truth is known. The second half of each session is held out, and
scored as a session of its own.

    python tutorials/glm_hmm.py            # about four minutes
    python tutorials/glm_hmm.py --quick    # shorter sessions, fewer draws
"""

import argparse

import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax import random
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS
from scipy.special import expit

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import find_starts, starting_params
from tsppl.plots import plot_transition_graph

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="shorter sessions and fewer draws")
quick = parser.parse_args().quick
num_trials, num_draws = (60, 75) if quick else (100, 400)
NAMES = ["engaged", "biased left", "biased right"]

data = tsppl.datasets.simulate_decisions(num_trials=2 * num_trials)
past, new = slice(0, num_trials), slice(num_trials, None)

# %%
# Priors name the states: a strong weight of the stimulus in the first, biases of either sign in the others. Without such
# priors labels would switch between chains, and ``tsppl.align_labels`` would be needed.

MEANS = jnp.array([[4.0, 0.0], [1.0, -2.0], [1.0, 2.0]])


def model(choices, stimulus, subject, num_states=3, num_subjects=8):
    num_sessions, num_trials = stimulus.shape
    means = MEANS if num_states == 3 else jnp.array([[3.0, 0.0]])
    average = numpyro.sample("average", dist.Normal(means, 1.5).to_event(2))
    spread = numpyro.sample("spread", dist.HalfNormal(1.0).expand([2]).to_event(1))
    prior = tsd.sticky_dirichlet(num_states, stickiness=10.0)
    rows = numpyro.sample("transition_probs", prior) if num_states > 1 else jnp.ones((1, 1))
    with numpyro.plate("subjects", num_subjects):
        deviation = numpyro.sample("deviation", dist.Normal(0.0, 1.0).expand([num_states, 2]).to_event(2))
    weights = numpyro.deterministic("weights", average + spread * deviation)[subject]
    logits = stimulus[..., None] * weights[:, None, :, 0] + weights[:, None, :, 1]
    initial = jnp.full((num_sessions, num_states), 1 / num_states)
    with numpyro.plate("session", num_sessions):
        series = tsd.HiddenMarkov(
            initial, rows, dist.Bernoulli(logits=logits), num_steps=num_trials, time_varying=("emission",)
        )
        numpyro.sample("choices", series, obs=choices)


def fit(num_states, num_chains):
    arguments = (data.choices[:, past], data.stimulus[:, past], data.subject, num_states)
    found = find_starts(model, *arguments, num_starts=4, num_steps=200)
    mcmc = MCMC(
        NUTS(model), num_warmup=num_draws, num_samples=num_draws, num_chains=num_chains, chain_method="vectorized", progress_bar=False
    )  # fmt: skip
    mcmc.run(random.key(0), *arguments, init_params=starting_params(model, found.values[:num_chains], *arguments))
    return mcmc, arguments


mcmc, arguments = fit(3, num_chains=2)
draws = mcmc.get_samples(group_by_chain=True)
print(f"{'average weight':28}{'truth':>8}{'mean':>8}{'5 %':>8}{'95 %':>8}{'R-hat':>8}")
row = summary({"average": draws["average"]})["average"]
for state, name in enumerate(NAMES):
    for column, what in enumerate(("stimulus", "bias")):
        numbers = [data.weights.mean(0)[state, column]]
        numbers += [np.asarray(row[key])[state, column] for key in ("mean", "5.0%", "95.0%", "r_hat")]
        print(f"{name + ', ' + what:28}" + "".join(f"{number:8.2f}" for number in numbers))
weights = np.asarray(draws["weights"]).reshape(-1, 8, 3, 2)
within = (np.quantile(weights, 0.05, 0) < data.weights) & (data.weights < np.quantile(weights, 0.95, 0))
error, alone = np.abs(weights.mean(0) - data.weights).mean(), np.abs(weights.mean((0, 1)) - data.weights).mean()
print(
    f"weights of single subjects: {within.mean():.0%} inside their 90 % intervals; error {error:.2f}, of the average {alone:.2f}"
)

# %%
# States of the trials, and how many bits per trial the held-out halves are worth, against one state and against a coin.

probs = tsppl.posterior_latents(random.key(1), model, mcmc, *arguments, what="marginals", num_draws=100)["choices"][
    "state_probs"
]
probs = np.asarray(probs).reshape(-1, *probs.shape[-3:]).mean(0)
print(f"state found at {(probs.argmax(-1) == data.states[:, past]).mean():.0%} of the trials")

single, _ = fit(1, num_chains=1)
for name, fitted, num_states in (("three states", mcmc, 3), ("one state", single, 1)):
    held_out = (data.choices[:, new], data.stimulus[:, new], data.subject, num_states)
    scored = tsppl.log_likelihood(random.key(2), model, fitted, *held_out, kind="one-step", num_draws=100)
    terms = scored["choices"].terms
    scores = np.asarray(terms).reshape(-1, *terms.shape[-2:]).sum(-1)
    bits = (np.logaddexp.reduce(scores, 0) - np.log(len(scores))).sum() / data.choices[:, new].size / np.log(2) + 1
    print(f"held-out halves, {name}: {bits:.3f} bits per trial above a coin")

# %%
# The psychometric curve of each state: the choices that the state explains, and the curves of the subjects.

figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), width_ratios=[1.2, 1, 1.2], layout="constrained")
grid = np.linspace(-1, 1, 101)
levels = np.unique(data.stimulus)
for state, (name, style, color) in enumerate(
    zip(NAMES, ("-", "--", ":"), ("black", "tab:blue", "tab:red"), strict=True)
):
    curves = expit(weights[..., state, :1] * grid + weights[..., state, 1:])
    low, high = np.quantile(curves.mean(1), [0.05, 0.95], axis=0)
    axes[0].fill_between(grid, low, high, color=color, alpha=0.25, linewidth=0)
    axes[0].plot(grid, curves.mean((0, 1)), style, color=color, label=name)
    shares = probs[..., state]
    own = [
        (shares * data.choices[:, past])[data.stimulus[:, past] == level].sum()
        / shares[data.stimulus[:, past] == level].sum()
        for level in levels
    ]
    axes[0].plot(levels, own, "o^v"[state], color=color, markersize=4)
axes[0].set(
    xlabel="stimulus (contrast, right positive)", ylabel="probability of a choice to the right", ylim=(-0.02, 1.02)
)
axes[0].set_xticks([-1, -0.5, 0, 0.5, 1])
axes[0].legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False)
axes[0].annotate("dots: choices", (0.97, 0.5), xycoords="axes fraction", ha="right", fontsize="small")
shown = int(np.argmax((np.diff(data.states[:, past]) != 0).sum(1)))
rows = np.asarray(draws["transition_probs"]).reshape(-1, 3, 3).mean(0)
plot_transition_graph(rows, names=NAMES, shares=probs.mean((0, 1)), smallest=0.005, ax=axes[1])
for state, (name, style, color) in enumerate(
    zip(NAMES, ("-", "--", ":"), ("black", "tab:blue", "tab:red"), strict=True)
):
    axes[2].plot(probs[shown, :, state], style, color=color, label=name)
axes[2].set(xlabel=f"trial of session {shown + 1}", ylabel="probability of the state", ylim=(0, 1))
changes = np.flatnonzero(np.diff(data.states[shown, past])) + 0.5
for number, change in enumerate(changes):
    axes[2].axvline(change, color="0.6", linewidth=0.8, label="true change" if number == 0 else None)
axes[2].legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, frameon=False)
figure.savefig("glm_hmm.png", dpi=150)
print("figure: glm_hmm.png")
