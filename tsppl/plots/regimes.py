"""The probability of one hidden state over time, beside what others say of it."""

import numpy as np

from tsppl.plots.panels import one_panel


def plot_regime_probability(
    times, smoothed, *, filtered=None, band=None, shaded=(), shaded_label=None, name="state", ax=None
):
    """Draw the probability of one state: given all the data, and, if wanted, given the data up to each time.

    Args:
        times: ``(T,)``, numbers or dates.
        smoothed: ``(T,)``, probability given all the data; NaN where there is none.
        filtered: ``(T,)``, probability given the data up to each time (``what="filtered"``).
        band: pair of ``(T,)``, lower and upper quantile of the smoothed probability over draws.
        shaded: pairs of times, the stretches to shade: recessions as dated by others, say.
        shaded_label: what they are, for the legend.
        name: of the state.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> from tsppl.plots import plot_regime_probability
    >>> plot_regime_probability([0, 1, 2], [0.1, 0.8, 0.9], filtered=[0.1, 0.5, 0.9], name="recession").get_ylabel()
    'probability of recession'
    """
    ax = one_panel(ax, (9, 2.8))
    times = np.asarray(times)
    ax.set_xlim(times[0], times[-1])
    for number, (begin, end) in enumerate(shaded):
        ax.axvspan(begin, end, color="0.85", linewidth=0, label=shaded_label if number == 0 else None)
    if band is not None:
        ax.fill_between(times, *band, color="tab:blue", alpha=0.3, linewidth=0, label="90 % of draws")
    ax.plot(times, smoothed, color="tab:blue", linewidth=1.6, label="given all data")
    if filtered is not None:
        ax.plot(times, filtered, color="black", linewidth=0.9, linestyle=":", label="given data up to then")
    ax.set(ylim=(0, 1), ylabel=f"probability of {name}")
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=4, fontsize="small", frameon=False)
    return ax
