"""Axes to draw on, those of the caller or new ones: plots take ``ax=`` or ``axes=`` and return them; and bands over draws."""

import matplotlib.pyplot as plt
import numpy as np


def one_panel(ax, size):
    """``ax``, or the axes of a new figure of that size."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def panels(axes, shape, size, **options):
    """``axes`` as an array of as many panels as ``shape``, ``(rows, columns)``, has; those of a new figure if None.

    Raises:
        ValueError: if there are more or fewer.
    """
    if axes is None:
        return plt.subplots(*shape, figsize=size, squeeze=False, layout="constrained", **options)[1].ravel()
    axes, number = np.atleast_1d(axes), shape[0] * shape[1]
    if axes.shape != (number,):
        raise ValueError(f"axes holds Matplotlib axes in an array of shape {axes.shape}; pass a list of {number}")
    return axes


def fan(ax, times, draws, *, color, of=""):
    """The median of draws ``(..., T)`` with 50 % and 90 % bands; ``of`` begins their labels."""
    draws = np.asarray(draws)
    draws = draws.reshape(-1, draws.shape[-1])
    lowest, low, middle, high, highest = np.quantile(draws, [0.05, 0.25, 0.5, 0.75, 0.95], axis=0)
    ax.fill_between(times, lowest, highest, color=color, alpha=0.2, linewidth=0, label=f"{of}90 %")
    ax.fill_between(times, low, high, color=color, alpha=0.35, linewidth=0, label=f"{of}50 %")
    ax.plot(times, middle, color=color, linewidth=1.3, label=f"{of}median")
