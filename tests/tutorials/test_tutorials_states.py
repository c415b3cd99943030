"""Tutorials on hidden states run from beginning to end, as a user runs them, and show what they promise."""

import re
from importlib.util import find_spec

import pytest

from tests.scripts import QUICK_TO_COMPILE, TUTORIALS, is_figure, printed_by, run_tutorial


@pytest.mark.slow
def test_quickstart_tells_three_kinds_of_year_apart_and_saves_its_figure(tmp_path):
    printed = run_tutorial("quickstart.py", tmp_path, "--quick")
    ranking = [line for line in printed.splitlines() if re.match(r"\d states ", line)]
    assert ranking[0].startswith(("3 states", "4 states"))
    assert ranking[-1].startswith("1 states")
    rates = sorted(float(rate) for rate in re.findall(r"state \d: ([\d.]+) earthquakes", printed))
    assert rates[0] == pytest.approx(13.1, abs=1.0)
    assert rates[-1] == pytest.approx(29.7, abs=2.0)
    assert "forecast 2007 to 2016" in printed
    assert str(tmp_path / "quickstart.png") in printed
    assert is_figure(tmp_path / "quickstart.png")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("aeon") is None, reason="its data are in aeon: pip install --no-deps aeon")
def test_wrist_motion_finds_activities_and_low_rank_weights_that_bear_more_lags(tmp_path):
    printed = run_tutorial("wrist_motion.py", tmp_path, "--quick")
    row = re.search(r"^ +10 +[\d. -]+$", printed, re.M)[0]
    _, low_rank_count, low_rank_fit, low_rank_score, free_count, free_fit, free_score = map(float, row.split())
    assert (low_rank_count, free_count) == (840, 1440)
    assert free_fit > low_rank_fit
    assert low_rank_score > free_score + 0.1
    assert int(re.search(r"matched one to one: (\d+)%", printed)[1]) >= 60
    assert is_figure(tmp_path / "wrist_motion.png")


@pytest.mark.slow
def test_movement_finds_behaviours_and_what_temperature_does(tmp_path):
    printed = printed_by(TUTORIALS / "movement.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert "9% of the steps and 26% of the turns are unknown" in printed
    assert "no problem found" in printed
    rows = re.findall(r"^(\w+), (resting|travelling) +([-\d. ]+)$", printed, re.M)
    assert len(rows) == 12
    for name, state, numbers in rows:
        truth, mean, low, high, r_hat = map(float, numbers.split())
        assert low - 0.7 * (high - low) <= truth <= high + 0.7 * (high - low), (name, state)
        assert r_hat < 1.1
    assert float(re.search(r"state found at ([\d.]+)%", printed)[1]) > 95
    assert is_figure(tmp_path / "movement.png")
    assert is_figure(tmp_path / "movement_stays.png")
    assert is_figure(tmp_path / "movement_residuals.png")
    assert int(re.search(r"activity as seen at (\d+)%", printed)[1]) >= 85
    assert is_figure(tmp_path / "movement_beaver.png")
    mean, deviation = map(float, re.search(r"of the steps: mean (\S+), deviation (\S+)", printed).groups())
    assert (mean, deviation) == pytest.approx((0, 1), abs=0.15)


@pytest.mark.slow
def test_glm_hmm_finds_states_weights_and_bits(tmp_path):
    printed = printed_by(TUTORIALS / "glm_hmm.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    rows = re.findall(r"^(engaged|biased left|biased right), (stimulus|bias) +([-\d. ]+)$", printed, re.M)
    assert len(rows) == 6
    for name, weight, numbers in rows:
        truth, mean, low, high, r_hat = map(float, numbers.split())
        assert low - 0.4 <= truth <= high + 0.4, (name, weight)
        assert r_hat < 1.1
    assert int(re.search(r"single subjects: (\d+)% inside", printed)[1]) >= 75
    assert int(re.search(r"state found at (\d+)% of the trials", printed)[1]) >= 88
    three, one = map(float, re.findall(r"states?: ([\d.]+) bits", printed))
    assert three > one + 0.1
    assert is_figure(tmp_path / "glm_hmm.png")


@pytest.mark.slow
def test_semi_markov_finds_how_long_bouts_last(tmp_path):
    printed = printed_by(TUTORIALS / "semi_markov.py", "--quick", folder=tmp_path)
    for state, truth in enumerate((11, 4)):
        _, mean, low, high, _ = map(float, re.search(rf"mean, state {state} +([\d. ]+)", printed)[1].split())
        assert low - 1.5 < truth < high + 1.5
    semi, ordinary = (float(x) for x in re.findall(r"log-likelihood (-[\d.]+)", printed))
    assert semi > ordinary
    assert is_figure(tmp_path / "semi_markov.png")


@pytest.mark.slow
def test_number_of_states_is_told_after_one_compilation(tmp_path):
    printed = run_tutorial("number_of_states.py", tmp_path, "--quick")
    assert [row[0] for row in re.findall(r"^(\d) +-[\d.]+ +[\d.]+ +[\d.]+", printed, re.M)] == ["3", "2", "1"]
    future = [float(score) for score in re.findall(r"states: (-?[\d.]+) nats from the best", printed)]
    assert future[0] < future[1] - 5
    seconds = [float(time) for time in re.findall(r"all years in ([\d.]+) s", printed)]
    assert max(seconds[1:]) < 0.6 * seconds[0]
    assert is_figure(tmp_path / "number_of_states.png")
