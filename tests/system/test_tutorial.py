"""docs/TUTORIAL.md: every command runs, in order, in a copy of the repository."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from scripts.make_notebook import NOTEBOOK, TEXT, cells, notebook
from tests.support.paths import ROOT

PAGE = TEXT.read_text(encoding="utf-8")
PARTS = cells(PAGE)
COMMANDS = [line for kind, text in PARTS if kind == "bash" for line in text.splitlines()]
PYTHON = "\n".join(text for kind, text in PARTS if kind == "python")
[SERVE] = re.findall(r"^```bash serve\n(.*?)\n```$", PAGE, re.MULTILINE)
WITHOUT = (".*", "runs", "data", "build", "__pycache__", "results", "tests")
SECONDS = 1200


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with a smaller demo corpus and two epochs."""
    folder = tmp_path_factory.mktemp("tutorial") / "clone"
    shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*WITHOUT))
    config = folder / "configs/demo_concat.yaml"
    text = config.read_text(encoding="utf-8")
    assert "epochs: 8" in text
    config.write_text(text.replace("epochs: 8", "epochs: 2"), encoding="utf-8")
    run(folder, f"{sys.executable} -m scripts.make_demo_corpus --per-class 6")
    return folder


@pytest.fixture(scope="module")
def done(clone: Path) -> dict[str, str]:
    """What each command said."""
    return {command: run(clone, command) for command in COMMANDS}


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(folder: Path, command: str) -> str:
    result = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
    return result.stdout + result.stderr


def test_the_commands_run_and_leave_what_the_page_says(clone, done):
    for name in ("final/seed-0/model.safetensors", "summary.json"):
        assert (clone / "runs/demo_gmu" / name).exists()
    assert "final/seed-0" in done["scripts/train_demo_model.sh"]
    rows = (clone / "labels.csv").read_text().splitlines()
    found = list((clone / "data/demo/Session1/sentences/wav").rglob("*.wav"))
    assert len(rows) == 1 + len(found)
    lines = (clone / "labels.jsonl").read_text().splitlines()
    assert len(lines) == len(found) and isinstance(json.loads(lines[0])["unsure"], bool)
    suffixes = {path.suffix for path in (clone / "timelines").rglob("*") if path.is_file()}
    assert suffixes >= {".csv", ".json", ".png", ".TextGrid", ".vtt"}
    assert (clone / "bundle/model.onnx").exists() and (clone / "bundle/README.md").exists()


def test_the_python_blocks_run_after_them(clone, done):
    said = run(clone, f"{sys.executable} -c '{PYTHON}'")
    assert "array 1" in said and "array 2" in said


def test_the_page_is_served(clone, done):
    served = subprocess.Popen(
        ["bash", "-c", f"exec {SERVE} --port 0"],
        cwd=clone,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        assert served.stdout is not None
        lines, start, address = [], time.monotonic(), None
        while address is None and time.monotonic() - start < 300:
            lines.append(served.stdout.readline())
            address = re.search(r"http://127\.0\.0\.1:\d+", lines[-1])
            assert served.poll() is None, "".join(lines)
        assert address is not None, "".join(lines)
        with urllib.request.urlopen(address[0], timeout=60) as answer:
            assert answer.status == 200
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(60)


def test_the_notebook_is_of_the_page():
    """Otherwise `python -m scripts.make_notebook` makes it anew."""
    assert NOTEBOOK.read_text(encoding="utf-8") == notebook(PAGE)
    code = [cell for cell in json.loads(notebook(PAGE))["cells"] if cell["cell_type"] == "code"]
    assert len(code) == 1 + sum(kind != "markdown" for kind, _ in PARTS)
