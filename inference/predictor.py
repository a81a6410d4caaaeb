"""Label recordings with the model of a finished fold, rebuilt from its folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.row_norm import RowNorm
from config.fusions import IMAGES
from config.tasks import RatingScale
from features import Images, SpectrogramImages
from inference.network import OnnxNetwork, has_network
from model_gmu import MaxMViTGMU, misfit, rebuild
from models.heads import FusionOutput
from storage.folders import check_is_fold
from storage.model_card import ModelCard, read_card
from storage.run_folder import FoldResult, Run
from storage.tensors import load_tensors, tensor_shapes
from system.errors import InputError, RunError
from system.files import corrupt_file
from system.regular import file_sha256

CROPS_AT_ONCE = 16  # of a long recording
# Largest change by rounding of a difference between two probabilities
NEAR_TIE = {"float32": 0.01, "tf32": 0.1, "bfloat16": 0.1}


class FoldModel:
    """The frozen model of one fold.

    Args:
        folder: Folder of a finished fold, `runs/<name>/folds/fold-<k>_seed-<s>`.
        device: Device on which images and model are computed.
        speakers_known: Whether the caller knows the speakers' statistics, which a fold with
            `train.normalize: speaker` needs and `probs` takes.
        images: Front end of another member of an ensemble; used instead of an own one where its
            settings are the same.
        onnx: Run the network by ONNX Runtime where a bundle brings its graph, on a CPU.

    Raises:
        InputError: It is not the folder of a finished fold, or needs statistics of speakers.
        RunError: Its files cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        speakers_known: bool = False,
        images: SpectrogramImages | None = None,
        onnx: bool = False,
    ) -> None:
        check_is_fold(folder)
        card = read_card(folder)
        if beside := [branch for branch in card.model.reads if branch not in IMAGES]:
            raise InputError(
                f"{folder} reads the branch {' and '.join(beside)}, and predict.py, export.py and "
                "app.py compute images alone: its own predictions are in predictions.csv. Name a "
                "fold whose model.branches are cqt and mel"
            )
        self.folder, self.task = folder, card.task
        self.is_transductive = card.is_transductive
        if self.is_transductive and not speakers_known:
            raise InputError(
                f"{folder} was trained with train.normalize=speaker: it reads images standardised "
                "by the mean and deviation of all of a speaker's utterances, which are not known "
                "of new recordings. Train with train.normalize=true, and label with a fold of that"
            )
        self.protocol, self.classes = card.protocol, card.classes
        self.scale = None if card.scale is None else RatingScale(*card.scale)
        self.training_data = card.training_data
        self.device = torch.device(device)
        with _rebuilding(folder):
            own = SpectrogramImages(**card.features.model_dump())
        is_shared = images is not None and images.settings == own.settings
        self.images = images if is_shared and images is not None else own.to(self.device)
        self.model = frozen_model(folder, card).to(self.device)
        self.network: Callable[[Tensor, Tensor], FusionOutput] = self.model
        if onnx and self.device.type == "cpu" and has_network(folder):
            self.network = OnnxNetwork(folder)

    @torch.inference_mode()
    def probs(self, waveforms: Sequence[Tensor], norm: RowNorm | None = None) -> Tensor:
        """Return outputs, the mean over the crops of each: n x (T,) -> (n, K) on the CPU.

        Args:
            waveforms: Recordings at `images.input_rate`, of any lengths. Except for rounding, the
                probabilities of one do not depend on the others.
            norm: Statistics of the speaker of each, (n, C, H), where the fold needs them.
        """
        self._check_norm(norm)
        images = [self.images_of(waveform) for waveform in waveforms]
        if norm is not None:
            own = [norm.of(torch.full((len(pair.cqt),), i)) for i, pair in enumerate(images)]
            images = [Images(*rows(*pair)) for rows, pair in zip(own, images, strict=True)]
        return self.outputs(images)[0]

    @torch.inference_mode()
    def outputs(self, images: Sequence[Images]) -> tuple[Tensor, Tensor | None]:
        """Return outputs and gates, the mean over the crops of each recording, on the CPU.

        Args:
            images: Of each recording, from `images_of`.

        Returns:
            Probabilities (n, K) or ratings (n, D); mean gate (n,), or None of a fusion without
            or of other sources than the two images.
        """
        crops = (torch.cat(image).split(CROPS_AT_ONCE) for image in zip(*images, strict=True))
        outputs = [self.network(*some) for some in zip(*crops, strict=True)]
        sizes = [len(pair.cqt) for pair in images]
        each = self._outputs(torch.cat([output.logits for output in outputs]))  # (crops, K)
        means = torch.stack([crops.mean(0) for crops in each.split(sizes)]).cpu()
        gates = [output.gate for output in outputs if output.gate is not None]
        if not gates or not self.model.head.has_one_gate:
            return means, None
        gate = torch.cat(gates).mean(1).split(sizes)
        return means, torch.stack([crops.mean() for crops in gate]).cpu()

    @torch.inference_mode()
    def stored(self, waveform: Tensor) -> list[NDArray]:
        """Return the images of a recording's crops as the feature store has them, in dB."""
        return [image.cpu().numpy() for image in self.images_of(waveform)]

    def _outputs(self, logits: Tensor) -> Tensor:
        """Return probabilities (B, K), or ratings (B, D) in units of the corpus."""
        if self.scale is None:
            return logits.softmax(1)
        found: Tensor = self.scale.to_rating(logits)
        return found

    def _check_norm(self, norm: RowNorm | None) -> None:
        if (norm is not None) != self.is_transductive:
            raise ValueError(f"statistics of speakers are needed: {self.is_transductive}")

    @torch.inference_mode()
    def images_of(self, waveform: Tensor) -> Images:
        """Return the images of a recording's crops in the store's precision: 2 x (n, C, H, W)."""
        pair = self.images(self.images.cut(waveform).to(self.device))
        return Images(*(image.half().float() for image in pair))


