"""The scripts that redo the claims about SALT run in their quick form, and each table shows what its claim is about."""

from pathlib import Path

import pytest

from tests.scripts import QUICK_TO_COMPILE, printed_by

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "papers" / "salt"

pytestmark = pytest.mark.slow


def table(script):
    """Cells by row of the last table that the script prints."""
    printed = printed_by(SCRIPTS / script, "--quick", flags=QUICK_TO_COMPILE)
    lines = printed.strip().split("\n\n")[-1].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_parameter_counts_are_those_of_the_paper():
    rows = table("parameter_counts.py")
    assert [rows[name][2] for name in ("SLDS", "CP-SALT", "Tucker-SALT", "ARHMM")] == [
        "2,839",
        "8,085",
        "17,402",
        "145,152",
    ]


def number(cell):
    """The mean in a cell that may go on with a range."""
    return float(cell.split()[0].replace(",", ""))


def test_linear_system_has_the_predicted_ranks():
    rows = table("linear_system.py")
    assert max(float(rows[kind][0]) for kind in ("CP 10", "Tucker 7")) < 1e-6


@pytest.mark.parametrize("script", ["nascar.py", "lorenz.py"])
def test_low_rank_predicts_unseen_steps_better_than_dense(script):
    *_, low_rank, dense, _ = table(script).values()
    assert number(low_rank[-1]) > number(dense[-1]) + 0.5


def test_lags_pay_for_low_rank():
    rows = table("lags.py")
    assert number(rows["5"][1]) > number(rows["1"][1]) + 0.3
