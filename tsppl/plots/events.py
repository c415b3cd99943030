"""Spikes before and after they were sorted into sequences."""

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.lines import Line2D

from tsppl.plots.panels import panels

SHADES = (("#08306b", "#4a90c9"), ("#b2182b", "#f08a5d"), ("#00441b", "#5aae61"), ("#40004b", "#9970ab"))
SILENT_SHARE = 0.2


def sort_neurons(neuron_probs, offsets):
    """Neurons in the order in which a raster shows sequences.

    The fifth of the neurons that take least part in any sequence come first, then for each type those that take more part
    in it than in others, by their offset.

    Args:
        neuron_probs: ``(R, M)``.
        offsets: ``(R, M)``.

    Returns:
        ``(order, groups)``: numbers of neurons ``(M,)``, and for each place in that order the type, -1 for the first fifth.

    >>> import numpy as np
    >>> from tsppl.plots import sort_neurons
    >>> sort_neurons([[0.5, 0.5, 0.0], [0.1, 0.0, 0.9]], [[0.4, 0.1, 0.0], [0.0, 0.0, 0.2]])
    (array([1, 0, 2]), array([0, 0, 1]))
    """
    neuron_probs, offsets = np.asarray(neuron_probs), np.asarray(offsets)
    peak, kind = neuron_probs.max(0), neuron_probs.argmax(0)
    groups = np.where(peak < np.quantile(peak, SILENT_SHARE), -1, kind)
    delays = np.take_along_axis(offsets, kind[None], 0)[0]
    order = np.lexsort((delays, groups))
    return order, groups[order]


def plot_sequence_raster(
    times, neurons, labels, types, neuron_probs, offsets, *, event_times=None, unit="s", axes=None
):
    """Draw spikes as they came, and below with neurons sorted and spikes coloured by the sequence they belong to.

    The lower panel sorts neurons by :func:`sort_neurons`. Each type of sequence has a colour, in a dark and a light shade
    that alternate from one sequence to the next; spikes of the background are small and grey.

    Args:
        times: ``(N,)``.
        neurons: ``(N,)``, from 0.
        labels: int ``(N,)``, the sequence of each spike, -1 for background.
        types: int, ``(K,)`` or longer: the type of each sequence.
        neuron_probs: ``(R, M)``.
        offsets: ``(R, M)``, in the unit of times.
        event_times: ``(K,)`` or longer: starts, drawn as triangles above the lower panel.
        unit: unit of time, for the label.
        axes: two Matplotlib axes to draw on, the upper one first; new ones if None.

    Returns:
        the two Matplotlib axes.

    Source:
        After figure 4 of A. H. Williams, A. Degleris, Y. Wang and S. W. Linderman, "Point process models for sequence
        detection in high-dimensional neural spike trains", NeurIPS 2020.

    >>> import numpy as np
    >>> from tsppl.plots import plot_sequence_raster
    >>> probs, offsets = np.full((1, 2), 0.5), np.array([[0.0, 0.3]])
    >>> axes = plot_sequence_raster([0.1, 0.5, 2.0], [0, 1, 0], [0, 0, -1], [0], probs, offsets)
    >>> axes[1].get_xlabel()
    'time (s)'
    """
    times, neurons, labels, types = map(np.asarray, (times, neurons, labels, types))
    order, groups = sort_neurons(neuron_probs, offsets)
    num_neurons, num_sequences = len(order), labels.max(initial=-1) + 1
    row = np.argsort(order)[neurons]
    above, below = axes = panels(axes, (2, 1), (9, 7), sharex=True)
    above.scatter(times, neurons, s=5, color="black", linewidth=0)
    above.set(ylabel="neuron", title="spikes, neurons as they came", ylim=(-1.5, num_neurons + 0.5))

    is_background = labels < 0
    below.scatter(times[is_background], row[is_background], s=3, color="0.6", linewidth=0)
    colors = _colors(times, labels, types, num_sequences)
    below.scatter(times[~is_background], row[~is_background], s=7, color=colors[labels[~is_background]], linewidth=0)
    if event_times is not None:
        starts = np.asarray(event_times)[:num_sequences]
        place = np.full(num_sequences, num_neurons + 1.8)
        below.scatter(starts, place, s=28, marker="v", color=colors, linewidth=0, clip_on=False)
    numbers = np.bincount(types[:num_sequences], minlength=len(neuron_probs))
    for group in np.unique(groups):
        rows = np.flatnonzero(groups == group)
        if rows[0] > 0:
            below.axhline(rows[0] - 0.5, color="0.4", linewidth=0.6)
        name = "in few\nsequences" if group < 0 else f"type {group + 1}"
        below.text(1.01, rows.mean(), name, transform=below.get_yaxis_transform(), va="center", fontsize="small")
    marks = [
        ("o", SHADES[kind % len(SHADES)][0], f"type {kind + 1}: {number} sequences")
        for kind, number in enumerate(numbers)
    ]
    marks.append((".", "0.6", f"background: {is_background.sum()} spikes"))
    handles = [Line2D([], [], linestyle="", marker=mark, color=color, label=label) for mark, color, label in marks]
    below.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=4, fontsize="small", frameon=False
    )
    below.set(
        xlabel=f"time ({unit})",
        ylabel="neuron, sorted by type and offset",
        ylim=(-1.5, num_neurons + 0.5),
    )
    below.set_title("the same spikes, sorted into sequences", pad=14)
    return axes


def _colors(times, labels, types, num_sequences):
    """A colour for each sequence: its type's, in shades that alternate from one to the next in time."""
    middles = [np.median(times[labels == sequence]) for sequence in range(num_sequences)]
    colors = np.zeros((num_sequences, 4))
    for kind in np.unique(types[:num_sequences]):
        own = np.flatnonzero(types[:num_sequences] == kind)
        for rank, sequence in enumerate(own[np.argsort(np.take(middles, own))]):
            colors[sequence] = to_rgba(SHADES[kind % len(SHADES)][rank % 2])
    return colors
