"""Tutorials on point processes run from beginning to end, as a user runs them, and show what they promise."""

import re

import numpy as np
import pytest

from tests.scripts import QUICK_TO_COMPILE, TUTORIALS, is_figure, need_data, printed_by, run_tutorial


@pytest.mark.slow
def test_songbird_finds_two_types_of_sequences_as_in_the_file(tmp_path, monkeypatch):
    """Neurons come in random order; the file's order is that of another method, which found two sequences as well."""
    need_data("songbird_spikes.txt", monkeypatch)
    printed = run_tutorial("songbird.py", tmp_path, "--quick")
    assert "3336 spikes of 75 neurons in 22.2 seconds" in printed
    numbers = [float(number) for number in re.findall(r"type \d: ([\d.]+) sequences", printed)]
    assert len(numbers) == 2
    assert min(numbers) >= 6
    assert sum(numbers) <= 50
    found = re.findall(r"(\d+)% in one part of the file; rank correlation (-?[\d.]+) .*, (-?[\d.]+) between", printed)
    shares, ranks, repeats = np.array(found, float).T
    assert min(shares) >= 80
    # The quick form anneals too fast to order both types.
    assert max(ranks) > 0.5
    assert max(repeats) > 0.6
    assert 200 < float(re.search(r"background: (\d+) spikes", printed)[1]) < 1200
    assert "missing slots: 0" in printed
    assert is_figure(tmp_path / "songbird.png")


@pytest.mark.slow
def test_sequences_know_where_hidden_spikes_are(tmp_path, monkeypatch):
    """Better than constant rates, and about as many as there were."""
    need_data("songbird_spikes.txt", monkeypatch)
    printed = run_tutorial("hidden_spikes.py", tmp_path, "--quick")
    assert "370 of 3336 spikes hidden" in printed
    score, _, low, high = map(float, re.search(r"2 +(-?[\d.]+) +([\d.]+) +(\d+) to (\d+)", printed).groups())
    assert score > 0.1
    assert low > 200
    assert high < 500
    assert is_figure(tmp_path / "hidden_spikes.png")


@pytest.mark.slow
def test_a_family_of_ones_own_finds_bursts(tmp_path, monkeypatch):
    need_data("songbird_spikes.txt", monkeypatch)
    printed = printed_by(TUTORIALS / "neuron_bursts.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert int(re.search(r"clusters in (\d+) lines", printed)[1]) <= 40
    assert "has probability 1.0000, all in all" in printed
    assert "missing slots: 0" in printed
    share, size, several = map(float, re.search(r"(\d+)% of .* has ([\d.]+) spikes, (\d+)% more", printed).groups())
    assert share > 70
    assert 2 < size < 4
    assert several > 55
    assert 40 < float(re.search(r"standard deviation of (\d+) ms", printed)[1]) < 120
    assert is_figure(tmp_path / "neuron_bursts.png")


@pytest.mark.slow
def test_redwood_counts_parents_and_a_dirichlet_process_counts_more(tmp_path, monkeypatch):
    need_data("redwood.csv", monkeypatch)
    printed = run_tutorial("redwood.py", tmp_path, "--quick")
    medians = dict(re.findall(r"(\w+): median ([\d.]+)", printed))
    assert float(medians["event_rate"]) == pytest.approx(22, abs=7)
    assert float(medians["mean_size"]) == pytest.approx(2.8, abs=0.9)
    assert float(medians["width"]) == pytest.approx(0.036, abs=0.01)
    assert 16 < float(re.search(r"parents with seedlings: mean ([\d.]+)", printed)[1]) < 27
    rows = {name: float(count) for name, count in re.findall(r"^ +0 +(\D+?) +([\d.]+) +[\d.]+$", printed, re.M)}
    assert rows["Neyman-Scott"] == pytest.approx(rows["truth"], abs=1.5)
    assert rows["its Dirichlet-process limit"] > 2 * rows["truth"]
    assert rows["Dirichlet process, learned"] > rows["Neyman-Scott"] + 0.5
    assert is_figure(tmp_path / "redwood.png")
