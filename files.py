"""Files are written whole or not at all; state is kept as safetensors + JSON, never as a pickle."""

import csv
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from errors import RunError


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Give a temporary sibling to write to; on success it is synced and takes the name `path`.

    Raises:
        RunError: The disk is full or the folder cannot be written; `path` is as it was before.
    """
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, SafetensorError) as error:
        raise RunError(f"cannot write {path}: {error}; nothing was changed there") from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with whole_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole; NaN is refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, *keys: str, remove: Path | None = None) -> Any:
    """Read a JSON file of ours, which must hold some keys.

    Args:
        path: The file.
        keys: That it must hold.
        remove: What must go so that it is made again; None is the file alone.

    Raises:
        RunError: The file is missing, is not JSON, or lacks a key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise damaged(path, error, remove) from error
    missing = [key for key in keys if not isinstance(value, dict) or key not in value]
    if missing:
        raise damaged(path, f"no {', '.join(missing)} in it", remove)
    return value


def damaged(path: Path, reason: object, remove: Path | None = None) -> RunError:
    """Return the error for a file of ours that is not as we write it, with the way on.

    Args:
        path: The file.
        reason: What is wrong with it.
        remove: What must go so that it is made again; None is the file alone.
    """
    return RunError(
        f"{path} is missing, damaged or of another version ({reason}): "
        f"remove {remove or path} and run the same training command again"
    )


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file whole, header first."""
    with whole_file(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def append_line(path: Path, line: str) -> None:
    """Append one line, synced; where that fails nothing of it stays.

    Raises:
        RunError: The disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+b", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            size = file.seek(0, os.SEEK_END)
            try:
                file.write(_end_of_line(file, size) + line.encode() + b"\n")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(size)
                raise
    except OSError as error:
        raise RunError(f"cannot append to {path}: {error}") from error


def _end_of_line(file: BinaryIO, size: int) -> bytes:
    """Return what ends a line that a crash has left unfinished."""
    if size == 0:
        return b""
    file.seek(size - 1)
    return b"" if file.read(1) == b"\n" else b"\n"


def copy_file(source: Path, path: Path) -> None:
    """Copy a file whole."""
    with whole_file(path) as temporary:
        shutil.copyfile(source, temporary)


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, whole. Views and shared storage are copied."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(copies, temporary, metadata=_about(copies))


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a fold onto the CPU.

    Raises:
        RunError: The file is missing, cut short, altered or no safetensors file.
    """
    try:
        return _load(path)[0]
    except (OSError, SafetensorError, ValueError) as error:
        raise damaged(path, error, remove=path.parent) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (dicts, lists, tensors, numbers, strings, None) as one safetensors file.

    The tensors are its tensors; the rest is JSON in the header, with names where tensors were. One
    file and one rename: tensors and numbers of two different moments never meet.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = _take_out_tensors(state, tensors)
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata=_about(tensors, state=tree))


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        RunError: The file is missing, cut short, altered or not such a state.
    """
    try:
        tensors, about = _load(path)
        return _put_back_tensors(about["state"], tensors)
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error


def _about(tensors: Mapping[str, torch.Tensor], **more: Any) -> dict[str, str]:
    """Return the header of a file of ours; a single entry, since several have no fixed order."""
    return {"about": json.dumps({"sha256": _digest(tensors), **more})}


def _load(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Return tensors and header of a file of ours, if the tensors are those written."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = json.loads((file.metadata() or {}).get("about", "{}"))
    if about.get("sha256") != _digest(tensors):
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
