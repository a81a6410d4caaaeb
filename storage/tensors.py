"""Tensors on disk: safetensors with a checksum, written atomically, never a pickle."""

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from system.files import atomic_write, corrupt_file
from system.regular import check_regular


class StateCopy(NamedTuple):
    """A copy of a nested state in host memory, which may be written while the state moves on."""

    tree: Any  # as JSON, with the names of tensors in their places
    tensors: dict[str, torch.Tensor]

    def state(self) -> dict[str, Any]:
        """Return the state, as `load_state` does; it shares the tensors."""
        return _put_back_tensors(self.tree, self.tensors)


def copy_tensors(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copy tensors to host memory; views and tensors that share memory are copied, too."""
    return _arrived({name: _copy(tensor) for name, tensor in tensors.items()})


def copy_state(state: Mapping[str, Any]) -> StateCopy:
    """Copy a nested state (dicts, lists, tensors, numbers, strings, None) to host memory."""
    tensors: dict[str, torch.Tensor] = {}
    tree = _take_out_tensors(state, tensors)
    return StateCopy(tree, _arrived(tensors))


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors atomically; views and tensors that share memory are copied."""
    write_tensors(path, copy_tensors(tensors))


def write_tensors(path: Path, copies: Mapping[str, torch.Tensor]) -> None:
    """Write what `copy_tensors` copied, atomically."""
    with atomic_write(path, _n_bytes(copies)) as temporary:
        _save(copies, temporary, _about(copies))


def load_tensors(path: Path, of_fold: bool = True) -> dict[str, torch.Tensor]:
    """Read tensors, the weights of a fold for example, onto the CPU.

    Args:
        path: The file.
        of_fold: Whether the message names the file's folder to be removed, not the file alone.

    Raises:
        RunError: The file is missing, cut short, altered or not a safetensors file.
    """
    try:
        return _load(path)[0]
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt_file(path, error, remove=path.parent if of_fold else None) from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of a fold's weights, not the weights.

    Raises:
        RunError: The file is missing, cut short or not a safetensors file.
    """
    try:
        check_regular(path)
        with _as_os_error(), safe_open(path, framework="pt") as file:
            names = file.keys()  # not a dict
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except OSError as error:
        raise corrupt_file(path, error, remove=path.parent) from error


def read_tensor(path: Path, name: str) -> torch.Tensor | None:
    """Read one tensor of a fold's weights, not the others; None where it is not there.

    Raises:
        RunError: The file is missing, cut short or not a safetensors file.
    """
    try:
        check_regular(path)
        with _as_os_error(), safe_open(path, framework="pt") as file:
            names = file.keys()  # not a dict
            return file.get_tensor(name) if name in names else None
    except OSError as error:
        raise corrupt_file(path, error, remove=path.parent) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state, see `copy_state` and `write_state`."""
    write_state(path, copy_state(state))


def write_state(path: Path, copy: StateCopy) -> None:
    """Write a copied state as one safetensors file.

    The rest of the state is JSON in the header, with the names of tensors in their places. One file
    and one rename: tensors and numbers of different moments never mix.
    """
    about = _about(copy.tensors, state=copy.tree)
    with atomic_write(path, _n_bytes(copy.tensors) + len(about["about"])) as temporary:
        _save(copy.tensors, temporary, about)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        RunError: The file is missing, cut short, altered or not such a state.
    """
    try:
        tensors, about = _load(path)
        return _put_back_tensors(about["state"], tensors)
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise corrupt_file(path, error) from error


def read_state_values(path: Path) -> dict[str, Any]:
    """Read what is no tensor in the first level of a state, not the tensors.

    Raises:
        RunError: The file is missing, cut short or not such a state.
    """
    try:
        check_regular(path)
        with _as_os_error(), safe_open(path, framework="pt") as file:
            items = json.loads(file.metadata()["about"])["state"]["__dict__"]
        return {key: value for key, value in items if not isinstance(value, list | dict)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise corrupt_file(path, error) from error


def _about(tensors: Mapping[str, torch.Tensor], **more: Any) -> dict[str, str]:
    """Return the header; a single entry, because safetensors keeps no order of several."""
    return {"about": json.dumps({"sha256": _digest(tensors), **more})}


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and header, after checking the tensors against the header's hash."""
    check_regular(path)
    with _as_os_error(), safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    if not isinstance(about, dict) or about.get("sha256") != _digest(tensors):
        raise ValueError("its tensors are not those that were written")
    return tensors, about


def _save(tensors: Mapping[str, torch.Tensor], path: Path, about: dict[str, str]) -> None:
    with _as_os_error():
        save_file(dict(tensors), path, metadata=about)


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Raise errors of safetensors as OSError, with the number that is only in their words."""
    try:
        yield
    except SafetensorError as error:
        if match := re.search(r"\(os error (\d+)\)", str(error)):
            raise OSError(int(match[1]), os.strerror(int(match[1]))) from error
        raise OSError(str(error)) from error


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values; tensors are on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _copy(tensor: torch.Tensor) -> torch.Tensor:
    """Copy a tensor once, to host memory in the plain order of its elements.

    From CUDA into pinned memory, so that the host waits once for all copies, in `_arrived`.
    """
    pinned = tensor.device.type == "cuda"
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
    return copy.copy_(tensor.detach(), non_blocking=pinned)


def _arrived(copies: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Wait until the copies are whole."""
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
    return copies


def _n_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _take_out_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = _copy(value)
        return {"__tensor__": name}
    if isinstance(value, Mapping):
        return {"__dict__": [[k, _take_out_tensors(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_out_tensors(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state cannot hold a {type(value).__name__}")


def _put_back_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back_tensors(item, tensors) for item in value]
    if isinstance(value, dict) and "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if isinstance(value, dict):
        return {key: _put_back_tensors(item, tensors) for key, item in value["__dict__"]}
    return value
