"""Full and lost disks: one message with what was needed, nothing half, and the command goes on."""

import builtins
import csv
import errno
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from config.loading import load_config
from config.schema import Config
from evaluation import summary as evaluation_summary
from features import SpectrogramImages
from reports.publish import gather, publish
from storage import feature_store as store_module
from storage import row_store
from storage.feature_store import FeatureStore
from system.errors import RunError
from system.files import write_text
from tests.support import runs
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from tests.training.test_experiment import results_of
from training import experiment
from training.dry_run import dry_run
from training.session import feature_settings
from training.tensorboard import Tracker

FOLD = "tiny/folds/fold-1_seed-0"
SMALL = ["model.cqt_backbone=test_byobnet", "model.mel_backbone=test_vit"]  # 11 MB a fold, 1 s
SMALL += ["train.checkpoint_epochs=1"]  # each epoch's end, however long it takes
REPORT = ["comparison.json", "comparison.md", "comparison.tex", "report.html"]


def seldom(value: Any) -> Any:
    """Leave a case to `make test-slow`."""
    return pytest.param(value, marks=pytest.mark.slow)


class Disk:
    """Counts each step of writing below a folder; some of them fail.

    Args:
        root: The folder.
        fails: Whether a step fails, by its number.
        number: Of the system's error.
    """

    def __init__(
        self, root: Path, fails: Callable[[int], bool] = lambda i: False, number: int = errno.ENOSPC
    ) -> None:
        self.root, self.fails, self.number = root, fails, number
        self.steps: list[tuple[str, Path]] = []
        self.failed: list[tuple[str, Path]] = []

    def step(self, what: str, path: Any) -> None:
        path = Path(os.fsdecode(path))
        if not path.is_relative_to(self.root):
            return
        self.steps.append((what, path))
        if self.fails(len(self.steps) - 1):
            self.failed.append((what, path))
            raise OSError(self.number, os.strerror(self.number), str(path))

    @contextmanager
    def in_place(self) -> Iterator["Disk"]:
        """Take the place of what Python and safetensors write with."""
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "replace", "rename", "truncate", "chmod"):
                patch.setattr(os, name, self._watched(name))
            patch.setattr(os, "fsync", self._fsync(os.fsync))
            patch.setattr(os, "open", self._os_open(os.open))
            patch.setattr(builtins, "open", self._open(io.open))
            patch.setattr(io, "open", builtins.open)  # of pathlib
            patch.setattr("storage.tensors.save_file", self._save_file)
            yield self

    def _watched(self, name: str) -> Callable:
        original = getattr(os, name)

        def attempt(path: Any, *args: Any, **kwargs: Any) -> Any:
            if name != "mkdir" or not os.path.isdir(path):  # that it is there comes first
                self.step(name, path)
            return original(path, *args, **kwargs)

        return attempt

    def _fsync(self, original: Callable) -> Callable:
        def attempt(handle: int) -> None:
            self.step("fsync", os.readlink(f"/proc/self/fd/{handle}"))
            original(handle)

        return attempt

    def _os_open(self, original: Callable) -> Callable:
        def attempt(path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
            if flags & os.O_CREAT:
                self.step("create", path)
            return original(path, flags, *args, **kwargs)

        return attempt

    def _open(self, original: Callable) -> Callable:
        def attempt(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if isinstance(path, int) or not set(mode) & set("wax+") or os.path.isdir(path):
                return original(path, mode, *args, **kwargs)
            self.step("open", path)
            return Watched(original(path, mode, *args, **kwargs), path, self)

        return attempt

    def _save_file(self, tensors: Any, path: Path, **kwargs: Any) -> None:
        try:
            self.step("save_file", path)
        except (
            OSError
        ) as error:  # as safetensors does: through a temporary of its own, and in words
            path.with_name(".tmpAbCdEf").write_bytes(b"half")
            raise SafetensorError(
                f"Error while serializing: I/O error: {error.strerror} (os error {error.errno})"
            ) from None
        save_file(tensors, path, **kwargs)


class Watched:
    """A file whose writing may stop half-way."""

    def __init__(self, file: Any, path: Path, disk: Disk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def write(self, data: Any) -> int:
        try:
            self._disk.step("write", self._path)
        except OSError:
            self._file.write(data[: len(data) // 2])
            raise
        return self._file.write(data)

    def truncate(self, *size: int) -> int:
        self._disk.step("truncate", self._path)
        return self._file.truncate(*size)

    def __enter__(self) -> "Watched":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def assert_whole(root: Path, appended: bool = True) -> None:
    """Everything that is there can be read to its end, and nothing is there for a while only.

    Args:
        root: The folder.
        appended: Also what is written bit by bit, which nobody can cut back on a disk that is lost.
    """
    for path in root.rglob("*"):
        is_lock = path.name.startswith(".lock") and ".tmp" not in path.name
        assert is_lock or not path.name.startswith("."), path
        is_lines = path.suffix == ".jsonl" or path.name == "index.json"  # of the feature store
        if path.suffix == ".json" and not is_lines:
            json.loads(path.read_text())
        elif is_lines and appended:
            text = path.read_text()
            assert text == "".join(json.dumps(json.loads(x)) + "\n" for x in text.splitlines())
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                assert len({len(row) for row in csv.reader(file)}) == 1, path
            assert path.read_text().endswith("\n")
        elif path.suffix == ".safetensors":
            load_file(path)
        elif path.suffix == ".npz":
            with np.load(path) as kept:
                assert len({len(kept[name]) for name in ("sha256", "hash", "lengths")}) == 1
        elif "tfevents" in path.name and appended:
            assert_whole_records(path.read_bytes())


def assert_whole_records(data: bytes) -> None:
    """TensorBoard's records: length, its check sum, data, their check sum."""
    place = 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        place += 8 + 4 + length + 4
    assert place == len(data)


def config_in(recipe: Path, root: Path, *overrides: str) -> Config:
    places = [f"run.root={root / 'runs'}", f"run.store={root / 'store'}"]
    return load_config(recipe, [*places, *SMALL, *overrides])


def images_of(config: Config) -> dict[str, list[bytes]]:
    """Return all that can be read of a store: {audio hash: its two images}."""
    store = FeatureStore(Path(config.run.store), SpectrogramImages(**feature_settings(config)))
    if not store.rows:
        return {}
    views = store.images("cqt"), store.images("mel")
    return {
        key: [v[rows.start : rows.stop].tobytes() for v in views]
        for key, rows in store.rows.items()
    }


class Reference:
    """A run that nothing disturbed: its steps, its results, its images."""

    def __init__(self, recipe: Path, root: Path) -> None:
        self.recipe, self.config = recipe, config_in(recipe, root)
        with Disk(root).in_place() as disk:
            self.run = run_experiment(self.config, [])
        self.steps = disk.steps
        self.results = results_of(root / "runs" / FOLD)
        self.images = images_of(self.config)

    def assert_goes_on(self, root: Path, appended: bool = True) -> None:
        run_experiment(config_in(self.recipe, root), [])
        assert results_of(root / "runs" / FOLD) == self.results
        assert_whole(root, appended)


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """The store is written several times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_store, "COMMIT_EVERY", 16)
        yield


@pytest.fixture(scope="module")
def reference(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reference]:
    root = tmp_path_factory.mktemp("reference")
    yield Reference(recipe, root)
    shutil.rmtree(root)


def is_of_tracker(steps: list[tuple[str, Path]], n: int) -> bool:
    """Whether a step writes an event file, or the name of a new one in its folder."""
    what, path = steps[n]
    is_name = what == "fsync" and n > 0 and path in steps[n - 1][1].parents
    return "tfevents" in path.name or (is_name and is_of_tracker(steps, n - 1))


def fail_and_go_on(
    reference: Reference, root: Path, n: int, number: int = errno.ENOSPC, lasting: bool = False
) -> None:
    """Let step n of a run fail, and go on: weights, metrics and predictions to the byte."""
    root.mkdir()
    fails = (lambda i: i >= n) if lasting else (lambda i: i == n)
    if is_of_tracker(reference.steps, n) and not lasting:  # the run goes on without it
        with Disk(root, fails, number).in_place() as disk:
            run = run_experiment(config_in(reference.recipe, root), [])
        assert len(disk.failed) == 1 and results_of(run / "folds/fold-1_seed-0")
        assert_whole(root)
        reference.assert_goes_on(root)
        shutil.rmtree(root)
        return
    with Disk(root, fails, number).in_place() as disk, pytest.raises(RunError) as caught:
        run_experiment(config_in(reference.recipe, root), [])
    steps = range(n, n + len(disk.failed))
    i = next(i for i in steps if not is_of_tracker(disk.steps, i))
    what, path = disk.steps[i]
    said, name = str(caught.value), path.name.removeprefix(".").split(".tmp")[0]
    detail = f"{what} of {path}: {caught.value!r}"
    assert os.strerror(number) in said and (name.rpartition(".")[0] or name) in said, detail
    if number == errno.ENOSPC:
        assert "is free on that disk" in said and "then run the same command again" in said, detail
        takes_nothing = ("cannot make the folder", "cannot open", "cannot lock")
        assert "needs " in said or said.startswith(takes_nothing), detail
    assert_whole(root, appended=not lasting)
    found = images_of(config_in(reference.recipe, root))
    assert found.items() <= reference.images.items()
    reference.assert_goes_on(root, appended=not lasting)
    shutil.rmtree(root)


@pytest.mark.promise("full_disk")
@pytest.mark.parametrize("share", [0.1, 0.4, 0.6, 0.9])
def test_a_full_disk_at_a_step_of_a_run(reference, tmp_path, count, share) -> None:
    fail_and_go_on(reference, tmp_path / "root", int(share * len(reference.steps)))
    count("full-disk faults injected")


@pytest.mark.promise("full_disk")
def test_a_folder_that_is_full_before_it_is_a_run_becomes_one(reference, tmp_path, count) -> None:
    names = [f"{what} {path.name}" for what, path in reference.steps]
    fail_and_go_on(reference, tmp_path / "root", names.index("write config.yaml"))
    count("full-disk faults injected")


@pytest.mark.slow
@pytest.mark.promise("full_disk")
@pytest.mark.parametrize("part", range(8))
def test_a_full_disk_at_every_step_of_a_run(reference, tmp_path, count, part) -> None:
    for n in range(part, len(reference.steps), 8):
        fail_and_go_on(reference, tmp_path / "root", n)
        count("full-disk faults injected")


@pytest.mark.promise("lost_disk")
@pytest.mark.parametrize(("share", "number"), [(0.3, errno.EROFS), (0.7, errno.EIO)])
def test_a_disk_that_is_lost_in_a_run(reference, tmp_path, count, share, number) -> None:
    """From some step on nothing can be written any more."""
    n = int(share * len(reference.steps))
    fail_and_go_on(reference, tmp_path / "root", n, number, lasting=True)
    count("lost-disk faults injected")


@pytest.mark.slow
@pytest.mark.promise("lost_disk")
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("number", [errno.EIO, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_lost_at_many_steps_of_a_run(
    reference, tmp_path, count, part, number
) -> None:
    for n in range(5 * part, len(reference.steps), 20):
        fail_and_go_on(reference, tmp_path / "root", n, number, lasting=True)
        count("lost-disk faults injected")


@pytest.mark.promise("full_disk")
@pytest.mark.parametrize("number", [errno.ENOSPC, seldom(errno.EIO)])
def test_a_full_or_lost_disk_at_every_step_of_a_comparison(
    reference, tmp_path, count, number, monkeypatch
) -> None:
    runs, comparison = gather([reference.run])
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    with Disk(undisturbed).in_place() as disk:
        publish(undisturbed / "out", runs, comparison)
    page = (undisturbed / "out" / "report.html").read_text()
    monkeypatch.setattr("reports.publish.write_report", lambda path, *_: write_text(path, page))
    assert len(disk.steps) > 20
    for n in range(len(disk.steps)):
        out = tmp_path / "faults" / str(n) / "out"
        out.parent.mkdir(parents=True)
        fault = Disk(out.parent, lambda i, n=n: i == n, number)
        with fault.in_place(), pytest.raises(RunError, match=os.strerror(number)) as caught:
            publish(out, runs, comparison)
        what, path = fault.failed[0]
        assert str(out) in str(caught.value), what
        for left in out.rglob("*"):
            assert left.read_bytes() == (undisturbed / "out" / left.name).read_bytes()
        publish(out, runs, comparison)
        assert sorted(os.listdir(out)) == REPORT
        count(
            "full-disk faults injected" if number == errno.ENOSPC else "lost-disk faults injected"
        )


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Mount a real disk of some size; give what mounts it again with other options."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root may mount a small disk")

    def again(options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", folder], check=True)

    try:
        yield again
    finally:
        subprocess.run(["umount", folder], check=False, capture_output=True)


def link(root: Path, name: str, disk: Path) -> None:
    """Let one of the two places of a run be another disk."""
    root.mkdir()
    (root / name).symlink_to(disk)


@pytest.mark.promise("full_disk")
@pytest.mark.parametrize(
    ("place", "size", "said"),
    [
        ("runs", "16k", r"(json|yaml|csv): No space left on device \(needs .*, .* is free on"),
        ("runs", "6m", r"epoch-0001.*: No space left on device \(needs 8.* MB, .* kB is free"),
        ("store", "64k", r"[cm].*.f16 of the feature store: No space left on device \(needs 65.5"),
    ],
    ids=["tables", "weights", "images"],
)
def test_a_real_disk_that_is_full(reference, tmp_path, count, place, size, said) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, size) as again:
        link(root, place, disk)
        with pytest.raises(RunError, match=said):
            run_experiment(config_in(reference.recipe, root), [])
        assert_whole(disk)
        again("size=64m")
        reference.assert_goes_on(root)
    count("real full disks")


@pytest.mark.slow
@pytest.mark.promise("full_disk")
@pytest.mark.parametrize("place", ["runs", "store"])
def test_real_disks_of_every_size(reference, tmp_path, count, place) -> None:
    """Each is full at another moment, a few kB apart where small files are written."""
    sizes = [*range(4, 100, 8), *range(100, 400, 40)]  # kB
    sizes += [] if place == "store" else [*range(500, 50_000, 4500)]
    stopped = 0
    for size in sizes:
        root, disk = tmp_path / f"root{size}", tmp_path / f"disk{size}"
        with small_disk(disk, f"{size}k") as again:
            link(root, place, disk)
            try:
                run_experiment(config_in(reference.recipe, root), [])
            except RunError as error:
                assert "No space left on device (" in str(error)
                assert str(root / place) in str(error)
                stopped += 1
            assert_whole(disk)
            again("size=64m")
            reference.assert_goes_on(root)
        shutil.rmtree(root)
    assert 0 < stopped < len(sizes)
    count("real full disks", stopped)


def command_in(reference: Reference, root: Path, *overrides: str) -> list[str]:
    places = [f"run.root={root / 'runs'}", f"run.store={root / 'store'}"]
    entry = [sys.executable, str(ROOT / "train_gmu.py"), "--config", str(reference.recipe)]
    return [*entry, *places, *SMALL, *overrides]


def assert_one_message(status: int, err: str, said: str) -> None:
    assert status == 1 and err.count("failed: ") == 1 and said in err, err
    assert "Traceback" not in err and "Exception" not in err, err


@pytest.mark.slow
@pytest.mark.promise("full_disk")
@pytest.mark.parametrize(("place", "size"), [("runs", "6m"), ("runs", "48k"), ("store", "64k")])
def test_the_command_itself_on_a_real_full_disk(reference, tmp_path, count, place, size) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, size) as again:
        link(root, place, disk)
        command = command_in(reference, root)
        said = subprocess.run(command, capture_output=True, text=True)
        assert_one_message(said.returncode, said.stderr, "No space left on device (needs ")
        assert_whole(disk)
        again("size=64m")
        assert subprocess.run(command, capture_output=True).returncode == 0
        assert results_of(root / "runs" / FOLD) == reference.results
    count("real full disks")


@pytest.mark.promise("full_disk")
def test_a_disk_without_room_for_another_file_says_so(reference, tmp_path, count) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, "64m,nr_inodes=12") as again:
        link(root, "runs", disk)
        with pytest.raises(RunError, match=r"is free on that disk, for at most \d new files?"):
            run_experiment(config_in(reference.recipe, root), [])
        assert_whole(disk)
        again("nr_inodes=1000")
        reference.assert_goes_on(root)
    count("real full disks")


@pytest.mark.promise("lost_disk")
@pytest.mark.parametrize("place", ["root", "store"])
def test_a_read_only_disk_is_reported_before_anything_is_computed(
    reference, tmp_path, monkeypatch, count, place
) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, "64m") as again:
        wish = f"run.{place}={disk}/new"  # a folder that is still to be made
        again("ro")
        with monkeypatch.context() as patch:
            patch.setattr(experiment, "make_plan", lambda config: 1 / 0)
            patch.setattr("training.dry_run.make_plan", lambda config: 1 / 0)
            for run in (lambda config: run_experiment(config, []), dry_run):
                with pytest.raises(RunError, match=f"{wish} cannot be written: Read-only file"):
                    run(config_in(reference.recipe, root, wish))
        again("rw")
        run = run_experiment(config_in(reference.recipe, root, wish), [])
        assert results_of(run / "folds" / "fold-1_seed-0") == reference.results
    count("read-only disks")


@pytest.mark.promise("lost_disk")
def test_a_read_only_store_that_lacks_images_computes_none(
    reference, tmp_path, monkeypatch, count
) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, "64m") as again:
        link(root, "store", disk)
        again("ro")
        with monkeypatch.context() as patch:
            patch.setattr(store_module, "read_audio", lambda path, rate: 1 / 0)
            with pytest.raises(RunError, match=f"{root}/store.*: Read-only file system"):
                run_experiment(config_in(reference.recipe, root), [])
        again("rw")
        reference.assert_goes_on(root)
    count("read-only disks")


@pytest.mark.promise("lost_disk")
def test_a_read_only_store_that_has_all_images_will_do(reference, tmp_path, count) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, "64m") as again:
        link(root, "store", disk)
        shutil.copytree(reference.config.run.store, disk, dirs_exist_ok=True)
        again("ro")
        reference.assert_goes_on(root)
    count("read-only disks")


def after_first_epoch(patch: pytest.MonkeyPatch, work: Callable[[], object]) -> None:
    """Do something to the disk in the middle of a run."""
    log_epoch = Tracker.log_epoch

    def log_and_work(self: Tracker, history: list[dict[str, float]], *args: Any) -> None:
        log_epoch(self, history, *args)
        if history[-1]["epoch"] == 1:
            work()

    patch.setattr(Tracker, "log_epoch", log_and_work)


@pytest.mark.promise("lost_disk")
@pytest.mark.parametrize("gone", [seldom("runs"), "runs/tiny", seldom(f"runs/{FOLD}")])
def test_a_run_that_is_removed_meanwhile_stays_removed(
    reference, tmp_path, monkeypatch, count, gone
) -> None:
    root = tmp_path / "root"
    with monkeypatch.context() as patch:
        after_first_epoch(patch, lambda: shutil.rmtree(root / gone))
        with pytest.raises(RunError, match=f"the folder {root / gone} is gone.*starts anew"):
            run_experiment(config_in(reference.recipe, root), [])
    assert not (root / gone).exists()
    reference.assert_goes_on(root)
    count("folders removed in a run")


@pytest.mark.promise("lost_disk")
def test_a_run_that_is_removed_between_two_folds_is_not_begun_again(
    reference, tmp_path, monkeypatch, count
) -> None:
    root, sum_up = tmp_path / "root", evaluation_summary.summarize

    def sum_up_and_remove(folder: Path) -> None:
        sum_up(folder)
        shutil.rmtree(folder)

    with monkeypatch.context() as patch:
        patch.setattr(evaluation_summary, "summarize", sum_up_and_remove)
        patch.setattr(runs, "summarize", sum_up_and_remove)
        with pytest.raises(RunError, match=f"the folder {root}/runs/tiny is gone"):
            run_experiment(config_in(reference.recipe, root, "run.seeds=[0,1]"), [])
    assert os.listdir(root / "runs") == []
    reference.assert_goes_on(root)
    count("folders removed in a run")


@pytest.mark.promise("lost_disk")
def test_a_store_that_is_removed_while_it_is_mapped(
    reference, tmp_path, monkeypatch, count
) -> None:
    root = tmp_path / "root"
    with monkeypatch.context() as patch:
        after_first_epoch(patch, lambda: shutil.rmtree(root / "store"))
        with pytest.raises(RunError, match="cqt.f16 is missing.*run the same training command"):
            run_experiment(config_in(reference.recipe, root), [])
    assert not (root / "store").exists()
    reference.assert_goes_on(root)
    count("folders removed in a run")


@pytest.mark.promise("lost_disk")
@pytest.mark.parametrize("gone", ["", *map(seldom, ("mel.f16", "cqt.f16", "index.json"))])
def test_a_store_that_is_removed_while_it_is_built(
    reference, tmp_path, monkeypatch, count, gone
) -> None:
    root, read = tmp_path / "root", store_module.read_audio
    calls = iter(range(100))

    def read_and_remove(path: Path, *args: Any) -> Any:
        if next(calls) == 20:  # one chunk is in the store
            (place,) = (root / "store").glob("*/")
            (place / gone).unlink() if gone else shutil.rmtree(place)
        return read(path, *args)

    config = config_in(reference.recipe, root)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "read_audio", read_and_remove)
        if gone == "index.json":  # it is written again, and the rows are what they were
            run_experiment(config, [])
        else:
            with pytest.raises(RunError, match="cannot write .*(is gone|No such file)"):
                run_experiment(config, [])
    assert bool(gone) == any((root / "store").glob("*/"))
    assert images_of(config).items() <= reference.images.items()
    reference.assert_goes_on(root)
    assert images_of(config) == reference.images
    count("folders removed in a run")


@pytest.mark.promise("lost_disk")
def test_a_data_file_cut_short_while_a_store_is_built_gives_no_zeros(
    reference, tmp_path, monkeypatch, count
) -> None:
    root, read = tmp_path / "root", store_module.read_audio
    calls = iter(range(100))

    def read_and_cut(path: Path, *args: Any) -> Any:
        if next(calls) == 20:
            os.truncate(next((root / "store").glob("*/mel.f16")), 100)
        return read(path, *args)

    config = config_in(reference.recipe, root)
    with monkeypatch.context() as patch:
        patch.setattr(store_module, "read_audio", read_and_cut)
        with pytest.raises(RunError, match="mel.f16 is missing, corrupt .*it lost rows"):
            run_experiment(config, [])
    assert images_of(config) == {}
    reference.assert_goes_on(root)
    count("folders removed in a run")


@pytest.mark.promise("lost_disk")
def test_a_disk_that_is_unmounted_meanwhile_is_not_written_below(
    reference, tmp_path, monkeypatch, count
) -> None:
    root, disk = tmp_path / "root", tmp_path / "disk"
    with small_disk(disk, "64m"):
        link(root, "runs", disk)
        with monkeypatch.context() as patch:
            unmount = ["umount", "--lazy", disk]
            after_first_epoch(patch, lambda: subprocess.run(unmount, check=True))
            with pytest.raises(RunError, match=f"the folder {root}/runs/tiny is gone"):
                run_experiment(config_in(reference.recipe, root), [])
        assert os.listdir(disk) == []
        reference.assert_goes_on(root)
    count("folders removed in a run")


@pytest.mark.slow
@pytest.mark.promise("lost_disk")
def test_the_command_itself_when_its_run_root_is_removed(reference, tmp_path, count) -> None:
    root = tmp_path / "root"
    command = command_in(reference, root, "train.epochs=200")
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        state = root / "runs" / FOLD / "state"
        while process.poll() is None and not any(state.glob("epoch-0001*")):
            time.sleep(0.01)
        (root / "runs").rename(tmp_path / "elsewhere")
        err = process.communicate()[1]
    assert_one_message(process.returncode, err, f"the folder {root}/runs is gone")
    assert not (root / "runs").exists()
    assert subprocess.run(command_in(reference, root), capture_output=True).returncode == 0
    assert results_of(root / "runs" / FOLD) == reference.results
    count("folders removed in a run")
