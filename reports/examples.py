"""The most confident errors of runs: utterances, predictions, sound and images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from audio.reading import BadAudio
from config.fusions import branches_of
from evaluation.figures import MANY
from evaluation.shares import titles
from evaluation.tasks import task_of
from features import SpectrogramImages
from reports.media import image_uris, sound_uri
from storage.model_card import read_card
from storage.run_folder import FoldResult, Run

PER_RUN = 6
# A run may come from elsewhere: a page must not carry off a file of its reader that a run names
NO_HASH = (
    "utterances.csv, of an earlier version, has no hash that says which recording it is: give the "
    "training command of the run again, which writes it anew"
)


@dataclass(frozen=True)
class Verdict:
    """The prediction of one run for an utterance, of its most confidently wrong seed if any."""

    run: int  # index
    pred: str
    probs: Mapping[str, float]  # or ratings
    gate: float | None  # mean over units, 1 = CQT, 0 = Mel
    shares: Mapping[str, float]  # of each source, mean over units; of others than both images
    fold: int
    seed: int


@dataclass(frozen=True)
class Example:
    """One utterance, the predictions of all runs, its sound and images as data URIs."""

    utterance: str
    target: str
    about: Mapping[str, str]
    verdicts: Sequence[Verdict]
    classes: Sequence[str]  # those that are shown: all, or the most probable of many
    sound: str | None
    images: Mapping[str, str]  # view -> PNG
    floor: float  # dB of the darkest colour
    problem: str | None = None  # reason for which there is neither sound nor image


def worst_errors(runs: Sequence[Run], audio: bool, per_run: int = PER_RUN) -> list[Example]:
    """Return the utterances with the most probable wrong predictions, most confident first.

    Args:
        runs: Runs that tested the same utterances.
        audio: Include the sound.
        per_run: Number of utterances for each run; runs may share some.
    """
    places = [_surest(run) for run in runs]
    targets = _targets(runs[0])
    sure: dict[str, float] = {}
    for by_utterance in places:
        wrong = {u: place.sure for u, place in by_utterance.items() if place.sure}
        for utterance in sorted(wrong, key=lambda u: (-wrong[u], u))[:per_run]:
            sure[utterance] = max(sure.get(utterance, 0.0), wrong[utterance])
    shown = run_of_images(runs)
    images = None
    if shown is not None:
        images = SpectrogramImages(**read_card(shown.folds[0].folder).features.model_dump())
    return [
        _example(
            runs[0],
            utterance,
            targets[utterance],
            [
                _verdict(i, run, at[utterance])
                for i, (run, at) in enumerate(zip(runs, places, strict=True))
            ],
            images,
            audio,
        )
        for utterance in sorted(sure, key=lambda u: (-sure[u], u))
    ]


def run_of_images(runs: Sequence[Run]) -> Run | None:
    """Return the run whose images are shown, the first of a fusion; None among baselines alone."""
    return next((run for run in runs if not run.is_baseline), None)


def _targets(run: Run) -> dict[str, str]:
    table = run.of_seed(run.seeds[0])
    pairs = zip(table.utterances.tolist(), table.targets.tolist(), strict=True)
    task = task_of(run.folds[0])
    return {utterance: task.prediction(target) for utterance, target in pairs}


class _Place(NamedTuple):
    """Where the predictions that are shown of an utterance stand."""

    result: FoldResult
    row: int  # of its test predictions
    sure: float  # probability of the wrong prediction, 0 if it is right; of ratings, the error


def _surest(run: Run) -> dict[str, _Place]:
    """Return the place of each utterance: of the most confidently wrong seed, or the first."""
    places: dict[str, _Place] = {}
    for result in run.folds:
        table = result.test
        missed = task_of(result).missed_by(table.targets, table.preds, table.probs).tolist()
        for i, utterance in enumerate(table.utterances.tolist()):
            sure = missed[i]
            if utterance not in places or sure > places[utterance].sure:
                places[utterance] = _Place(result, i, sure)
    return places


def _verdict(index: int, run: Run, place: _Place) -> Verdict:
    """Return the verdict of the run with this index."""
    result, i, _ = place
    table = result.test
    probs = dict(zip(run.classes, table.probs[i].tolist(), strict=True))
    gate = None if table.gate is None else float(table.gate[i])
    shares: dict[str, float] = {}
    if table.shares is not None:
        sources = titles(branches_of(run.config))
        shares = dict(zip(sources, table.shares[i].tolist(), strict=True))
    pred = task_of(result).prediction(table.preds[i])
    return Verdict(index, pred, probs, gate, shares, result.fold, result.seed)


def _shown_classes(classes: Sequence[str], target: str, verdicts: Sequence[Verdict]) -> list[str]:
    """Return all classes, or target, predictions and the most probable ones of many."""
    first = {target, *(verdict.pred for verdict in verdicts)}
    highest = {name: max(v.probs[name] for v in verdicts) for name in classes}
    ranked = sorted(classes, key=lambda name: (name not in first, -highest[name]))
    kept = set(ranked[: max(MANY, len(first))])
    return [name for name in classes if name in kept]


def _example(
    run: Run,
    utterance: str,
    target: str,
    verdicts: Sequence[Verdict],
    front_end: SpectrogramImages | None,
    audio: bool,
) -> Example:
    facts: dict[str, Any] = {
        "utterance": utterance,
        "target": target,
        "about": run.about.get(utterance, {}),
        "verdicts": verdicts,
        "classes": _shown_classes(run.classes, target, verdicts),
        "floor": 0.0 if front_end is None else -front_end.top_db,
    }
    recording = facts["about"].get("audio", "")
    if not recording or "path" not in facts["about"]:
        return Example(**facts, sound=None, images={}, problem=NO_HASH)
    source = run.audio_file(utterance)
    try:
        images = {} if front_end is None else image_uris(source, front_end, recording)[0]
        sound = sound_uri(source, recording) if audio else None
    except BadAudio as error:
        return Example(**facts, sound=None, images={}, problem=f"{source.name} {error}")
    return Example(**facts, sound=sound, images=images)
