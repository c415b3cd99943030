"""Every tutorial runs from beginning to end and shows what it promises."""

import runpy
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parent.parent / "tutorials"


@pytest.mark.slow
def test_quickstart_prefers_three_states_and_saves_its_figure(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = runpy.run_path(str(TUTORIALS / "quickstart.py"))
    printed = capsys.readouterr().out
    assert names["best"] in (3, 4)
    assert names["comparison"].index[-1] == "1 states"
    if names["best"] == 3:
        assert sorted(names["rates"].round().astype(int)) == [13, 20, 29]
    assert (tmp_path / "quickstart.png").stat().st_size > 20_000
    assert str(tmp_path / "quickstart.png") in printed
