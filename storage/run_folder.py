"""The folder of a run: opened, checked, removed and read here; `fold_folder` has its folds.

config.yaml              the resolved config; a folder without one is not a run folder
split_certificate.json   which utterances each fold trains on, selects on and tests
utterances.csv           what the corpus says of each utterance, and its audio hash; start, end if
                         some are segments
environment.json         command, commit, machine and versions of each session
bad_audio.json           audio files that were left out, if any
unread_audio.json        what of the corpus is not used: labels, audio below corpus.root; if any
ledger.jsonl             one line per test evaluation, see `ledger`
folds/fold-1_seed-0/     one folder per fold and seed
final/seed-0/            a model trained on all utterances, see `final_model`; of no fold, so that
                         nothing that reads scores reads it
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from audio.segment import AudioSource, audio_source
from config.baselines import BaselineRun, dump_run, load_stored_run, run_values
from config.effects import SEVERAL, whole_key
from config.schema import Config
from corpora.segments import read_segment
from storage.audio_lists import write_audio_lists
from storage.environment import record_environment
from storage.fold_folder import PredictionTable, read_metrics, read_table
from storage.fold_result import FoldResult
from storage.folders import (
    CONFIG,
    METRICS,
    RANGE_TEST,
    STUDY,
    check_is_run,
    describe_changes,
)
from storage.ledger import LEDGER
from storage.split_certificate import read_certificate
from storage.utterance_table import UTTERANCE_COLUMNS, UTTERANCES, write_utterances
from system.errors import InputError
from system.files import corrupt_file, make_folder, read_json, write_json, write_text
from system.locks import lock
from system.owned import check_inside, check_owned, remove
from system.temporary import remove_leftovers
from system.text import short_repr

if TYPE_CHECKING:
    from corpora.plan import Plan

CERTIFICATE = "split_certificate.json"
FOLDS, FINALS, LOCK = "folds", "final", ".lock"
# Folders of runs or of their models, most often in the same run.root
BRANCH_RUNS = ("model.cqt_from", "model.mel_from", "model.from")
# Keys that may differ when a run is resumed
FREE = ("run.", "corpus.root", "corpus.manifest", "protocol.folds", "train.checkpoint_")
MOVABLE = ("model.speech.model", "model.speech.revision", "model.vectors")


@dataclass(frozen=True)
class Run:
    """A run with at least one finished fold."""

    folder: Path
    config: Mapping[str, Any]  # resolved, by dotted key
    certificate: Mapping[str, Any]
    folds: Sequence[FoldResult]  # folds that every seed has finished
    left_out: Sequence[str] = ()  # names of finished folds that some seed has not finished

    @property
    def name(self) -> str:
        """Name of the run folder."""
        return self.folder.resolve().name

    @property
    def is_baseline(self) -> bool:
        """Whether it is of a baseline, not of a fusion."""
        return "baseline.kind" in self.config

    @property
    def method(self) -> str:
        """Its fusion, or the kind of baseline with the functionals that it reads."""
        method = str(self.config["baseline.kind" if self.is_baseline else "model.fusion"])
        functionals = self.config.get("baseline.functionals")
        return method if functionals is None else f"{method} ({functionals})"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the targets."""
        return self.folds[0].classes

    @property
    def seeds(self) -> list[int]:
        """Seeds, sorted."""
        return sorted({result.seed for result in self.folds})

    @property
    def fold_numbers(self) -> list[int]:
        """Fold numbers, sorted."""
        return sorted({result.fold for result in self.folds})

    def of_seed(self, seed: int) -> PredictionTable:
        """Return the test predictions of all folds with one seed, sorted by utterance."""
        return _join([result.test for result in self.folds if result.seed == seed])

    @property
    def roots(self) -> str:
        """Folders of its corpora, for messages."""
        roots = [root for key, root in self.config.items() if whole_key(key) == "corpus.root"]
        return ", ".join(str(Path(root).expanduser().resolve()) for root in roots if root)

    @cached_property
    def about(self) -> Mapping[str, Mapping[str, str]]:
        """The rows of utterances.csv by utterance id."""
        rows = read_table(self.folder / UTTERANCES, UTTERANCE_COLUMNS[:1])
        return {row["utterance"]: row for row in rows}

    def audio_file(self, utterance: str) -> AudioSource:
        """Return an utterance's audio file or segment; the corpus may have moved since the run.

        A relative root starts from the current folder if it exists there, otherwise from
        the folder in which the run was started.

        Raises:
            KeyError: utterances.csv lacks the utterance or a path.
            RunError: The path leads out of its root, and the config does not allow that.
        """
        corpus = "corpus"
        if self.config["corpus.name"] == SEVERAL:
            corpus = f"corpus.corpora.{utterance.partition('/')[0]}"
        root = Path(self.config[f"{corpus}.root"]).expanduser()
        if not root.is_absolute() and not root.exists():
            root = Path(self.folds[0].environment().get("folder", "."), root)
        row = self.about[utterance]
        path = Path(row["path"])
        inside = not path.is_absolute() and ".." not in path.parts
        if not inside and not self.config[f"{corpus}.absolute_paths"]:
            reason = f"{short_repr(str(path))} leads out of corpus.root"
            raise corrupt_file(self.folder / UTTERANCES, reason)
        try:
            return audio_source(root / path, *read_segment(row))
        except InputError as error:
            raise corrupt_file(self.folder / UTTERANCES, error) from error


