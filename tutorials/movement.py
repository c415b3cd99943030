"""
Where does an animal rest, and what makes it move?
==================================================

Locations at regular times become step lengths and turning angles, and a hidden Markov model sorts them into behaviours. Here
resting animals sometimes do not move at all (zero-inflated steps), a part of the fixes is lost, and temperature changes how
likely they set off. The data are simulated by the recipe in the manual of the R package moveHMM, so the truth is known.

    python tutorials/movement.py            # five animals, 400 fixes each, about three minutes
    python tutorials/movement.py --quick    # 120 fixes each, fewer draws
"""

import argparse

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
from tsppl.inference import find_starts, starting_params
from tsppl.plots import (
    plot_dwell_times,
    plot_pseudo_residuals,
    plot_regime_probability,
    plot_state_densities,
    plot_transition_curves,
)

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="shorter tracks and fewer draws")
quick = parser.parse_args().quick
num_steps, num_draws = (120, 100) if quick else (400, 500)
NAMES = ["resting", "travelling"]

# %%
# A lost fix takes two steps and three turns with it; both streams have gaps of their own.

tracks = tsppl.datasets.simulate_movement(num_steps=num_steps)
steps, turns = tsppl.steps_and_turns(tracks.locations)
value = np.stack([steps, turns], -1)
lost, no_step, no_turn = (np.isnan(array).mean() for array in (tracks.locations[..., 0], steps, turns))
print(f"{lost:.0%} of the fixes are lost, so {no_step:.0%} of the steps and {no_turn:.0%} of the turns are unknown")
warmth = (tracks.temperature - 20) / 5

# %%
# The model. Streams share the hidden state: two sites would have two independent ones. Row ``t`` of the transitions
# moves step ``t`` to ``t + 1``, so the temperature of the step of arrival is ``warmth[:, 1:]``.


def emission(values):
    mean, deviation = values["mean_step"], values["deviation"]
    steps = dist.Gamma((mean / deviation) ** 2, mean / deviation**2)
    turns = dist.VonMises(jnp.array([jnp.pi, 0.0]), values["concentration"])
    return tsd.Streams(step=tsd.ZeroInflated(steps, values["still"]), turn=turns)


def transition_logits(intercept, slope, warmth):
    leave = intercept + slope * warmth[..., None]
    zero = jnp.zeros_like(leave[..., 0])
    rows = [jnp.stack([zero, leave[..., 0]], -1), jnp.stack([leave[..., 1], zero], -1)]
    return jnp.stack(rows, -2)


