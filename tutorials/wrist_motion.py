"""
What is the wrist doing?
========================

Four students wore a smart watch while standing, walking, running and playing badminton: 80 series of ten seconds, six
channels. Switching autoregressions that never see the activities are fitted by expectation maximisation to half of the
series, with weights that are a low-rank tensor (``SALT``) or free (``AutoregressiveHMM``). The other half says how many
lags are worth having, and whether the hidden states are activities.

The data come with the package aeon: ``pip install --no-deps aeon``. ``--quick`` fits fewer models.
"""

# %%
# Here compiling takes longer than running, so the compiler is told not to optimise. This must come before JAX starts.

import os
import sys
from pathlib import Path

os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true")

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import em, select_low_rank

quick = "--quick" in sys.argv
num_states, num_lags = 4, (10,) if quick else (2, 5, 20)
options = {"num_iters": 40, "tol": 1e-4}

# %%
# Ten series of each activity to fit, ten of each held out, in units of the standard deviation of each channel.

(train, _), (test, activities) = (tsppl.datasets.basic_motions(split) for split in ("train", "test"))
mean, scale = train.mean((0, 1)), train.std((0, 1))
train, test = (jnp.asarray((series - mean) / scale) for series in (train, test))
names = np.unique(activities)
rows = np.searchsorted(names, activities)

# %%
# A low-rank model that uses all six channels, but only three functions of the lag: its number of weights hardly grows
# with the lags. With two lags its rank is full. All models are given the same first steps of each series and are scored
# on the same later ones.

low_rank = select_low_rank(
    train,
    test,
    ranks=[(6, 6, 3)],
    num_lags=num_lags,
    num_states=num_states,
    key=jax.random.key(0),
    num_restarts=2 if quick else 4,
    **options,
)

# %%
# Then the weights are set free, and EM goes on from there: the free weights fit at least as well, with the same states to
# begin with, so that what is lost on the series held out is lost by having too many weights. EM finds local maxima: from
# other starts the model with two lags reaches from 0.61 to 0.68, so smaller differences say little.


def per_step(model, series):
    return float(model.log_prob(series).sum() / model.scored_steps(series).sum())


free = []
for model in low_rank.distributions:
    start = tsd.AutoregressiveHMM(
        model.initial_probs,
        model.transition_probs,
        model.weights,
        model.noise,
        num_steps=model.num_steps,
        num_conditioned=model.num_conditioned,
    )
    free.append(em(start, train, **options).distribution)
free_held_out = [per_step(model, test) for model in free]

print("nats per step")
print("lags    low-rank: weights  fitted  held out    free: weights  fitted  held out")
for index, lags in enumerate(num_lags):
    print(
        f"{lags:4}  {low_rank.num_weights[index]:17}  {low_rank.log_likelihoods[index]:6.2f}"
        f"  {low_rank.held_out[index]:8.2f}  {free[index].weights.size:15}"
        f"  {per_step(free[index], train):6.2f}  {free_held_out[index]:8.2f}"
    )

# %%
# States of the held-out series under the best low-rank model: the most probable path, against the activities. States
# have no names, so they are matched one to one with the activities; purity gives each state to its commonest activity.

best = int(low_rank.held_out.argmax())
model = low_rank.distributions[best]
states = np.asarray(model.latent_mode(test)["states"])
first = model.num_conditioned
counts = np.zeros((len(names), num_states), int)
np.add.at(counts, (rows[:, None], states[:, first:]), 1)
activity_of, state_of = linear_sum_assignment(-counts)
counts, order = counts[:, state_of], np.argsort(state_of)
states = np.where(states < 0, -1, order[states])

print(f"\nsteps of each activity in each state, low-rank model with {num_lags[best]} lags")
print(" " * 10 + "".join(f"   state {state}" for state in range(num_states)))
for name, row in zip(names, counts, strict=True):
    print(f"{name:10}" + "".join(f"{count:10}" for count in row))
print(f"matched one to one: {np.trace(counts) / counts.sum():.0%} of steps; chance is {1 / len(names):.0%}")
print(f"purity: {counts.max(0).sum() / counts.sum():.0%}")

# %%
# One figure: a series of each activity with its states as bands (the first steps have none: they are given); states
# against activities; lags against likelihood.

figure, axes = plt.subplot_mosaic(
    [[*"abcd"], ["counts", "counts", "lags", "lags"]], figsize=(11, 6.5), height_ratios=[1, 1.4], layout="constrained"
)
shades = plt.get_cmap("Greys")(np.linspace(0.15, 0.55, num_states))
seconds = np.arange(test.shape[1]) / 10
for axis, activity in zip("abcd", range(len(names)), strict=True):
    series = np.flatnonzero(rows == activity)[0]
    for state in range(num_states):
        inside = states[series] == state
        axes[axis].fill_between(
            seconds,
            0,
            1,
            where=inside,
            step="mid",
            color=shades[state],
            linewidth=0,
            transform=axes[axis].get_xaxis_transform(),
            label=f"state {state}",
        )
    axes[axis].plot(seconds, test[series, :, 0], color="black", linewidth=0.9)
    axes[axis].set(title=names[activity], xlabel="seconds", xlim=seconds[[0, -1]], ylim=(-3, 4))
axes["a"].set_ylabel("accelerometer 1 (standard deviations)", fontsize="small")
axes["d"].legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize="small", title="bands")

share = counts / counts.sum(1, keepdims=True)
axes["counts"].imshow(share, cmap="Greys", vmin=0, vmax=1, aspect="auto")
for (row, column), value in np.ndenumerate(share):
    axes["counts"].text(
        column, row, f"{value:.0%}", ha="center", va="center", color="white" if value > 0.5 else "black"
    )
axes["counts"].set_xticks(range(num_states), [f"state {state}" for state in range(num_states)])
axes["counts"].set_yticks(range(len(names)), names)
axes["counts"].set_title(f"share of held-out steps, low-rank model, {num_lags[best]} lags")

axes["lags"].plot(num_lags, low_rank.held_out, "o-", color="black", label="low-rank weights")
axes["lags"].plot(num_lags, free_held_out, "s--", color="0.5", label="free weights")
axes["lags"].set_xticks(num_lags)
axes["lags"].set(xlabel="number of lags (tenths of a second)", ylabel="nats per step")
axes["lags"].set_title("log-likelihood of held-out series")
axes["lags"].legend()

path = Path("wrist_motion.png")
figure.savefig(path, dpi=150)
print(f"\nfigure: {path.resolve()}")
