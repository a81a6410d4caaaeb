"""What is recorded of the tests of promises: all of them, or nothing."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import Recorder
from tests.support.promises import PROMISES


def report(key: str, outcome: str = "passed", when: str = "call") -> SimpleNamespace:
    properties = [("promise", key), ("count", ("things tried", 3))]
    return SimpleNamespace(
        user_properties=properties,
        outcome=outcome,
        when=when,
        nodeid=f"tests/system/test_{key}.py::t[1]",
    )


def record(file: Path, keys=PROMISES, status: int = 0, *more: SimpleNamespace) -> Recorder:
    recorder = Recorder(file)
    for one in (*map(report, keys), *more):
        recorder.pytest_runtest_logreport(one)
    recorder.pytest_sessionfinish(status)
    return recorder


def test_what_all_promises_tests_did_is_recorded(tmp_path):
    record(tmp_path / "kept.json", [*PROMISES, "fuzz"])
    kept = json.loads((tmp_path / "kept.json").read_text())["promises"]
    assert list(kept) == list(PROMISES.values())
    fuzz = {"tests": {"tests/system/test_fuzz.py::t": 2}, "counts": {"things tried": 6}}
    assert kept[PROMISES["fuzz"]] == fuzz


@pytest.mark.parametrize(
    ("keys", "status", "more", "why"),
    [
        ([], 2, [], "status 2"),  # a module that cannot be read
        (PROMISES, 2, [], "status 2"),  # Ctrl-C behind the last one
        (PROMISES, 1, [report("fuzz", "failed")], "test_fuzz.py::t[1] failed"),
        (PROMISES, 0, [report("fuzz", "skipped", "setup")], "test_fuzz.py::t[1] skipped"),
        (list(PROMISES)[1:], 0, [], "no test of 'resume'"),  # some were chosen
    ],
)
def test_an_older_record_outlives_a_run_that_proves_less(tmp_path, keys, status, more, why):
    file = tmp_path / "kept.json"
    file.write_text("older")
    recorder = record(file, keys, status, *more)
    assert file.read_text() == "older"
    assert why in ", ".join(recorder.failed)
