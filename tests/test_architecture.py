"""The house keeps its shape: levels, sizes, licence, and a README whose commands work."""

import ast
import importlib
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from baseline import main as baseline_main
from config.fusions import GATED, UNGATED
from config.loading import load_config
from experiments.ablation import VARIED, load_variants
from experiments.search_space import read_space
from explore import main as explore_main
from system.files import read_json, write_json
from tests.support.paths import CODE, ROOT
from train_gmu import main as train_main

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMPARISON = (ROOT / "FUSION_COMPARISON.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (\d+) \| `([\w/.]+)` \|", README, re.MULTILINE)
LEVELS = {room.removesuffix("/").removesuffix(".py"): int(level) for level, room in ROWS}
ENTRIES = [room for room, level in LEVELS.items() if level == max(LEVELS.values())]
MAX_FUNCTION = 60  # lines
MAX_FILE = 350  # lines


def module(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts)


def room_of(name: str) -> str:
    return name.partition(".")[0]


def imports_of(file: Path) -> set[str]:
    """Return the modules of this repository that a file imports, wherever in it."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(map(module, CODE))


def test_the_code_map_names_every_room_once():
    assert sorted(LEVELS) == sorted({room_of(module(path)) for path in CODE})
    assert len(ROWS) == len(LEVELS)


@pytest.mark.parametrize("file", CODE, ids=module)
def test_a_file_imports_its_own_room_and_lower_levels(file):
    room = room_of(module(file))
    others = {room_of(name) for name in imports_of(file)} - {room}
    assert not [other for other in others if LEVELS[other] >= LEVELS[room]]


def test_imports_run_in_no_circle_and_reach_no_entry():
    graph = {module(path): imports_of(path) for path in CODE}
    for file, names in graph.items():
        assert not [name for name in names if room_of(name) in ENTRIES], file
    while graph:
        leaves = [name for name, names in graph.items() if not names]
        assert leaves, f"these import one another: {sorted(graph)}"
        graph = {k: v - set(leaves) for k, v in graph.items() if k not in leaves}


@pytest.mark.parametrize("file", CODE, ids=module)
def test_peer_28_functions_and_files_are_short(file):
    text = file.read_text(encoding="utf-8")
    assert text.count("\n") <= MAX_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < MAX_FUNCTION, node.name


def test_peer_28_there_are_a_licence_and_ranged_requirements():
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License")
    lines = (ROOT / "requirements.txt").read_text(encoding="ascii").splitlines()
    named = [line for line in lines if line and not line.startswith("#")]
    assert all(">=" in line for line in named)


def test_peer_26_no_module_silences_warnings_or_swallows_errors():
    for file in CODE:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("filterwarnings", "simplefilter"), file.name
            if isinstance(node, ast.ExceptHandler):
                broad = node.type is None or ast.unparse(node.type) in (
                    "Exception",
                    "BaseException",
                )
                raises = any(isinstance(inner, ast.Raise) for inner in ast.walk(node))
                assert raises or not broad, f"{file.name}:{node.lineno}"


def readme_commands() -> list[str]:
    blocks = re.findall(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    lines = [line.split("#")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("make ", "python ", "scripts/"))]


@pytest.mark.parametrize("command", readme_commands())
def test_readme_commands_exist_and_parse(command, tmp_path, capsys):
    words = shlex.split(command)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", words[1]], cwd=ROOT, check=True, capture_output=True)
        return
    if words[0].startswith("scripts/"):
        study = next((name for name in VARIED if f"ablation_{name}." in words[0]), None)
        assert (ROOT / words[0]).is_file()
        if study:
            assert load_variants(ROOT / "configs", words[1], study, [], words[2:3])
        return
    if words[1] == "-m":
        script = importlib.import_module(words[2])
        assert script.main([*words[3:], f"corpus.root={tmp_path}/absent"]) == 2
        assert "absent" in capsys.readouterr().err
        return
    assert (ROOT / words[1]).is_file()
    if words[1] in (
        "compare.py",
        "predict.py",
        "export.py",
        "analyze_gates.py",
        "audit.py",
        "app.py",
    ):
        return
    overrides = [word for word in words if "=" in word]
    config = load_config(ROOT / words[3], overrides)
    if words[1] == "tune.py":
        assert read_space(ROOT / words[5], ROOT / words[3], overrides)
        return
    nowhere = [f"run.root={tmp_path}/runs", f"run.store={tmp_path}/store"]
    missing = [f"corpus.root={tmp_path}/absent", *nowhere]
    if words[1] == "explore.py":
        assert explore_main(["--config", str(ROOT / words[3]), *overrides, *missing]) == 2
        assert "absent" in capsys.readouterr().err
        return
    if words[1] == "baseline.py":
        argv = ["--config", str(ROOT / words[3]), *words[4:6], *overrides, *missing]
        assert baseline_main(argv) == 2
        assert "absent" in capsys.readouterr().err
        return
    assert (config.model.fusion in UNGATED) == (words[1] == "train.py")
    other = UNGATED if words[1] == "train.py" else GATED
    argv = ["--config", str(ROOT / words[3]), *overrides, *missing]
    status = train_main(argv, "", other, "train.py")
    assert status == 2
    assert "absent" in capsys.readouterr().err


@pytest.mark.parametrize("text", [README, COMPARISON], ids=["README", "FUSION_COMPARISON"])
def test_peer_08_no_figure_is_promised(text):
    assert not re.search(
        r"expected (accuracy|result|score|figure)|should reach", text, re.IGNORECASE
    )


def test_tables_are_written_from_the_recorded_results(tmp_path):
    write = [sys.executable, "-m", "scripts.write_tables"]
    check = [*write, "--check"]
    assert subprocess.run(check, capture_output=True, text=True, cwd=ROOT).stdout == ""
    copy = tmp_path / "copy"
    names = ("README.md", "FUSION_COMPARISON.md", "docs", "results", *ROOT.glob("*.py"))
    rooms = {path.parent for path in CODE} - {ROOT}
    copy.mkdir()
    for name in [*names, *rooms]:
        path = ROOT / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, copy / path.name)
    results = copy / "results/demo.json"
    found = read_json(results)
    found["runs"][0]["test"]["ua"]["mean"] += 0.01
    write_json(results, found)
    assert subprocess.run(check, capture_output=True, cwd=copy).returncode == 1
    assert subprocess.run(write, cwd=copy).returncode == 0
    assert subprocess.run(check, capture_output=True, cwd=copy).returncode == 0
    shown = f"{100 * found['runs'][0]['test']['ua']['mean']:.1f} ± "
    assert all(shown in (copy / page).read_text() for page in names[:2])


def test_every_test_that_a_page_names_is_there():
    """A page must not prove a promise by a test that was renamed or removed."""
    pages = [ROOT / "docs/AUDIO.md", ROOT / "docs/RELIABILITY.md", ROOT / "docs/DECISIONS.md"]
    named = {
        name
        for page in pages
        for name in re.findall(r"([\w/]+\.py)::(test_\w+)", page.read_text(encoding="utf-8"))
    }
    assert len(named) > 60
    for file, name in named:
        path = ROOT / "tests" / file.removeprefix("tests/")
        assert f"def {name}(" in path.read_text(encoding="utf-8"), f"{file}::{name}"
