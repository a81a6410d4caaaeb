"""Only regular files are opened: a pipe or device in the place of one is refused at once."""

import ast
import hashlib
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from corpora.recordings import FILE as RECORDINGS
from corpora.recordings import index_audio
from experiments.jobs import finished_epochs
from storage.feature_store import FeatureStore
from storage.ledger import record_test_evaluation
from storage.tensors import load_state, load_tensors, tensor_shapes
from system.errors import RunError
from system.files import read_bytes, read_json, read_text
from system.regular import check_regular, file_sha256, open_regular
from tests.support.paths import CODE, ROOT

SECONDS = 10  # in which a reader must have refused


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """Fail a test that waits for a pipe."""

    def give_up(*args: object) -> None:
        pytest.fail("it waits for a writer")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=["pipe", "link to a pipe", "device", "socket", "folder"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A path that is not a regular file."""
    path = tmp_path / "odd"
    with socket.socket(socket.AF_UNIX) as opened:
        if request.param == "pipe":
            os.mkfifo(path)
        elif request.param == "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        elif request.param == "device":
            path.symlink_to("/dev/zero")
        elif request.param == "socket":
            before = os.getcwd()
            os.chdir(tmp_path)  # the name of a socket must be short
            opened.bind("odd")
            os.chdir(before)
        else:
            path.mkdir()
        yield path


READERS: dict[str, Callable[[Path], object]] = {
    "text": lambda path: read_text(path, 10**9),
    "bytes": lambda path: read_bytes(path, 10**9),
    "json": read_json,
    "hash": file_sha256,
    "weights": load_tensors,
    "shapes": tensor_shapes,
    "state": load_state,
}


@pytest.mark.parametrize("name", READERS)
def test_what_is_not_a_regular_file_is_refused_at_once(odd, name):
    with pytest.raises((OSError, RunError), match="not a regular file"):
        READERS[name](odd)


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path):
    file, link = tmp_path / "file", tmp_path / "link"
    file.write_bytes(b"abc")
    link.symlink_to(file)
    for path in (file, link):
        check_regular(path)
        with open_regular(path) as opened:
            assert opened.read() == b"abc"
        assert file_sha256(path) == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "missing")


def test_a_pipe_that_takes_the_place_of_a_file_after_the_check_is_refused(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr("system.regular.check_regular", lambda path: None)
    with pytest.raises(OSError, match="not a regular file"):
        open_regular(tmp_path / "pipe")


def test_the_ledger_names_weights_that_are_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(RunError, match=r"model.safetensors .*not a regular file.*remove"):
        record_test_evaluation(tmp_path, {}, 1, tmp_path, "test", "because")
    assert not (tmp_path / "ledger.jsonl").exists()


def test_the_audio_index_and_the_epochs_of_a_job_are_not_waited_for(tmp_path):
    for name in (RECORDINGS, "history.csv"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(RunError, match="not a regular file"):
        index_audio([], 0, tmp_path)
    assert finished_epochs(tmp_path)[0] == 0


class OneNumber:
    """Settings of a feature store whose images have one pixel."""

    version, input_rate, record = 1, 8000, (1, 1, 1)
    settings: dict = {}


def test_images_that_are_a_pipe_are_refused(tmp_path):
    store = FeatureStore(tmp_path, OneNumber())
    store.folder.mkdir()
    store._take({"a": range(1)})
    os.mkfifo(store.folder / "cqt.f16")
    with pytest.raises(RunError, match=r"cqt.f16 .*not a regular file"):
        store.images("cqt")
    (store.folder / "mel.f16").write_bytes(b"\0\0")
    assert store.images("mel").shape == (1, 1, 1, 1)


OPENERS = ("open", "read_bytes", "read_text", "safe_open", "load", "memmap")
# Calls that need no check of their own: it was made before, or this code wrote the file
ALLOWED = {
    ("storage/tensors.py", "safe_open"),  # after check_regular
    ("storage/row_store.py", "np.memmap"),  # of an open file
    ("corpora/audformat_files.py", "database[name].load"),  # after check_regular
    ("corpora/recordings.py", "np.load"),  # after is_file
    ("storage/own_vectors.py", "np.load"),  # of bytes
    ("inference/exporting.py", "onnx.load"),  # this command wrote it
    ("gates/results.py", "path.read_bytes"),  # after is_file
    ("gates/results.py", "Image.open"),
    ("storage/provenance.py", "Path('/proc/cpuinfo').read_text"),
    ("storage/provenance.py", "module.read_text"),  # in /sys, after is_file
    ("storage/provenance.py", "NVIDIA_DRIVER.read_text"),  # in /proc
    ("models/weights.py", "torch.load"),  # after is_file
    ("system/placeholders.py", "path.open"),  # after S_ISREG
    ("system/owned.py", "open"),  # after check_owned, and without waiting
    ("system/locks.py", "path.open"),
    ("system/locks.py", "path.read_text"),
    ("experiments/jobs.py", "job.log.open"),
    ("experiments/slots.py", "Path('/proc/meminfo').read_text"),
    ("experiments/slots.py", "(group / f'memory.{name}').read_text"),  # in /sys
    ("experiments/storages.py", "file.open"),  # after check_regular
    ("experiments/study.py", "self.store.open"),  # no file by its path
    ("training/saver.py", "self.checkpoints.load"),  # likewise
    ("training/state.py", "self.average.load"),
    ("train_gmu.py", "(session.folder / 'summary.md').read_text"),
}


def opened_by_hand(tree: ast.AST) -> Iterator[str]:
    """Yield the calls that open a file by its path, but not those that only write."""
    for node in ast.walk(tree):
        name = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
        if name.rpartition(".")[2] not in OPENERS or name in (
            "read_text",
            "read_bytes",  # of system.files
            "load",  # of inference
            "os.open",
            "yaml.load",
            "checkpoints.load",
        ):
            continue
        modes = [str(arg.value) for arg in node.args if isinstance(arg, ast.Constant)]
        if not any(mode in ("w", "wb", "a", "ab") for mode in modes):
            yield name


def test_no_module_opens_a_file_to_read_without_the_check():
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in CODE
        if path.parent.name != "scripts" and path.name not in ("files.py", "regular.py")
        for name in opened_by_hand(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert found - ALLOWED == set()


@pytest.mark.parametrize("code", ["path.open()", "open(p, 'rb')", "p.read_bytes()", "np.load(p)"])
def test_a_file_opened_by_hand_would_be_found(code):
    assert list(opened_by_hand(ast.parse(code)))
