"""Every file of a finished run, damaged in every way: a value or one message, never a traceback."""

import json
import os
import random
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.loading import load_config
from evaluation.comparison import compare, conclusion
from evaluation.robustness import _stored
from evaluation.subgroups import breakdown
from gates.results import read_analysis
from inference.predictor import FoldModel, weights_digests
from reports.examples import worst_errors
from reports.publish import markdown
from storage.ledger import read_ledger
from storage.run_folder import read_run
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.support.runs import run_experiment
from tests.system.test_fuzz import LONGEST_MESSAGE, mutate

FOLD = "folds/fold-1_seed-0"
IN_RUN = ("config.yaml", "split_certificate.json", "utterances.csv", "environment.json")
IN_RUN += ("ledger.jsonl", "robustness.json", "gates/gates.json")
IN_FOLD = ("metrics.json", "predictions.csv", "history.csv", "environment.json", "model.json")
IN_FOLD += ("model.safetensors",)
FILES = [*IN_RUN, *(f"{FOLD}/{name}" for name in IN_FOLD)]
ISSUES = {
    "bad_steps": 1,
    "incidents": [{"epoch": 1, "batch": 2, "what": "loss", "parts": ["mel"], "utterances": ["a"]}],
    "float32_fallbacks": [{"epoch": 1, "what": "loss", "float32": ["mel"], "back_to_epoch": 0}],
    "float32": ["mel"],
    "collapse_warnings": [{"epoch": 2, "what": "gate", "words": "near 1", "epochs": [2, 3]}],
}
SECONDS = 60  # in which one damaged file must be refused
LARGE = 10**9  # bytes of a sparse file
NUMBERS = ["NaN", "Infinity", "-1", "1e400", "9" * 400, "null", "true", '"a"', "[]", "{}", "0.5"]


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished run of one fold, with the files that other entries add."""
    root = tmp_path_factory.mktemp("finished")
    config = load_config(recipe, [f"run.root={root}", "train.epochs=1"])
    folder = run_experiment(config, ["train_gmu.py", "--config", "a.yaml"])
    metrics = read_json(folder / FOLD / "metrics.json")
    write_json(folder / FOLD / "metrics.json", metrics | {"training_issues": ISSUES})
    (folder / "gates").mkdir()
    (folder / "gates/gates.json").write_text(json.dumps({"version": 2, "run": "tiny"}))
    (folder / "robustness.json").write_text(json.dumps({"classes": [], "folds": {}}))
    yield folder
    shutil.rmtree(root)


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy of the run, in which each file may be damaged."""
    folder = tmp_path / "tiny"
    shutil.copytree(finished, folder)
    yield folder
    shutil.rmtree(folder)


def attempts(run: Path, name: str) -> list[Callable[[], object]]:
    """Return what compare.py, predict.py and analyze_gates.py read of a run with a damaged file."""

    def use() -> None:
        opened = read_run(run)
        comparison = compare([opened])
        assert markdown(comparison)
        breakdown(opened)
        conclusion([opened], comparison)
        for fold in opened.folds:
            assert fold.environment() and fold.history() and fold.dev
        weights_digests(opened)
        if name in ("utterances.csv", f"{FOLD}/model.json"):
            worst_errors([opened], audio=False)

    others: dict[str, Callable[[], object]] = {
        "gates/gates.json": lambda: read_analysis(read_run(run)),
        "robustness.json": lambda: _stored(run / "robustness.json"),
        "ledger.jsonl": lambda: read_ledger(run),
        f"{FOLD}/model.json": lambda: FoldModel(run / FOLD),
        f"{FOLD}/model.safetensors": lambda: FoldModel(run / FOLD),
    }
    return [use, *([others[name]] if name in others else [])]


def problem(attempt: Callable[[], object]) -> str | None:
    """Return the one message of an attempt, None if it gave a value."""

    def give_up(*args: object) -> None:
        raise TimeoutError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        attempt()
    except (InputError, RunError) as error:
        return str(error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return None


def check(run: Path, name: str, case: str) -> int:
    """Use a run with a damaged file; return how many ways refused it."""
    refused = 0
    for attempt in attempts(run, name):
        try:
            message = problem(attempt)
        except Exception:
            pytest.fail(f"{case}\n{traceback.format_exc()}")
        if message is not None:
            assert 0 < len(message) < LONGEST_MESSAGE, case
            refused += 1
    return refused


def with_other_values(text: str, name: str) -> Iterator[bytes]:
    """Yield the file with one value of another type, size or depth at a time."""
    if name.endswith((".json", ".jsonl")):
        for value in ("[" * 100_000, '{"a":' * 50_000, *NUMBERS):
            yield value.encode()
        first = text.splitlines()[0] if name.endswith(".jsonl") else text
        content = json.loads(first)
        for place in places(content):
            for value in ("NaN", "-1", "9" * 400, "1e400", "null", '"a"', "[]", '{"a": 0}'):
                yield put(content, place, value).encode()
    elif name.endswith(".csv"):
        lines = text.splitlines()
        cells = lines[1].split(",")
        for i in range(len(cells)):
            for value in ("", "nan", "-1", "1e400", "x", '"', "\0", "a" * 200_000):
                changed = ",".join([*cells[:i], value, *cells[i + 1 :]])
                yield "\n".join([lines[0], changed, *lines[2:]]).encode()
        yield (lines[0] + "\n").encode()
        yield "\n".join(lines[1:]).encode()
        yield text.replace(",", ";").encode()


def places(value: object, at: tuple = ()) -> Iterator[tuple]:
    """Yield the way to each value of a JSON document: of a list, to the first alone."""
    if at:
        yield at
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*at, key))
    elif isinstance(value, list) and value:
        yield from places(value[0], (*at, 0))


def put(content: object, place: tuple, value: str) -> str:
    """Return the document with another value, given as JSON, in one place."""
    changed = json.loads(json.dumps(content))
    inner = changed
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = "here"
    return json.dumps(changed).replace('"here"', value)


def replace_by(path: Path, kind: str) -> None:
    """Put something else in the place of a file."""
    content = path.read_bytes()
    path.unlink()
    if kind == "nothing":
        return
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "broken link":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "circle":
        path.symlink_to(path)
    elif kind == "huge":
        with path.open("wb") as file:
            file.truncate(LARGE)
    else:
        path.write_bytes({"empty": b"", "half": content[: len(content) // 2]}.get(kind, b"\0" * 99))


KINDS = ("nothing", "folder", "pipe", "device", "broken link", "circle", "huge", "empty", "half")


@pytest.mark.parametrize("kind", [*KINDS, "zeros"])
def test_something_else_in_the_place_of_a_file(copy, kind):
    for name in FILES:
        path = copy / name
        content = path.read_bytes()
        replace_by(path, kind)
        refused = check(copy, name, f"{kind} as {name}")
        optional = ("ledger.jsonl", "robustness.json", "gates/gates.json", f"{FOLD}/metrics.json")
        assert refused or name in (*optional, "environment.json"), f"{kind} as {name} is not told"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("safetensors")])
def test_values_of_another_type_size_or_depth(copy, name):
    path = copy / name
    content = path.read_bytes()
    cases = list(with_other_values(content.decode(), name))
    cases = random.Random(name).sample(cases, min(len(cases), 40))
    cases += [mutate(random.Random(f"{name} {i}"), [content]) for i in range(20)]
    for case in cases:
        path.write_bytes(case)
        check(copy, name, f"{name}: {case[:2000]!r}")
