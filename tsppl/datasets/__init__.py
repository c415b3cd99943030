"""Small classical series, as NumPy arrays, and series that other packages ship."""

from tsppl.datasets.classical import (
    earthquakes as earthquakes,
    hamilton_gnp as hamilton_gnp,
    nile as nile,
)
from tsppl.datasets.packaged import basic_motions as basic_motions, macrodata as macrodata
