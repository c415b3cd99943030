"""
How many economies are in eight series?
=======================================

Growth, prices, interest and unemployment of the United States, 1959 to 2009, as a vector autoregression. With free
weights and a year or two of lags it has more numbers than quarters can settle; as a low-rank tensor it has few. Quarters
that were not fitted choose the lags and the rank, later ones judge the choice, and the chosen model shows how the economy
answers to a shock.

The data come with the package statsmodels. ``--quick`` fits fewer models.
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
import numpyro.distributions as dist

import tsppl
import tsppl.distributions as tsd
from tsppl.inference import select_low_rank

jax.config.update("jax_enable_x64", True)
quick = "--quick" in sys.argv

# %%
# Growth in per cent a year; rates as they are. Everything in standard deviations of the quarters that are fitted.

table, quarters = tsppl.datasets.macrodata()
grown = {
    "realgdp": "GDP",
    "realcons": "consumption",
    "realinv": "investment",
    "realgovt": "government",
    "realdpi": "income",
}
rates = {"infl": "inflation", "tbilrate": "interest", "unemp": "unemployment"}
values = [400 * np.diff(np.log(table[name])) for name in grown] + [table[name][1:] for name in rates]
names, quarters = [*grown.values(), *rates.values()], quarters[1:]

lags = (2, 8) if quick else (2, 4, 8)
dates = ("1990-01", "2000-01", "2008-01")
chosen_from, judged_from, crisis_from = (int(np.searchsorted(quarters, np.datetime64(date))) for date in dates)
values = np.stack(values, axis=1)
values = (values - values[:chosen_from].mean(0)) / values[:chosen_from].std(0)
fitted = values[:chosen_from]
periods = {
    "fitted": (max(lags), chosen_from),
    "choosing": (chosen_from, judged_from),
    "judging": (judged_from, crisis_from),
    "crisis": (crisis_from, len(quarters)),
}
stretches = [values[start - max(lags) : stop] for start, stop in periods.values()]


def years(start, stop):
    return f"{quarters[start]} to {quarters[stop - 1]}"


for name, (start, stop) in periods.items():
    print(f"{name:8} {years(start, stop)}, {stop - start} quarters")

# %%
# A model of one state is a vector autoregression. Ranks: an integer is CP, three are Tucker. Each model is given the same
# first quarters and predicts the same later ones, a quarter ahead.

ranks = [4] if quick else [2, 4, 6, (4, 4, 2)]
selection = select_low_rank(
    fitted, stretches[1], ranks=ranks, num_lags=lags, num_states=1, key=jax.random.key(0), num_restarts=1, num_iters=200
)


def autoregression(weights, noise, series):
    """Any of the models for another stretch of quarters; lags that it lacks have weight zero."""
    weights = jnp.pad(weights, ((0, 0), (0, max(lags) - weights.shape[1]), (0, 0), (0, 0)))
    return tsd.AutoregressiveHMM(jnp.ones(1), jnp.ones((1, 1)), weights, noise, num_steps=len(series))


log_prob = jax.jit(lambda model, series: model.log_prob(series))


def score(weights, noise, series):
    """Nats a quarter."""
    return float(log_prob(autoregression(weights, noise, series), series)) / (len(series) - max(lags))


# %%
# The usual remedy for too many weights is a ridge: each weight is pulled to zero by a normal prior, whose strength is chosen
# like the ranks. Without it the weights are free.


def ridge_autoregression(num_lags, strength):
    start, size = max(lags), fitted.shape[1]
    past = np.concatenate([fitted[start - lag : len(fitted) - lag] for lag in range(1, num_lags + 1)], axis=1)
    outputs = fitted[start:]
    middle = past.mean(0)
    gram = (past - middle).T @ (past - middle) + strength * np.eye(past.shape[1])
    coefficients = np.linalg.solve(gram, (past - middle).T @ (outputs - outputs.mean(0)))
    residuals = outputs - outputs.mean(0) - (past - middle) @ coefficients
    bias, covariance = outputs.mean(0) - middle @ coefficients, residuals.T @ residuals / len(residuals)
    weights = coefficients.reshape(num_lags, size, size).swapaxes(1, 2)
    return weights[None], dist.MultivariateNormal(bias[None], covariance[None])


models = [
    (rank, lag, model.weights, model.noise)
    for rank, lag, model in zip(*selection[:2], selection.distributions, strict=True)
]
counts = list(selection.num_weights)
for lag in (1, *lags):
    for strength in (0, 1, 10, 100, 1000):
        models.append((f"ridge {strength}" if strength else None, lag, *ridge_autoregression(lag, strength)))
        counts.append(lag * fitted.shape[1] ** 2)
scores = np.array([[score(*model[2:], series) for series in stretches] for model in models])


def family(rank):
    return {type(None): "free weights", int: "CP", tuple: "Tucker", str: "ridge"}[type(rank)]


print("\nnats a quarter: the best of each family and number of lags, by the quarters for choosing")
print("family        rank        lags  weights   fitted  choosing  judging   crisis")
shown = {}
for index, (rank, lag, *_) in enumerate(models):
    shown.setdefault((family(rank), lag), []).append(index)
for (name, lag), indices in shown.items():
    index = max(indices, key=lambda i: scores[i, 1])
    rank = "" if models[index][0] is None else str(models[index][0]).removeprefix("ridge ")
    print(f"{name:12}  {rank:10}  {lag:4}  {counts[index]:7}  " + " ".join(f"{s:8.2f}" for s in scores[index]))

low_rank = [index for index, model in enumerate(models) if family(model[0]) in ("CP", "Tucker")]
best = max(low_rank, key=lambda index: scores[index, 1])
rank, num_lags, weights, noise = models[best]
print(f"\nchosen among the low-rank models: {family(rank)} of rank {rank} with {num_lags} lags")

# %%
# How do the series answer, over three years, to a surprise of one standard deviation in the interest rate? The surprise
# moves no other series in its own quarter: this is the response of the forecast, not a claim about causes.

steps, shocked = 12, "interest"
model = autoregression(weights, noise, fitted)
response = np.asarray(model.impulse_response(steps))[0, :, :, names.index(shocked)]
size = float(np.sqrt(np.asarray(noise.covariance_matrix)[0, names.index(shocked), names.index(shocked)]))
largest = np.abs(model.companion_eigenvalues()).max()
print(f"largest companion eigenvalue {largest:.3f}: " + ("stable" if largest < 1 else "not stable"))
free = next(model for model in models if model[0] is None and model[1] == num_lags)
free_response = np.asarray(autoregression(*free[2:], fitted).impulse_response(steps))[0, :, :, names.index(shocked)]
for name, path in zip(names, size * response.T, strict=True):
    quarter = np.abs(path).argmax()
    print(f"{name:12} {path[quarter]:+.2f} standard deviations after {quarter} quarters")

figure, axes = plt.subplots(2, 4, figsize=(11, 5.2), sharex=True, layout="constrained")
for axis, name, path, free_path in zip(axes.flat, names, size * response.T, size * free_response.T, strict=True):
    axis.axhline(0, color="0.7", linewidth=0.8)
    axis.plot(free_path, color="0.5", linestyle="--", label="free weights")
    axis.plot(path, color="black", marker="o", markersize=3, label=f"{family(rank)}, rank {rank}")
    axis.set_title(name)
axes[1, 3].legend(fontsize="small", loc="lower right")
figure.suptitle(
    f"Response to a surprise of one standard deviation in the interest rate; {num_lags} lags, fitted {years(max(lags), chosen_from)}"
)
figure.supxlabel("quarters after the surprise")
figure.supylabel("standard deviations of the series")
responses_path = Path("macroeconomic_responses.png")
figure.savefig(responses_path, dpi=150)

# %%
# Does the choice hold later? Every model, by its number of weights, in the quarters that chose and in those that judge.
# Low rank keeps four and eight lags affordable, where free weights, ridge or not, lose much. But two lags of free weights
# are nearly as good, and from 2000 on one lag is a little better than everything else: a rank chosen on forty quarters
# is no promise. The crisis is beyond what any of these models expects; one lag is the least surprised.

figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), sharex=True, layout="constrained")
markers = {"CP": "o", "Tucker": "^", "free weights": "s", "ridge": "x"}
for column, (axis, period) in enumerate(zip(axes, [periods["choosing"], periods["judging"]], strict=True)):
    for name, marker in markers.items():
        own = [index for index, model in enumerate(models) if family(model[0]) == name]
        shade = "0.45" if name in ("free weights", "ridge") else "black"
        axis.plot([counts[i] for i in own], scores[own, column + 1], marker, color=shade, fillstyle="none", label=name)
    axis.plot(
        counts[best], scores[best, column + 1], "o", color="black", markersize=13, fillstyle="none", label="chosen"
    )
    axis.set(
        xscale="log", title=("choosing: " if column == 0 else "judging: ") + years(*period), xlabel="number of weights"
    )
    axis.set_xticks([64, 128, 256, 512], [64, 128, 256, 512])
    axis.minorticks_off()
axes[0].set_ylabel("log-likelihood one quarter ahead (nats a quarter)")
axes[1].legend(fontsize="small")
scores_path = Path("macroeconomic_ranks.png")
figure.savefig(scores_path, dpi=150)
print(f"\nfigures: {scores_path.resolve()} and {responses_path.resolve()}")
