"""Pictures of series, states and forecasts; the only room that imports Matplotlib."""

from tsppl.plots.series import plot_decoded_series as plot_decoded_series
