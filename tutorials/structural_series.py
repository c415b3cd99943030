"""
Level, seasons and gaps: carbon dioxide in the air
==================================================

A structural time series adds up a trend, a seasonal pattern and noise, each with a scale of its own. The blocks of
``tsppl.structural`` give the matrices, the names of what is hidden and priors in the units of the data; everything else
is NumPyro. We fit Mauna Loa's monthly series, whose first years have gaps, up to 1995, draw the missing months, and
forecast the six years that follow, which are known.

    python tutorials/structural_series.py            # 38 years, two minutes
    python tutorials/structural_series.py --quick    # 6 years, fewer draws
"""

import argparse

import matplotlib.pyplot as plt
import numpy as np
import numpyro
from jax import random
from numpyro.diagnostics import summary
from numpyro.infer import MCMC, NUTS

import tsppl
from tsppl import structural
from tsppl.plots import plot_components, plot_forecast

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="a shorter series and fewer draws")
quick = parser.parse_args().quick
first, num_draws = ("1990-01", 75) if quick else ("1958-03", 500)
numpyro.enable_x64()

# %%
# First the textbook's example, to see that the likelihood is the one that econometricians know: a local level for the
# Nile, at the published estimates (Durbin and Koopman 2012), without the first year, from which the level starts.

volumes, _ = tsppl.datasets.nile()
estimates = {"level_scale": 1469.1**0.5, "noise_scale": 15098.5**0.5}
terms = structural.level().distribution(estimates, num_steps=100, scale=100.0).log_prob_steps(volumes.astype(float))
print(f"Nile, log-likelihood: statsmodels -632.5377, here {terms[1:].sum():.4f}")

# %%
# The model of carbon dioxide: three blocks in one line.

ppm, months = tsppl.datasets.co2()
ppm, months = (array[months >= np.datetime64(first)] for array in (ppm, months))
num_steps = int((months < np.datetime64("1996-01")).sum())
past, after = ppm[:num_steps], ppm[num_steps:]
blocks = structural.trend() + structural.seasonal(12, harmonics=4)


def model(ppm, num_steps):
    mask = None if ppm is None else ~np.isnan(ppm)
    series = blocks.sample_distribution(num_steps=num_steps, loc=350.0 if quick else 315.0, scale=3.0, mask=mask)
    numpyro.sample("ppm", series, obs=ppm)


mcmc = MCMC(
    NUTS(model),
    num_warmup=num_draws,
    num_samples=num_draws,
    num_chains=2,
    chain_method="vectorized",
    progress_bar=False,
)
mcmc.run(random.key(0), past, num_steps)
print(
    f"\n{num_steps} months, {np.isnan(past).sum()} of them missing\n{'scale (ppm)':22}{'mean':>8}{'5 %':>8}{'95 %':>8}{'R-hat':>8}"
)
for name, row in summary(mcmc.get_samples(group_by_chain=True)).items():
    print(f"{name:22}" + "".join(f"{row[key]:8.3f}" for key in ("mean", "5.0%", "95.0%", "r_hat")))

# %%
# The hidden trajectory as named components.

trajectory = tsppl.posterior_latents(random.key(1), model, mcmc, past, num_steps, num_draws=100)["ppm"]["trajectory"]
parts = {name: np.asarray(part) for name, part in blocks.components(trajectory).items()}
slope = 12 * np.asarray(trajectory)[..., blocks.latent_names.index("level slope")]
figure, axes = plt.subplots(3, 1, figsize=(9, 6.4), sharex=True, layout="constrained")
shown = {"level": parts["level"], "slope of the level, a year": slope, "seasonal": parts["seasonal"]}
plot_components(months[:num_steps], shown, observed=past, ylabel="ppm", axes=axes)
figure.savefig("structural_components.png", dpi=150)
yearly = slope.mean((0, 1)) if slope.ndim == 3 else slope.mean(0)
print(f"\nrise, ppm a year: {yearly[:60].mean():.2f} in the first five years, {yearly[-60:].mean():.2f} in the last")

# %%
# What the missing months were, and what came after 1995.

ahead = np.asarray(tsppl.forecast(random.key(2), model, mcmc, len(after), past, num_steps)["ppm"]["value"])
ahead = ahead.reshape(-1, len(after))
inside = np.mean((np.quantile(ahead, 0.05, 0) < after) & (after < np.quantile(ahead, 0.95, 0)))
error = np.abs(np.median(ahead, 0) - after).mean()
print(f"forecast of {len(after)} months: mean error of the median {error:.2f} ppm, {inside:.0%} inside the 90 % bands")

shown = slice(max(num_steps - 96, 0), num_steps)
if quick:
    figure, below = plt.subplots(figsize=(9, 3.2), layout="constrained")
else:
    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), layout="constrained")
    completed = tsppl.complete(random.key(3), model, mcmc, past, num_steps, num_draws=200)["ppm"]
    completed = np.asarray(completed).reshape(-1, num_steps)[:, :96]
    middle, low, high = np.quantile(completed, [0.5, 0.05, 0.95], 0)
    gaps = np.isnan(past[:96])
    above.plot(months[:96], past[:96], color="0.35", linewidth=1, marker=".", markersize=3, label="observed")
    bars = (middle - low)[gaps], (high - middle)[gaps]
    above.errorbar(
        months[:96][gaps],
        middle[gaps],
        yerr=bars,
        fmt="o",
        color="tab:red",
        markersize=4,
        capsize=2,
        label="missing months, 90 %",
    )
    above.set_ylabel("CO2 (ppm)")
    above.legend(loc="upper left", fontsize="small")
    print(
        "missing months, ppm: "
        + ", ".join(f"{m} {v:.1f}" for m, v in zip(months[:96][gaps], middle[gaps], strict=True))
    )
plot_forecast(
    months[num_steps:], ahead, history=(months[shown], past[shown]), observed=after, ylabel="CO2 (ppm)", ax=below
)
figure.savefig("structural_forecast.png", dpi=150)
print("figures: structural_components.png, structural_forecast.png")
