"""Tensors and training state on disk: exact, checked, and never a pickle."""

import json
import math
import os
import pickle

import pytest
import torch
from safetensors.torch import save_file

from storage.tensors import load_state, load_tensors, save_state, save_tensors
from system.errors import RunError


def test_a_state_comes_back_with_int_keys_inf_none_and_exact_tensors(tmp_path):
    state = {
        "best": -math.inf,
        "none": None,
        "flags": [True, 1, 0.1, "word", []],
        "nested": {0: {"step": torch.tensor(3.0), 7: {}}, "1": torch.arange(3, dtype=torch.uint8)},
        "half": torch.randn(2, 3).bfloat16(),
    }
    save_state(tmp_path / "state", state)
    loaded = load_state(tmp_path / "state")
    assert list(loaded["nested"]) == [0, "1"] and loaded["nested"][0][7] == {}
    assert loaded["flags"] == state["flags"] and loaded["flags"][0] is True
    assert (loaded["best"], loaded["none"]) == (-math.inf, None)
    assert loaded["nested"][0]["step"] == 3 and loaded["nested"]["1"].dtype == torch.uint8
    torch.testing.assert_close(loaded["half"], state["half"], rtol=0, atol=0)


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.RAdam, torch.optim.SGD])
def test_an_optimizer_resumes_exactly_from_its_saved_state(tmp_path, kind):
    def train(weight, optimizer, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()

    weight = torch.nn.Parameter(torch.randn(4))
    optimizer = kind([weight], lr=0.1)
    train(weight, optimizer, 3)
    save_state(tmp_path / "s", {"weight": weight, "optimizer": optimizer.state_dict()})
    train(weight, optimizer, 3)
    state = load_state(tmp_path / "s")
    resumed = torch.nn.Parameter(state["weight"])
    fresh = kind([resumed], lr=0.5)
    fresh.load_state_dict(state["optimizer"])
    train(resumed, fresh, 3)
    assert torch.equal(resumed, weight)


def test_a_state_does_not_change_with_the_tensor_it_was_taken_from(tmp_path):
    shared = torch.zeros(4)
    save_state(tmp_path / "s", {"all": shared, "view": shared[:2]})
    shared += 1
    loaded = load_state(tmp_path / "s")
    assert loaded["all"].tolist() == [0] * 4 and loaded["view"].tolist() == [0] * 2


def test_a_state_of_unknown_things_is_refused_before_writing(tmp_path):
    with pytest.raises(TypeError, match="a set"):
        save_state(tmp_path / "s", {"a": {1, 2}})
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("load", [load_state, load_tensors])
def test_a_file_cut_short_anywhere_is_a_run_error(tmp_path, load):
    path = tmp_path / "s"
    save_state(path, {"a": torch.randn(8), "b": "text"})
    whole = path.read_bytes()
    for length in (0, 4, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(RunError, match=str(path)):
            load(path)
    with pytest.raises(RunError):
        load(tmp_path / "missing")


@pytest.mark.parametrize("load", [load_state, load_tensors])
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
        load_state(tmp_path / "s")
    save_file({"weight": torch.zeros(2)}, tmp_path / "s")
    with pytest.raises(RunError, match="corrupt"):
        load_state(tmp_path / "s")


def test_weights_that_share_memory_are_saved_and_come_back(tmp_path):
    weight = torch.randn(3, 4)
    save_tensors(tmp_path / "w.safetensors", {"a": weight, "b": weight.T})
    loaded = load_tensors(tmp_path / "w.safetensors")
    assert torch.equal(loaded["a"], weight) and torch.equal(loaded["b"], weight.T)
