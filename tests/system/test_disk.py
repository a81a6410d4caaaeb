"""Writing files: atomic, synced names, leftovers of killed processes, plain messages."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from system import files, owned
from system.errors import RunError
from tests.support.paths import ROOT

HOLD = """
import sys
from pathlib import Path
from system.files import atomic_write
with atomic_write(Path(sys.argv[1])) as place:
    place.write_bytes(b"half")
    print("at work", flush=True)
    sys.stdin.read()
    raise KeyboardInterrupt
"""


def write(path, data=b"new"):
    with files.atomic_write(path, len(data)) as place:
        place.write_bytes(data)


@pytest.fixture
def writer(tmp_path):
    """Give a process that is in the middle of writing `file`."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "file")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == b"at work\n"
        yield process
        process.kill()


def leftovers(folder):
    return [path.name for path in folder.iterdir() if path.name.endswith(".tmp")]


def test_what_a_killed_process_left_goes_with_the_next_writing(writer, tmp_path):
    writer.send_signal(signal.SIGKILL)
    writer.wait()
    assert len(leftovers(tmp_path)) == 1
    write(tmp_path / "other")
    assert len(leftovers(tmp_path)) == 1  # not of that name
    write(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == ["file", "other"]


def test_what_another_process_is_writing_stays(writer, tmp_path):
    (left,) = leftovers(tmp_path)
    write(tmp_path / "file")
    assert leftovers(tmp_path) == [left] and (tmp_path / left / "file").read_bytes() == b"half"
    writer.stdin.close()
    writer.wait()
    assert leftovers(tmp_path) == [] and (tmp_path / "file").read_bytes() == b"new"


def test_many_writers_of_one_file_at_once_each_leave_it_whole(tmp_path):
    texts = [bytes([65 + i]) * 10_000 for i in range(8)]
    problems = []

    def work(text):
        try:
            for _ in range(20):
                write(tmp_path / "file", text)
                assert (tmp_path / "file").read_bytes() in texts
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=[text]) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [] and os.listdir(tmp_path) == ["file"]


def test_a_folder_taken_for_a_leftover_before_its_lock_is_made_again(tmp_path, monkeypatch):
    made = []
    make = files.tempfile.mkdtemp

    def make_and_lose(**where):
        made.append(make(**where))
        if len(made) == 1:
            os.rmdir(made[0])
        return made[-1]

    monkeypatch.setattr(files.tempfile, "mkdtemp", make_and_lose)
    write(tmp_path / "file")
    assert len(made) == 2 and os.listdir(tmp_path) == ["file"]


def test_without_locks_a_file_is_written_and_no_leftover_is_touched(tmp_path, monkeypatch):
    def not_offered(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(owned.fcntl, "flock", not_offered)
    (tmp_path / ".file.x.tmp").mkdir()
    write(tmp_path / "file")
    assert sorted(os.listdir(tmp_path)) == [".file.x.tmp", "file"]


def test_the_file_is_synced_before_its_name_and_then_the_folder(tmp_path, monkeypatch):
    order = []
    fsync, replace = os.fsync, Path.replace

    def note(handle):
        order.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def note_name(self, target):
        order.append("renamed")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(Path, "replace", note_name)
    write(tmp_path / "file")
    assert order == ["file", "renamed", tmp_path.name]


def test_each_folder_that_is_made_is_synced_into_its_own(tmp_path, monkeypatch):
    synced = []
    monkeypatch.setattr(files, "sync_folder", synced.append)
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a", tmp_path]
    files.make_folder(tmp_path / "a" / "b")
    assert synced == [tmp_path / "a", tmp_path]


def fail_on(monkeypatch, name, number, only=lambda handle: True):
    step = getattr(os, name)

    def fail(handle, *args):
        if only(handle):
            raise OSError(number, os.strerror(number))
        return step(handle, *args)

    monkeypatch.setattr(os, name, fail)


def is_folder(handle):
    return Path(os.readlink(f"/proc/self/fd/{handle}")).is_dir()


def test_a_file_system_that_syncs_no_folders_will_do(tmp_path, monkeypatch):
    fail_on(monkeypatch, "fsync", errno.EINVAL, is_folder)
    write(tmp_path / "file")
    files.append(tmp_path / "log", b"line\n")
    files.make_folder(tmp_path / "a" / "b")
    assert sorted(os.listdir(tmp_path)) == ["a", "file", "log"]


def test_a_folder_that_cannot_be_synced_is_reported_as_it_is(tmp_path, monkeypatch):
    fail_on(monkeypatch, "fsync", errno.EIO, is_folder)
    said = "Input/output error. It was replaced, but a power cut may undo that"
    with pytest.raises(RunError, match=said):
        write(tmp_path / "file")
    assert (tmp_path / "file").read_bytes() == b"new" and leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, r"No space left on device \(needs 12.3 MB, [\d.]+ .?B is free on that disk"),
        (errno.EDQUOT, r"Disk quota exceeded \(needs 12.3 MB, .* free some space or name another"),
        (errno.EROFS, "Read-only file system. Nothing was changed there: make it writable or name"),
        (errno.EACCES, "Permission denied. Nothing was changed there: make it writable or name"),
        (errno.EIO, "Input/output error. Nothing was changed there: check that disk, then run"),
        (errno.ESTALE, "Stale file handle. Nothing was changed there: check that disk"),
    ],
)
def test_the_message_has_the_reason_and_the_way_on(tmp_path, number, said):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with (
        pytest.raises(RunError, match=said) as caught,
        files.atomic_write(path, 12_345_678) as place,
    ):
        place.write_bytes(b"half")
        raise OSError(number, os.strerror(number))
    assert str(caught.value).startswith(f"cannot write {path}: ")
    assert str(caught.value).endswith("then run the same command again")
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_what_is_free_is_said_as_the_system_has_it(tmp_path):
    with pytest.raises(RunError) as caught, files.atomic_write(tmp_path / "file", 0):
        raise OSError(errno.ENOSPC, "full")
    value, unit = re.search(r"needs 0 B, ([\d.]+) (\w*B) is free", str(caught.value)).groups()
    free = float(value) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]
    df = subprocess.run(["df", "-B1", "--output=avail", tmp_path], capture_output=True, text=True)
    assert free == pytest.approx(int(df.stdout.split()[1]), rel=0.1)  # others write meanwhile


