"""A series above the probabilities of its hidden states, with a forecast band."""

import numpy as np

from tsppl.plots.panels import fan, panels
from tsppl.plots.states import state_colors


def plot_decoded_series(
    times, values, state_probs, *, state_names=None, state_levels=None, future_times=None, forecast=None,
    ylabel="value", axes=None,
):  # fmt: skip
    """Draw a scalar series with its hidden states and, if given, what comes next.

    The upper panel shows the observations, the level of the most probable state at each step, and the forecast as its
    median with 50 % and 90 % bands; the lower panel shows the state probabilities, stacked to one.

    Args:
        times: ``(T,)``, numbers or dates.
        values: ``(T,)``.
        state_probs: ``(T, K)``.
        state_names: ``K`` labels for the legend; ``"state 0"`` and so on by default.
        state_levels: ``(K,)``, typical value of each state, drawn as a step line through the most probable states.
        future_times: ``(h,)``, times of the forecast.
        forecast: draws ``(..., h)``.
        ylabel: label of the upper panel.
        axes: two Matplotlib axes to draw on, the upper one first; new ones if None.

    Returns:
        the two Matplotlib axes.

    >>> import numpy as np
    >>> from tsppl.plots import plot_decoded_series
    >>> axes = plot_decoded_series(np.arange(3), [1, 5, 6], [[0.9, 0.1], [0.2, 0.8], [0.1, 0.9]])
    >>> axes[1].get_ylabel()
    'state probability'
    """
    times, values, state_probs = np.asarray(times), np.asarray(values), np.asarray(state_probs)
    num_states = state_probs.shape[-1]
    names = state_names or [f"state {state}" for state in range(num_states)]
    above, below = axes = panels(axes, (2, 1), (9, 5.5), sharex=True, height_ratios=[2.4, 1])
    above.plot(times, values, color="0.35", linewidth=0.8, marker="o", markersize=3, label="observed")
    if state_levels is not None:
        most_probable = state_probs.argmax(-1)
        above.step(
            times,
            np.asarray(state_levels)[most_probable],
            where="mid",
            color="black",
            label="mean of most probable state",
        )
    if forecast is not None:
        fan(above, np.asarray(future_times), forecast, color="tab:red", of="forecast, ")
    above.set_ylabel(ylabel)
    above.legend(loc="upper right", fontsize="small", ncols=2)
    below.stackplot(times, state_probs.T, labels=names, colors=state_colors(num_states), step="mid")
    below.set(ylim=(0, 1), ylabel="state probability")
    below.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    return axes
