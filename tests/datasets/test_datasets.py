"""The series against what is published about them."""

from importlib.util import find_spec

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


def test_beaver():
    temperature, active, times = datasets.beaver()
    assert temperature.shape == active.shape == times.shape == (100,)
    assert active.sum() == 62
    assert (np.diff(times) == np.timedelta64(10, "m")).all()
    assert times[-1] == np.datetime64("1990-11-04T02:00")
    assert temperature[active == 0].mean() == pytest.approx(37.09684, abs=1e-5)
    assert temperature[active == 1].mean() == pytest.approx(37.90306, abs=1e-5)


@pytest.mark.parametrize("load", [datasets.earthquakes, datasets.hamilton_gnp, datasets.nile])
def test_callers_cannot_spoil_each_other(load):
    values, _ = load()
    values[:] = 0
    assert load()[0].all()


needs_aeon = pytest.mark.skipif(find_spec("aeon") is None, reason="the file is in aeon: pip install --no-deps aeon")
needs_statsmodels = pytest.mark.skipif(find_spec("statsmodels") is None, reason="the file is in statsmodels")


@needs_aeon
def test_basic_motions():
    names = ["Badminton", "Running", "Standing", "Walking"]
    loaded = [datasets.basic_motions(split) for split in ("train", "test")]
    for values, activities in loaded:
        assert values.shape == (40, 100, 6)
        assert np.unique(activities).tolist() == names
        assert (np.bincount(np.searchsorted(names, activities)) == 10).all()
        spread = {name: values[activities == name].std() for name in names}
        assert spread["Standing"] < spread["Walking"] < spread["Badminton"] < spread["Running"]
    (train, _), (test, _) = loaded
    assert train[0, :3, 0].tolist() == [0.079106, 0.079106, -0.903497]
    assert not (train == test).all()


def test_basic_motions_has_two_halves():
    with pytest.raises(ValueError, match="split is 'all'"):
        datasets.basic_motions("all")


@needs_statsmodels
def test_macrodata():
    series, quarters = datasets.macrodata()
    assert len(series) == 12
    assert all(values.shape == quarters.shape == (203,) for values in series.values())
    assert (quarters[0], quarters[-1]) == (np.datetime64("1959-01"), np.datetime64("2009-07"))
    assert (np.diff(quarters) == np.timedelta64(3, "M")).all()
    assert (series["realgdp"][0], series["unemp"][-1]) == (2710.349, 9.6)
    inflation = 400 * np.diff(np.log(series["cpi"]))
    np.testing.assert_allclose(inflation, series["infl"][1:], atol=0.01)
    np.testing.assert_allclose((series["tbilrate"] - series["infl"])[1:], series["realint"][1:], atol=0.011)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr("tsppl.datasets.packaged.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"aeon, which is not installed: pip install"):
        datasets.basic_motions()
    with pytest.raises(ModuleNotFoundError, match="statsmodels, which is not installed"):
        datasets.macrodata()


@needs_statsmodels
def test_industrial_production():
    growth, leading, months = datasets.industrial_production()
    assert growth.shape == leading.shape == months.shape == (519,)
    assert (months[0], months[-1]) == (np.datetime64("1948-02"), np.datetime64("1991-04"))
    assert growth.mean() == pytest.approx(0.245211854, abs=1e-9)
    assert leading.mean() == pytest.approx(0.0, abs=1e-9)


@needs_statsmodels
def test_co2():
    ppm, months = datasets.co2()
    assert ppm.shape == months.shape == (526,)
    assert (months[0], months[-1]) == (np.datetime64("1958-03"), np.datetime64("2001-12"))
    missing = months[np.isnan(ppm)].astype(str).tolist()
    assert missing == ["1958-06", "1958-10", "1964-02", "1964-03", "1964-04"]
    assert ppm[:2].tolist() == pytest.approx([316.1, 317.2])
    assert np.nanmean(ppm) == pytest.approx(339.8226647472809)
