"""Files are written whole or not at all, and state comes back as it was."""

import errno
import json
import math
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from system import files
from system.errors import RunError, nearest


class DiskFullError(OSError):
    def __init__(self):
        super().__init__(errno.ENOSPC, "No space left on device")


@pytest.fixture
def old(tmp_path):
    """Return a file that exists already."""
    path = tmp_path / "file.txt"
    path.write_text("old")
    return path


def assert_untouched(path):
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == [path.name]  # no temporary left


def test_a_file_is_made_and_replaced(tmp_path):
    path = tmp_path / "folder" / "file.txt"
    path.parent.mkdir()
    for text in ("first", "sécond"):
        files.write_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(path.parent) == ["file.txt"]


@pytest.mark.parametrize("error", [ValueError("mine"), KeyboardInterrupt()])
def test_an_exception_in_the_body_leaves_the_old_file_and_passes_on(old, error):
    with pytest.raises(type(error)), files.atomic_write(old) as temporary:
        temporary.write_text("half")
        raise error
    assert_untouched(old)


def test_peer_25_a_full_disk_leaves_the_old_file_and_is_a_run_error(old, monkeypatch):
    def full(*args, **kwargs):
        raise DiskFullError

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(RunError, match="No space left.*needs 3 B.*Nothing was changed"):
        files.write_text(old, "new")
    monkeypatch.undo()
    assert_untouched(old)


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_failing_last_step_leaves_the_old_file(old, monkeypatch, step):
    def full(*args, **kwargs):
        raise DiskFullError

    monkeypatch.setattr(*((os, "fsync") if step == "fsync" else (Path, "replace")), full)
    with pytest.raises(RunError, match=str(old)):
        files.write_text(old, "new")
    monkeypatch.undo()
    assert_untouched(old)


def test_a_folder_that_is_a_file_is_a_run_error(old):
    with pytest.raises(RunError, match="cannot write"):
        files.write_text(old / "below.txt", "new")
    with pytest.raises(RunError, match="cannot append"):
        files.append_line(old / "below.txt", "new")


def test_json_comes_back_and_holds_no_nan(tmp_path):
    files.write_json(tmp_path / "a.json", {"ua": 0.5, "list": [None, 1]})
    assert files.read_json(tmp_path / "a.json") == {"ua": 0.5, "list": [None, 1]}
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "b.json", math.nan)
    assert not (tmp_path / "b.json").exists()


@pytest.mark.parametrize("content", [None, "{", "\udc00"])
def test_a_json_file_that_cannot_be_read_is_a_run_error(tmp_path, content):
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(RunError, match="a.json"):
        files.read_json(path)


def test_a_csv_quotes_what_needs_it(tmp_path):
    files.write_csv(tmp_path / "a.csv", ["id", "text"], [["é", 'say "a, b"'], [1, None]])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == ('id,text\né,"say ""a, b"""\n1,\n')


def test_lines_are_appended(tmp_path):
    for line in ("one", "two"):
        files.append_line(tmp_path / "log", line)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


def test_a_state_comes_back_with_int_keys_inf_none_and_exact_tensors(tmp_path):
    state = {
        "best": -math.inf,
        "none": None,
        "flags": [True, 1, 0.1, "word", []],
        "nested": {0: {"step": torch.tensor(3.0), 7: {}}, "1": torch.arange(3, dtype=torch.uint8)},
        "half": torch.randn(2, 3).bfloat16(),
    }
    files.save_state(tmp_path / "state", state)
    loaded = files.load_state(tmp_path / "state")
    assert list(loaded["nested"]) == [0, "1"] and loaded["nested"][0][7] == {}
    assert loaded["flags"] == state["flags"] and loaded["flags"][0] is True
    assert (loaded["best"], loaded["none"]) == (-math.inf, None)
    assert loaded["nested"][0]["step"] == 3 and loaded["nested"]["1"].dtype == torch.uint8
    torch.testing.assert_close(loaded["half"], state["half"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RAdam, torch.optim.SGD])
def test_an_optimizer_goes_on_exactly_from_its_saved_state(tmp_path, kind):
    def train(weight, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.randn(4))
    optimizer = kind([weight], lr=0.1)
    train(weight, optimizer, 3)
    files.save_state(tmp_path / "s", {"weight": weight, "optimizer": optimizer.state_dict()})
    train(weight, optimizer, 3)
    state = files.load_state(tmp_path / "s")
    resumed = torch.nn.Parameter(state["weight"])
    fresh = kind([resumed], lr=0.5)
    fresh.load_state_dict(state["optimizer"])
    train(resumed, fresh, 3)
    assert torch.equal(resumed, weight)


def test_a_state_does_not_change_with_the_tensor_it_was_taken_from(tmp_path):
    shared = torch.zeros(4)
    files.save_state(tmp_path / "s", {"all": shared, "view": shared[:2]})
    shared += 1
    loaded = files.load_state(tmp_path / "s")
    assert loaded["all"].tolist() == [0] * 4 and loaded["view"].tolist() == [0] * 2


def test_a_state_of_unknown_things_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError, match="no set"):
        files.save_state(tmp_path / "s", {"a": {1, 2}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("load", [files.load_state, files.load_tensors])
def test_a_file_cut_short_anywhere_is_a_run_error(tmp_path, load):
    path = tmp_path / "s"
    files.save_state(path, {"a": torch.randn(8), "b": "text"})
    whole = path.read_bytes()
    for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=str(path)):
            load(path)
    with pytest.raises(RunError):
        load(tmp_path / "missing")


@pytest.mark.parametrize("load", [files.load_state, files.load_tensors])
def test_peer_25_a_pickle_is_refused_and_not_executed(tmp_path, load):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    (tmp_path / "a").write_bytes(pickle.dumps(Evil()))
    torch.save({"state": Evil()}, tmp_path / "b")
    for name in "ab":
        with pytest.raises(RunError):
            load(tmp_path / name)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "tree", [{"a": 1}, {"__tensor__": "t9"}, {"__dict__": 3}, {"__dict__": [[[1], 2]]}]
)
def test_safetensors_that_hold_no_state_of_ours_are_a_run_error(tmp_path, tree):
    save_file({}, tmp_path / "s", metadata={"state": json.dumps(tree)})
    with pytest.raises(RunError, match="corrupt"):
        files.load_state(tmp_path / "s")
    save_file({"weight": torch.zeros(2)}, tmp_path / "s")
    with pytest.raises(RunError, match="corrupt"):
        files.load_state(tmp_path / "s")


def test_weights_that_share_memory_are_saved_and_come_back(tmp_path):
    weight = torch.randn(3, 4)
    files.save_tensors(tmp_path / "w.safetensors", {"a": weight, "b": weight.T})
    loaded = files.load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(loaded["a"], weight) and torch.equal(loaded["b"], weight.T)


def test_the_nearest_word_comes_first():
    assert nearest("fuson", ["alpha", "fusion"]) == "did you mean 'fusion'? Allowed: alpha, fusion"
    assert nearest("zzz", ["b", "a"]) == "Allowed: a, b"
