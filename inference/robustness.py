"""Frozen weights on changed test utterances: noise, level, telephone, low-pass, speed."""

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from tqdm import tqdm

from audio.at_rates import resampled
from audio.parallel import in_parallel
from audio.reading import BadAudio, read_audio
from audio.row_norm import RowNorm, RowSums, SpeakerNorm
from audio.segment import AudioSource
from config.fusions import branches_of
from corpora.stamps import is_transductive
from evaluation.metrics import SCORES
from evaluation.results import ConditionScores, FoldConfusions, Robustness
from evaluation.significance import pool_folds, speaker_confusions, speaker_interval
from evaluation.wording import markdown_table, percent, with_interval
from inference.conditions import CONDITIONS, Condition, change
from inference.predictor import (
    FoldModel,
    check_same_predictions,
    model_name,
    weights_digests,
)
from storage.folders import CARD
from storage.ledger import record_test_evaluation
from storage.run_folder import FoldResult, Run
from system.devices import usable_device
from system.errors import InputError, RunError
from system.files import corrupt_file, is_unreachable, read_json, write_json
from system.output import progress_bar
from system.placeholders import is_lfs_pointer

FILE = "robustness.json"
AT_ONCE = 16  # utterances


def measure_robustness(run: Run, progress: bool = True) -> Robustness:
    """Evaluate the frozen weights of all folds and seeds on changed test utterances.

    Results are kept in robustness.json in the run folder, one fold and seed at a time, and are
    measured again only if the weights or `CONDITIONS` change. `conditions` holds pooled UA
    and WA, the mean over seeds, with UA's interval over speakers and its change against clean;
    `folds` the counts behind them, by speaker, target and prediction.

    Args:
        run: The run; its corpus must still be there.
        progress: Show a progress bar.

    Raises:
        InputError: Audio of test utterances is missing or bad; nothing was evaluated.
        RunError: The model's classes of the clean utterances are not those of predictions.csv, or a
            file of the run is corrupt.
    """
    check_robust(run)
    path = run.folder / FILE
    stored, stored_folds = _stored(path)
    digests = weights_digests(run)
    folds = {
        name: entry
        for name, entry in stored_folds.items()
        if name not in digests or _is_current(entry, digests[name])
    }
    pending = [fold for fold in run.folds if model_name(fold) not in folds]
    files = _check_files(run, pending)
    model: FoldModel | None = None
    n = sum(len(fold.test.utterances) for fold in pending) * len(CONDITIONS)
    with progress_bar(n, "robustness", "utterance", hidden=not (progress and n)) as bar:
        for i, fold in enumerate(pending, start=1):
            name = model_name(fold)
            title = f"robustness, {name} ({i} of {len(pending)})"
            bar.set_description(title, refresh=False)
            model = FoldModel(fold.folder, usable_device(run.config["run.device"]), True, model)
            folds[name] = _measure(run, fold, model, files, digests[name], bar)
            write_json(path, asdict(_results(run, [], folds)))
    results = _results(run, _scores(run, folds), folds)
    if asdict(results) != stored:
        write_json(path, asdict(results))
    return results


def check_robust(run: Run) -> None:
    """Refuse a run whose inputs do not change with the sound.

    Raises:
        InputError: It reads vectors of its own.
    """
    if "file" in branches_of(run.config):
        raise InputError(
            f"{run.folder} reads model.vectors, which do not change with the sound: leave the run "
            "out, or measure one of images and speech models"
        )


def robustness_markdown(by_run: Mapping[str, Robustness]) -> str:
    """Return one table: conditions as rows; UA and its change against clean for each run.

    Args:
        by_run: Results of `measure_robustness` by name of the run.
    """
    measured = {
        run: {row.condition: row for row in results.conditions} for run, results in by_run.items()
    }
    names = list(dict.fromkeys(name for rows in measured.values() for name in rows))
    head = ["condition", *(cell for run in measured for cell in (run, "change"))]
    cells = [
        [name, *(cell for rows in measured.values() for cell in _cells(rows.get(name)))]
        for name in names
    ]
    above = (
        "**Robustness**: UA pooled over folds, percent, mean over seeds, [95 % interval over "
        "speakers], and change against clean in points; frozen weights, changed test utterances."
    )
    return f"{above}\n\n{markdown_table(head, cells)}\n"


