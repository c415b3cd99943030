"""
Nowcasting growth: what each release of data says
=================================================

How fast does the economy grow now? Gross domestic product is published a month after its quarter ends; until then, monthly
figures trickle in, each month with gaps at its ragged edge. A dynamic factor model of all of them gives the growth of quarters
that are not over yet, with an honest interval; and when new figures come, it says which of them moved the nowcast, and by
how much: the news (Giannone, Reichlin and Small 2008; Banbura and Modugno 2010).

The data are two vintages of the nowcast of the Federal Reserve Bank of New York: 29 series as they were known on 29 June and on
29 July 2016, the day on which growth in the second quarter was first published. ``--quick`` takes fewer series and
fewer steps, and one factor.
"""

# %%
# The files lie in the package statsmodels. Growth rates are standardised by the first vintage; both are padded to September.

import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
from numpyro.infer import SVI, Trace_ELBO, init_to_value
from numpyro.infer.autoguide import AutoDelta

import tsppl

jax.config.update("jax_enable_x64", True)
quick = "--quick" in sys.argv
num_steps, num_factors = (60, 1) if quick else (400, 2)

vintages = [tsppl.datasets.frbny_vintage(day) for day in ("2016-06-29", "2016-07-29")]
names = vintages[0].names
if quick:
    chosen = [
        names.index(name) for name in ("PAYEMS", "UNRATE", "INDPRO", "RSAFS", "HOUST", "GACDFSA066MSFRBPHI", "GDPC1")
    ]
    names = tuple(names[place] for place in chosen)
    vintages = [one._replace(values=one.values[:, chosen], quarterly=one.quarterly[chosen]) for one in vintages]
quarterly, gdp = vintages[0].quarterly, names.index("GDPC1")
mean, scale = np.nanmean(vintages[0].values, 0), np.nanstd(vintages[0].values, 0)
months = vintages[0].months[0] + np.arange(381)
first, second = (
    np.pad((one.values - mean) / scale, ((0, 381 - len(one.values)), (0, 0)), constant_values=np.nan)
    for one in vintages
)
print(f"{len(names)} series, {len(months)} months to {months[-1]}, {np.isnan(first).mean():.0%} of the entries empty")

# %%
# Two factors move all series, and each has a part of its own that persists. Principal components and regressions give a
# start; the exact likelihood, with everything that is hidden or missing integrated out, then finds the mode. Parameters stay
# there, so bands leave their uncertainty out; NUTS on the same model would put it in, at many times the cost.


def make_series(params, mask):
    return tsppl.dynamic_factors(
        params["loadings"],
        params["factor_transition"],
        jnp.eye(num_factors),
        params["idiosyncratic_scale"],
        idiosyncratic_autoregression=params["idiosyncratic_autoregression"],
        num_steps=len(months),
        quarterly=quarterly,
        mask=mask,
    )


def model(values, mask):
    num_series = len(names)
    params = {
        "loadings": numpyro.sample("loadings", dist.Normal(0.0, 1.0).expand([num_series, num_factors]).to_event(2)),
        "factor_transition": numpyro.sample(
            "factor_transition", dist.Normal(0.0, 0.5).expand([num_factors, num_factors]).to_event(2)
        ),
        "idiosyncratic_scale": numpyro.sample(
            "idiosyncratic_scale", dist.HalfNormal(1.0).expand([num_series]).to_event(1)
        ),
        "idiosyncratic_autoregression": numpyro.sample(
            "idiosyncratic_autoregression", dist.Uniform(-1.0, 1.0).expand([num_series]).to_event(1)
        ),
    }
    numpyro.sample("y", make_series(params, mask), obs=values)


begin = time.perf_counter()
found = tsppl.two_step_factors(first, num_factors, quarterly=quarterly)
root = np.linalg.cholesky(found["factor_covariance"])  # factors in units of their innovations
start = {
    "loadings": found["loadings"] @ root,
    "factor_transition": np.linalg.solve(root, found["factor_transition"][0] @ root),
    "idiosyncratic_scale": found["idiosyncratic_scale"],
    "idiosyncratic_autoregression": found["idiosyncratic_autoregression"],
}
arguments = jnp.asarray(np.nan_to_num(first)), jnp.asarray(~np.isnan(first))
guide = AutoDelta(model, init_loc_fn=init_to_value(values=start))
svi = SVI(model, guide, optax.adam(optax.cosine_decay_schedule(0.03, num_steps)), Trace_ELBO())
fitted = svi.run(jax.random.key(0), num_steps, *arguments, progress_bar=False)
params = guide.median(fitted.params)
print(
    f"minus log density: {fitted.losses[0]:.1f} at the start, {fitted.losses[-1]:.1f} after {num_steps} steps, "
    f"{time.perf_counter() - begin:.0f} s"
)
moduli = np.sort(np.abs(np.linalg.eigvals(params["factor_transition"])))[::-1]
print("what the factors keep of themselves from month to month:", ", ".join(f"{modulus:.2f}" for modulus in moduli))

