"""How well several models predict, beside each other: numbers of states, say."""

import numpy as np

from tsppl.plots.panels import one_panel


def plot_model_scores(comparison, *, xlabel="number of states", ax=None):
    """Draw by how much each model is below the best one, with the standard error of that difference.

    A model whose error bar reaches zero is not told from the best. Names that are numbers are put in order.

    Args:
        comparison: what :func:`tsppl.compare` returns.
        xlabel: what the names of the models are.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl import Comparison
    >>> from tsppl.plots import plot_model_scores
    >>> below, errors, none = np.array([0.0, -3.0]), np.array([0.0, 1.5]), np.zeros(2, int)
    >>> found = Comparison(("2", "1"), below - 40, errors, below, errors, errors, none, 50, "left-out", "step")
    >>> [label.get_text() for label in plot_model_scores(found).get_xticklabels()]
    ['1', '2']
    """
    ax = one_panel(ax, (5, 3.6))
    names = list(comparison.names)
    if all(name.lstrip("-").isdigit() for name in names):
        order = np.argsort([int(name) for name in names])
    else:
        order = np.arange(len(names))[::-1]
    # A model further below has a lower score, whichever sign the comparison gives it.
    below, errors = -np.abs(np.asarray(comparison.below)), np.asarray(comparison.below_errors)
    places = np.arange(len(names))
    ax.errorbar(places, below[order], errors[order], fmt="o-", color="black", linewidth=0.8, capsize=4)
    best = places[order == np.argmax(below)]
    ax.plot(best, np.zeros(1), "s", color="tab:red", markersize=8, markerfacecolor="none", label="best")
    ax.axhline(0.0, color="0.6", linestyle=":", linewidth=1)
    ax.set_xticks(places, [names[place] for place in order])
    unit = "steps" if comparison.leave_out == "step" else "sequences"
    ax.set(xlabel=xlabel, ylabel=f"score below the best (nats)\nover {comparison.num_terms} {unit}")
    ax.legend(loc="lower right", fontsize="small")
    return ax
