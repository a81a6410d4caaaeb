"""The formats of our files, each written whole; state is safetensors + JSON, never a pickle."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from system.bounded import MAX_JSON, read_text
from system.disk import append, atomic_write, keeps_back
from system.errors import RunError


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    data = text.encode()
    with atomic_write(path, len(data)) as temporary:
        temporary.write_bytes(data)


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str, remove: Path | None = None, most: int = MAX_JSON) -> Any:
    """Read a JSON file of ours, which must hold some keys.

    Args:
        path: The file.
        keys: That it must hold.
        remove: What must go so that it is made again; None is the file alone.
        most: Bytes that it may hold.

    Raises:
        RunError: The file is missing or too large, is not JSON, or lacks a key.
    """
    try:
        value = json.loads(read_text(path, most))
    except (OSError, ValueError, RecursionError) as error:
        raise corrupt_file(path, error, remove) from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise corrupt_file(path, f"no {', '.join(missing)} in it", remove)
    return value


def corrupt_file(path: Path, reason: object, remove: Path | None = None) -> RunError:
    """Return the error for a file of ours that is not as we write it, with the way on.

    Args:
        path: The file.
        reason: What is wrong with it.
        remove: What must go so that it is made again; None is the file alone.
    """
    if isinstance(reason, Exception) and keeps_back(reason):  # it may be whole: nothing must go
        return RunError(
            f"cannot read {path}: {reason}. Check its disk and its permissions, then give the same "
            "command again"
        )
    return RunError(
        f"{path} is missing, corrupt or of another version ({reason}): "
        f"remove {remove or path} and run the same training command again"
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file whole, header first."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def append_line(path: Path, line: str) -> None:
    """Append one line, synced; where that fails nothing of it stays.

    Raises:
        RunError: The disk is full or the file cannot be written.
    """
    append(path, line.encode() + b"\n", is_line=True)


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole."""
    try:
        size = source.stat().st_size
    except OSError as error:
        raise corrupt_file(source, error, remove=path.parent) from error
    with atomic_write(path, size) as temporary:
        shutil.copyfile(source, temporary)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, whole. Views and shared storage are copied."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with atomic_write(path, _n_bytes(copies)) as temporary:
        save_file(copies, temporary, metadata=_about(copies))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a fold onto the CPU.

    Raises:
        RunError: The file is missing, cut short, altered or no safetensors file.
    """
    try:
        return _load(path)[0]
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise corrupt_file(path, error, remove=path.parent) from error


def tensor_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the names and shapes of the weights of a fold, and nothing else of the file.

    Raises:
        RunError: The file is missing, cut short or no safetensors file.
    """
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()  # not a dict
            return {name: tuple(file.get_slice(name).get_shape()) for name in names}
    except (OSError, SafetensorError) as error:
        raise corrupt_file(path, error, remove=path.parent) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (dicts, lists, tensors, numbers, strings, None) as one safetensors file.

    The tensors are its tensors; the rest is JSON in the header, with names where tensors were. One
    file and one rename: tensors and numbers of two different moments never meet.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _take_out_tensors(state, tensors)
    about = _about(tensors, state=tree)
    with atomic_write(path, _n_bytes(tensors) + len(about["about"])) as temporary:
        save_file(tensors, temporary, metadata=about)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        RunError: The file is missing, cut short, altered or not such a state.
    """
    try:
        tensors, about = _load(path)
        return _put_back_tensors(about["state"], tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise corrupt_file(path, error) from error


def _about(tensors: Mapping[str, torch.Tensor], **more: Any) -> dict[str, str]:
    """Return the header of a file of ours; a single entry, since several have no fixed order."""
    return {"about": json.dumps({"sha256": _digest(tensors), **more})}


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and header of a file of ours, if the tensors are those written."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    if not isinstance(about, dict) or about.get("sha256") != _digest(tensors):
        raise ValueError("its tensors are not those that were written")
    return tensors, about


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values; tensors are on the CPU."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _n_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _take_out_tensors(value: Any, tensors: dict[str, torch.Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        tensors[name] = value.detach().cpu().clone().contiguous()
        return {"__tensor__": name}
    if isinstance(value, Mapping):
        return {"__dict__": [[k, _take_out_tensors(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_out_tensors(item, tensors) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a state may hold no {type(value).__name__}")


def _put_back_tensors(value: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_back_tensors(item, tensors) for item in value]
    if isinstance(value, dict) and "__tensor__" in value:
        return tensors[value["__tensor__"]]
    if isinstance(value, dict):
        return {key: _put_back_tensors(item, tensors) for key, item in value["__dict__"]}
    return value
