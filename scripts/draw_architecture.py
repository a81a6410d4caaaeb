"""Draw the rooms, their levels and who imports whom, from README's table and the imports.

    python -m scripts.draw_architecture    # writes docs/architecture.svg

Levels are rows, entries on top. An arrow says that a room imports another one; an arrow that
follows from others (training imports data, data imports storage: training may import storage) is
left out, since all of them together hide the shape. Long arrows pass the rows between through
waypoints of their own, so that no line runs over a box.
"""

import argparse
import ast
import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

from system.cli import run_entry

ROOT = Path(__file__).resolve().parents[1]
FIGURE = ROOT / "docs/architecture.svg"
TABLE_ROW = re.compile(r"^\| (\d+) \| `([\w/.]+)` \| (.+?) \|$", re.MULTILINE)
WIDTH, MARGIN, LABEL = 1140, 16, 44  # px; LABEL is the column of the level's number
GAP, LANE = 14, 14  # px between two boxes; px that a passing arrow takes
NAME_SIZE, JOB_SIZE, LINE = 12, 10.5, 13  # px
MAX_BOX = 230  # px
ROW_GAP = 42  # px between rows, where arrows bend
SWEEPS = 12  # over the rows, to bring each box near its neighbours


class Room(NamedTuple):
    """A row of README's table: a folder, or a file of the root."""

    name: str  # as in an import
    shown: str  # as in the table
    level: int
    job: str


@dataclass(eq=False)
class Node:
    """A box, or a waypoint of a long arrow (`room` is None)."""

    level: int
    room: Room | None
    width: float
    x: float = 0.0  # px, of the centre


def read_rooms(readme: str) -> dict[str, Room]:
    """Return the rooms of README's table by name."""
    rows = [(int(level), shown, job) for level, shown, job in TABLE_ROW.findall(readme)]
    names = [shown.removesuffix("/").removesuffix(".py") for _, shown, _ in rows]
    return {n: Room(n, s, level, job) for n, (level, s, job) in zip(names, rows, strict=True)}


def read_imports(root: Path, rooms: Mapping[str, Room]) -> dict[str, set[str]]:
    """Return which other rooms each room imports.

    Raises:
        ValueError: A room imports one of its own level or above.
    """
    imports: dict[str, set[str]] = {}
    for room in rooms.values():
        path = root / room.shown
        files = [path] if path.is_file() else sorted(path.glob("*.py"))
        imported = {name for file in files for name in _imported_rooms(file) & rooms.keys()}
        imports[room.name] = imported - {room.name}
        for other in sorted(imports[room.name]):
            if rooms[other].level >= room.level:
                raise ValueError(
                    f"{room.shown} of level {room.level} imports {rooms[other].shown} of level "
                    f"{rooms[other].level}: a room imports lower levels only"
                )
    return imports


