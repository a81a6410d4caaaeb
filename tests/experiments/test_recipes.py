"""Recipes train on dev alone, once, and stand beside the first on the same folds and seeds."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

import train_gmu
from config.yaml_files import read_yaml
from corpora.stamps import TRANSDUCTIVE
from evaluation.recipes_table import recipes_markdown
from experiments.recipe_file import choose_recipes, read_recipes
from experiments.recipes import summarize
from scripts.recipes import main
from system.files import read_json, write_json
from system.locks import lock
from tests.support.paths import ROOT

FOLDS = ("run.folds=[1,2]", "train.epochs=2")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    """Three recipes; the second undoes a change of the first."""
    path = tmp_path_factory.mktemp("recipes") / "recipes.yaml"
    path.write_text(
        "start: {loss.label_smoothing: 0.1}\n"
        "plain: {loss.label_smoothing: 0}\n"
        "mixup: {augment: {mixup: 0.4}}\n"
    )
    return path


def words(recipe: Path, file: Path, root: Path, *more: str) -> list[str]:
    return ["--config", str(recipe), "--recipes", str(file), f"run.root={root}", *more]


@pytest.fixture(scope="module")
def tried(recipe, file, tmp_path_factory) -> Path:
    """The folder of all three on two folds."""
    root = tmp_path_factory.mktemp("tried")
    assert main(words(recipe, file, root, *FOLDS)) == 0
    return root / "tiny_recipes"


def dev_ua(folder: Path) -> list[float]:
    return read_json(folder / "dev.json")["dev_ua"]


def test_a_recipe_trains_as_a_run_does_and_has_the_changes_of_the_first(
    recipe, tried, tmp_path
) -> None:
    keys = (*FOLDS, "loss.label_smoothing=0.1", "augment.mixup=0.4", "run.folds=[2]")
    assert train_gmu.main(["--config", str(recipe), f"run.root={tmp_path}", *keys]) == 0
    run = tmp_path / "tiny/folds/fold-2_seed-0"
    mine = tried / "mixup/fold-2_seed-0"
    assert (mine / "history.csv").read_bytes() == (run / "history.csv").read_bytes()
    assert max(dev_ua(mine)) == read_json(run / "metrics.json")["dev"]["ua"]


def test_the_test_split_is_not_opened_and_no_run_is_left(tried) -> None:
    assert not list(tried.rglob("predictions.csv")) and not list(tried.rglob("metrics.json"))
    assert not list(tried.rglob("ledger.jsonl")) and not list(tried.rglob("config.yaml"))
    done = subprocess.run(
        [sys.executable, "compare.py", str(tried), str(tried)], cwd=ROOT, capture_output=True
    )
    assert done.returncode == 2 and b"is not a run folder" in done.stderr


def test_the_table_has_the_means_and_the_paired_differences(tried) -> None:
    rows = {row["recipe"]: row for row in read_json(tried / "recipes.json")["recipes"]}
    assert list(rows) == ["start", "plain", "mixup"]
    mean = {
        name: [
            sum(values := dev_ua(tried / name / f"fold-{k}_seed-0")) / len(values) for k in (1, 2)
        ]
        for name in rows
    }
    for name, row in rows.items():
        assert row["dev_ua"] == pytest.approx(sum(mean[name]) / 2)
    first, second = (mean["mixup"][i] - mean["start"][i] for i in (0, 1))
    assert rows["mixup"]["difference"] == pytest.approx((first + second) / 2)
    # The standard error of a mean of two is half their distance
    assert rows["mixup"]["standard_error"] == pytest.approx(abs(first - second) / 2)
    assert rows["start"]["difference"] is None
    assert "augment.mixup=0.4" in (tried / "recipes.md").read_text()


def summary_of(folder: Path, curves: dict[str, list[float] | None]) -> list[dict]:
    """Summarise made curves of one fold."""

    class Made:
        def __init__(self, recipe: str, curve: list[float] | None) -> None:
            self.recipe, self.folder = recipe, folder / recipe / "fold-3_seed-0"
            self.folder.mkdir(parents=True)
            write_json(self.folder / "dev.json", {"dev_ua": curve})

    made = [Made(name, curve) for name, curve in curves.items()]
    return summarize(made, {name: {} for name in curves})


FOUND = {
    **{"transductive": False, "protocol": "p", "command": "x", "made_with": {}, "last epochs": 5},
    **{"folds": [3], "seeds": [0], "folds that test dev speakers": [4], "not tried": ["c"]},
}


def test_five_last_epochs_count_by_hand(tmp_path) -> None:
    curves = {"a": [0.9, 0.1, 0.2, 0.3, 0.4, 0.5], "b": [0.0, 0.5, 0.5, 0.5, 0.5, 0.6]}
    rows = summary_of(tmp_path, curves)
    assert [row["dev_ua"] for row in rows] == pytest.approx([0.3, 0.52])
    assert [row["best_dev_ua"] for row in rows] == [0.9, 0.6]
    assert rows[1]["difference"] == pytest.approx(0.22) and rows[1]["standard_error"] is None
    said = recipes_markdown({**FOUND, "recipes": rows})
    assert "| b | nothing | 52.0 | +22.0 | 60.0 |" in said and "tested in folds 4," in said
    assert "Not tried on all of these: c." in said and TRANSDUCTIVE not in said
    stamped = recipes_markdown({**FOUND, "transductive": True, "recipes": rows})
    assert stamped.startswith(f"**{TRANSDUCTIVE}**")


def test_a_recipe_that_diverged_is_in_the_table_without_means(tmp_path) -> None:
    rows = summary_of(tmp_path, {"a": [0.5], "b": None, "c": [0.75]})
    said = recipes_markdown({**FOUND, "recipes": rows})
    assert "| b | nothing | diverged 1 time | – | – |" in said
    assert "| c | nothing | 75.0 | +25.0 | 75.0 |" in said
    rows = summary_of(tmp_path / "first", {"a": None, "c": [0.75]})
    assert "| c | nothing | 75.0 | – | 75.0 |" in recipes_markdown({**FOUND, "recipes": rows})


def test_a_training_that_diverges_does_not_stop_the_others(recipe, tmp_path) -> None:
    path = tmp_path / "recipes.yaml"
    path.write_text("start: {}\nbad: {optim.lr: 1e30}\ngood: {loss.focal_gamma: 1}\n")
    assert main(words(recipe, path, tmp_path, "run.folds=[1]", "train.epochs=1")) == 0
    folder = tmp_path / "tiny_recipes"
    rows = {row["recipe"]: row for row in read_json(folder / "recipes.json")["recipes"]}
    assert rows["bad"]["diverged"] == 1 and rows["bad"]["dev_ua"] is None
    assert rows["good"]["difference"] is not None
    assert "NaN" in read_json(folder / "bad/fold-1_seed-0/dev.json")["diverged"]


def test_mistakes_are_found_before_anything_is_trained(recipe, file, tmp_path, capsys) -> None:
    assert main(words(recipe, file, tmp_path, "run.folds=[1,9]")) == 2
    assert "fold must be in 1..5, got 9" in capsys.readouterr().err
    path = tmp_path / "recipes.yaml"
    path.write_text("start: {}\nodd: {model.cqt_backbone: maxvit_nowhere}\n")
    assert main(words(recipe, path, tmp_path, *FOLDS)) == 2
    assert "recipe odd: " in capsys.readouterr().err
    assert not list(tmp_path.rglob("history.csv"))


def test_another_corpus_is_not_the_same_recipe(recipe, file, tried, tmp_path, capsys) -> None:
    config = read_yaml(recipe.read_text(), "")
    root = shutil.copytree(config["corpus"]["root"], tmp_path / "other")
    for path in sorted(root.rglob("*.wav")):
        samples, rate = soundfile.read(path)
        soundfile.write(path, samples * 0.5, rate)
    assert main(words(recipe, file, tried.parent, *FOLDS, f"corpus.root={root}")) == 2
    said = capsys.readouterr().err
    assert "made with another config or corpus" in said and "certificate: " in said


def test_the_folds_that_test_dev_speakers_are_named(tried) -> None:
    found = read_json(tried / "recipes.json")
    # One session a fold, and dev of fold k is the session that fold k + 1 tests
    assert found["folds"] == [1, 2] and found["folds that test dev speakers"] == [2, 3]


def test_what_is_trained_is_not_trained_again_and_another_shell_is_waited_for(
    recipe, file, tried, caplog
) -> None:
    caplog.set_level("INFO")
    before = {path: path.stat().st_mtime_ns for path in tried.rglob("dev.json")}
    assert main(words(recipe, file, tried.parent, "--only", "mixup", *FOLDS)) == 0
    assert {path: path.stat().st_mtime_ns for path in tried.rglob("dev.json")} == before
    names = [row["recipe"] for row in read_json(tried / "recipes.json")["recipes"]]
    assert names == ["start", "plain", "mixup"]  # what was tried before stays in the table
    assert "--only" not in read_json(tried / "recipes.json")["command"]  # it makes all of it
    place = tried / "start/fold-1_seed-0/state/lock"
    with lock(place, "x"):
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.recipes", *words(recipe, file, tried.parent, *FOLDS)],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        said = ""
        while "waiting until the lock" not in said:
            line = process.stderr.readline()
            assert line, said
            said += line
    assert process.wait() == 0 and "the others first" in said


def test_a_recipe_that_changed_is_refused(recipe, tried, tmp_path, capsys) -> None:
    other = tmp_path / "other.yaml"
    other.write_text("start: {loss.label_smoothing: 0.2}\nplain: {loss.label_smoothing: 0}\n")
    assert main(words(recipe, other, tried.parent, *FOLDS)) == 2
    said = capsys.readouterr().err
    assert "loss.label_smoothing: 0.1 there, 0.2 now" in said and "Name the recipe anew" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("start: {}\n", "must hold two recipes or more"),
        ("start: {}\nother: 3\n", "got 'other': 3"),
        ("start: {}\n'a/b': {}\n", "got 'a/b'"),
        ("start: {}\nrecipes.json: {}\n", "got 'recipes.json'"),
        ("start: {}\nother: {protocol.split: given}\n", "may change keys of features, augment"),
        ("start: {}\nother: {optim.rate: 3}\n", "recipe other: the configuration is wrong"),
        ("start: {}\nother: {train.normalize: speaker}\n", "and only other has it"),
    ],
)
def test_files_that_hold_no_recipes_are_refused(recipe, tmp_path, capsys, text, said) -> None:
    (tmp_path / "recipes.yaml").write_text(text)
    assert main(words(recipe, tmp_path / "recipes.yaml", tmp_path, *FOLDS)) == 2
    assert said in capsys.readouterr().err


def test_folds_must_be_named(recipe, file, tmp_path, capsys) -> None:
    assert main(words(recipe, file, tmp_path, "run.folds=null")) == 2
    assert "run.folds must name the folds" in capsys.readouterr().err


def test_some_recipes_are_chosen_with_the_first() -> None:
    recipes = read_recipes(ROOT / "configs/recipes/ravdess_small.yaml")
    assert choose_recipes(recipes, ["delta", "mixup"]) == ["start", "mixup", "delta"]
    assert choose_recipes(recipes, []) == list(recipes)
