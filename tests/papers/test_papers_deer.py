"""The scripts that redo the claims about DEER and ELK run in their quick form, and the tables show what they claim."""

from pathlib import Path

import pytest

from tests.scripts import QUICK_TO_COMPILE, printed_by

SCRIPTS = Path(__file__).parents[2] / "benchmarks" / "papers" / "deer"

pytestmark = pytest.mark.slow


def table(script, *options):
    """Rows of cells of the first table that the script prints."""
    printed = printed_by(SCRIPTS / script, *options, flags=QUICK_TO_COMPILE)
    first = next(block for block in printed.split("\n\n") if block.startswith("|"))
    lines = first.splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_untrained_cells_need_few_sweeps():
    counts = {(row[1], row[2]): row[3] for row in table("iterations.py", "--quick")}
    for method, most in {"newton": 6, "quasi": 16, "jacobi": 35}.items():
        assert all(int(counts[steps, method]) <= most for steps in ("200", "1,000"))


def test_trained_nets_converge_to_the_loop_by_every_method():
    """Whether damping pays is for the table in full to say; full Jacobians do."""
    rows = {row[0]: row[1:] for row in table("autoregressive_gru.py", "--quick")}
    assert all(row[0] == "3 of 3" and float(row[3]) < 1e-8 for row in rows.values())
    medians = {name: float(row[1]) for name, row in rows.items()}
    assert medians["newton (DEER)"] < 0.5 * medians["quasi (quasi-DEER)"]


def test_wall_times_are_of_equal_values():
    """The script compares all outputs with the loop's."""
    rows = table("wall_time.py", "--quick")
    assert [row[0] for row in rows] == ["forward", "gradient"]
    assert all(float(cell) > 0 for row in rows for cell in row[4:])


def test_training_follows_the_wave(tmp_path):
    output = ("--output", str(tmp_path / "nets.npz"))
    printed = printed_by(SCRIPTS / "train_autoregressive_gru.py", "--candidates", "1", *output)
    assert "left out" not in printed
