"""Files are written whole or not at all; state is kept as safetensors + JSON, never as a pickle."""

import csv
import fcntl
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from bounded import MAX_JSON, read_text
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


@contextmanager
def alone(path: Path, work: str) -> Iterator[None]:
    """Hold a lock file while at work; it falls to the next one when the process ends, however.

    Raises:
        RunError: Another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(
                f"another process is at work on {work}: wait for it or end it"
            ) from error
        yield


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


def save_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Write tensors as safetensors, whole. Views and shared storage are copied."""
    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    with whole_file(path) as temporary:
        save_file(copies, temporary)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Read the weights of a fold onto the CPU.

    Raises:
        RunError: The file is missing, cut short or no safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise damaged(path, error, remove=path.parent) from error


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
        raise damaged(path, error, remove=path.parent) from error


def save_state(path: Path, state: Mapping[str, Any]) -> None:
    """Write a nested state (dicts, lists, tensors, numbers, strings, None) as one safetensors file.

    The tensors are its tensors; the rest is JSON in the header, with names where tensors were. One
    file and one rename: tensors and numbers of two different moments never meet.
    """
    tensors: dict[str, torch.Tensor] = {}
    tree = json.dumps(_take_out_tensors(state, tensors))
    with whole_file(path) as temporary:
        save_file(tensors, temporary, metadata={"state": tree})


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote.

    Raises:
        RunError: The file is missing, cut short or not such a state.
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            tree = json.loads(file.metadata()["state"])
        return _put_back_tensors(tree, tensors)
    except (OSError, SafetensorError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damaged(path, error) from error


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
