"""What hidden states are like: their emission densities over the data, how long they last, where they lead."""

import matplotlib.pyplot as plt
import numpy as np

from tsppl.plots.panels import one_panel, panels

STYLES = ("-", "--", ":", "-.")
LABEL = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}


def state_colors(num_states):
    """One colour for each state, dark to light, so that they differ in grey too."""
    return plt.get_cmap("viridis")(np.linspace(0.1, 0.85, num_states))


def plot_state_densities(values, grid, densities, *, weights=None, names=None, xlabel="value", bins=40, ax=None):
    """Draw the densities of one stream in each state, times the state's share of the steps, over a histogram of the data.

    Args:
        values: observations, any shape; NaN is left out.
        grid: ``(G,)``, where the densities are given.
        densities: ``(..., K, G)``, density of each state, or draws of it, of which the median and a 90 % band are drawn.
        weights: ``(K,)``, share of the steps in each state; equal by default.
        names: ``K`` names of the states.
        xlabel: name and unit of the stream.
        bins: of the histogram.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_state_densities
    >>> grid = np.linspace(-3, 3, 50)
    >>> densities = np.exp(-0.5 * (grid - np.array([[-1.0], [1.0]])) ** 2) / np.sqrt(2 * np.pi)
    >>> plot_state_densities(
    ...     np.random.default_rng(0).normal(size=99), grid, densities, xlabel="speed (m/s)"
    ... ).get_xlabel()
    'speed (m/s)'
    """
    ax = one_panel(ax, (4.5, 3.2))
    values, densities = np.asarray(values), np.asarray(densities)
    num_states = densities.shape[-2]
    weights = np.full(num_states, 1 / num_states) if weights is None else np.asarray(weights)
    names = names or [f"state {state}" for state in range(num_states)]
    ax.hist(values[np.isfinite(values)], bins=bins, density=True, color="0.85", label="data")
    draws = (weights[:, None] * densities).reshape(-1, num_states, len(grid))
    for state, color in enumerate(state_colors(num_states)):
        low, middle, high = np.quantile(draws[:, state], [0.05, 0.5, 0.95], axis=0)
        ax.fill_between(grid, low, high, color=color, alpha=0.3, linewidth=0)
        ax.plot(grid, middle, color=color, linestyle=STYLES[state % 4], label=names[state])
    ax.plot(grid, np.quantile(draws.sum(1), 0.5, axis=0), color="0.3", linewidth=0.8, label="sum")
    ax.set(xlabel=xlabel, ylabel="density")
    ax.legend(fontsize="small")
    return ax


def plot_dwell_times(stays, *, simulated=None, label="decoded", names=None, unit="steps", largest=None, axes=None):
    """Draw how often stays of each length occur, beside those of data simulated by the model.

    Args:
        stays: list of int arrays, one for each state, as from :func:`tsppl.dwell_times` of decoded states.
        simulated: the same of series drawn from the model: their mean shares are drawn as a line.
        label: what ``stays`` are, for the legend.
        names: names of the states.
        unit: of the time axis.
        largest: longest stay shown; that of the data by default.
        axes: as many Matplotlib axes as states; new ones, side by side, if None.

    Returns:
        the Matplotlib axes.

    >>> from tsppl.plots import plot_dwell_times
    >>> axes = plot_dwell_times([[1, 1, 2], [3, 4]], simulated=[[1, 2, 2], [3, 3]])
    >>> axes[0].get_title()
    'state 0: 3 stays'
    """
    axes = panels(axes, (1, len(stays)), (1 + 3.2 * len(stays), 3.0))
    names = names or [f"state {state}" for state in range(len(stays))]
    for state, (ax, name, color) in enumerate(zip(axes, names, state_colors(len(stays)), strict=True)):
        own = np.asarray(stays[state])
        top = largest or (int(own.max()) if len(own) else 1)
        steps = np.arange(1, top + 1)
        ax.bar(steps, (own == steps[:, None]).mean(-1) if len(own) else 0 * steps, color=color, alpha=0.6, label=label)
        if simulated is not None:
            share = (np.asarray(simulated[state]) == steps[:, None]).mean(-1)
            ax.plot(steps, share, ".-", color="black", linewidth=0.8, label="simulated by the model")
        ax.set(
            title=f"{name}: {len(own)} stays",
            xlabel=f"length ({unit})",
            ylabel="share of stays" if state == 0 else None,
        )
    axes[0].legend(fontsize="small")
    return axes