def model(value, warmth):
    num_animals, num_steps = warmth.shape
    values = {
        "mean_step": numpyro.sample("mean_step", dist.LogNormal(jnp.array([0.0, 2.0]), 1.0).to_event(1)),
        "deviation": numpyro.sample("deviation", dist.LogNormal(jnp.array([0.0, 1.5]), 1.0).to_event(1)),
        "still": numpyro.sample("still", dist.Beta(1.0, jnp.array([3.0, 30.0])).to_event(1)),
        "concentration": numpyro.sample("concentration", dist.Gamma(2.0, 1.0).expand([2]).to_event(1)),
    }
    intercept = numpyro.sample("intercept", dist.Normal(-2.0, 1.0).expand([2]).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
    logits = transition_logits(intercept, slope, warmth[:, 1:])
    mask = None if value is None else ~np.isnan(value)
    with numpyro.plate("animal", num_animals):
        series = tsd.HiddenMarkov(
            jnp.full((num_animals, 2), 0.5), emission=emission(values), transition_logits=logits, num_steps=num_steps,
            time_varying=("transition_logits",), mask=mask,
        )  # fmt: skip
        numpyro.sample("y", series, obs=value)


# %%
# Look before sampling: every site at a few draws of the prior. Then climb from several draws, and start each chain from
# one of the best points.

print(tsppl.check_model(model, value, warmth), "\n")
found = find_starts(model, value, warmth, num_starts=6, num_steps=200)
print(found, "\n")
mcmc = MCMC(
    NUTS(model),
    num_warmup=num_draws,
    num_samples=num_draws,
    num_chains=2,
    chain_method="vectorized",
    progress_bar=False,
)
mcmc.run(random.key(0), value, warmth, init_params=starting_params(model, found.values[:2], value, warmth))

truth = {
    "mean_step": (1, 10), "deviation": (1, 5), "still": (0.2, 0), "concentration": (0.5, 2),
    "intercept": (-1.5, -2), "slope": (0.75, -0.5),
}  # fmt: skip
print(f"{'':26}{'truth':>8}{'mean':>8}{'5 %':>8}{'95 %':>8}{'R-hat':>8}")
for name, row in summary(mcmc.get_samples(group_by_chain=True)).items():
    for state, label in enumerate(NAMES):
        numbers = [truth[name][state], *(np.asarray(row[key])[state] for key in ("mean", "5.0%", "95.0%", "r_hat"))]
        print(f"{name + ', ' + label:26}" + "".join(f"{number:8.2f}" for number in numbers))

# %%
# Which behaviour at which step, and the map.

probs = tsppl.posterior_latents(random.key(1), model, mcmc, value, warmth, what="marginals", num_draws=100)["y"][
    "state_probs"
]
probs = np.asarray(probs).reshape(-1, *probs.shape[-3:]).mean(0)
path = probs.argmax(-1)
print(f"\nstate found at {(path == tracks.states).mean():.1%} of the steps")

draws = {name: array[:: max(1, len(array) // 100)] for name, array in mcmc.get_samples().items()}
figure, axes = plt.subplots(2, 2, figsize=(10, 7.5), layout="constrained")
x, y = np.moveaxis(tracks.locations[0], -1, 0)
axes[0, 0].plot(x, y, color="0.7", linewidth=0.7, zorder=1)
for state, (marker, color) in enumerate(zip("o^", ("tab:purple", "tab:olive"), strict=True)):
    own = path[0] == state
    axes[0, 0].scatter(x[own], y[own], s=14, marker=marker, color=color, label=NAMES[state], zorder=2)
axes[0, 0].set(
    xlabel="east (km)", ylabel="north (km)", title="first animal, decoded", aspect="equal", adjustable="datalim"
)
axes[0, 0].legend(fontsize="small")

grid, angles = np.linspace(0.02, 30, 300), np.linspace(-np.pi, np.pi, 200)
by_state = jax.vmap(lambda values: jnp.exp(emission(values).streams[0].base.log_prob(grid[:, None])).T)(draws)
plot_state_densities(
    steps[steps > 0], grid, by_state, weights=probs[steps > 0].mean(0), names=NAMES, xlabel="step length (km), zeros left out",
    ax=axes[0, 1],
)  # fmt: skip
by_state = jax.vmap(lambda values: jnp.exp(emission(values).streams[1].log_prob(angles[:, None])).T)(draws)
known = np.isfinite(turns)
plot_state_densities(
    turns[known],
    angles,
    by_state,
    weights=probs[known].mean(0),
    names=NAMES,
    xlabel="turning angle (rad)",
    ax=axes[1, 0],
)

temperatures = np.linspace(5, 35, 61)
curves = jax.vmap(
    lambda values: jax.nn.softmax(transition_logits(values["intercept"], values["slope"], (temperatures - 20) / 5))
)(draws)
plot_transition_curves(
    temperatures, curves, names=NAMES, xlabel="temperature (C)", values=tracks.temperature[0], ax=axes[1, 1]
)
figure.savefig("movement.png", dpi=150)

# %%
# Do stays last as the model says? Decoded stays beside those of new data at the same temperatures.

one = {name: array[:20] for name, array in draws.items()}
predict = jax.vmap(
    lambda key, values: tsd.HiddenMarkov(
        jnp.full((5, 2), 0.5), emission=emission(values), num_steps=num_steps, time_varying=("transition_logits",),
        transition_logits=transition_logits(values["intercept"], values["slope"], warmth[:, 1:]),
    ).sample_with_latents(key)[1]["states"]
)  # fmt: skip
simulated = tsppl.dwell_times(np.asarray(predict(random.split(random.key(2), 20), one)), 2)
decoded = tsppl.dwell_times(path, 2)
axes = plot_dwell_times(decoded, simulated=simulated, names=NAMES, unit="fixes", largest=20)
axes[0].figure.savefig("movement_stays.png", dpi=150)
for name, own, others in zip(NAMES, decoded, simulated, strict=True):
    print(f"stays {name}: mean {own.mean():.1f} fixes decoded, {others.mean():.1f} simulated")

# %%
# Is the model right? Where each step length lies in the distribution that the fixes before it predict: normal and
# independent if it is.

residuals = tsppl.pseudo_residuals(random.key(3), model, mcmc, value, warmth, num_draws=20)["y"].normal
axes = plot_pseudo_residuals(residuals[..., 0], name="step lengths")
axes[0].figure.savefig("movement_residuals.png", dpi=150)
print(
    f"pseudo-residuals of the steps: mean {np.nanmean(residuals[..., 0]):.2f}, deviation {np.nanstd(residuals[..., 0]):.2f}"
)

# %%
# A real animal: body temperature of a beaver every ten minutes, and whether it was seen to be active. Temperature drifts, so
# each state is an autoregression of one lag. Nothing is told of its activity but at both ends.

celsius, active, times = tsppl.datasets.beaver()
known = np.where((np.arange(100) < 6) | (np.arange(100) >= 94), active, -1)


def beaver(celsius, num_steps):
    level = numpyro.sample("level", dist.Normal(jnp.array([37.0, 38.0]), 0.3).to_event(1))
    lag = numpyro.sample("lag", dist.Uniform(0.0, 0.95))
    scale = numpyro.sample("scale", dist.HalfNormal(0.3))
    stay = numpyro.sample("stay", dist.Beta(20.0, 1.0).expand([2]).to_event(1))
    rows = jnp.stack([jnp.stack([stay[0], 1 - stay[0]]), jnp.stack([1 - stay[1], stay[1]])])
    noise = dist.Normal((1 - lag) * level, scale)
    series = tsd.AutoregressiveHMM(
        jnp.full(2, 0.5), rows, jnp.broadcast_to(lag, (2, 1)), noise, num_steps=num_steps, known_states=known
    )
    numpyro.sample("celsius", series, obs=celsius)


mcmc = MCMC(
    NUTS(beaver),
    num_warmup=num_draws,
    num_samples=num_draws,
    num_chains=2,
    chain_method="vectorized",
    progress_bar=False,
)
mcmc.run(random.key(4), celsius, 100)
probs = tsppl.posterior_latents(random.key(5), beaver, mcmc, celsius, 100, what="marginals", num_draws=100)["celsius"][
    "state_probs"
]
probs = np.asarray(probs).reshape(-1, 100, 2).mean(0)[:, 1]
found = (probs > 0.5) == active
print(f"beaver: activity as seen at {found[6:94].mean():.0%} of the steps between")
figure, (above, below) = plt.subplots(2, 1, figsize=(8, 4.4), sharex=True, height_ratios=[2, 1], layout="constrained")
above.plot(times, celsius, "k.-", linewidth=0.8, markersize=4)
above.axvspan(times[active == 1][0], times[-1], color="0.88", linewidth=0, label="seen active")
above.set_ylabel("body temperature (C)")
above.legend(loc="upper left", fontsize="small")
plot_regime_probability(times, probs, shaded=[(times[active == 1][0], times[-1])], name="activity", ax=below)
below.get_legend().remove()
below.set_xlabel("day and hour, November 1990")
figure.savefig("movement_beaver.png", dpi=150)
print("figures: movement.png, movement_stays.png, movement_residuals.png, movement_beaver.png")
