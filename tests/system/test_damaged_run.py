"""Every file of a finished run, damaged in every way: a value or one message, never a traceback."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from config.loading import load_config
from evaluation.comparison import compare
from evaluation.conclusion import conclusion
from evaluation.subgroups import breakdown
from gates.results import read_analysis
from inference.predictor import FoldModel, weights_digests
from inference.robustness import _stored
from reports.examples import worst_errors
from reports.publish import markdown
from storage.ledger import read_ledger
from storage.run_folder import read_run
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.support.paths import ROOT
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
N_CASES = 25  # of each file; the slow test tries all
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
        conclusion(comparison)
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
        # The test split is in the first half; keys that a config lacks have their usual values
        whole = kind == "half" and name in ("utterances.csv", "config.yaml")
        optional = ("ledger.jsonl", "robustness.json", "gates/gates.json", f"{FOLD}/metrics.json")
        told = refused or whole or name in (*optional, "environment.json")
        assert told, f"{kind} as {name} is not told"
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(content)


TEXTS = [name for name in FILES if not name.endswith("safetensors")]


def try_values(copy: Path, name: str, n_cases: int | None) -> None:
    """Try some or all other values in a file, and random damage."""
    path = copy / name
    content = path.read_bytes()
    cases = list(with_other_values(content.decode(), name))
    if n_cases is not None:
        cases = random.Random(name).sample(cases, min(len(cases), n_cases))
    cases += [mutate(random.Random(f"{name} {i}"), [content]) for i in range(n_cases or 200)]
    for case in cases:
        path.write_bytes(case)
        check(copy, name, f"{name}: {case[:2000]!r}")


@pytest.mark.parametrize("name", TEXTS)
def test_values_of_another_type_size_or_depth(copy, name):
    try_values(copy, name, N_CASES)


@pytest.mark.slow
@pytest.mark.parametrize("name", TEXTS)
def test_all_values_of_another_type_size_or_depth(copy, name):
    try_values(copy, name, None)


def test_an_issue_of_another_form_is_refused(copy):
    """Each entry becomes a sentence: its keys and types are checked where it is read."""
    path = copy / FOLD / "metrics.json"
    content = path.read_text()
    for place in places(json.loads(content)["training_issues"]):
        if "utterances" in place:  # nobody reads them
            continue
        path.write_text(put(json.loads(content), ("training_issues", *place), '{"a": [null]}'))
        with pytest.raises(RunError, match="metrics.json .*training_issues"):
            read_run(copy)


@pytest.mark.parametrize(
    ("kind", "file"), [("pipe", "model.safetensors"), ("half", "metrics.json")]
)
def test_the_commands_end_with_one_message(copy, finished, file, kind):
    """In processes of their own, with a damaged file of the fold."""
    replace_by(copy / FOLD / file, kind)
    wav = next(Path(read_run(finished).config["corpus.root"]).rglob("*.wav"))
    commands = {"compare.py": [copy, "--out", copy / "out"], "analyze_gates.py": [copy]}
    commands["predict.py"] = [copy / FOLD, wav]
    if file == "metrics.json":
        del commands["predict.py"]  # which does not read it
    for entry, words in commands.items():
        done = subprocess.run(
            [sys.executable, ROOT / entry, *map(str, words)],
            capture_output=True,
            text=True,
            timeout=2 * SECONDS,
            cwd=copy,
        )
        assert done.returncode in (1, 2), (entry, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr, done.stderr
        assert len(re.findall("^(failed|wrong input): ", done.stderr, re.MULTILINE)) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_of_a_damaged_run_ends_in_a_run_or_one_message(copy, recipe, kind):
    config = load_config(recipe, [f"run.root={copy.parent}", "train.epochs=1"])
    for name in ("config.yaml", "split_certificate.json", f"{FOLD}/metrics.json"):
        content = (copy / name).read_bytes()
        replace_by(copy / name, kind)
        try:
            problem(lambda: run_experiment(config, ["train_gmu.py", "--config", "a.yaml"]))
        except OSError as error:  # which an entry prints as one message
            assert "hangs" not in str(error)
        path = copy / name
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        path.write_bytes(content)