def plot_transition_curves(grid, probs, *, names=None, xlabel="covariate", values=None, ax=None):
    """Draw transition probabilities against a covariate, with 90 % bands over draws.

    Args:
        grid: ``(G,)``, values of the covariate.
        probs: ``(..., G, K, K)``, draws of the transition probabilities at these values.
        names: names of the states.
        xlabel: name and unit of the covariate.
        values: observed values of the covariate, marked along the axis.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_transition_curves
    >>> probs = np.random.default_rng(0).dirichlet(np.ones(2), size=(20, 5, 2))
    >>> len(plot_transition_curves(np.arange(5), probs, xlabel="temperature (C)").get_lines())
    2
    """
    ax = one_panel(ax, (4.5, 3.2))
    probs = np.asarray(probs)
    num_states = probs.shape[-1]
    probs = probs.reshape(-1, *probs.shape[-3:])
    names = names or [f"state {state}" for state in range(num_states)]
    pairs = [(i, j) for i in range(num_states) for j in range(num_states) if i != j]
    for number, (i, j) in enumerate(pairs):
        low, middle, high = np.quantile(probs[..., i, j], [0.05, 0.5, 0.95], axis=0)
        color = state_colors(num_states)[i]
        ax.fill_between(grid, low, high, color=color, alpha=0.3, linewidth=0)
        ax.plot(grid, middle, color=color, linestyle=STYLES[number % 4], label=f"{names[i]} to {names[j]}")
    if values is not None:
        values = np.ravel(values)
        values = values[(values >= np.min(grid)) & (values <= np.max(grid))]
        ax.plot(values, np.full(len(values), -0.02), "|", color="0.5", markersize=4, alpha=0.4)
        ax.get_lines()[-1].set_clip_on(False)
    ax.set(xlabel=xlabel, ylabel="transition probability", ylim=(0, 1), xlim=(np.min(grid), np.max(grid)))
    ax.legend(fontsize="small")
    return ax


def plot_transition_graph(transition_probs, *, names=None, shares=None, smallest=0.01, ax=None):
    """Draw the states as discs on a circle and the transitions between them as arrows, thicker where more probable.

    Args:
        transition_probs: ``(K, K)``.
        names: names of the states.
        shares: ``(K,)``, share of the steps in each state, written into the discs.
        smallest: transitions that are less probable are left out.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> from tsppl.plots import plot_transition_graph
    >>> ax = plot_transition_graph([[0.9, 0.1], [0.4, 0.6]], names=["rest", "travel"])
    >>> [text.get_text() for text in ax.texts if text.get_text()]
    ['0.10', '0.40', 'rest\\nstays 0.90', 'travel\\nstays 0.60']
    """
    ax = one_panel(ax, (4.2, 4.0))
    probs = np.asarray(transition_probs)
    num_states = len(probs)
    names = names or [f"state {state}" for state in range(num_states)]
    angles = np.pi / 2 - 2 * np.pi * np.arange(num_states) / num_states
    angles = angles if num_states > 2 else np.pi * (1 - np.arange(num_states))
    places = np.stack([np.cos(angles), np.sin(angles)], -1)
    for i, j in np.argwhere((probs >= smallest) & ~np.eye(num_states, dtype=bool)):
        style = {"arrowstyle": "-|>", "connectionstyle": "arc3,rad=0.25", "shrinkA": 32, "shrinkB": 34, "color": "0.35"}
        ax.annotate("", places[j], places[i], arrowprops=style | {"linewidth": 0.6 + 5 * probs[i, j]})
        across = np.array([[0, 1], [-1, 0]]) @ (places[j] - places[i])
        ax.text(
            *(0.5 * (places[i] + places[j]) + 0.125 * across),
            f"{probs[i, j]:.2f}",
            ha="center",
            va="center",
            fontsize=8,
            bbox=LABEL,
        )
    for state, (place, color) in enumerate(zip(places, state_colors(num_states), strict=True)):
        ax.plot(*place, "o", markersize=58, color=color, alpha=0.35, markeredgecolor="black")
        label = f"{names[state]}\nstays {probs[state, state]:.2f}"
        label += "" if shares is None else f"\n{shares[state]:.0%} of steps"
        ax.text(*place, label, ha="center", va="center", fontsize=7.5)
    ax.set(xlim=(-1.6, 1.6), ylim=(-1.6, 1.6) if num_states > 2 else (-0.9, 0.9), aspect="equal")
    ax.axis("off")
    return ax