def _imported_rooms(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def without_implied(imports: Mapping[str, set[str]]) -> list[tuple[str, str]]:
    """Return the pairs (a, b) where a imports b, and no other room that a imports leads to b.

    >>> without_implied({"c": {"b", "a"}, "b": {"a"}, "a": set()})
    [('b', 'a'), ('c', 'b')]
    """

    def leads_to(start: str) -> set[str]:
        return imports[start].union(*map(leads_to, imports[start]))

    implied = {a: set().union(*map(leads_to, imports[a])) for a in imports}
    return [(a, b) for a in sorted(imports) for b in sorted(imports[a] - implied[a])]


def draw(rooms: Mapping[str, Room], arrows: list[tuple[str, str]]) -> str:
    """Return the drawing as SVG.

    Args:
        rooms: From `read_rooms`.
        arrows: Pairs (importing, imported) of room names.
    """
    levels = sorted({room.level for room in rooms.values()}, reverse=True)
    rows: dict[int, list[Node]] = {level: [] for level in levels}
    boxes = {}
    for room in rooms.values():
        boxes[room.name] = Node(room.level, room, len(room.shown) * 0.61 * NAME_SIZE + 14)
        rows[room.level].append(boxes[room.name])
    chains = []
    for a, b in arrows:
        passed = [level for level in rows if boxes[b].level < level < boxes[a].level]
        waypoints = [Node(level, None, LANE) for level in passed]
        for node in waypoints:
            rows[node.level].append(node)
        chains.append([boxes[a], *waypoints, boxes[b]])
    for row in rows.values():
        _widen(row)
    _arrange(list(rows.values()), chains)
    return _svg(rows, chains)


def _widen(row: list[Node]) -> None:
    """Share the width that is left in a row among its boxes."""
    boxes = [node for node in row if node.room]
    used = sum(node.width + GAP for node in row)
    extra = max(0.0, WIDTH - 2 * MARGIN - LABEL - used) / len(boxes)
    for node in boxes:
        node.width = min(max(MAX_BOX, node.width), node.width + extra)


def _arrange(rows: list[list[Node]], chains: list[list[Node]]) -> None:
    """Order each row by the mean place of its neighbours, up and down in turn, and place it."""
    above: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    below: dict[Node, list[Node]] = {node: [] for row in rows for node in row}
    for chain in chains:
        for upper, lower in zip(chain, chain[1:], strict=False):
            above[lower].append(upper)
            below[upper].append(lower)
    for row in rows:
        _place(row, {node: WIDTH * (i + 1) / (len(row) + 1) for i, node in enumerate(row)})
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            wanted = {}
            for node in row:
                near = (above if down else below)[node] or [node]
                if sweep >= SWEEPS - 2:  # at last both sides count
                    near = [*above[node], *below[node]] or [node]
                wanted[node] = sum(other.x for other in near) / len(near)
            row.sort(key=lambda node: wanted[node])
            _place(row, wanted)


def _place(row: list[Node], wanted: Mapping[Node, float]) -> None:
    """Give each node the x that it wants, as far as order, gaps and margins allow."""
    left = float(MARGIN + LABEL)
    for node in row:
        node.x = max(wanted[node], left + node.width / 2)
        left = node.x + node.width / 2 + GAP
    right = float(WIDTH - MARGIN)
    for node in reversed(row):
        node.x = min(node.x, right - node.width / 2)
        right = node.x - node.width / 2 - GAP


def _svg(rows: Mapping[int, list[Node]], chains: list[list[Node]]) -> str:
    parts, tops, bottoms, y = [], {}, {}, float(MARGIN)
    for level, row in rows.items():
        texts = {n: [n.room.shown, *_wrap(n.room, n.width)] for n in row if n.room}
        height = 11 + LINE * max(map(len, texts.values()))
        tops[level], bottoms[level] = y, y + height
        middle = y + height / 2 + 4
        parts.append(f'<text class="level" x="{MARGIN}" y="{middle:.0f}">{level}</text>')
        for node, lines in texts.items():
            parts += _box(node, lines, y, height)
        y += height + ROW_GAP
    paths = [_arrow(chain, tops, bottoms) for chain in chains]
    caption = "An arrow: imports. Arrows that follow from others are left out. Left: the level."
    footer = f'<text class="job" x="{MARGIN}" y="{y - ROW_GAP + 24:.0f}">{caption}</text>'
    return "\n".join([_head(y - ROW_GAP + 36), *paths, *parts, footer, "</svg>", ""])


def _wrap(room: Room, width: float) -> list[str]:
    """Return the lines of a room's job that fit a box."""
    job = room.job.removeprefix("entry: ").replace("`", "")
    n_characters = int((width - 12) / (0.54 * JOB_SIZE))
    return textwrap.wrap(job, n_characters, break_on_hyphens=False)


def _box(node: Node, lines: list[str], y: float, height: float) -> list[str]:
    """Return a box and its lines; the first is the room's name."""
    left, text = node.x - node.width / 2, []
    for i, line in enumerate(lines):
        style, at = "job middle" if i else "name", y + 16 + LINE * i + (i > 0)
        text.append(f'<text class="{style}" x="{node.x:.0f}" y="{at:.0f}">{escape(line)}</text>')
    box = (
        f'<rect x="{left:.0f}" y="{y:.0f}" width="{node.width:.0f}" height="{height:.0f}" rx="5"/>'
    )
    return [box, *text]


def _arrow(chain: list[Node], tops: Mapping[int, float], bottoms: Mapping[int, float]) -> str:
    """Return a line that bends between rows and runs straight down through them."""
    x, y = chain[0].x, bottoms[chain[0].level]
    path = f"M {x:.0f} {y:.0f}"
    for node in chain[1:]:
        top = tops[node.level] - (3 if node.room else 0)  # room for the head
        half = (y + top) / 2
        path += f" C {x:.0f} {half:.0f} {node.x:.0f} {half:.0f} {node.x:.0f} {top:.0f}"
        x, y = node.x, top
        if node.room is None:
            y = bottoms[node.level]
            path += f" L {x:.0f} {y:.0f}"
    return f'<path d="{path}" marker-end="url(#head)"/>'


def _head(height: float) -> str:
    return f"""\
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" \
height="{height:.0f}" role="img" aria-label="Rooms by level, and which rooms they import">
<style>
.page {{ fill: #fff; stroke: none }} rect {{ fill: #f4f6f9; stroke: #5b6b7f }}
path {{ fill: none; stroke: #7a8ba0; stroke-width: 1.3 }}
text {{ font-family: sans-serif; fill: #1c2733 }} .middle, .name {{ text-anchor: middle }}
.name {{ font: bold {NAME_SIZE}px monospace }} .job {{ font-size: {JOB_SIZE}px }}
.level {{ font-size: 15px; fill: #7a8ba0 }} marker path {{ fill: #7a8ba0; stroke: none }}
</style>
<defs><marker id="head" viewBox="0 0 8 8" refX="6" refY="4" markerWidth="7" markerHeight="7" \
orient="auto"><path d="M 0 0 L 8 4 L 0 8 z"/></marker></defs>
<rect class="page" width="{WIDTH}" height="{height:.0f}"/>"""


def drawing(root: Path = ROOT) -> str:
    """Return the drawing of a repository.

    Raises:
        ValueError: A room imports one of its own level or above.
    """
    rooms = read_rooms((root / "README.md").read_text(encoding="utf-8"))
    return draw(rooms, without_implied(read_imports(root, rooms)))


def main() -> None:
    """Write the drawing."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    FIGURE.write_text(drawing(), encoding="utf-8")
    print(f"wrote {FIGURE.relative_to(ROOT)}")


if __name__ == "__main__":
    run_entry(main)
