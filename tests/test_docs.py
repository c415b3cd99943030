"""Every name that the README and the pages of docs/ mention exists, and the map of rooms is that of the code."""

import re
from pathlib import Path

import pytest

import tsppl
import tsppl.distributions
import tsppl.plots

ROOT = Path(__file__).parent.parent
PLACES = {
    name: getattr(tsppl, name) for name in ("inference", "plots", "structural", "recurrence", "messages", "datasets")
}
PLACES |= {"tsd": tsppl.distributions, "tsppl": tsppl}


@pytest.mark.smoke
@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.name
)
def test_names_on_the_page_exist(page):
    text = page.read_text()
    mentioned = set(re.findall(rf"(?<![\w.])({'|'.join(PLACES)})\.([A-Za-z]\w*)", text))
    missing = {f"{place}.{name}" for place, name in mentioned if not hasattr(PLACES[place], name)}
    assert not missing - {"messages.md"}
    for tutorial in re.findall(r"tutorials/\w+\.py", text):
        assert (ROOT / tutorial).is_file()


def test_the_map_of_rooms_is_that_of_the_code():
    rows = re.findall(
        r"^\| `([\w/.]+)` \| ((?:`\w+` ?)+)\|", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    drawn = {room: sorted(re.findall(r"\w+", modules)) for room, modules in rows}
    found = {}
    for path in (ROOT / "tsppl").rglob("*.py"):
        if path.name != "__init__.py":
            found.setdefault(path.parent.relative_to(ROOT / "tsppl").as_posix(), []).append(path.stem)
    assert drawn == {room: sorted(modules) for room, modules in found.items()}
