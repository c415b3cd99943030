"""Points by cluster, events over draws, which points belong together, how many clusters, and where more points may be."""

import numpy as np
from matplotlib.ticker import MaxNLocator

from tsppl.plots.panels import one_panel, panels

COLORS = [f"tab:{name}" for name in ("blue", "orange", "green", "red", "purple", "brown", "pink", "olive", "cyan")]
MARKERS = "osD^vP*"
BACKGROUND = "0.6"
ROWS = 6
LARGEST_MATRIX = 2000


def plot_clusters(points, labels, *, window=None, xlabel=None, ylabel="y", ax=None):
    """Draw points in the colours and marks of their clusters, those of the background in grey.

    Points in time are ticks: the background in the lowest row, clusters in the rows above in turn. Colours and marks come
    back after a while, so they tell neighbours apart, not one cluster from all others.

    Args:
        points: ``(N,)`` in time, ``(N, 2)`` in the plane.
        labels: int ``(N,)``, such as :func:`tsppl.least_squares_labels` gives; -1 for background.
        window: ``(2,)`` or ``(2, 2)``, lowest and highest place, for the limits of the axes.
        xlabel, ylabel: labels of the axes; ``"time"`` or ``"x"``, and ``"y"`` in the plane.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    Raises:
        ValueError: if points are neither in time nor in the plane.

    >>> import numpy as np
    >>> from tsppl.plots import plot_clusters
    >>> ax = plot_clusters(np.array([0.1, 0.2, 2.0]), np.array([0, 0, -1]))
    >>> ax.get_xlabel()
    'time'
    """
    points, labels = np.asarray(points), np.asarray(labels)
    dims = _dimensions(points, "points")
    ax = one_panel(ax, (9, 2.2) if dims == 1 else (5.6, 5.2))
    num_clusters = labels.max(initial=-1) + 1
    if dims == 1:
        ax.eventplot(points[labels < 0], lineoffsets=0, linelengths=0.8, color=BACKGROUND, linewidths=1.2)
        for label in range(num_clusters):
            own, row = points[labels == label], 1 + label % ROWS
            ax.eventplot(own, lineoffsets=row, linelengths=0.8, color=COLORS[label % len(COLORS)], linewidths=1.2)
            ax.plot([own.min(), own.max()], [row, row], color=COLORS[label % len(COLORS)], linewidth=0.8)
        rows = min(num_clusters, ROWS)
        ax.set(xlabel=xlabel or "time", yticks=[0, (1 + rows) / 2], yticklabels=["background", "clusters"])
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(-0.7, rows + 0.7)
    else:
        ax.scatter(*points[labels < 0].T, s=22, color=BACKGROUND, marker="x", label="background")
        for label in range(num_clusters):
            style = {"color": COLORS[label % len(COLORS)], "marker": MARKERS[label % len(MARKERS)]}
            ax.scatter(*points[labels == label].T, s=26, edgecolor="black", linewidth=0.4, **style)
        ax.set(xlabel=xlabel or "x", ylabel=ylabel, aspect="equal")
        if (labels < 0).any():
            _legend_above(ax)
    summary = f"{num_clusters} clusters, {(labels < 0).sum()} of {len(points)} points background"
    ax.set_title(summary, loc="left", fontsize="medium")
    _set_limits(ax, window, dims)
    return ax


