"""Pictures of series, states and forecasts; the only room that imports Matplotlib."""

from tsppl.plots.clusters import (
    plot_clusters as plot_clusters,
    plot_co_assignment as plot_co_assignment,
    plot_event_places as plot_event_places,
    plot_intensity as plot_intensity,
    plot_num_clusters as plot_num_clusters,
)
from tsppl.plots.components import plot_components as plot_components, plot_forecast as plot_forecast
from tsppl.plots.events import plot_sequence_raster as plot_sequence_raster, sort_neurons as sort_neurons
from tsppl.plots.model_scores import plot_model_scores as plot_model_scores
from tsppl.plots.pseudo_residuals import plot_pseudo_residuals as plot_pseudo_residuals
from tsppl.plots.regimes import plot_regime_probability as plot_regime_probability
from tsppl.plots.residuals import plot_residuals as plot_residuals
from tsppl.plots.series import plot_decoded_series as plot_decoded_series
from tsppl.plots.states import (
    plot_dwell_times as plot_dwell_times,
    plot_state_densities as plot_state_densities,
    plot_transition_curves as plot_transition_curves,
    plot_transition_graph as plot_transition_graph,
)
