"""Vectors of the user's own: found by id or hash, refused where they are not vectors."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_torch

from storage.own_vectors import OwnVectors
from system.errors import InputError

A, B = np.array([1.0, 2.0]), np.array([3.0, 4.0])


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path / "v.npz", **arrays)
    return path / "v.npz"


def tensors(path: Path, **arrays: np.ndarray) -> Path:
    save_file(arrays, path / "v.safetensors")
    return path / "v.safetensors"


@pytest.mark.parametrize("write", [npz, tensors])
def test_vectors_are_found_by_id_or_by_hash(tmp_path: Path, write) -> None:
    file = write(tmp_path, a=A, hash_of_b=B)
    found = OwnVectors(file)
    assert found.width == 2
    vectors = found.of(["b", "a"], ["hash_of_b", "hash_of_a"])
    assert vectors.dtype == np.float32 and vectors.tolist() == [[3, 4], [1, 2]]


def test_names_and_vectors_may_be_two_arrays(tmp_path: Path) -> None:
    file = npz(tmp_path, names=np.array(["a", "b"]), vectors=np.stack([A, B]).astype(np.float16))
    assert OwnVectors(file).of(["b"], ["x"]).tolist() == [[3, 4]]


def test_an_utterance_without_a_vector_is_named(tmp_path: Path) -> None:
    found = OwnVectors(npz(tmp_path, a=A))
    with pytest.raises(InputError, match=r"no vector for 2 of 3 utterances \(b, c\): add .* a, "):
        found.of(["a", "b", "c"], ["1", "2", "3"])


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({}, "it is empty"),
        ({"a": A, "b": np.array([1.0])}, r"b is float64 \(1,\), the first one \(2,\)"),
        ({"a": np.zeros((2, 2))}, r"a is float64 \(2, 2\)"),
        ({"a": np.zeros(0)}, "all must be numbers"),
        ({"a": np.array(["x", "y"])}, "all must be numbers"),
        ({"a": np.array([1.0, np.nan])}, "a holds NaN or infinite values"),
        ({"a": np.array([1e39, 1.0])}, "a holds NaN or infinite values"),
        ({"names": np.array(["a"]), "vectors": np.zeros((2, 2))}, r"must be \(N,\) and \(N, D\)"),
        ({"names": np.array(["a", "a"]), "vectors": np.zeros((2, 2))}, "holds a name twice"),
    ],
)
def test_what_are_no_vectors_is_refused(tmp_path: Path, arrays, said: str) -> None:
    with pytest.raises(InputError, match=f"model.vectors=.*cannot be read: .*{said}"):
        OwnVectors(npz(tmp_path, **arrays))


def test_a_file_that_cannot_be_read_is_one_message(tmp_path: Path) -> None:
    for name, content in (("a.npz", b"no"), ("a.safetensors", b"no"), ("b.npz", b"PK\3\4 torn")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name} cannot be read"):
            OwnVectors(tmp_path / name)
    np.save(tmp_path / "v.npy", np.zeros((2, 2)))
    (tmp_path / "v.npy").rename(tmp_path / "c.npz")
    for name in ("a.npz", "c.npz"):
        with pytest.raises(InputError, match="it is not an .npz file, as numpy.savez writes it"):
            OwnVectors(tmp_path / name)
    save_torch({"a": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "half.safetensors")
    with pytest.raises(
        InputError, match="half.safetensors cannot be read: it holds BF16, write fl"
    ):
        OwnVectors(tmp_path / "half.safetensors")
    with pytest.raises(InputError, match="model.vectors is empty, and must be a .npz or"):
        OwnVectors(Path(""))
    with pytest.raises(InputError, match="missing.npz cannot be read"):
        OwnVectors(tmp_path / "missing.npz")
    with pytest.raises(InputError, match="must be a .npz or .safetensors"):
        OwnVectors(tmp_path / "a.csv")


def test_pickled_objects_are_not_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "v.npz", a=np.array([{}], dtype=object))
    with pytest.raises(InputError, match="cannot be read"):
        OwnVectors(tmp_path / "v.npz")
