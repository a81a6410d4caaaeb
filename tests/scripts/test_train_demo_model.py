"""scripts/train_demo_model.sh with a stand-in for Python, in a folder of its own."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from config.loading import load_config
from storage.final_model import final_folder
from tests.support.paths import ROOT

STAND_IN = """#!/bin/sh
echo "$*" >> asked
[ "$2" = "$FAILS" ] && exit 1
if [ "$2" = scripts.make_demo_corpus ]; then
  mkdir -p data/demo/Session1/sentences/wav/a && touch data/demo/demo.json
  touch data/demo/Session1/sentences/wav/a/1.wav data/demo/Session1/sentences/wav/a/2.wav
fi
exit 0
"""


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A folder with the script and a stand-in."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/train_demo_model.sh", tmp_path / "scripts")
    (tmp_path / "python").write_text(STAND_IN)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def call(clone: Path, fails: str = "") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHON": str(clone / "python"), "FAILS": fails}
    command = [str(clone / "scripts/train_demo_model.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, cwd="/")


def test_it_makes_the_corpus_once_trains_and_fits_all(clone: Path) -> None:
    work = ["train_gmu.py --config configs/demo_gmu.yaml", "-m scripts.fit_all runs/demo_gmu"]
    done = call(clone)
    assert done.returncode == 0, done.stderr
    asked = (clone / "asked").read_text().splitlines()
    assert asked == ["-m scripts.make_demo_corpus", *work]
    assert call(clone).returncode == 0
    assert (clone / "asked").read_text().splitlines() == [*asked, *work]
    folder = "runs/demo_gmu/final/seed-0"
    assert done.stdout.splitlines()[-1].endswith(
        f"python predict.py {folder} data/demo/Session1/sentences/wav/a/1.wav"
    )
    config = load_config(ROOT / "configs/demo_gmu.yaml")
    assert str(final_folder(Path(config.run.root, config.name), 0)) == folder
    assert config.corpus.root == "data/demo"


def test_it_ends_where_a_step_fails(clone: Path) -> None:
    assert call(clone, fails="--config").returncode == 1
    assert "fit_all" not in (clone / "asked").read_text()