def _cells(row: ConditionScores | None) -> list[str]:
    if row is None:
        return ["–", "–"]
    changed = "" if row.kind == "clean" else percent(row.ua_change, sign="+z")
    return [with_interval(row.ua, row.interval), changed]


def _results(
    run: Run, conditions: list[ConditionScores], folds: dict[str, FoldConfusions]
) -> Robustness:
    return Robustness(
        protocol=run.certificate["protocol"],
        speaker_dependent=run.certificate["speaker_dependent"],
        certificate=run.certificate["id"],
        classes=list(run.classes),
        conditions=conditions,
        folds=folds,
    )


def _stored(path: Path) -> tuple[Any, dict[str, FoldConfusions]]:
    """Return the content of the file, None where there is none, and its folds."""
    if not path.exists():
        return None, {}
    try:
        stored = read_json(path, "classes", "folds")
        folds = TypeAdapter(dict[str, FoldConfusions])
        return stored, folds.validate_json(json.dumps(stored["folds"]), strict=True)
    except (RunError, ValidationError) as error:
        cause = error.__cause__
        if is_lfs_pointer(path) or (isinstance(cause, Exception) and is_unreachable(cause)):
            raise  # the file itself may be intact
        raise RunError(f"{path} is corrupt: remove it and run the same command again") from error


def _is_current(entry: FoldConfusions, digest: str) -> bool:
    """Return whether an entry is of these weights and conditions."""
    names = [condition.name for condition in CONDITIONS]
    return entry.weights == digest and list(entry.confusions) == names


def _check_files(run: Run, pending: Sequence[FoldResult]) -> dict[str, AudioSource]:
    """Return the audio file of each utterance that is read, after checking that all can be."""
    utterances = sorted({name for fold in pending for name in fold.test.utterances.tolist()})
    if is_transductive(run.certificate["protocol"]):  # all of the tested speakers
        tested = {speaker for fold in pending for speaker in fold.test.speakers.tolist()}
        utterances = sorted(name for name, row in run.about.items() if row["speaker"] in tested)
    try:
        files = {name: run.audio_file(name) for name in utterances}
    except KeyError as error:
        raise corrupt_file(run.folder / "utterances.csv", f"no {error} in it") from error
    rate = _input_rate(run)
    read = in_parallel(lambda source: read_audio(source, rate), list(files.values()), 1)
    bad = [f"  {source}: {result}" for source, result in read if isinstance(result, BadAudio)]
    if bad:
        some = "\n".join([*bad[:3], *["  ..."] * (len(bad) > 3)])
        raise InputError(
            f"{len(bad)} of {len(files)} audio files of test utterances are missing or bad in "
            f"{run.roots}:\n{some}\nPut the corpus back, or run the training command again with "
            "its new folder as corpus.root= (finished folds are skipped); nothing was evaluated"
        )
    return files


def _input_rate(run: Run) -> int:
    return run.config["features.input_rate"] or run.config["features.sample_rate"]


def _measure(
    run: Run,
    fold: FoldResult,
    model: FoldModel,
    files: Mapping[str, AudioSource],
    weights: str,
    bar: tqdm,
) -> FoldConfusions:
    """Evaluate one fold and seed under all conditions."""
    card = read_json(fold.folder / CARD)
    targets, of_speaker = fold.test.targets.tolist(), fold.test.speakers.tolist()
    speakers: list[str] = []
    confusions = {}
    for condition in CONDITIONS:
        bar.set_postfix_str(f"{model_name(fold)}, {condition.name}")
        why = f"robustness: {condition.name}"
        norm = _speaker_norm(model, run, fold, files, condition)
        preds = _predict(model, fold, files, condition, bar, norm)
        record_test_evaluation(run.folder, card, len(targets), fold.folder, "robustness", why)
        if condition.kind == "clean":
            check_same_predictions(
                fold, preds, run.config["train.precision"], "clean test utterances"
            )
        n_classes = len(fold.classes)
        names, counts = speaker_confusions(targets, preds.tolist(), of_speaker, n_classes)
        speakers, confusions[condition.name] = names.tolist(), counts.tolist()
    return FoldConfusions(weights=weights, speakers=speakers, confusions=confusions)


