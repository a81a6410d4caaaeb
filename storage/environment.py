"""environment.json: what every session that worked on a run or fold was made with.

The file describes the last session: command, commit, versions, device, threads. Those before it
are in `earlier`, the oldest first, so that a resume under other conditions overwrites nothing.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from system.files import corrupt_file, read_json, write_json

log = logging.getLogger(__name__)

ENVIRONMENT = "environment.json"
OF_SESSION = (
    *("global_batch", "precision", "deterministic"),
    *("tf32_matmul", "tf32_cudnn", "compiler", "python"),
)
OF_PROCESS = ("device", "driver", "processor", "threads")
STARTED = "started_from"  # of a fold: origin of each branch that started from another run
OF_CONFIG = ("global_batch", "precision", "deterministic")  # follow from config and processes
NAMES = {"tf32_matmul": "TF32 in matmul", "tf32_cudnn": "TF32 in cuDNN"}
NAMES |= {"None": "none", "True": "on", "False": "off"}


def write_environment(folder: Path, environment: Mapping[str, Any]) -> None:
    """Write environment.json.

    Args:
        folder: Folder of a fold or a run.
        environment: From `describe_environment`; that of a fold also has `seconds`.
    """
    write_json(folder / ENVIRONMENT, environment)


def record_environment(folder: Path, environment: Mapping[str, Any]) -> dict[str, Any]:
    """Write environment.json; keep what earlier sessions wrote there, and warn of what changed.

    Args:
        folder: Folder of a fold or a run.
        environment: From `describe_environment`; that of a fold may have `seconds`.

    Returns:
        The content of the file.

    Raises:
        RunError: The file that is there is corrupt, or cannot be written.
    """
    now = {key: value for key, value in environment.items() if key != "seconds"}
    there = read_environment(folder, None) if (folder / ENVIRONMENT).exists() else {}
    if there and (changed := changes(there, now)):
        log.warning("%s goes on with other settings than before: %s", folder, changed)
    past = sessions(there)
    past = past[:-1] if past[-1:] == [now] else past
    earlier = [session for i, session in enumerate(past) if session not in past[:i]]
    content = {**environment, **({"earlier": earlier} if earlier else {})}
    write_environment(folder, content)
    return content


def read_environment(folder: Path, remove: Path | None) -> dict[str, Any]:
    """Read environment.json, also that of an earlier version.

    Args:
        folder: Folder of a fold or a run.
        remove: What to remove if it is corrupt; None is the file alone.

    Raises:
        RunError: It is missing or corrupt.
    """
    file = folder / ENVIRONMENT
    environment = read_json(file, "command", "git_commit", remove=remove)
    earlier = environment.get("earlier", [])
    if not isinstance(earlier, list) or not all(map(_is_session, [environment, *earlier])):
        names = f"command, packages, processes, seconds, {STARTED} or earlier"
        reason = f"{names} have another type than written"
        raise corrupt_file(file, reason, remove=remove)
    return environment


def _is_session(session: Any) -> bool:
    if not isinstance(session, dict):
        return False
    command, processes = session.get("command"), session.get("processes", [])
    return (
        isinstance(command, list)
        and all(isinstance(word, str) for word in command)
        and isinstance(session.get("seconds", 0), int | float)
        and isinstance(session.get("packages", {}), dict)
        and isinstance(processes, list)
        and all(isinstance(process, dict) for process in processes)
        and isinstance(session.get(STARTED, {}), dict)
    )


def sessions(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what each session that worked on a folder was made with, the oldest first."""
    if not environment:
        return []
    last = {key: value for key, value in environment.items() if key not in ("earlier", "seconds")}
    return [*environment.get("earlier", []), last]


def facts(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return what decides the last bits of a result, besides code, config, data and seed.

    Values of `OF_PROCESS` are lists with one value for each process. What an earlier version did
    not record is left out.

    Args:
        session: One of `sessions`.
    """
    processes = session.get("processes", [])
    found: dict[str, Any] = {"processes": len(processes)} if processes else {}
    found |= {key: session[key] for key in (*OF_SESSION, STARTED) if key in session}
    for key in OF_PROCESS:
        values = [process.get(key) for process in processes or [session]]
        if any(value is not None for value in values):
            found[key] = values
    return found | dict(session.get("packages", {}))


def made_with_facts(environment: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of all sessions that worked on a folder, the oldest first, each once."""
    found: list[dict[str, Any]] = []
    for session in sessions(environment):
        known = facts(session)
        if known not in found:
            found.append(known)
    return found


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Say in which facts two sessions differ; "" where they are alike.

    >>> changes({"device": "A", "threads": 1}, {"device": "A", "processes": [{"threads": 2}]})
    'threads 1 before, 2 now'
    """
    old, new = facts(before), facts(now)
    return "; ".join(
        f"{_words(key)} {_value(old[key])} before, {_value(new[key])} now"
        for key in old
        if key in new and _value(old[key]) != _value(new[key])
    )


def distinct_facts(environments: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the values that each fact had in all sessions, each once, as text.

    Without the origins of branches: each fold has its own.
    """
    found: dict[str, list[str]] = {}
    for environment in environments:
        for known in made_with_facts(environment):
            for key, value in known.items():
                if key == STARTED:
                    continue
                values = found.setdefault(key, [])
                if _value(value) not in values:
                    values.append(_value(value))
    return {key: sorted(values) for key, values in found.items()}


def made_with_notes(made_with: Mapping[str, Mapping[str, Sequence[str]]]) -> list[str]:
    """Say what differs between the folds of a run, and between runs, in words.

    Args:
        made_with: Values of each fact by run, from `distinct_facts`; empty where not recorded.

    >>> made_with_notes({"a": {"threads": ["1", "2"]}})
    ['Folds of a were made with different settings: threads 1 and 2.']
    >>> made_with_notes({"a": {"threads": ["2"]}, "b": {"threads": ["1"]}})
    ['The runs were made with different threads: a 2; b 1.']
    """
    notes = []
    for run, known in made_with.items():
        mixed = [f"{_words(k)} {' and '.join(values)}" for k, values in known.items() if values[1:]]
        if mixed:
            notes.append(f"Folds of {run} were made with different settings: {'; '.join(mixed)}.")
    for key in dict.fromkeys(key for known in made_with.values() for key in known):
        by_run = {run: known[key] for run, known in made_with.items() if key in known}
        if key not in OF_CONFIG and len({tuple(values) for values in by_run.values()}) > 1:
            each = "; ".join(f"{run} {' and '.join(values)}" for run, values in by_run.items())
            notes.append(f"The runs were made with different {_words(key)}: {each}.")
    return notes


def _value(value: Any) -> str:
    """Return a fact as text; that of all processes once if they agree."""
    if isinstance(value, list):
        words = [_value(one) for one in value]
        return words[0] if len(set(words)) == 1 else ", ".join(words)
    return NAMES.get(str(value), str(value))


def _words(key: str) -> str:
    return NAMES.get(key, key.replace("_", " "))
