"""Small classical series, as NumPy arrays, series that other packages ship, and point patterns that are downloaded."""

from tsppl.datasets.classical import (
    beaver as beaver,
    earthquakes as earthquakes,
    hamilton_gnp as hamilton_gnp,
    nile as nile,
)
from tsppl.datasets.fetched import redwood as redwood, songbird_spikes as songbird_spikes
from tsppl.datasets.packaged import (
    basic_motions as basic_motions,
    co2 as co2,
    frbny_vintage as frbny_vintage,
    industrial_production as industrial_production,
    macrodata as macrodata,
)
from tsppl.datasets.simulated import (
    Decisions as Decisions,
    Tracks as Tracks,
    simulate_decisions as simulate_decisions,
    simulate_movement as simulate_movement,
)
