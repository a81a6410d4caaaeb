"""What a run folder holds of its trackers: the id of their runs, and which of them failed.

trackers.json           id of this run at its trackers; each fold's tracker run has a part of it
tracker_failures.json   in the folder of a fold: trackers that lack a part of it, with the reason

No key, address or path of a user is in them.
"""

from collections.abc import Mapping
from pathlib import Path
from uuid import uuid4

from system.files import corrupt_file, read_json, write_json
from system.locks import lock

TRACKERS, FAILURES = "trackers.json", "tracker_failures.json"


def tracked_run_id(folder: Path) -> str:
    """Return the id of a run at its trackers, drawn once; an overwritten run gets another.

    Args:
        folder: The run folder.

    Raises:
        RunError: It cannot be written, or is corrupt.
    """
    file = folder / TRACKERS
    with lock(folder / ".lock.trackers", f"the trackers of {folder}", blocking=True):
        if not file.exists():
            write_json(file, {"id": uuid4().hex[:12]})
        found = read_json(file, "id")["id"]
    if not (isinstance(found, str) and found.isalnum()):
        raise corrupt_file(file, "its id is not of letters and digits")
    return found


def write_tracker_failures(folder: Path, failures: Mapping[str, str]) -> None:
    """Record which trackers lack a part of a fold, by their names; none removes the file.

    Raises:
        RunError: The file cannot be written.
    """
    if failures:
        write_json(folder / FAILURES, dict(failures))
    else:
        (folder / FAILURES).unlink(missing_ok=True)


def read_tracker_failures(folder: Path) -> dict[str, str]:
    """Return the reasons for which trackers lack a part of a fold, by their names.

    Raises:
        RunError: The file is corrupt.
    """
    file = folder / FAILURES
    if not file.exists():
        return {}
    found = read_json(file)
    if not isinstance(found, dict) or not all(isinstance(text, str) for text in found.values()):
        raise corrupt_file(file, "it does not give reasons by name")
    return found
