"""The table of published figures is sorted by protocol and names a source for each figure."""

import re

from tests.support.paths import ROOT

SPEAKERS = ("unheard", "heard", "not stated")
SELECTED = ("dev", "not on test", "–", "test", "not stated")  # on what, the first words
COLUMNS = ["tested speakers", "epoch selected on", "corpus", "system", "figure, %", "folds"]
COLUMNS += ["source that shows it"]


def rows() -> list[list[str]]:
    text = (ROOT / "FUSION_COMPARISON.md").read_text(encoding="utf-8")
    section = text.split("## Published figures")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def rank(row: list[str]) -> tuple[int, int]:
    selected = next(i for i, word in enumerate(SELECTED) if row[1].startswith(word))
    return SPEAKERS.index(row[0]), selected


def test_published_figures_are_sorted_by_protocol_and_have_a_source() -> None:
    header, _, *body = rows()
    assert header == COLUMNS and len(body) > 10
    assert all(len(row) == len(COLUMNS) and all(row) for row in body)
    assert [rank(row) for row in body] == sorted(rank(row) for row in body)
    assert all(re.search(r"\d\d\.\d", row[4]) for row in body)
    for row in body:
        named = re.match(r"(UA|WA) \d", row[4])
        assert named or "name" in row[4] or "its WA is UA here" in row[4], row
