"""The drawing of the rooms is made from README's table and the imports, and is up to date."""

import re
from xml.etree import ElementTree

import pytest

from scripts.draw_architecture import (
    FIGURE,
    drawing,
    read_imports,
    read_rooms,
    without_implied,
)

TABLE = """
| level | room | job |
|---|---|---|
| 0 | `low/` | fail <well> |
| 1 | `middle.py` | in the middle |
| 2 | `top/` | entry: the whole |
"""


@pytest.fixture
def repository(tmp_path):
    """Make a repository of three rooms."""
    for name in ("low", "top"):
        (tmp_path / name).mkdir()
    (tmp_path / "README.md").write_text(TABLE)
    (tmp_path / "low/a.py").write_text("import json\n")
    (tmp_path / "middle.py").write_text("from low.a import json\n")
    (tmp_path / "top/b.py").write_text("import middle\nimport low.a\nfrom top import c\n")
    return tmp_path


def test_the_committed_drawing_is_the_one_that_the_script_draws():
    assert FIGURE.read_text(encoding="utf-8") == drawing(), "run: make architecture"


def test_rooms_and_arrows_are_those_of_the_table_and_the_imports(repository):
    rooms = read_rooms(TABLE)
    assert [(room.shown, room.level) for room in rooms.values()] == [
        ("low/", 0),
        ("middle.py", 1),
        ("top/", 2),
    ]
    imports = read_imports(repository, rooms)
    assert imports == {"low": set(), "middle": {"low"}, "top": {"middle", "low"}}
    assert without_implied(imports) == [("middle", "low"), ("top", "middle")]
    svg = drawing(repository)
    assert svg.count("marker-end") == 2 and "fail &lt;well&gt;" in svg


@pytest.mark.parametrize("line", ["import top.b", "from top import b", "def f():\n    import top"])
def test_an_arrow_that_runs_up_is_refused(repository, line):
    (repository / "low/a.py").write_text(f"{line}\n")
    with pytest.raises(
        ValueError, match=r"low/ of level 0 imports top/ of level 2: a room imports"
    ):
        drawing(repository)


def test_no_box_covers_another_and_no_arrow_runs_over_a_box():
    root = ElementTree.fromstring(drawing())
    space = "{http://www.w3.org/2000/svg}"
    page, *boxes = [
        tuple(float(rect.get(key, 0)) for key in ("x", "y", "width", "height"))
        for rect in root.iter(f"{space}rect")
    ]
    for i, (x, y, width, height) in enumerate(boxes):
        assert x >= 0 and x + width <= page[2] and y + height <= page[3]
        for left, top, w, h in boxes[:i]:
            assert x + width < left or left + w < x or y + height < top or top + h < y
    passes = 0
    for path in root.iter(f"{space}path"):
        # `L` runs straight down through a row: from the point before it to its own
        for x, end in re.findall(r" L (\d+) (\d+)", path.get("d", "")):
            passes += 1
            for left, top, width, height in boxes:
                crosses = top <= float(end) <= top + height and left <= float(x) <= left + width
                assert not crosses
    assert passes


def test_the_text_of_a_box_stays_in_it():
    rooms = read_rooms((FIGURE.parents[1] / "README.md").read_text(encoding="utf-8"))
    root = ElementTree.fromstring(drawing())
    space = "{http://www.w3.org/2000/svg}"
    boxes = [
        [float(rect.get(key, 0)) for key in ("x", "y", "width", "height")]
        for rect in root.iter(f"{space}rect")
    ][1:]
    texts = [text for text in root.iter(f"{space}text") if text.get("class") != "level"][:-1]
    names = [text.text for text in texts if text.get("class") == "name"]
    assert sorted(names) == sorted(room.shown for room in rooms.values())
    for text in texts:
        # half an em a character, more for the bold name; a little more than fonts need
        half = len(text.text) * (0.3 * 12 if text.get("class") == "name" else 0.26 * 10.5)
        x, y = float(text.get("x")), float(text.get("y"))
        assert any(
            left <= x - half and x + half <= left + w and top < y < top + h
            for left, top, w, h in boxes
        ), text.text