def read_run(folder: Path) -> Run:
    """Read a run folder.

    Raises:
        InputError: It is not a run folder, or no fold of it is finished.
        RunError: A file in it is corrupt.
    """
    folder = Path(folder)
    check_is_run(folder)
    finished = [
        FoldResult(file.parent, read_metrics(file.parent))
        for file in sorted(folder.glob(f"{FOLDS}/*/{METRICS}"))
    ]
    if not finished:
        raise InputError(f"{folder} has no finished fold yet: give its training command again")
    certificate = read_certificate(folder / CERTIFICATE)
    for result in finished:
        _check_belongs(result, certificate)
    common = of_common_folds(finished)
    left_out = [result.folder.name for result in finished if result not in common]
    config = run_values(load_stored_run(folder / CONFIG))
    return Run(folder, config, certificate, common, left_out)


def of_common_folds(finished: Sequence[FoldResult]) -> list[FoldResult]:
    """Keep the folds that every seed has finished, sorted, so that seeds can be averaged.

    Without a fold in common, keep the folds of the seed that has finished most.
    """
    folds: dict[int, set[int]] = {}
    for result in finished:
        folds.setdefault(result.seed, set()).add(result.fold)
    common = set.intersection(*folds.values())
    if not common:
        furthest = max(sorted(folds), key=lambda seed: len(folds[seed]))
        finished = [result for result in finished if result.seed == furthest]
        common = folds[furthest]
    kept = [result for result in finished if result.fold in common]
    return sorted(kept, key=lambda result: (result.fold, result.seed))


def _check_belongs(result: FoldResult, certificate: Mapping[str, Any]) -> None:
    """Refuse a fold that was trained on other utterances or splits than its run has."""
    for key, value in (("protocol", certificate["protocol"]), ("certificate", certificate["id"])):
        own = getattr(result.metrics, key)
        if own != value:
            reason = f"its {key} is {own}, that of the run {value}"
            raise corrupt_file(result.folder / METRICS, reason, remove=result.folder)


def _join(tables: Sequence[PredictionTable]) -> PredictionTable:
    gates = [table.gate for table in tables if table.gate is not None]
    shares = [table.shares for table in tables if table.shares is not None]
    joined = PredictionTable(
        np.concatenate([table.utterances for table in tables]),
        np.concatenate([table.speakers for table in tables]),
        np.concatenate([table.targets for table in tables]),
        np.concatenate([table.preds for table in tables]),
        np.concatenate([table.probs for table in tables]),
        np.concatenate(gates) if len(gates) == len(tables) else None,
        np.concatenate(shares) if len(shares) == len(tables) else None,
    )
    return joined.take(joined.utterances.argsort(kind="stable"))


