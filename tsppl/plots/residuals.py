"""Are the residuals of a point process those of the true one?"""

import numpy as np
from scipy import stats

from tsppl.plots.panels import one_panel


def plot_residuals(residuals, *, level=0.95, ax=None):
    """Draw the quantiles of residuals against those expected, with a band.

    A residual ``r`` is drawn as the probability ``1 - exp(-r)`` of a smaller one, which is uniform where the process is the
    true one. The band is Kolmogorov's: the whole curve stays inside with probability ``level``. A curve that
    starts above the diagonal lacks short waits (points keep apart); one below has too many (points in clusters).

    Args:
        residuals: ``(N,)``, from ``process.residuals(points)``, or from several patterns, joined.
        level: probability that the curve stays within the band.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    Raises:
        ValueError: if residuals are no vector, or one is negative.

    >>> import numpy as np
    >>> from tsppl.plots import plot_residuals
    >>> ax = plot_residuals(np.random.default_rng(0).exponential(size=200))
    >>> ax.get_xlabel()
    'expected quantile of 1 - exp(-residual)'
    """
    residuals = np.asarray(residuals, float)
    if residuals.ndim != 1 or not len(residuals) or residuals.min() < 0:
        raise ValueError(
            f"residuals of shape {residuals.shape} must be a vector of numbers from 0, as process.residuals has"
        )
    size = len(residuals)
    expected, found = (np.arange(size) + 0.5) / size, np.sort(-np.expm1(-residuals))
    reach = stats.kstwo.ppf(level, size)
    ax = one_panel(ax, (4.5, 4.5))
    diagonal = np.array([0.0, 1.0])
    ax.fill_between(
        diagonal, diagonal - reach, diagonal + reach, color="0.85", linewidth=0, label=f"{level:.0%} band, true process"
    )
    ax.plot(diagonal, diagonal, color="0.4", linewidth=1, linestyle="--", label="expected")
    pvalue = stats.kstest(found, "uniform").pvalue
    number = f"p = {pvalue:.2g}" if pvalue >= 1e-4 else "p < 0.0001"
    ax.plot(expected, found, color="tab:blue", linewidth=1.5, label=f"{size} residuals\n(Kolmogorov-Smirnov {number})")
    ax.set(
        xlim=(0, 1),
        ylim=(0, 1),
        aspect="equal",
        xlabel="expected quantile of 1 - exp(-residual)",
        ylabel="found quantile of 1 - exp(-residual)",
    )
    ax.legend(loc="upper left", fontsize="small")
    return ax
