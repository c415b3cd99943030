"""The embedded series against what is published about them."""

import numpy as np
import pytest

from tsppl import datasets

pytestmark = pytest.mark.smoke


def checksum(values):
    """A sum that also notices two swapped entries."""
    return values @ np.arange(1, len(values) + 1)


def test_earthquakes():
    counts, years = datasets.earthquakes()
    assert counts.shape == years.shape == (107,)
    assert counts.dtype == years.dtype == np.int32
    assert (years[0], years[-1]) == (1900, 2006)
    assert (np.diff(years) == 1).all()
    assert round(counts.mean(), 2) == 19.36
    assert round(counts.var(ddof=1), 2) == 51.57
    assert (counts.min(), counts.max(), years[counts.argmax()]) == (6, 41, 1943)
    assert checksum(counts) == 104393


def test_hamilton_gnp():
    growth, quarters = datasets.hamilton_gnp()
    assert growth.shape == quarters.shape == (135,)
    assert quarters[-1] == np.datetime64("1984-10")
    assert (np.diff(quarters) == np.timedelta64(3, "M")).all()
    assert growth.mean() == pytest.approx(0.744598, abs=1e-6)
    assert checksum(growth) == pytest.approx(6443.95078858, abs=1e-8)


def test_nile():
    volumes, years = datasets.nile()
    assert volumes.shape == years.shape == (100,)
    assert (years[0], years[-1]) == (1871, 1970)
    assert volumes.mean() == 919.35
    assert volumes[years < 1899].mean() == 1097.75
    assert checksum(volumes) == 4416548


@pytest.mark.parametrize("load", [datasets.earthquakes, datasets.hamilton_gnp, datasets.nile])
def test_callers_cannot_spoil_each_other(load):
    values, _ = load()
    values[:] = 0
    assert load()[0].all()