# %%
# Nowcasts: given one vintage or the other, a missing entry has a normal distribution, exactly. (With draws of parameters,
# ``tsppl.complete`` draws all missing entries.) Growth in the second quarter is the entry of June, in the third that of
# September.


@jax.jit
def nowcast(values, mask):
    """Means and standard deviations of growth in every month, at the mode."""
    series = make_series(params, mask)
    marginals = series.latent_marginals(values)
    spread = jnp.einsum("d,tde->te", series.emission_matrix[gdp], marginals["trajectory_scale_tril"])
    error = jnp.sqrt((spread**2).sum(1) + series.emission_noise.variance[gdp])
    return tsppl.expected_values(series, values)[:, gdp], jnp.where(mask[:, gdp], 0.0, error)


june, september = (int(np.flatnonzero(months == np.datetime64(month))[0]) for month in ("2016-06", "2016-09"))
nowcasts = {}
for day, vintage in (("29 June", first), ("29 July", second)):
    middles, errors = map(np.asarray, nowcast(jnp.asarray(np.nan_to_num(vintage)), jnp.asarray(~np.isnan(vintage))))
    for quarter, step in (("second quarter", june), ("third quarter", september)):
        middle, reach = mean[gdp] + scale[gdp] * middles[step], 1.2816 * scale[gdp] * errors[step]
        nowcasts[day, quarter] = middle, reach
        known = f", 80 % between {middle - reach:.1f} and {middle + reach:.1f}" if reach else " (published)"
        print(f"{day}, {quarter}: {middle:.2f} % a year{known}")

# %%
# The news for the third quarter, at the mode: the change of the nowcast, exactly, as a sum over releases and revisions.

found = tsppl.news(lambda mask: make_series(params, mask), first, second, step=september, channel=gdp)
impacts, revisions = scale[gdp] * np.asarray(found.impacts), scale[gdp] * np.asarray(found.revision_impacts)
total = scale[gdp] * float(found.after - found.before)
print(
    f"\nthird quarter at the mode: {total:+.2f} points, of which releases {impacts.sum():+.2f}, revisions {revisions.sum():+.2f}"
)
print("release               month     expected  released     impact")
order = np.argsort(-np.abs(impacts))
for row in order[:10]:
    series = found.channels[row]
    expected, released = (
        mean[series] + scale[series] * float(values[row]) for values in (found.expected, found.released)
    )
    print(f"{names[series]:<20}  {months[found.steps[row]]}  {expected:8.2f}  {released:8.2f}   {impacts[row]:+8.3f}")

# %%

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1.2, 1], layout="constrained")
growth = mean[gdp] + scale[gdp] * second[:, gdp]
is_quarter = ~np.isnan(growth) & (months >= np.datetime64("2012-01"))
quarters = months[is_quarter].astype("datetime64[D]")
left.bar(quarters, growth[is_quarter], width=60, color="0.8", label="published by 29 July")
for (day, quarter), (middle, reach) in nowcasts.items():
    step, is_july = (june if quarter.startswith("second") else september), day == "29 July"
    if is_july and step == june:
        continue
    place = months[step].astype("datetime64[D]") + (12 if is_july else -12)
    label = f"nowcast of {day}, 80 %" if step == september else None
    colour = "tab:red" if is_july else "black"
    left.errorbar(place, middle, reach, fmt="s" if is_july else "o", color=colour, capsize=4, markersize=5, label=label)
left.set(xlabel="quarter", ylabel="growth of real GDP, % a year", title="Growth, and what could be known of it")
left.axhline(0.0, color="0.5", linewidth=0.8)
left.legend(loc="upper left", fontsize="small")
shown = order[:8][::-1]
labels = [f"{names[found.channels[row]]}, {months[found.steps[row]]}" for row in shown]
rest = impacts.sum() - impacts[shown].sum()
bars = np.concatenate([[revisions.sum(), rest], impacts[shown]])
right.barh(
    ["revisions", f"{len(impacts) - len(shown)} other releases", *labels],
    bars,
    color=np.where(bars < 0, "0.35", "0.75"),
)
right.axvline(0.0, color="black", linewidth=0.8)
right.set(xlabel="percentage points of growth in the third quarter", title=f"News of July: {total:+.2f} points in all")
path = Path("nowcast.png")
figure.savefig(path, dpi=150)
print(f"\nfigure: {path.resolve()}")
