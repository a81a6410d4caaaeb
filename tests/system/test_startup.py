"""Help and mistakes are answered before anything slow is imported, by every entry."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import startup
from benchmarks.startup import Cost
from tests.support.paths import CODE, ROOT
from tests.test_architecture import ENTRIES

SLOW = {"torch", "timm", "accelerate", "librosa", "optuna", "matplotlib", "scipy", "sklearn"}
STARTED = [*ENTRIES, "train_gmu"]
HOSTS = [path for path in CODE if path.relative_to(ROOT).parts[0].removesuffix(".py") in STARTED]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in HOSTS}
WRAPPER = """
import importlib, runpy, sys
name, *sys.argv[1:] = sys.argv[1:]
status = "imported"
try:
    if len(sys.argv) > 1:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        importlib.import_module(name)
except SystemExit as ended:
    status = ended.code or 0
print(status, *sys.modules, file=sys.stderr)
"""


def run(module: str, *arguments: str) -> tuple[str, set[str], str]:
    """Return status, the slow modules that were imported, and what was printed."""
    command = [sys.executable, "-c", WRAPPER, module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    *printed, last = done.stderr.splitlines()
    status, *names = last.split()
    return status, SLOW & set(names), done.stdout + "\n".join(printed)


def test_the_wrapper_sees_a_slow_import() -> None:
    assert run("torch")[:2] == ("imported", {"torch"})


def test_every_entry_that_takes_arguments_is_listed() -> None:
    takes_arguments = {
        name
        for name, path in MODULES.items()
        if "argparse" in (text := path.read_text()) or "parse_arguments" in text or name == "train"
    }
    assert startup.WRONG.keys() == takes_arguments


@pytest.mark.parametrize("module", MODULES)
def test_importing_an_entry_imports_nothing_slow(module: str) -> None:
    assert run(module) == ("imported", set(), "")


@pytest.mark.parametrize(
    ("module", "arguments", "status"),
    startup.commands(),
    ids=[" ".join([module, *words]) for module, words, _ in startup.commands()],
)
def test_help_and_mistakes_are_answered_before_slow_imports(
    module: str, arguments: list[str], status: int
) -> None:
    ended, slow, printed = run(module, *arguments)
    assert (ended, slow) == (str(status), set()), printed
    assert ("usage: " if status == 0 else "wrong input: ") in printed or "error: " in printed
    assert "Traceback" not in printed


def test_a_mistyped_key_for_a_run_that_exists_is_answered_before_slow_imports(
    recipe: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.yaml").write_text(recipe.read_text())
    ended, slow, printed = run("analyze_gates", str(tmp_path), "corpus.rot=/data")
    assert (ended, slow) == ("2", set()) and "did you mean 'root'?" in printed


def test_the_least_of_the_rounds_and_the_ratio_are_shown() -> None:
    here = startup.least([Cost(0.5, 30), Cost(0.25, 40)])
    rows = [("-c import torch", [here, Cost(2.0, 300)])]
    assert startup.markdown(rows).splitlines()[2] == (
        "| `-c import torch` | 0.25 | 30 | 2.00 | 300 | 8.0 |"
    )
    assert startup.least([Cost(0.5, 30), None]) is None  # an older checkout knows other options
    assert startup.markdown([("tune.py", [here, None])]).endswith("| 0.25 | 30 | – | – | – |")


def test_scripts_of_an_older_checkout_are_found_at_its_root(tmp_path: Path) -> None:
    (tmp_path / "ablation.py").touch()
    assert startup.python_words("scripts.ablation", tmp_path) == ["ablation.py"]
    assert startup.python_words("scripts.ablation", ROOT) == ["-m", "scripts.ablation"]
    assert startup.python_words("train", ROOT) == ["train.py"]


def test_a_process_is_measured() -> None:
    seen = startup.cost(["-c", "sum(range(10**6)); raise SystemExit(2)"], ROOT, 2)
    assert seen.seconds > 0 and seen.megabytes > 1
    assert startup.cost(["-c", "raise SystemExit(2)"], ROOT, 0) is None


def test_a_command_that_ends_otherwise_here_stops_the_measurement(monkeypatch) -> None:
    monkeypatch.setattr(startup, "commands", lambda: [("compare", ["/nowhere"], 0)])
    monkeypatch.setattr(startup, "TORCH", ("-c", ""))
    with pytest.raises(SystemExit, match="compare.py /nowhere did not end with status 0"):
        startup.measure([ROOT], 1)


@pytest.mark.parametrize(("given", "expected"), [(None, "passive"), ("active", "active")])
def test_threads_sleep_unless_asked_otherwise_and_torch_is_loaded_later(
    given: str | None, expected: str
) -> None:
    code = (
        "import os, sys; from system.cli import run_entry; "
        "run_entry(lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules))"
    )
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.stdout.split() == [expected, "False"], done.stderr
