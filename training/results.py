"""What a tested fold leaves behind: model card, predictions, metrics."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from torch import nn

from corpora.readers import Utterance
from evaluation.metrics import scores
from system.files import write_csv, write_json
from training.checkpoints import Progress
from training.evaluate import Predictions
from training.session import Fold


def score(found: Predictions, fold: Fold) -> dict[str, Any]:
    """Return all scores of some predictions."""
    return scores(found.targets.tolist(), found.preds.tolist(), len(fold.classes))


def write_model_card(fold: Fold, folder: Path, model: nn.Module) -> None:
    """Write what rebuilds the model and its images around the weights."""
    card = {
        "model": model.settings,
        "classes": list(fold.classes),
        "features": fold.session.store.settings,
        "corpus": fold.config.corpus.name,
        "protocol": fold.session.plan.certificate["protocol"],
        "certificate": fold.session.plan.certificate["id"],
        "fold": fold.split.fold,
        "seed": fold.seed,
        "test_clips": tested_clips(fold.session.plan.certificate, fold.split.fold),
    }
    write_json(folder / "model.json", card)


def tested_clips(certificate: Mapping[str, Any], fold: int) -> str:
    """Return the digest of the recordings that a fold tests."""
    return next(f["test"]["recordings"] for f in certificate["folds"] if f["fold"] == fold)


def write_predictions(
    fold: Fold,
    folder: Path,
    parts: Mapping[str, Sequence[Utterance]],
    found: Mapping[str, Predictions],
) -> None:
    """Write predictions.csv: one row for each clip of dev and test."""
    header = ["split", "utterance", "speaker", "target", "pred"]
    header += [*(f"prob_{name}" for name in fold.classes), "gate_mean"]
    rows = [
        [
            name,
            utterance.id,
            utterance.speaker,
            fold.classes[target],
            fold.classes[pred],
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
    fold: Fold, folder: Path, found: Mapping[str, Predictions], progress: Progress
) -> None:
    """Write metrics.json, last of all: where it exists the fold is finished."""
    gate = found["test"].gate
    write_json(
        folder / "metrics.json",
        {
            "protocol": fold.session.plan.certificate["protocol"],
            "certificate": fold.session.plan.certificate["id"],
            "fold": fold.split.fold,
            "seed": fold.seed,
            "classes": list(fold.classes),
            "best_epoch": progress.best_epoch,
            "epochs": progress.epoch,
            "trouble": progress.training_issues(),
            "val": score(found["dev"], fold),
            "test": score(found["test"], fold),
            "gate_mean": None if gate is None else float(gate.mean()),
        },
    )
