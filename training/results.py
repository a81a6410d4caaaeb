"""What a tested fold leaves behind: model card, predictions, metrics."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from corpora.readers import Utterance
from evaluation.metrics import scores
from model_gmu import MaxMViTGMU
from storage.feature_store import FeatureStore
from system.files import write_csv, write_json
from training.evaluate import Predictions
from training.job import FoldJob
from training.progress import Progress


def score(found: Predictions, job: FoldJob) -> dict[str, Any]:
    """Return all scores of some predictions."""
    return scores(found.targets.tolist(), found.preds.tolist(), len(job.classes))


def write_model_card(job: FoldJob, folder: Path, model: MaxMViTGMU, store: FeatureStore) -> None:
    """Write what rebuilds the model and its images around the weights."""
    card = {
        "model": asdict(model.settings),
        "classes": list(job.classes),
        "features": store.settings,
        "corpus": job.config.corpus.name,
        "protocol": job.certificate["protocol"],
        "certificate": job.certificate["id"],
        "fold": job.split.fold,
        "seed": job.seed,
        "test_clips": tested_clips(job.certificate, job.split.fold),
    }
    write_json(folder / "model.json", card)


def tested_clips(certificate: Mapping[str, Any], fold: int) -> str:
    """Return the digest of the recordings that a fold tests."""
    return next(f["test"]["recordings"] for f in certificate["folds"] if f["fold"] == fold)


def write_predictions(
    job: FoldJob,
    folder: Path,
    parts: Mapping[str, Sequence[Utterance]],
    found: Mapping[str, Predictions],
) -> None:
    """Write predictions.csv: one row for each clip of dev and test."""
    header = ["split", "utterance", "speaker", "target", "pred"]
    header += [*(f"prob_{name}" for name in job.classes), "gate_mean"]
    rows = [
        [
            name,
            utterance.id,
            utterance.speaker,
            job.classes[target],
            job.classes[pred],
            *(f"{p:.6f}" for p in probs),
            "" if gate is None else f"{gate:.6f}",
        ]
        for name, part in parts.items()
        for utterance, target, pred, probs, gate in zip(
            part,
            found[name].targets,
            found[name].preds,
            found[name].probs,
            _gate_means(found[name]),
            strict=True,
        )
    ]
    write_csv(folder / "predictions.csv", header, rows)


def _gate_means(found: Predictions) -> NDArray | list[None]:
    """Return each clip's mean gate, 1 = CQT, 0 = Mel: (N,)."""
    return [None] * len(found.targets) if found.gate is None else found.gate.mean(1)


def write_metrics(
    job: FoldJob, folder: Path, found: Mapping[str, Predictions], progress: Progress
) -> None:
    """Write metrics.json, last of all: where it exists the fold is finished."""
    gate = found["test"].gate
    write_json(
        folder / "metrics.json",
        {
            "protocol": job.certificate["protocol"],
            "certificate": job.certificate["id"],
            "fold": job.split.fold,
            "seed": job.seed,
            "classes": list(job.classes),
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "trouble": progress.trouble(),
            "val": score(found["dev"], job),
            "test": score(found["test"], job),
            "gate_mean": None if gate is None else float(gate.mean()),
        },
    )