def plot_event_places(places, *, window, matched=None, num_bins=100, xlabel=None, ylabel="y", axes=None):
    """Draw where events are, over all draws: expected numbers, and an interval for each event of one partition.

    Args:
        places: ``(..., K)`` in time or ``(..., K, 2)`` in the plane, NaN where there is no event: ``"centre"`` or ``"time"``
            of :func:`tsppl.posterior_events`; all axes but that of events are draws.
        window: ``(2,)`` or ``(2, 2)``, lowest and highest place.
        matched: the same field of :func:`tsppl.match_events`.
        num_bins: cells along each side of the window.
        xlabel, ylabel: labels of the axes; ``"time"`` or ``"x"``, and ``"y"`` in the plane.
        axes: list of Matplotlib axes to draw on, two where there are events of one partition in time, else one; new ones
            if None.

    Returns:
        the Matplotlib axes: in time a histogram, above it 90 % intervals and medians; in the plane a map, and crosses.

    Raises:
        ValueError: if ``window`` is neither in time nor in the plane.

    >>> import numpy as np
    >>> from tsppl.plots import plot_event_places
    >>> axes = plot_event_places(np.array([[0.1, 2.0], [0.2, np.nan]]), window=(0.0, 3.0))
    >>> axes[0].get_ylabel()
    'events per unit of time'
    """
    places, window = np.asarray(places), np.asarray(window, float)
    dims = _dimensions(window, "window")
    if dims == 1:
        num_draws = np.prod(places.shape[:-1], dtype=int)
        edges = np.linspace(*window, num_bins + 1)
        counts = np.histogram(places[np.isfinite(places)], edges)[0]
        rows = 1 + (matched is not None)
        axes = panels(axes, (rows, 1), (9, 1.6 + 1.6 * rows), sharex=True)
        below = axes[-1]
        below.stairs(counts / num_draws / np.diff(edges), edges, fill=True, color="0.45")
        below.set(ylabel="events per unit of time", xlabel=xlabel or "time", xlim=window)
        if matched is not None:
            _draw_intervals(axes[0], np.asarray(matched).reshape(num_draws, -1))
        return axes
    num_draws = np.prod(places.shape[:-2], dtype=int)
    axes = panels(axes, (1, 1), (6.2, 5.2))
    ax = axes[0]
    flat = places.reshape(-1, 2)[np.isfinite(places.reshape(-1, 2)).all(1)]
    counts, east, north = np.histogram2d(*flat.T, num_bins, window.T)
    cell = (east[1] - east[0]) * (north[1] - north[0])
    image = ax.pcolormesh(east, north, counts.T / num_draws / cell, cmap="Greys")
    ax.figure.colorbar(image, ax=ax, label="events per unit of area")
    if matched is not None:
        low, middle, high = _quantiles(np.asarray(matched).reshape(num_draws, -1))
        low, middle, high = (array.reshape(-1, 2).T for array in (low, middle, high))
        spread = {
            "xerr": np.stack([middle[0] - low[0], high[0] - middle[0]]),
            "yerr": np.stack([middle[1] - low[1], high[1] - middle[1]]),
        }
        ax.errorbar(
            *middle, **spread, fmt="none", ecolor="tab:red", elinewidth=1.2, label="event of one partition, 90 %"
        )
        _legend_above(ax)
    ax.set(xlabel=xlabel or "x", ylabel=ylabel, aspect="equal")
    _set_limits(ax, window, dims)
    return axes


def plot_co_assignment(together, labels=None, *, ax=None):
    """Draw how often two points are in one cluster, as a matrix.

    Args:
        together: ``(N, N)``, sparse or not, of :func:`tsppl.co_assignment`.
        labels: int ``(N,)``: points are sorted by these clusters, background last; as they are if None.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    Raises:
        ValueError: if there are more than 2000 points.

    >>> import numpy as np, tsppl
    >>> from tsppl.plots import plot_co_assignment
    >>> ax = plot_co_assignment(tsppl.co_assignment(np.array([[0, 0, -1], [0, 1, 1]])))
    >>> len(ax.figure.axes)
    2
    """
    if together.shape[0] > LARGEST_MATRIX:
        raise ValueError(
            f"together is {together.shape}, too many points to be seen in a picture; pass those of a part of the window, "
            "together[rows][:, rows]"
        )
    together = together.toarray() if hasattr(together, "toarray") else np.asarray(together)
    ax = one_panel(ax, (6.0, 5.0))
    order = np.arange(len(together))
    if labels is not None:
        labels = np.asarray(labels)
        order = np.argsort(np.where(labels < 0, len(labels), labels), kind="stable")
    image = ax.imshow(together[np.ix_(order, order)], cmap="Greys", vmin=0, vmax=1, interpolation="nearest")
    if labels is not None:
        ends = np.flatnonzero(np.diff(labels[order])) + 0.5
        ax.set_xticks(ends, minor=True)
        ax.set_yticks(ends, minor=True)
        ax.grid(which="minor", color="tab:red", linewidth=0.4)
        ax.tick_params(which="minor", length=0)
    name = "point" if labels is None else "point, sorted by cluster"
    ax.set(xlabel=name, ylabel=name)
    ax.figure.colorbar(image, ax=ax, label="probability of one cluster")
    return ax


