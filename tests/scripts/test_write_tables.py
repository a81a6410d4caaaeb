"""A page has the table of a result that is recorded, and says so where none is."""

import json
import shutil

import pytest

from scripts import write_tables
from system.files import write_json

RECORDED = write_tables.ROOT
FOUND = {
    "command": "python -m scripts.habits --config a.yaml",
    "made_with": {"commit": ["c0ffee"], "device": ["a CPU"], "threads": ["1"], "torch": ["2"]},
    "trained": 2,
    "protocols": {kind: {"id": kind, "n_train": 24.0} for kind in ("own", "random")},
    "folds": [1],
    "n_folds": 5,
    "seeds": [0],
    "rows": [
        {
            **{"config": "a", "habit": "random split", "ua": 0.625, "price": 0.125},
            **{"interval": None, "higher": None, "note": ""},
        }
    ],
}


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A root with the page of the study alone."""
    for name in ("docs", "results"):
        (tmp_path / name).mkdir()
    shutil.copy(write_tables.ROOT / "docs/STUDY.md", tmp_path / "docs")
    monkeypatch.setattr(write_tables, "ROOT", tmp_path)
    return tmp_path


def test_the_habits_are_not_measured_until_they_are_recorded(root) -> None:
    assert "<!-- habits -->\n\nNot measured yet.\n\n<!-- end -->" in write_tables.written(
        "docs/STUDY.md"
    )
    write_json(root / "results/habits.json", FOUND)
    page = write_tables.written("docs/STUDY.md")
    assert "| a | random split | 62.5 | +12.5 | – |\n\n<!-- end -->" in page
    assert "<!-- habits -->\n\nNot measured yet" not in page and "exploratory" in page
    (root / "docs/STUDY.md").write_text(page)
    assert write_tables.written("docs/STUDY.md") == page


def test_recipes_and_designs_are_in_the_page_once_they_are_recorded(root) -> None:
    assert "<!-- recipes -->\n\nNot measured yet." in write_tables.written("docs/STUDY.md")
    row = {"recipe": "a", "changes": "augment.mixup=0.3", "dev_ua": 0.5, "difference": 0.025}
    row |= {"standard_error": 0.01, "best_dev_ua": 0.55, "diverged": 0}
    found = {
        **{"transductive": False, "protocol": "p", "command": "python", "made_with": {}},
        **{"last epochs": 5, "folds": [3, 4], "seeds": [0], "folds that test dev speakers": [5]},
        **{"not tried": [], "recipes": [row]},
    }
    write_json(root / "results/recipes.json", found)
    design = {"n_folds": 6, "n_each": 4, "n_utterances": 60, "by_speaker": 0.05, "by_training": 0.0}
    rows = [{"seeds": 3, "difference": 0.02, "power": 0.125, "smallest_p": 0.001}]
    powers = {"command": "python", "design": design, "level": 0.1, "pairs": 8, "rows": rows}
    write_json(root / "results/power_1.json", powers)
    page = write_tables.written("docs/STUDY.md")
    assert "| a | augment.mixup=0.3 | 50.0 | +2.5 ± 1.0 | 55.0 |" in page
    assert "6 folds of 4 speakers with 60 utterances. Assumed standard deviations" in page
    assert "| seeds | 2 points |" in page and "| 3 | 0.12 |" in page


def test_the_branch_ablation_is_in_the_page_once_it_is_recorded(root) -> None:
    assert "<!-- branch ablation -->\n\nNot measured yet." in write_tables.written("docs/STUDY.md")
    name = "results/ravdess_study_gates.json"
    found = json.loads((RECORDED / name).read_text())
    found["branch_ablation"]["intact"] = {"value": 0.625, "interval": [0.5, 0.75]}
    write_json(root / name, found)
    page = write_tables.written("docs/STUDY.md")
    assert "| nothing (intact) | 62.5 [50.0, 75.0] |" in page and "gate forced to 0.5" in page
    write_json(root / name, found | {"branch_ablation": None})
    assert "<!-- branch ablation -->\n\nNot measured yet." in write_tables.written("docs/STUDY.md")
