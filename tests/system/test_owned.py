"""Nothing is written through a link of a folder from elsewhere; modes follow the umask."""

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from experiments import jobs
from experiments.storages import SQLITE_FILES
from experiments.study import Study
from gates import analysis
from reports.publish import publish
from storage.feature_store import IMAGES, FeatureStore
from storage.ledger import LEDGER
from storage.run_folder import remove_run
from storage.tensors import save_tensors
from system import cli, files, owned
from system.errors import RunError
from system.locks import is_held, lock
from system.temporary import remove_leftovers
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from training import tensorboard

FOLD = "folds/fold-1_seed-0"


@pytest.fixture
def mine(tmp_path: Path):
    """A file of the user, outside, that must stay as it is."""
    path = tmp_path / "mine" / "important.txt"
    path.parent.mkdir()
    path.write_bytes(b"important\n")
    yield path
    assert path.read_bytes() == b"important\n" and not path.is_symlink()
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A folder from elsewhere."""
    (tmp_path / "foreign").mkdir()
    return tmp_path / "foreign"


def take_lock(path: Path) -> None:
    with lock(path, "x"):
        pass


WRITERS: dict[str, Callable[[Path], object]] = {
    "lock": take_lock,
    "is held": is_held,
    "append": lambda path: files.append_line(path, "line"),
    "tensorboard": lambda path: tensorboard._append(path, []),
}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("kind", ["link", "broken link", "link chain", "pipe", "device"])
def test_nothing_is_opened_through_a_link_or_pipe(
    foreign: Path, mine: Path, writer: str, kind: str
) -> None:
    path = foreign / ".lock"
    if kind == "link":
        path.symlink_to(mine)
    elif kind == "broken link":
        path.symlink_to(mine.with_name("new"))
    elif kind == "link chain":
        (foreign / "next").symlink_to(mine)
        path.symlink_to("next")
    elif kind == "device":
        path.symlink_to("/dev/full")
    else:
        os.mkfifo(path)
    what = "not a regular file" if kind == "pipe" else "a link"
    with pytest.raises(RunError, match=f"{path} is {what}: nothing was written through it. Remove"):
        WRITERS[writer](path)


def test_a_file_that_is_replaced_is_not_written_through(foreign: Path, mine: Path) -> None:
    for name in ("summary.json", "model.safetensors", "copy", "table.csv"):
        (foreign / name).symlink_to(mine)
    files.write_json(foreign / "summary.json", {})
    save_tensors(foreign / "model.safetensors", {"a": torch.zeros(2)})
    files.copy_file(foreign / "summary.json", foreign / "copy")
    files.write_csv(foreign / "table.csv", ["a"], [])
    assert not any(path.is_symlink() for path in foreign.iterdir())


def test_a_hidden_folder_that_is_a_link_is_not_emptied(foreign: Path, mine: Path) -> None:
    (foreign / ".a.x.tmp").symlink_to(mine.parent)
    remove_leftovers(foreign)
    files.write_text(foreign / "a", "a")
    assert (foreign / "a").read_text() == "a"


@pytest.mark.parametrize("name", ["folds", FOLD, f"{FOLD}/state", "logs", ".gates.new"])
def test_no_folder_below_a_run_leads_out_of_it(foreign: Path, mine: Path, name: str) -> None:
    (foreign / name).parent.mkdir(parents=True, exist_ok=True)
    (foreign / name).symlink_to(mine.parent)
    with pytest.raises(RunError, match=f"leads out of {foreign}: nothing was written there"):
        files.make_folder(foreign / name / "below", inside=foreign)


def test_a_link_that_stays_inside_or_above_is_followed(foreign: Path, tmp_path: Path) -> None:
    (foreign / "real").mkdir()
    (foreign / "logs").symlink_to("real")
    (tmp_path / "run").symlink_to(foreign)  # a run on another disk
    files.make_folder(tmp_path / "run" / "logs", inside=tmp_path / "run")


def test_a_training_does_not_follow_a_fold_out_of_its_run(tiny, mine: Path) -> None:
    """The checkpoints of a finished fold are removed: here they would be the user's files."""
    weights = mine.with_name("weights.safetensors")
    weights.write_bytes(b"mine")
    config = tiny("train.epochs=1")
    run = run_experiment(config, [])
    state = run / FOLD / "state"
    shutil.rmtree(state)
    state.symlink_to(mine.parent)
    with pytest.raises(RunError, match="is a link that leads out of"):
        run_experiment(config, [])
    assert weights.read_bytes() == b"mine"
    weights.unlink()


@pytest.mark.parametrize("name", ["folds", ".folds.removed", "logs", "gates", "summary.md", LEDGER])
def test_overwriting_a_run_removes_links_and_not_what_they_name(
    foreign: Path, mine: Path, name: str
) -> None:
    (foreign / "config.yaml").touch()
    (foreign / name).symlink_to(mine if "." in name[1:] else mine.parent)
    if name == ".folds.removed":
        (foreign / "folds").mkdir()
    remove_run(foreign)
    assert not [path for path in foreign.iterdir() if path.name != LEDGER]


def test_a_ledger_that_is_a_link_is_refused_before_anything_is_trained(tiny, mine: Path) -> None:
    config = tiny("train.epochs=1")
    run = Path(config.run.root) / config.name
    run.mkdir(parents=True)
    (run / LEDGER).symlink_to(mine)
    with pytest.raises(RunError, match=f"{run / LEDGER} is a link"):
        run_experiment(config, [])
    assert not (run / "folds").exists()