def plot_num_clusters(num_clusters, *, true=None, axes=None):
    """Draw the number of clusters over draws, and its posterior distribution.

    Args:
        num_clusters: int ``(draws,)`` or ``(chains, draws)``.
        true: the true number, where it is known.
        axes: two Matplotlib axes to draw on; new ones if None.

    Returns:
        the two Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_num_clusters
    >>> axes = plot_num_clusters(np.array([[3, 4, 4], [4, 5, 4]]))
    >>> len(axes[0].lines)
    2
    """
    num_clusters = np.atleast_2d(np.asarray(num_clusters))
    left, right = axes = panels(axes, (1, 2), (9, 3), sharey=True, width_ratios=[2.6, 1])
    for chain, draws in enumerate(num_clusters):
        left.plot(draws, color=COLORS[chain % len(COLORS)], linewidth=0.6, label=f"chain {chain}")
    left.set(xlabel="draw", ylabel="clusters")
    values, counts = np.unique(num_clusters, return_counts=True)
    right.barh(values, counts / num_clusters.size, height=0.8, color="0.45")
    right.set(xlabel="posterior probability")
    left.yaxis.set_major_locator(MaxNLocator(integer=True))
    if true is not None:
        left.axhline(true, color="black", linestyle="--", label="true")
        right.axhline(true, color="black", linestyle="--")
    if len(num_clusters) > 1 or true is not None:
        left.legend(loc="upper right", fontsize="small", ncols=3)
    return axes


def plot_intensity(places, intensity, *, points=None, xlabel=None, ylabel="y", ax=None):
    """Draw the intensity of more points over draws: a line with its band in time, a map of the mean in the plane.

    Args:
        places: ``(P,)`` in time; in the plane a pair of grids ``(X,)`` and ``(Y,)``.
        intensity: ``(..., P)``, or ``(..., X, Y)`` in the plane, draws of :func:`tsppl.posterior_intensity`.
        points: the points, ``(N,)`` or ``(N, 2)``.
        xlabel, ylabel: labels of the axes; ``"time"`` or ``"x"``, and ``"y"`` in the plane.
        ax: Matplotlib axes to draw on; new ones if None.

    Returns:
        the Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_intensity
    >>> ax = plot_intensity(np.linspace(0, 1, 3), np.ones((5, 3)), points=np.array([0.4]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['90 % of draws', 'mean', 'points']
    """
    if not isinstance(places, (tuple, list)):
        ax = one_panel(ax, (9, 3))
        places, intensity = np.asarray(places), np.asarray(intensity).reshape(-1, len(places))
        low, high = np.quantile(intensity, [0.05, 0.95], axis=0)
        ax.fill_between(places, low, high, color="tab:blue", alpha=0.3, linewidth=0, label="90 % of draws")
        ax.plot(places, intensity.mean(0), color="tab:blue", label="mean")
        ax.set(xlabel=xlabel or "time", ylabel="points per unit of time", xlim=(places[0], places[-1]))
        ax.set_ylim(bottom=0)
        if points is not None:
            heights = np.zeros(len(points))
            ax.plot(points, heights, "|", color="black", markersize=12, clip_on=False, label="points")
        ax.legend(loc="upper right", fontsize="small")
        return ax
    ax = one_panel(ax, (6.2, 5.2))
    east, north = (np.asarray(grid) for grid in places)
    mean = np.asarray(intensity).reshape(-1, len(east), len(north)).mean(0)
    image = ax.pcolormesh(east, north, mean.T, cmap="viridis", shading="gouraud")
    ax.figure.colorbar(image, ax=ax, label="points per unit of area")
    if points is not None:
        ax.scatter(*np.asarray(points).T, s=10, color="white", edgecolor="black", linewidth=0.6, label="points")
        _legend_above(ax)
    limits = {"xlim": (east[0], east[-1]), "ylim": (north[0], north[-1])}
    ax.set(xlabel=xlabel or "x", ylabel=ylabel, aspect="equal", **limits)
    return ax


def _draw_intervals(axes, matched):
    low, middle, high = _quantiles(matched)
    rows = np.arange(len(middle))
    axes.hlines(rows, low, high, color="tab:red", linewidth=2, label="90 % interval")
    axes.plot(middle, rows, "o", color="black", markersize=3, label="median")
    axes.set(ylabel="event of one partition", ylim=(-1, len(middle)))
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(loc="upper left", fontsize="small")


def _quantiles(draws):
    """5, 50 and 95 % over the first axis, where not NaN."""
    return np.nanquantile(draws, [0.05, 0.5, 0.95], axis=0)


def _dimensions(array, name):
    if array.ndim == 1:
        return 1
    if array.ndim == 2 and array.shape[1] == 2:
        return 2
    raise ValueError(f"{name} has shape {array.shape}; pass (N,) in time or (N, 2) in the plane")


def _set_limits(axes, window, dims):
    if window is None:
        return
    window = np.asarray(window, float)
    axes.set_xlim(*(window if dims == 1 else window[:, 0]))
    if dims == 2:
        axes.set_ylim(*window[:, 1])


def _legend_above(axes):
    """A legend that hides no point."""
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize="small", frameon=False)
