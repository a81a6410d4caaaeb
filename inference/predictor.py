"""Label recordings with the model of a finished fold, rebuilt from its folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.opening import BadAudio
from audio.row_norm import RowNorm
from config.fusions import IMAGES
from config.tasks import RatingScale
from features import Images, SpectrogramImages
from inference.network import OnnxNetwork, has_network
from inference.recording import Inputs, Outputs, there
from inference.speech import SpeechReader, WaveformReader, open_speech
from model_gmu import MaxMViTGMU, misfit, rebuild
from models.heads import FusionOutput
from models.speech_states import SpeechModel
from storage.folders import check_is_fold
from storage.model_card import ModelCard, read_card
from storage.run_folder import FoldResult, Run
from storage.source_facts import speech_facts
from storage.tensors import load_tensors, tensor_shapes
from system.errors import InputError, RunError
from system.files import corrupt_file
from system.regular import file_sha256

FULL_SCALE = "full_scale"  # the `features.reference` that keeps the level
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
        shared: Another model, such as a member of an ensemble; its front end and its speech model
            are used where their settings are the same.
        onnx: Run the network by ONNX Runtime where a bundle brings its graph, on a CPU.
        speech_model: Folder of the speech model, or its name on the hub; None is where the training
            had it.

    Attributes:
        reads: Branches that the network reads.
        sources: Names of the shares of its gate; empty where it has none, or the one gate.
        speech: Computes what the branch `speech` reads; None without.

    Raises:
        InputError: It is not the folder of a finished fold, needs statistics of speakers, or the
            speech model is another one.
        RunError: Its files cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        device: str = "cpu",
        speakers_known: bool = False,
        shared: "FoldModel | None" = None,
        onnx: bool = False,
        speech_model: str | None = None,
    ) -> None:
        check_is_fold(folder)
        card = read_card(folder)
        self.folder, self.task, self.reads = folder, card.task, card.model.reads
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
        self.images: SpectrogramImages = own.to(self.device)
        if shared is not None and shared.images.settings == own.settings:
            self.images = shared.images
        self.speech = self._open_speech(card, shared, speech_model)
        speech = None if self.speech is None else self.speech.model
        self.model = frozen_model(folder, card, speech).to(self.device)
        head = self.model.head
        self.sources = head.branches if head.gmu is not None and not head.has_one_gate else ()
        self.network: Callable[[Tensor, Tensor], FusionOutput] = self.model
        if onnx and self.device.type == "cpu" and self.reads_images_alone and has_network(folder):
            self.network = OnnxNetwork(folder)

    @property
    def reads_images_alone(self) -> bool:
        """Whether it reads one or both images, and nothing else."""
        return set(self.reads) <= set(IMAGES)

    @property
    def reads_images(self) -> bool:
        """Whether it reads an image, with or without other sources."""
        return bool(set(self.reads) & set(IMAGES))

    @property
    def rates(self) -> list[int]:
        """Rates in Hz at which it reads recordings, that of the images first."""
        found = [self.images.input_rate] if self.reads_images else []
        found += [] if self.speech is None else [self.speech.sample_rate]
        return list(dict.fromkeys(found or [self.images.input_rate]))

    @property
    def keeps_level(self) -> bool:
        """Whether the level of a recording has an effect."""
        of_images = self.reads_images and self.images.reference == FULL_SCALE
        return of_images or (self.speech is not None and self.speech.keeps_level)

    @torch.inference_mode()
    def probs(
        self,
        waveforms: Sequence[Tensor],
        norm: RowNorm | None = None,
        speech: Sequence[NDArray[np.float32]] = (),
    ) -> Tensor:
        """Return outputs, the mean over the crops of each: n x (T,) -> (n, K) on the CPU.

        Args:
            waveforms: Recordings at `images.input_rate`, of any lengths. Except for rounding, the
                probabilities of one do not depend on the others.
            norm: Statistics of the speaker of each, (n, C, H), where the fold needs them.
            speech: The recordings at the rate of the speech model, where it has one.

        Raises:
            BadAudio: The speech model cannot read one.
        """
        self._check_norm(norm)
        inputs = [Inputs()] * len(waveforms)
        if self.reads_images:
            images = [self.images_of(waveform) for waveform in waveforms]
            if norm is not None:
                own = [norm.of(torch.full((len(pair.cqt),), i)) for i, pair in enumerate(images)]
                images = [Images(*rows(*pair)) for rows, pair in zip(own, images, strict=True)]
            inputs = [Inputs(pair) for pair in images]
        if self.speech is not None:
            for i, record in enumerate(self.speech.records(speech)):
                if isinstance(record, BadAudio):
                    raise record
                inputs[i] = inputs[i]._replace(speech=record)
        return self.outputs(inputs).values

    @torch.inference_mode()
    def outputs(self, inputs: Sequence[Inputs]) -> Outputs:
        """Return what the network says of recordings."""
        some = self._of_images(inputs) if self.reads_images_alone else self._of_sources(inputs)
        outputs = list(some)
        sizes = [one.n_crops for one in inputs]

        def over_crops(values: Tensor) -> Tensor:  # (crops, ...) -> (n, ...)
            return torch.stack([crops.mean(0) for crops in values.split(sizes)]).cpu()

        means = over_crops(self._outputs(torch.cat([output.logits for output in outputs])))
        gates = [output.gate for output in outputs if output.gate is not None]
        if not gates:
            return Outputs(means)
        gate = torch.cat(gates)  # (crops, D), or (crops, S, D) of more than two sources
        if self.model.head.has_one_gate:
            return Outputs(means, over_crops(gate.mean(1)))
        shares = gate if gate.ndim == 3 else torch.stack([gate, 1 - gate], 1)
        return Outputs(means, None, over_crops(shares.mean(2)))

    def _of_images(self, inputs: Sequence[Inputs]) -> Iterator[FusionOutput]:
        """Yield what the network says of the crops of all recordings, a few at a time."""
        images = [one.images for one in inputs if one.images is not None]
        crops = (torch.cat(image).split(CROPS_AT_ONCE) for image in zip(*images, strict=True))
        return (self.network(*some) for some in zip(*crops, strict=True))

    def _of_sources(self, inputs: Sequence[Inputs]) -> Iterator[FusionOutput]:
        """Yield the same of a network that reads other sources, each once for all crops."""
        sizes = torch.tensor([one.n_crops for one in inputs])
        of_crop = torch.repeat_interleave(torch.arange(len(inputs)), sizes).to(self.device)
        whole: dict[str, Tensor] = {}  # features of each recording: (n, D)
        if self.speech is not None:
            encode, records = self.speech.encode, [there(one.speech) for one in inputs]
            whole["speech"] = torch.cat([encode(self.model, r, self.device) for r in records])
        if "file" in self.reads:
            vectors = torch.stack([there(one.file) for one in inputs]).to(self.device)
            whole["file"] = self.model.encode("file", vectors)
        images: dict[str, Tensor] = {}  # of all crops: (crops, C, H, W)
        for branch in [branch for branch in IMAGES if branch in self.reads]:
            images[branch] = torch.cat([getattr(there(one.images), branch) for one in inputs])
        for rows in torch.arange(len(of_crop), device=self.device).split(CROPS_AT_ONCE):
            features = {branch: vectors[of_crop[rows]] for branch, vectors in whole.items()}
            features |= {b: self.model.encode(b, image[rows]) for b, image in images.items()}
            yield self.model.fuse(tuple(features.get(branch) for branch in self.model.sources))

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

    def _open_speech(
        self, card: ModelCard, shared: "FoldModel | None", name: str | None
    ) -> SpeechReader | None:
        """Load the speech model, or take that of another member."""
        if "speech" not in self.reads:
            return None
        facts, pooling = speech_facts(card, self.folder), card.model.speech_pooling or "mean"
        tokens = card.model.speech_tokens
        other = None if shared is None else shared.speech
        is_trained = card.settings().trains_speech
        if other is not None and other.facts == facts:
            is_same = (other.pooling, other.tokens) == (pooling, tokens)
            if is_same and isinstance(other, WaveformReader) == is_trained:
                return other
        return open_speech(facts, pooling, self.folder, self.device, name, is_trained, tokens)


def frozen_model(
    folder: Path, card: ModelCard, speech_model: SpeechModel | None = None
) -> MaxMViTGMU:
    """Return the model of a fold, as it was tested.

    The weights are read only if their shapes fit the model that the card describes.

    Args:
        folder: Folder of the fold.
        card: Its card.
        speech_model: The speech model that it reads; needed where a part of it was trained.

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
        return rebuild(settings, weights, speech_model)


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
