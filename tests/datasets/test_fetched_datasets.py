"""Downloaded point patterns against what is published about them, from a folder of files where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tsppl import datasets

FOLDER = Path(os.environ.get("TSPPL_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture
def folder(monkeypatch):
    """The folder that holds the files, or in whose folder ``point-processes`` they are."""
    monkeypatch.setenv("TSPPL_DATA", str(FOLDER))
    for place in (FOLDER, FOLDER / "point-processes"):
        if (place / "songbird_spikes.txt").is_file() and (place / "redwood.csv").is_file():
            return place
    pytest.skip("songbird_spikes.txt and redwood.csv are not at hand: name their folder in TSPPL_DATA")


def test_songbird_spikes(folder):
    times, neurons = datasets.songbird_spikes()
    assert times.shape == neurons.shape == (3336,)
    assert times.dtype == np.float64
    assert (np.diff(times) >= 0).all()
    assert (times[0], times[-1]) == (1 / 30, 22.2)
    np.testing.assert_allclose(times * 30, np.round(times * 30), atol=1e-9)
    assert np.array_equal(np.unique(neurons), np.delete(np.arange(75), 8))  # one neuron never fires


def test_redwood(folder):
    points, window = datasets.redwood()
    assert points.shape == (62, 2)
    assert ((points >= window[0]) & (points <= window[1])).all()
    np.testing.assert_allclose(points.sum(0), [32.539, -31.24])


def test_files_may_lie_in_the_folder_itself_and_must_be_the_right_ones(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TSPPL_DATA", str(tmp_path))
    table = (folder / "redwood.csv").read_bytes()
    (tmp_path / "redwood.csv").write_bytes(table)
    assert datasets.redwood()[0].shape == (62, 2)
    (tmp_path / "redwood.csv").write_bytes(table.replace(b"0.36", b"0.37"))
    with pytest.raises(OSError, match="is not the file that is meant"):
        datasets.redwood()


@pytest.mark.parametrize("load", [datasets.songbird_spikes, datasets.redwood])
def test_without_a_network_the_folder_is_named(load, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    monkeypatch.setenv("TSPPL_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.retrieve", fail)
    with pytest.raises(OSError, match=r"could not be downloaded from https://.*no route.*variable TSPPL_DATA"):
        load()


def test_importing_data_sets_does_not_import_pooch():
    code = "import sys, tsppl.datasets; assert 'pooch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
