"""Tutorials on series and recurrences run from beginning to end, as a user runs them, and show what they promise."""

import re
from importlib.util import find_spec

import numpy as np
import pytest

from tests.scripts import QUICK_TO_COMPILE, TUTORIALS, is_figure, printed_by, run_tutorial


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