def test_overwriting_a_run_locks_nothing_outside(foreign: Path, mine: Path) -> None:
    (foreign / FOLD).mkdir(parents=True)
    outside = foreign.with_name("outside")
    outside.mkdir()
    (outside / "lock").write_text("theirs")
    (foreign / FOLD / "state").symlink_to(outside)
    with pytest.raises(RunError, match="leads out of"):
        remove_run(foreign)
    assert (outside / "lock").read_text() == "theirs"


@pytest.mark.parametrize("name", [".gates.new", ".gates.old", "gates"])
def test_an_analysis_replaces_links_and_not_what_they_name(
    foreign: Path, mine: Path, monkeypatch, name: str
) -> None:
    """The folder is a run's; what is written into it is only its folder's name here."""

    class Run:
        folder = foreign

    monkeypatch.setattr(analysis, "_write", lambda new, *rest: (new / "gates.json").touch())
    (foreign / name).symlink_to(mine.parent)
    analysis._replace(Run, None, [])
    assert [path.name for path in foreign.iterdir()] == ["gates"]
    assert not (foreign / "gates").is_symlink() and (foreign / "gates/gates.json").exists()


class Flat:
    """A front end of constant images."""

    version, settings, input_rate, record = 1, {}, 16_000, (1, 2, 2)


@pytest.mark.parametrize("name", [*(f"{image}.f16" for image in IMAGES), "lock", "."])
def test_a_feature_store_is_not_written_through_links(foreign: Path, mine: Path, name: str) -> None:
    store = FeatureStore(foreign, Flat())
    if name == ".":
        store.folder.symlink_to(mine.parent)
    else:
        store.folder.mkdir()
        (store.folder / name).symlink_to(mine)
    with pytest.raises(RunError, match="link"):
        store.build({"hash": Path("none.wav")}, 0)


def test_a_log_of_a_job_is_not_written_through_a_link(foreign: Path, mine: Path) -> None:
    log = foreign / "fold.log"
    log.symlink_to(mine)
    job = jobs.Job("a", (sys.executable, "-c", "print(1)"), foreign, log)
    with pytest.raises(RunError, match="is a link"):
        jobs.run_jobs([job], [{}])


@pytest.mark.parametrize("ending", SQLITE_FILES)
def test_a_study_is_not_written_through_a_link(foreign: Path, mine: Path, ending: str) -> None:
    (foreign / f"study.db{ending}").symlink_to(mine)
    with pytest.raises(RunError, match="is a link"):
        Study(foreign, {}, 0, 3)


def test_tables_of_a_comparison_replace_links(foreign: Path, mine: Path, monkeypatch) -> None:
    for maker in ("markdown", "comparison_latex"):
        monkeypatch.setattr(f"reports.publish.{maker}", lambda comparison: "text")
    monkeypatch.setattr("reports.publish.comparison_json", lambda comparison: {})
    monkeypatch.setattr(
        "reports.publish.write_report", lambda file, *rest: files.write_text(file, "")
    )
    names = ("comparison.md", "comparison.tex", "comparison.json", "report.html")
    for name in names:
        (foreign / name).symlink_to(mine)
    publish(foreign, [], None)
    assert {path.name for path in foreign.iterdir() if not path.is_symlink()} == set(names)


WRITE_ALL = """
import os, sys, torch; from pathlib import Path
from system import files; from system.locks import lock; from storage.tensors import save_tensors
from matplotlib.figure import Figure
for mask in sys.argv[2:]:
    os.umask(int(mask, 8)); folder = Path(sys.argv[1], mask); files.make_folder(folder)
    files.write_json(folder / "a", {}); files.copy_file(folder / "a", folder / "b")
    save_tensors(folder / "w", {"a": torch.zeros(2)}); files.append_line(folder / "l", "x")
    with files.atomic_write(folder / "f") as file: Figure().savefig(file, format="png")
    with lock(folder / "lock", "x"): pass
"""


def test_files_have_the_mode_that_the_umask_gives(tmp_path: Path) -> None:
    masks = ["022", "027", "077", "002"]
    subprocess.run([sys.executable, "-c", WRITE_ALL, str(tmp_path), *masks], cwd=ROOT, check=True)
    for mask in masks:
        denied = int(mask, 8)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / mask).iterdir()]
        assert modes == 6 * [0o666 & ~denied]
        assert stat.S_IMODE((tmp_path / mask).stat().st_mode) == 0o777 & ~denied


def test_a_mount_that_refuses_modes_ends_no_run(tiny, monkeypatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    for name in ("chmod", "fchmod", "lchmod"):
        monkeypatch.setattr(os, name, refuse, raising=False)
    run = run_experiment(tiny("train.epochs=1"), [])
    assert (run / FOLD / "metrics.json").exists() and (run / FOLD / "model.safetensors").exists()


# What Python on Windows lacks
WINDOWS = """
import os, runpy, signal, sys
sys.modules["fcntl"] = None
for name in "SIGHUP SIGUSR1 SIGUSR2".split():
    delattr(signal, name)
for name in "O_NOFOLLOW O_NONBLOCK O_DIRECTORY".split():
    delattr(os, name)
import system.locks, system.files
name, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(name, run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize(
    "module",
    "train train_gmu tune compare analyze_gates predict scripts.ablation scripts.lr_range".split(),
)
def test_a_system_without_file_locks_is_told_so_at_the_start(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WINDOWS, module, "x"], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == f"failed: {owned.NO_LOCKS}\n" and "WSL" in owned.NO_LOCKS


def test_without_file_locks_nothing_is_locked_in_silence(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(owned, "fcntl", None)
    with pytest.raises(RunError, match="no file locks"), lock(tmp_path / "lock", "x"):
        pass
    with pytest.raises(RunError, match="no file locks"):
        files.append_line(tmp_path / "ledger", "x")
    with pytest.raises(SystemExit) as ended:
        cli.run_entry(lambda: 0)
    assert ended.value.code == 1
