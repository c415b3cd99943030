"""Small classical series, as NumPy arrays."""

from tsppl.datasets.classical import (
    earthquakes as earthquakes,
    hamilton_gnp as hamilton_gnp,
    nile as nile,
)
