"""No utterance that is tested may have trained or selected the model that training starts from."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from config.effects import OWN
from corpora.plan import Plan
from corpora.splits import Split
from corpora.stamps import UNKNOWN_ORIGIN
from corpora.unannotated_speakers import is_known
from corpora.utterance import Utterance
from storage.environment import STARTED
from storage.run_folder import CERTIFICATE
from storage.split_certificate import read_certificate
from storage.trained_model import (
    Trained,
    TrainedModel,
    is_model_folder,
    read_trained_model,
    split_key,
    trained_on,
)
from system.errors import InputError
from training.origins import folders

NAMED = 5  # utterances in a message


def origin_facts(model: TrainedModel) -> dict[str, Any]:
    """Return what certificate and model card say of the utterances behind a model.

    Args:
        model: The model from which training starts.
    """
    known, unknown = trained_on(model)
    return {
        "model": model.name,
        "utterances": len({one.audio for one in known}),
        **({"unknown": unknown, "stamp": UNKNOWN_ORIGIN} if unknown else {}),
    }


def with_origin_facts(plan: Plan) -> Plan:
    """Return a plan whose certificate says from what the run's networks start, if that is a model.

    A run that was begun keeps what its certificate says: the model may be gone since. A run of the
    same folds has a certificate of its own, whose stamp is passed on.

    Args:
        plan: Plan of the run.

    Raises:
        RunError: A file of the model, or of its run, is corrupt.
    """
    own = Path(plan.config.run.root, plan.config.name, CERTIFICATE)
    found: dict[str, Any] | None = None
    if own.exists():
        found = read_certificate(own).get(STARTED)
    for folder in () if found else folders(plan.config).values():
        if is_model_folder(folder):
            found = origin_facts(read_trained_model(folder))
        elif (folder / CERTIFICATE).exists():
            theirs = read_certificate(folder / CERTIFICATE).get(STARTED, {})
            found = theirs if "stamp" in theirs else found
    return plan if not found else replace(plan, certificate={**plan.certificate, STARTED: found})


def check_leaks(plan: Plan, splits: Iterable[Split], model: TrainedModel, key: str) -> None:
    """Refuse folds that test what has trained or selected a model, by recording and by speaker.

    Speakers are compared within a corpus: one of the same published name, or one with a recording
    in common. Nothing is compared with a model of which nobody knows what trained it.

    Args:
        plan: Plan of the run.
        splits: The folds that start from the model.
        model: The model.
        key: `model.from=FOLDER`, for the message.

    Raises:
        InputError: A fold does.
        RunError: A table of the model's run is corrupt.
    """
    if not plan.has_test:  # a study tests nothing; the run that takes its config is checked
        return
    trained, _ = trained_on(model)
    by_audio = {one.audio: one.utterance for one in trained}
    speakers = {(one.corpus, one.speaker) for one in trained if is_known(one.speaker)}
    same = _same_corpora(plan, trained)
    reads_speakers = not plan.certificate["speaker_dependent"]
    found: dict[int, list[str]] = {}
    for split in splits:
        for utterance in split.test:
            if plan.hashes[utterance.audio] in by_audio:
                found.setdefault(split.fold, []).append(utterance.id)
            elif reads_speakers and is_known(utterance.speaker):
                own, speaker = split_key(plan.config, utterance.id, utterance.speaker)
                if any((theirs, speaker) in speakers for theirs in same.get(own, ())):
                    words = f"{utterance.id} (speaker {utterance.speaker})"
                    found.setdefault(split.fold, []).append(words)
    if found:
        raise InputError(_say(found, plan, key))


def _same_corpora(
    plan: Plan, trained: Sequence[Trained]
) -> dict[tuple[str, str], set[tuple[str, str]]]:
    """Return for each corpus of a plan those behind a model that are the same."""
    hashes: dict[str, set[tuple[str, str]]] = {}
    for one in trained:
        hashes.setdefault(one.audio, set()).add(one.corpus)
    theirs = {one.corpus for one in trained}
    same: dict[tuple[str, str], set[tuple[str, str]]] = {}
    for utterance in plan.utterances:
        own = _corpus(plan, utterance)
        if own not in same:
            same[own] = {one for one in theirs if one[0] == own[0] and own[0] not in OWN}
        same[own] |= hashes.get(plan.hashes[utterance.audio], set())
    return same


def _corpus(plan: Plan, utterance: Utterance) -> tuple[str, str]:
    return split_key(plan.config, utterance.id, utterance.speaker)[0]


def _say(found: dict[int, list[str]], plan: Plan, key: str) -> str:
    """Name fold, number and first examples, and the folds that could be trained."""
    lines = []
    for fold, names in sorted(found.items()):
        n = next(len(split.test) for split in plan.splits if split.fold == fold)
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        lines.append(f"  fold {fold}: {len(names)} of {n}, {', '.join(names[:NAMED])}{more}")
    clean = [split.fold for split in plan.wanted() if split.fold not in found]
    way = f"test other folds (run.folds={clean})" if clean else "test other utterances"
    return (
        f"{key} was trained or selected on utterances, or speakers, that are tested here:\n"
        + "\n".join(lines)
        + f"\nTheir scores would say nothing: {way}, or name a run of the same folds, where fold k "
        "starts from fold k"
    )