def _predict(
    model: FoldModel,
    fold: FoldResult,
    files: Mapping[str, AudioSource],
    condition: Condition,
    bar: tqdm,
    norm: SpeakerNorm | None,
) -> NDArray:
    """Return the predicted class of each test utterance, in the order of predictions.csv: (N,)."""
    preds = []
    utterances = fold.test.utterances.tolist()
    for start in range(0, len(utterances), AT_ONCE):
        some = utterances[start : start + AT_ONCE]
        changed = [_changed(name, files[name], model.rates, condition) for name in some]
        waveforms = [torch.from_numpy(one[model.rates[0]]) for one in changed]
        speech = [] if model.speech is None else [one[model.speech.sample_rate] for one in changed]
        own = None if norm is None else norm.of(torch.arange(start, start + len(some)))
        try:
            preds.append(model.probs(waveforms, own, speech).argmax(1).numpy())
        except BadAudio as error:
            raise RunError(f"{condition.name}, one of {', '.join(some)}: {error}") from error
        bar.update(len(some))
    return np.concatenate(preds)


def _changed(
    utterance: str, source: AudioSource, rates: Sequence[int], condition: Condition
) -> dict[int, NDArray[np.float32]]:
    """Return the changed waveform of an utterance, (T,) at each rate.

    The sound is changed once, at the highest rate, and resampled from there, so that all branches
    read one noise.
    """
    seed = zlib.crc32(utterance.encode())  # by utterance: the same in every run
    if condition.kind == "clean":
        return {rate: change(read_audio(source, rate), rate, condition, seed) for rate in rates}
    rate = max(rates)
    waveform = np.ascontiguousarray(change(read_audio(source, rate), rate, condition, seed))
    return {to: resampled(waveform, rate, to) for to in rates}


def _speaker_norm(
    model: FoldModel,
    run: Run,
    fold: FoldResult,
    files: Mapping[str, AudioSource],
    condition: Condition,
) -> SpeakerNorm | None:
    """Return the statistics of all changed utterances of the tested speakers, where needed."""
    if not is_transductive(run.certificate["protocol"]):
        return None
    speakers = fold.test.speakers.tolist()
    index = {speaker: i for i, speaker in enumerate(sorted(set(speakers)))}
    sums = RowSums(len(index), model.images.record)
    for name, source in files.items():
        if (speaker := run.about[name]["speaker"]) in index:
            rate = model.images.input_rate
            waveform = _changed(name, source, [*model.rates, rate], condition)[rate]
            images = model.stored(torch.from_numpy(waveform))
            if not sums.add(index[speaker], images):
                raise RunError(f"{source}: its images under {condition.name} are not finite")
    rows = RowNorm(*(values.to(model.device) for values in sums.norm()))
    return SpeakerNorm(rows, torch.tensor([index[speaker] for speaker in speakers]))


def _scores(run: Run, folds: Mapping[str, FoldConfusions]) -> list[ConditionScores]:
    """Score each condition over all folds and seeds of the run."""
    rows: list[ConditionScores] = []
    for condition in CONDITIONS:
        entries = [(fold.seed, folds[model_name(fold)]) for fold in run.folds]
        parts = [
            (seed, entry.speakers, np.array(entry.confusions[condition.name]))
            for seed, entry in entries
        ]
        counts = pool_folds(parts)  # (R, S, K, K)
        means = {name: float(np.mean(SCORES[name](counts.sum(1)))) for name in ("ua", "wa")}
        clean = rows[0].ua if rows else means["ua"]
        rows.append(
            ConditionScores(
                condition=condition.name,
                kind=condition.kind,
                **means,
                interval=speaker_interval(counts, SCORES["ua"]),
                ua_change=means["ua"] - clean,
            )
        )
    return rows
