"""
Recessions, then and now: Hamilton's and Filardo's models of the business cycle
===============================================================================

Hamilton (1989) let the mean growth of the economy switch between two states and found the recessions that committees date
by hand. His autoregression acts on deviations from the mean of each quarter's own state: ``MeanSwitchingAutoregression``.
We reproduce his likelihood to the last published digit, put priors on his model, compare it with the intercept form that
is often taken for it, and forecast. Filardo (1994) lets a leading index move the transition probabilities.

    python tutorials/business_cycle.py            # both models by NUTS, about three minutes
    python tutorials/business_cycle.py --quick    # fewer draws, Filardo's at his published parameters only
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
from tsppl.plots import plot_regime_probability

parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
parser.add_argument("--quick", action="store_true", help="fewer draws")
quick = parser.parse_args().quick
num_draws = 100 if quick else 1000
numpyro.enable_x64()

growth, quarters = tsppl.datasets.hamilton_gnp()
# Months of peaks and troughs, by the National Bureau of Economic Research.
RECESSIONS = np.array(
    [
        ("1948-11", "1949-10"), ("1953-07", "1954-05"), ("1957-08", "1958-04"), ("1960-04", "1961-02"),
        ("1969-12", "1970-11"), ("1973-11", "1975-03"), ("1980-01", "1980-07"), ("1981-07", "1982-11"),
        ("1990-07", "1991-03"),
    ],
    "datetime64[M]",
)  # fmt: skip


# %%
# Hamilton's model at his published estimates. The chain starts from its stationary probabilities, at the first of the four
# quarters that are given.


def two_states(stay_low, stay_high):
    transition_probs = jnp.array([[stay_low, 1 - stay_low], [1 - stay_high, stay_high]])
    stationary = jnp.array([1 - stay_high, 1 - stay_low]) / (2 - stay_low - stay_high)
    return stationary, transition_probs


published = tsd.MeanSwitchingAutoregression(
    *two_states(0.754673, 1 - 0.095915),
    means=jnp.array([-0.358811, 1.163516]),
    weights=jnp.array([[0.013486, -0.057521, -0.246983, -0.212923]]),
    noise=dist.Normal(0.0, np.exp(-0.262658)),
    num_steps=len(growth),
)
print(f"Hamilton's log-likelihood: published -181.26339, here {published.log_prob(growth):.5f}")
in_recession = (RECESSIONS[:, :1] < quarters + 1) & (quarters + 1 <= RECESSIONS[:, 1:])
agree = (published.latent_marginals(growth)["state_probs"][4:, 0] > 0.5) == in_recession.any(0)[4:]
print(
    f"smoothed probability above one half in the committee's recessions, and below outside: {agree.mean():.0%} of quarters"
)

# %%
# The same model with priors, and the intercept form, in which growth approaches the mean of a new state over several
# quarters. Both are conditioned on the same four quarters, so that their scores compare.


def model(growth, num_steps, form="mean"):
    stay = numpyro.sample("stay", dist.Beta(jnp.array([8.0, 9.0]), jnp.array([2.0, 1.0])).to_event(1))
    low = numpyro.sample("mean_low", dist.Normal(-0.5, 1.0))
    gap = numpyro.sample("gap", dist.Gamma(3.0, 2.0))
    means = jnp.stack([low, low + gap])
    weights = numpyro.sample("weights", dist.Normal(0.0, 0.3).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    numpyro.deterministic("expected_quarters", 1 / (1 - stay))
    initial_probs, transition_probs = two_states(*stay)
    if form == "mean":
        series = tsd.MeanSwitchingAutoregression(
            initial_probs, transition_probs, means, weights[None], dist.Normal(0.0, scale), num_steps=num_steps
        )
    else:
        noise = dist.Normal(means * (1 - weights.sum()), scale)
        series = tsd.AutoregressiveHMM(initial_probs, transition_probs, weights[None], noise, num_steps=num_steps)
    numpyro.sample("growth", series, obs=growth)


fits = {}
for form in ("mean", "intercept"):
    mcmc = MCMC(
        NUTS(model), num_warmup=num_draws, num_samples=num_draws, num_chains=2 if quick else 4,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    mcmc.run(random.key(0), growth, len(growth), form=form)
    fits[form] = mcmc
    scored = tsppl.log_likelihood(random.key(5), model, mcmc, growth, len(growth), form=form, kind="one-step")
    densities = np.asarray(scored["growth"].terms).sum(-1)
    print(f"\n{form} form: log-likelihood over draws, mean {densities.mean():.1f}, largest {densities.max():.1f}")
    print(f"{'':28}{'mean':>8}{'sd':>8}{'5 %':>8}{'95 %':>8}{'R-hat':>8}")
    for name, row in summary(mcmc.get_samples(group_by_chain=True)).items():
        for index in np.ndindex(np.shape(row["mean"])):
            label = name + ("" if not index else f" {('low', 'high')[index[0]] if name != 'weights' else index[0] + 1}")
            numbers = [np.asarray(row[key])[index] for key in ("mean", "std", "5.0%", "95.0%", "r_hat")]
            print(f"{label:28}" + "".join(f"{number:8.2f}" for number in numbers))

# %%
# The first picture of every paper: what was known at the time beside what is known now, and the next two years.

arguments = (growth, len(growth))
latents = {
    what: tsppl.posterior_latents(random.key(1), model, fits["mean"], *arguments, what=what)["growth"]["state_probs"]
    for what in ("marginals", "filtered")
}
smoothed, filtered = (np.asarray(latents[what]).reshape(-1, *latents[what].shape[-2:])[..., 0] for what in latents)
ahead = np.asarray(tsppl.forecast(random.key(2), model, fits["mean"], 8, *arguments)["growth"]["value"]).reshape(-1, 8)
future = quarters[-1] + 3 * np.arange(1, 9)
low, median, high = np.quantile(ahead, [0.05, 0.5, 0.95], 0)
print(f"\nforecast of 1985Q1: median {median[0]:.2f} % a quarter, 90 % between {low[0]:.2f} and {high[0]:.2f}")

figure, (above, below) = plt.subplots(2, 1, figsize=(9, 5.5), sharex=True, height_ratios=[1.3, 1], layout="constrained")
above.plot(quarters, growth, color="0.3", linewidth=1, label="growth")
above.fill_between(future, low, high, color="tab:red", alpha=0.25, linewidth=0, label="forecast, 90 %")
above.plot(future, median, color="tab:red", label="forecast, median")
for begin, end in RECESSIONS:
    above.axvspan(begin, end, color="0.85", linewidth=0)
above.set(ylabel="growth of GNP (% a quarter)", ylim=(-3.2, 4.6))
above.legend(loc="upper left", ncols=3, fontsize="small")
plot_regime_probability(
    quarters, smoothed.mean(0), filtered=filtered.mean(0), shaded=RECESSIONS, shaded_label="recession (committee)",
    name="recession", ax=below,
)  # fmt: skip
below.set_xlim(quarters[0], future[-1])
figure.savefig("business_cycle.png", dpi=150)

# %%
# Filardo's model of monthly industrial production. The leading index of the month before enters the transitions into a
# month; ``transition_probs`` has a row for each move, so the index of the first month is not used.


try:
    production, leading, months = tsppl.datasets.industrial_production()
except ModuleNotFoundError as error:
    raise SystemExit(f"the second half needs data: {error}") from None
production, leading, months = production[1:], leading[:-1], months[1:]


def filardo(production, leading, high=None):
    base = numpyro.sample("base", dist.Normal(jnp.array([3.0, -3.0]), 1.5).to_event(1))
    slope = numpyro.sample("slope", dist.Normal(0.0, 1.5).expand([2]).to_event(1))
    high = numpyro.sample("mean_high", dist.Normal(0.5, 0.5))
    gap = numpyro.sample("gap", dist.Gamma(3.0, 2.0))
    weights = numpyro.sample("weights", dist.Normal(0.0, 0.3).expand([4]).to_event(1))
    scale = numpyro.sample("scale", dist.HalfNormal(1.0))
    towards_high = jax.nn.sigmoid(base + slope * leading[:, None])
    transition_probs = jnp.stack([towards_high, 1 - towards_high], -1)
    start = transition_probs[0, 1, 0] / (transition_probs[0, 1, 0] + transition_probs[0, 0, 1])
    series = tsd.MeanSwitchingAutoregression(
        jnp.stack([start, 1 - start]), transition_probs[1:], jnp.stack([high, high - gap]), weights[None],
        dist.Normal(0.0, scale), num_steps=len(production), time_varying=("transition_probs",),
    )  # fmt: skip
    numpyro.sample("production", series, obs=production)


estimates = {
    "base": jnp.array([4.35941747, -1.6493936]), "slope": jnp.array([1.7702123, 0.9945672]),
    "mean_high": 0.517298, "gap": 0.517298 + 0.865888, "scale": np.exp(-0.362469),
    "weights": jnp.array([0.189474, 0.079344, 0.110944, 0.122251]),
}  # fmt: skip
one_draw = {name: jnp.asarray(value)[None] for name, value in estimates.items()}
scored = tsppl.log_likelihood(random.key(6), filardo, one_draw, production, leading, kind="one-step", batch_ndims=1)
print(f"\nFilardo's log-likelihood: published -586.5718, here {scored['production'].terms.sum():.4f}")
draws = one_draw
if not quick:
    mcmc = MCMC(
        NUTS(filardo), num_warmup=500, num_samples=500, num_chains=2, chain_method="vectorized", progress_bar=False
    )
    mcmc.run(random.key(3), production, leading)
    mcmc.print_summary(exclude_deterministic=False)
    draws = mcmc.get_samples()

probs = tsppl.posterior_latents(
    random.key(4),
    filardo,
    draws,
    production,
    leading,
    what="marginals",
    batch_ndims=1,
    num_draws=None if quick else 200,
)["production"]["state_probs"]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[2, 1], layout="constrained")
plot_regime_probability(
    months,
    np.asarray(probs)[..., 1].mean(0),
    shaded=RECESSIONS,
    shaded_label="recession (committee)",
    name="contraction",
    ax=left,
)
left.set_xlim(months[0], months[-1])
index = np.linspace(-4, 4, 81)
for state, style, label in ((0, "-", "to stay in expansion"), (1, "--", "to leave a contraction")):
    curves = jax.nn.sigmoid(draws["base"][:, state, None] + draws["slope"][:, state, None] * index)
    right.plot(index, np.quantile(curves, 0.5, axis=0), style, color="black", label=label)
    if not quick:
        right.fill_between(index, *np.quantile(curves, [0.05, 0.95], axis=0), color="0.5", alpha=0.3, linewidth=0)
right.set(
    xlabel="leading index (change, %)", ylabel="probability in a month", ylim=(0, 1.25), yticks=np.linspace(0, 1, 6)
)
right.legend(loc="upper left", fontsize="small")
figure.savefig("business_cycle_leading_index.png", dpi=150)
print("figures: business_cycle.png, business_cycle_leading_index.png")