def check_run_folder(
    folder: Path, config: Config | BaselineRun, overwrite: bool, free: Sequence[str] = ()
) -> None:
    """Refuse a folder that belongs to another config, or is not a run folder.

    Keys that start with one of `FREE` may differ: they say where the corpus is and how much to run.
    Whether the data are the same is checked by the certificate, and a speech model or vectors by
    their content (`training/same_sources.py`). Runs from which branches start may move together
    with run.root.

    Args:
        folder: The run folder; may be missing or empty.
        config: Config of the run that wants to write to it.
        overwrite: Whether the run will remove what the folder holds; the config may then differ.
        free: More such keys.

    Raises:
        InputError: The folder cannot be used.
    """
    places = [("store", Path(config.run.store))]
    if isinstance(config, Config) and config.train.compile:
        places.append(("compile_cache", config.run.compile_folder))
    for key, place in places:
        if place.resolve().is_relative_to(folder.resolve()):
            raise InputError(
                f"run.{key}={place} lies in the run folder {folder}, which --overwrite removes: "
                f"change name or run.{key}"
            )
    if not folder.exists() or all(_may_precede_run(path) for path in folder.iterdir()):
        return
    foreign = [name for name in (STUDY, RANGE_TEST) if (folder / name).exists()]
    if foreign or not (folder / CONFIG).is_file():
        why = f"it holds {foreign[0]}" if foreign else f"it has no {CONFIG}"
        raise InputError(f"{folder} is not a run folder ({why}): change name or run.root")
    if overwrite:
        return
    stored, now = run_values(_read_config(folder)), run_values(config)
    same = [key for key in BRANCH_RUNS if _from_root(stored, key) == _from_root(now, key)]
    now |= {key: stored.get(key) for key in same}
    movable = MOVABLE if isinstance(config, Config) else ()  # of a baseline nothing else compares
    differences = describe_changes(stored, now, (*FREE, *movable, *free))
    if differences:
        raise InputError(
            f"{folder} was made with another config:\n"
            + "\n".join(differences)
            + "\nChange `name` to keep both, or give --overwrite to start anew"
        )


def _from_root(values: Mapping[str, Any], key: str) -> str | None:
    """Return a path as it lies to run.root, which may be moved, or be mounted elsewhere."""
    path = values.get(key)
    return None if path is None else os.path.relpath(path, values["run.root"])


def _may_precede_run(path: Path) -> bool:
    """Whether a folder may hold this file before it is a run's: a ledger, a lock, a leftover."""
    return path.name == LEDGER or path.name.startswith(".")


def _read_config(folder: Path) -> Config | BaselineRun:
    try:
        return load_stored_run(folder / CONFIG)
    except InputError as error:
        raise InputError(
            f"{error}\n{folder} is corrupt or of another version: give --overwrite to start anew"
        ) from None


def check_certificate(folder: Path, plan: "Plan") -> None:
    """Check that a run was begun with the same data and splits, if it was begun.

    Raises:
        InputError: It has another certificate.
    """
    file = folder / CERTIFICATE
    if file.exists() and (there := read_json(file, "id")["id"]) != plan.certificate["id"]:
        raise InputError(
            f"the corpus or its splits changed since {folder} was begun (certificate "
            f"{there} there, {plan.certificate['id']} now): change `name` to keep "
            "both, or give --overwrite to start anew"
        )


def open_run_folder(
    folder: Path,
    plan: "Plan",
    environment: Mapping[str, Any],
    config: BaselineRun | None = None,
) -> None:
    """Write what describes a run, or check that a resumed run has the same data and splits.

    Args:
        folder: The run folder; exists.
        plan: Config, utterances, bad audio and certificate of the run.
        environment: From `describe_environment`.
        config: Config of a baseline, written in the place of the plan's.

    Raises:
        InputError: The folder has another certificate.
        RunError: A file cannot be written, or the ledger is a link.
    """
    check_certificate(folder, plan)
    check_owned(folder / LEDGER)  # now, not when the first fold is tested
    remove_leftovers(folder)
    write_text(folder / CONFIG, dump_run(config or plan.config))  # first: now it is a run folder
    make_folder(folder / FOLDS, inside=folder)
    write_json(folder / CERTIFICATE, plan.certificate)
    write_utterances(folder, plan)
    record_environment(folder, environment)
    write_audio_lists(folder, plan)


def remove_run(folder: Path) -> None:
    """Remove a run except its ledger: test evaluations stay on record.

    The folds go in one rename and config.yaml last, so that the same command continues after a
    kill.

    Raises:
        RunError: A process is at work on one of its folds, or a link leads out of the run.
    """
    for place in (FOLDS, FINALS):
        for file in folder.glob(f"{place}/*/state/lock"):
            check_inside(file, folder)
            with lock(file, str(file.parent.parent)):
                pass
    removed = folder / ".folds.removed"
    remove(removed)
    if (folder / FOLDS).exists():
        (folder / FOLDS).rename(removed)
    remove(removed)
    for path in folder.iterdir() if folder.exists() else ():
        if path.name not in (LEDGER, CONFIG) and not path.name.startswith(LOCK):
            remove(path)
    (folder / CONFIG).unlink(missing_ok=True)
