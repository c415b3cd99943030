"""The components of a series, each in a panel of its own, with bands over draws; and what comes next, as a fan."""

import numpy as np

from tsppl.plots.panels import fan, one_panel, panels


def plot_components(times, components, *, observed=None, ylabel=None, axes=None):
    """Draw each component's median with its 50 % and 90 % bands.

    Args:
        times: ``(T,)``, numbers or dates.
        components: name -> draws ``(..., T)``, as from ``Structure.components``.
        observed: ``(T,)``, the series, drawn as points in the first panel; NaN where it is missing.
        ylabel: unit of all panels.
        axes: as many Matplotlib axes as components; new ones, one above the other, if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_components
    >>> draws = np.random.default_rng(0).normal(size=(50, 8))
    >>> [ax.get_title(loc="left") for ax in plot_components(np.arange(8), {"level": draws, "seasonal": draws})]
    ['level', 'seasonal']
    """
    axes = panels(axes, (len(components), 1), (9, 1.2 + 1.6 * len(components)), sharex=True)
    times = np.asarray(times)
    for number, (ax, (name, draws)) in enumerate(zip(axes, components.items(), strict=True)):
        if number == 0 and observed is not None:
            ax.plot(times, observed, ".", color="0.55", markersize=3, label="observed")
        fan(ax, times, draws, color="tab:blue")
        ax.set_title(name, loc="left", fontsize="medium")
        ax.set_ylabel(ylabel)
        ax.margins(x=0)
        if number == 0:
            ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=4, fontsize="small", frameon=False)
    return axes


def plot_forecast(times, draws, *, history=None, observed=None, ylabel="value", ax=None):
    """Draw a forecast as its median with 50 % and 90 % bands, after what was seen.

    Args:
        times: ``(h,)``, times of the forecast, numbers or dates.
        draws: ``(..., h)``.
        history: pair of times and values before.
        observed: ``(h,)``, what came, if it is known by now.
        ylabel: name and unit of the series.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_forecast
    >>> plot_forecast([5, 6], np.random.default_rng(0).normal(size=(50, 2)), ylabel="counts").get_ylabel()
    'counts'
    """
    ax = one_panel(ax, (9, 3.2))
    if history is not None:
        ax.plot(*history, color="0.35", linewidth=1, marker=".", markersize=3, label="observed")
    fan(ax, np.asarray(times), draws, color="tab:red")
    if observed is not None:
        ax.plot(times, observed, "x", color="black", markersize=4, label="what came")
    ax.set_ylabel(ylabel)
    ax.margins(x=0)
    ax.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=5, fontsize="small", frameon=False)
    return ax
