"""Are the pseudo-residuals of a series normal and independent?"""

import numpy as np
from scipy import stats

from tsppl.plots.panels import panels


def plot_pseudo_residuals(residuals, *, largest_lag=25, name="series", axes=None):
    """Draw the quantiles of normal pseudo-residuals against those expected, and their autocorrelation.

    Args:
        residuals: of one scalar series or channel, or of several series, ``tsppl.pseudo_residuals(...)["y"]``, or its
            normal ones, ``(..., T)``; NaN is left out. Lags never reach from one series into another.
        largest_lag: of the autocorrelation.
        name: of the series, for the title.
        axes: two Matplotlib axes to draw on; new ones if None.

    Returns:
        the two Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_pseudo_residuals
    >>> axes = plot_pseudo_residuals(np.random.default_rng(0).normal(size=200))
    >>> axes[1].get_xlabel()
    'lag (steps)'
    """
    axes = panels(axes, (1, 2), (8.5, 3.6))
    normal = np.asarray(getattr(residuals, "normal", residuals), float)
    rows = normal.reshape(-1, normal.shape[-1])
    found = np.sort(rows[np.isfinite(rows)])
    size = len(found)
    ranks = np.arange(1, size + 1)
    expected = stats.norm.ppf((ranks - 0.5) / size)
    low, high = (stats.norm.ppf(stats.beta.ppf(level, ranks, size + 1 - ranks)) for level in (0.025, 0.975))
    axes[0].fill_between(expected, low, high, color="0.85", linewidth=0, label="95 % at each point")
    axes[0].plot(expected, expected, color="0.4", linewidth=1, linestyle="--")
    pvalue = stats.kstest(found, "norm").pvalue
    number = f"p = {pvalue:.2g}" if pvalue >= 1e-4 else "p < 0.0001"
    axes[0].plot(
        expected, found, ".", color="tab:blue", markersize=3, label=f"{size} residuals\n(Kolmogorov-Smirnov {number})"
    )
    axes[0].set(xlabel="expected quantile", ylabel="residual", title=name)
    axes[0].legend(loc="upper left", fontsize="small")
    lags = np.arange(1, min(largest_lag, rows.shape[1] - 1) + 1)
    centred = rows - found.mean()
    products = [centred[:, lag:] * centred[:, :-lag] for lag in lags]
    correlations = np.array([np.nanmean(product) for product in products]) / found.var()
    reach = 1.96 / np.sqrt([max(np.isfinite(product).sum(), 1) for product in products])
    axes[1].fill_between(lags, -reach, reach, color="0.85", linewidth=0, label="95 % if independent")
    axes[1].vlines(lags, 0, correlations, color="tab:blue")
    axes[1].axhline(0, color="0.4", linewidth=0.8)
    axes[1].set(xlabel="lag (steps)", ylabel="autocorrelation", title="of the residuals")
    axes[1].legend(loc="upper right", fontsize="small")
    return axes
