"""Every tutorial runs from beginning to end, as a user runs it, and shows what it promises."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.mark.slow
def test_quickstart_tells_three_kinds_of_year_apart_and_saves_its_figure(tmp_path):
    script = str(TUTORIALS / "quickstart.py")
    run = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, timeout=900)
    assert run.returncode == 0, run.stderr[-2000:]
    ranking = [line for line in run.stdout.splitlines() if re.match(r"\d states ", line)]
    assert ranking[0].startswith(("3 states", "4 states"))
    assert ranking[-1].startswith("1 states")
    rates = sorted(float(rate) for rate in re.findall(r"state \d: ([\d.]+) earthquakes", run.stdout))
    assert rates[0] == pytest.approx(13.1, abs=1.0)
    assert rates[-1] == pytest.approx(29.7, abs=2.0)
    assert "forecast 2007 to 2016" in run.stdout
    assert str(tmp_path / "quickstart.png") in run.stdout
    assert (tmp_path / "quickstart.png").stat().st_size > 20_000