def frozen_model(folder: Path, card: ModelCard) -> MaxMViTGMU:
    """Return the model of a fold, as it was tested.

    The weights are read only if their shapes fit the model that the card describes.

    Raises:
        RunError: They do not fit, or a file is corrupt.
    """
    file, settings = folder / "model.safetensors", card.settings()
    with _rebuilding(folder):
        reason = misfit(settings, tensor_shapes(file))
    if reason:
        reason = f"model.json and model.safetensors are not of one model: {reason}"
        raise corrupt_file(folder, reason)
    weights = load_tensors(file)
    if broken := [name for name, tensor in weights.items() if not tensor.isfinite().all()]:
        raise corrupt_file(file, f"NaN or infinite: {', '.join(broken[:3])}", remove=folder)
    with _rebuilding(folder):
        return rebuild(settings, weights)


@contextmanager
def _rebuilding(folder: Path) -> Iterator[None]:
    """Turn errors of the settings in model.json into one that names the fold's folder."""
    try:
        yield
    except RunError:
        raise
    except (InputError, RuntimeError, TypeError) as error:
        raise corrupt_file(folder, f"its model cannot be rebuilt: {error}") from error


def model_name(result: FoldResult) -> str:
    """Return the name of a fold and seed."""
    return f"fold {result.fold} seed {result.seed}"


def weights_digests(run: Run) -> dict[str, str]:
    """Return the SHA-256 of the weights of all folds and seeds, by `model_name`.

    Raises:
        RunError: Weights cannot be read.
    """
    return {model_name(result): _digest(result.folder) for result in run.folds}


def _digest(folder: Path) -> str:
    file = folder / "model.safetensors"
    try:
        return file_sha256(file)
    except OSError as error:
        raise corrupt_file(file, error, remove=folder) from error


def check_same_predictions(result: FoldResult, preds: NDArray, precision: str, what: str) -> None:
    """Refuse predictions on unchanged test utterances that differ from predictions.csv.

    Args:
        result: The finished fold.
        preds: (N,) class indices or ratings (N, D), in the order of predictions.csv.
        precision: Precision of the training; changes within its rounding may happen.
        what: Name of the utterances in the message.

    Raises:
        RunError: An utterance gets another class, or other ratings.
    """
    test, scale = result.test, result.scale
    if scale is not None:
        other = (np.abs(preds - test.preds) > NEAR_TIE[precision] * scale.half).any(1)
    else:
        first, second = np.sort(test.probs, axis=1)[:, :-3:-1].T  # (N,), (N,)
        other = (first - second > NEAR_TIE[precision]) & (preds != test.preds)
    if other.any():
        i = np.flatnonzero(other)[0]
        then, now = (_in_words(result, own[i]) for own in (test.preds, preds))
        changed = "another class" if scale is None else "other ratings"
        raise RunError(
            f"{other.sum()} of {len(preds)} {what} get {changed} than in "
            f"{result.folder / 'predictions.csv'} (the first is {test.utterances[i]}: {then} "
            f"there, {now} now): the corpus or the code changed since the run. Use the versions "
            "that it was made with, or train again"
        )


def _in_words(result: FoldResult, pred: Any) -> str:
    """Return one prediction: the name of the class, or the ratings."""
    if result.scale is None:
        return result.classes[pred]
    return ", ".join(f"{name} {x:.2f}" for name, x in zip(result.classes, pred, strict=True))