def test_a_folder_that_is_gone_is_named_and_not_made_again(tmp_path):
    path = tmp_path / "run" / "folds" / "file"
    for work in (
        lambda: write(path),
        lambda: files.append(path, b"x"),
        lambda: files.make_folder(path, inside=tmp_path / "run"),
    ):
        with pytest.raises(RunError, match=f"the folder {tmp_path}/run is gone.*starts anew"):
            work()
    assert os.listdir(tmp_path) == []


def test_an_append_that_fails_leaves_no_part_of_it(tmp_path, monkeypatch):
    path = tmp_path / "log"
    files.append(path, b"one\n", is_line=True)
    with monkeypatch.context() as patch:
        fail_on(patch, "fsync", errno.ENOSPC)
        with pytest.raises(RunError, match=r"cannot append to .*log: No space .*needs 4 B"):
            files.append(path, b"two\n", is_line=True)
    assert path.read_bytes() == b"one\n"


def test_an_append_continues_where_the_system_takes_only_a_part(tmp_path):
    class Slow:
        taken = b""

        def write(self, data):
            self.taken += bytes(data[:3])
            return min(3, len(data))

    slow = Slow()
    files.write_all(slow, b"0123456789")
    assert slow.taken == b"0123456789"


def test_a_line_cut_short_is_ended_first(tmp_path):
    path = tmp_path / "log"
    path.write_bytes(b"whole\ncut")
    files.append(path, b"next\n", is_line=True)
    assert path.read_bytes() == b"whole\ncut\nnext\n"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_what_cannot_be_written_is_reported_at_once_and_nothing_made(tmp_path, monkeypatch, number):
    def refuse(**where):
        assert where == {"dir": tmp_path}  # what is there of the way
        raise OSError(number, os.strerror(number))

    files.check_writable(tmp_path / "a" / "b", "run.root=a")
    monkeypatch.setattr(files.tempfile, "TemporaryFile", refuse)
    with pytest.raises(RunError, match=f"run.root=a cannot be written: {os.strerror(number)}"):
        files.check_writable(tmp_path / "a" / "b", "run.root=a")
    assert os.listdir(tmp_path) == []


def test_a_disk_is_full_when_no_page_or_no_file_fits(tmp_path, monkeypatch):
    def room(blocks, n_files, left):
        result = list(os.statvfs(tmp_path))
        result[1], result[4], result[5], result[7] = 512, blocks, n_files, left  # as in man statvfs
        monkeypatch.setattr(os, "statvfs", lambda folder: os.statvfs_result(result))
        return files.is_full(tmp_path)

    assert not files.is_full(tmp_path)
    assert room(7, 100, 50) and not room(8, 100, 50)
    assert room(8, 100, 0) and not room(8, 0, 0)  # no count of files: as many as one likes
