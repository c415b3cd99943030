"""Every tutorial runs from beginning to end, as a user runs it, and shows what it promises."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests.scripts import QUICK_TO_COMPILE, printed_by

TUTORIALS = Path(__file__).parent.parent / "tutorials"


def run_tutorial(name, folder, *arguments):
    """What it prints."""
    return printed_by(TUTORIALS / name, *arguments, folder=folder)


def need_data(name, monkeypatch):
    """Read a file that is otherwise downloaded from the folder TSPPL_DATA, or one beside the repository; skip without."""
    folder = Path(os.environ.get("TSPPL_DATA") or TUTORIALS.parent.parent / "shared" / "data")
    if not list(folder.glob(f"**/{name}")):
        pytest.skip(f"{name} is not at hand: name its folder in TSPPL_DATA")
    monkeypatch.setenv("TSPPL_DATA", str(folder))


def is_figure(path):
    return path.stat().st_size > 20_000


@pytest.mark.slow
def test_quickstart_tells_three_kinds_of_year_apart_and_saves_its_figure(tmp_path):
    printed = run_tutorial("quickstart.py", tmp_path)
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
@pytest.mark.skipif(find_spec("statsmodels") is None, reason="its data are in statsmodels")
def test_macroeconomic_ranks_needs_few_weights_where_free_ones_fail(tmp_path):
    printed = run_tutorial("macroeconomic_ranks.py", tmp_path, "--quick")
    pattern = r"(CP|free weights|ridge) +\S* +(\d+) +(\d+) +(-[\d.]+) +(-[\d.]+) +(-[\d.]+) +(-[\d.]+)$"
    rows = {(name, int(lags)): tuple(map(float, rest)) for name, lags, *rest in re.findall(pattern, printed, re.M)}
    assert {("CP", 8), ("free weights", 8), ("ridge", 8)} < set(rows)
    (few, fitted, *unseen), (many, free_fitted, *free_unseen) = rows["CP", 8], rows["free weights", 8]
    assert (few, many) == (96, 512)
    assert free_fitted > fitted
    assert min(np.subtract(unseen, free_unseen)) > 1
    assert "chosen among the low-rank models: CP of rank 4" in printed
    assert ": stable" in printed
    assert is_figure(tmp_path / "macroeconomic_ranks.png")
    assert is_figure(tmp_path / "macroeconomic_responses.png")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("statsmodels") is None, reason="half of its data are in statsmodels")
def test_business_cycle_gives_the_published_numbers_and_finds_recessions(tmp_path):
    printed = printed_by(TUTORIALS / "business_cycle.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert "published -181.26339, here -181.26339" in printed
    assert "published -586.5718, here -586.5718" in printed
    assert int(re.search(r"below outside: (\d+)%", printed)[1]) >= 88
    stays = re.findall(r"^stay (low|high) +([\d.]+)", printed, re.M)
    assert [name for name, _ in stays] == ["low", "high"] * 2
    for (_, low), (_, high) in (stays[:2], stays[2:]):
        assert 0.6 < float(low) < float(high) < 0.97
    assert is_figure(tmp_path / "business_cycle.png")
    assert is_figure(tmp_path / "business_cycle_leading_index.png")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("statsmodels") is None, reason="its data are in statsmodels")
def test_structural_series_forecasts_carbon_dioxide(tmp_path):
    printed = printed_by(TUTORIALS / "structural_series.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert "statsmodels -632.5377, here -632.5377" in printed
    error, inside = map(float, re.search(r"of the median ([\d.]+) ppm, (\d+)% inside", printed).groups())
    assert error < 1.5
    assert inside >= 80
    assert is_figure(tmp_path / "structural_components.png")
    assert is_figure(tmp_path / "structural_forecast.png")


@pytest.mark.slow
def test_nowcast_has_its_news(tmp_path):
    printed = printed_by(TUTORIALS / "nowcast.py", "--quick", folder=tmp_path, flags=QUICK_TO_COMPILE)
    assert "29 July, second quarter: 1.22 % a year (published)" in printed
    middle, low, high = map(
        float, re.search(r"29 June, second quarter: ([-\d.]+) .* between ([-\d.]+) and ([-\d.]+)", printed).groups()
    )
    assert low < 1.22 < high
    assert 0 < middle < 4
    total, releases, revisions = map(
        float, re.search(r"mode: (\S+) points, of which releases (\S+), revisions (\S+)", printed).groups()
    )
    assert abs(total - releases - revisions) < 0.02
    assert is_figure(tmp_path / "nowcast.png")


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


@pytest.mark.slow
def test_nonlinear_state_space_model_finds_what_drove_the_population(tmp_path):
    printed = run_tutorial("nonlinear_state_space.py", tmp_path, "--quick")
    stable, chaotic = re.findall(
        r"Lyapunov exponent (-?[\d.]+), (settled|plain loop) after .* lax.scan ([\d.e+-]+)", printed
    )
    assert float(stable[0]) < 0 < float(chaotic[0])
    assert (stable[1], chaotic[1]) == ("settled", "plain loop")
    assert float(stable[2]) < 1e-5
    for name in ("log_r", "sigma", "phi"):
        truth, _, low, high, _, r_hat = map(float, re.search(rf"{name} +([\d. -]+)", printed)[1].split())
        assert low < truth < high
        assert r_hat < 1.05
    assert 80 <= int(re.search(r"inside their 90 % intervals: (\d+) %", printed)[1]) <= 98
    assert is_figure(tmp_path / "nonlinear_state_space.png")


@pytest.mark.slow
def test_parallel_mcmc_finds_the_chain_of_the_loop_in_few_sweeps(tmp_path):
    printed = run_tutorial("parallel_mcmc.py", tmp_path, "--quick")
    pattern = r"^ *(\D+?|Newton, float32) +(\d+) +(yes|no) +([\d.e+-]+|nan) +(\d+) +[\d.]+$"
    rows = {name: tuple(row) for name, *row in re.findall(pattern, printed, re.M)}
    assert len(rows) == 7
    single = rows.pop("Newton, float32")
    assert single[1] == "yes"
    for _, settled, difference, other_decisions in rows.values():
        assert (settled, other_decisions) == ("yes", "0")
        assert float(difference) < 1e-8
    sweeps = {name: int(row[0]) for name, row in rows.items()}
    assert sweeps["Newton"] <= 12
    assert sweeps["quasi-Newton along eigenvectors"] <= 18
    assert min(sweeps["quasi-Newton along weights"], sweeps["Jacobi"]) > 100
    weight, sd, at_mode = map(float, re.search(r"1 year before +(\S+) +(\S+) +(\S+)", printed).groups())
    assert 0.05 < weight < 0.25
    assert sd == pytest.approx(at_mode, rel=0.5)
    assert is_figure(tmp_path / "parallel_mcmc.png")
