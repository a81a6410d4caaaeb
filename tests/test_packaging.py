"""`pip install -e .` installs every room; the constraints fit the requirements."""

import re
import subprocess
import sys
import tomllib

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.paths import CODE, ROOT
from tests.test_architecture import LEVELS

EXTRAS = (
    "dev",
    "cluster",
    "stream",
    "trackers",
    "formats",
    "classic",
    "vad",
    "speech",
    "onnx",
    "app",
)
FILES = ("requirements.txt", *(f"requirements-{name}.txt" for name in EXTRAS))


def requirements(file: str) -> list[Requirement]:
    lines = (ROOT / file).read_text(encoding="ascii").splitlines()
    return [Requirement(line.split("#")[0]) for line in lines if line.split("#")[0].strip()]


def test_pyproject_installs_every_room_and_reads_the_requirements_files():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = project["tool"]["setuptools"]
    folders = sorted({path.parent.name for path in CODE if path.parent != ROOT})
    assert sorted(setuptools["packages"]) == folders
    assert sorted(setuptools["py-modules"]) == sorted(LEVELS.keys() - set(folders))
    dynamic = setuptools["dynamic"]
    extras = [dynamic["optional-dependencies"][name] for name in EXTRAS]
    assert [dynamic["dependencies"], *extras] == [{"file": [file]} for file in FILES]
    assert dynamic["optional-dependencies"].keys() == set(EXTRAS)


def test_the_constraints_pin_every_requirement_within_its_range():
    text = (ROOT / "constraints.txt").read_text(encoding="ascii")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)  # no path, no address
    pinned = {canonicalize_name(name): v for name, v in (line.split("==") for line in lines)}
    missing = []
    for requirement in [r for file in FILES for r in requirements(file)]:
        version = pinned.get(canonicalize_name(requirement.name))
        if version is None:
            missing.append(requirement.name)
        else:
            assert requirement.specifier.contains(version), requirement
    assert missing == []


def test_tensorboard_starts_beside_the_installed_setuptools():
    """Releases before the lower bound end in an ImportError of pkg_resources."""
    command = [sys.executable, "-m", "tensorboard.main", "--version"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    (requirement,) = [r for r in requirements("requirements.txt") if r.name == "tensorboard"]
    assert requirement.specifier.contains(done.stdout.strip().splitlines()[-1])
    assert not requirement.specifier.contains("2.20.0")


def test_no_requirement_is_listed_twice():
    names = [canonicalize_name(r.name) for file in FILES for r in requirements(file)]
    assert len(set(names)) == len(names)


def test_the_workflow_calls_verbs_of_the_makefile():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    steps = [step.get("run", "") for job in workflow["jobs"].values() for step in job["steps"]]
    verbs = {word for step in steps if step.startswith("make ") for word in step.split()[1:]}
    assert {"lint", "typecheck", "test", "coverage"} <= verbs
    subprocess.run(["make", "--dry-run", *verbs], cwd=ROOT, check=True, capture_output=True)
