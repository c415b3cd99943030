"""The scripts that redo the claims about SALT run in their quick form, and each table shows what its claim is about."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "benchmarks" / "papers" / "salt"

pytestmark = pytest.mark.slow


def table(script):
    """Cells by row of the last table that the script prints."""
    command = [sys.executable, str(SCRIPTS / script), "--quick"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert run.returncode == 0, run.stderr[-2000:]
    lines = run.stdout.strip().split("\n\n")[-1].splitlines()
    return {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)}


def test_parameter_counts_are_those_of_the_paper():
    rows = table("parameter_counts.py")
    assert [rows[name][2] for name in ("SLDS", "CP-SALT", "Tucker-SALT", "ARHMM")] == [
        "2,839",
        "8,085",
        "17,402",
        "145,152",
    ]
