"""One run, or study, reads one speech model, and the same vectors, from first to last."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from config.schema import Config
from storage.fold_folder import STATE
from storage.folders import CARD, is_finished
from storage.model_card import read_card
from storage.run_folder import FOLDS
from system.errors import InputError
from system.files import read_json, write_json
from system.locks import lock
from training.beside import open_sources, source_facts
from training.checkpoints import Checkpoints
from training.distributed import from_first
from training.session import Fold, Session

SOURCES_FILE = "sources.json"  # in `state`: what a resumed training must still have
# Key of what a branch reads, and what model.json calls its name
NAMES = {"speech": ("model.speech.model", "name"), "file": ("model.vectors", "file")}
# Names may change, and cards of an earlier version do not say the last two
FREE = ("name", "file", "revision", "precision")


def changed_source(then: Mapping[Any, Mapping[str, Any]], now: Mapping[str, Any]) -> str | None:
    """Return a branch that reads something else now, whatever its name, or None.

    Args:
        then: From `source_facts`, or a card's `sources`.
        now: From `source_facts`.
    """
    for branch, facts in now.items():
        free = dict.fromkeys(FREE)
        if {**facts, **free} != {**then.get(branch, {}), **free}:
            return branch
    return None


def check_finished_sources(config: Config) -> None:
    """Refuse a run with finished folds that have read another speech model, or other vectors.

    Raises:
        InputError: There are such folds.
        RunError: A card is corrupt.
    """
    now = source_facts(open_sources(config))
    places = Path(config.run.root, config.name).glob(f"{FOLDS}/*/{CARD}") if now else ()
    for folder in sorted(card.parent for card in places):
        if is_finished(folder) and (branch := changed_source(read_card(folder).sources, now)):
            raise InputError(_message(folder, branch, now))


def keep_sources(fold: Fold) -> None:
    """Note what a training reads when it begins; refuse to resume it with something else.

    Raises:
        InputError: The speech model, or the file of vectors, is another one now.
        RunError: The note is corrupt.
    """
    now = source_facts(fold.session.sources)
    if now:
        from_first(lambda: _keep(fold.folder, now))


def _keep(folder: Path, now: Mapping[str, Any]) -> None:
    file = folder / STATE / SOURCES_FILE
    if Checkpoints(file.parent).is_begun and file.exists():
        then = read_json(file, remove=folder)
        if branch := changed_source(then, now):
            raise InputError(_message(folder, branch, now))
    write_json(file, dict(now))


def keep_study_sources(folder: Path, session: Session) -> None:
    """Note what a trial reads; refuse what differs from what an earlier trial has read.

    Trials may be of several speech models, or files: those that are called the same are compared.

    Args:
        folder: Folder of the study.
        session: Session of the trial.

    Raises:
        InputError: The speech model, or the file of vectors, is another one now.
        RunError: The note is corrupt.
    """
    now, model = source_facts(session.sources), session.config.model
    if not now:
        return
    names = {"speech": f"{model.speech.model} {model.speech.revision}", "file": model.vectors}
    file = folder / SOURCES_FILE
    with lock(folder / ".lock.sources", str(file), blocking=True):  # of trials side by side
        known = read_json(file) if file.exists() else {}
        for branch, facts in now.items():
            then = known.setdefault(branch, {}).setdefault(names[branch], facts)
            if changed_source({branch: then}, {branch: facts}):
                raise InputError(_message(folder, branch, now, "another name for a new study"))
        write_json(file, known)


def _message(
    folder: Path,
    branch: str,
    now: Mapping[str, Any],
    anew: str = "--overwrite to start the run anew, or another name",
) -> str:
    key, name = NAMES[branch]
    return (
        f"{key}={now[branch][name]} is not what {folder} has read: "
        f"its content differs. Put the original back, or give {anew}"
    )
