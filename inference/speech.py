"""What the branch `speech` reads of new recordings: the hidden states that the store would hold."""

from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from audio.opening import BadAudio
from model_gmu import MaxMViTGMU
from models.kept_states import Beyond, KeptStates, States
from models.speech import Frames, load_speech_model
from models.speech_states import SpeechModel
from models.speech_tuning import Waves
from storage.source_facts import SpeechFacts
from system.errors import InputError, RunError
from system.extras import check_extra

WAYS = (
    "predict.py --speech-model FOLDER (also of export.py and app.py), or "
    "load(path, speech_model=FOLDER); for other commands put it, or a link to it, where it was"
)
_ALONE = Lock()  # models of transformers keep state in a call, and oneDNN is switched for a process


class SpeechReader:
    """Turns waveforms into what the branch `speech` of a network reads.

    `records` works on some recordings together, `inputs` gives one to the network.

    Args:
        model: The speech model of the run, on the device that is to compute.
        facts: What the run kept of its states.
        pooling: As `model.speech.pooling`.
        tokens: As `model.speech.tokens`.

    Attributes:
        sample_rate: Rate of the waveforms, Hz.
        keeps_level: Whether the level of a recording has an effect.
    """

    def __init__(
        self,
        model: SpeechModel,
        facts: SpeechFacts,
        pooling: Literal["mean", "attention"],
        tokens: int | None = None,
    ) -> None:
        self.model, self.facts, self.pooling, self.tokens = model, facts, pooling, tokens
        self.sample_rate = model.sample_rate
        self.keeps_level = not facts.normalizes
        self._kept = KeptStates(model, pooling, facts.layers, facts.precision, tokens)

    def check(self, waveform: NDArray[np.float32]) -> None:
        """Refuse a waveform (T,) that is too short, with a BadAudio."""
        self.model.check(waveform)

    def records(self, waveforms: Sequence[NDArray[np.float32]]) -> list[States | BadAudio]:
        """Return what the store would hold of recordings, (n, L, D) each, or why it refuses one."""
        found: dict[int, States | BadAudio] = {}
        for batch in self.model.batches([len(waveform) for waveform in waveforms]):
            with _ALONE:
                every = self._kept.compute([waveforms[j] for j in batch])
            for j, states in zip(batch, every, strict=True):
                try:
                    found[j] = self._kept.narrowed(states)
                except (BadAudio, Beyond) as error:
                    found[j] = BadAudio(str(error))
        return [found[j] for j in range(len(waveforms))]

    def encode(self, network: MaxMViTGMU, record: States, device: torch.device) -> Tensor:
        """Return the features of one record: (1, D), or tokens (1, N, D)."""
        return network.encode("speech", self.inputs(record, device))

    def inputs(self, record: States, device: torch.device) -> Any:
        """Return one record as the network reads it: (1, L, D), (1, N, L, D), or `Frames`."""
        states = torch.from_numpy(record).to(device).float()  # (n, L, D)
        if self.pooling == "mean":
            return states[None] if self.tokens else states
        return Frames(states[None], torch.tensor([len(states)], device=device))


class WaveformReader(SpeechReader):
    """Gives waveforms to a network that holds a speech model of which a part was trained."""

    def records(self, waveforms: Sequence[NDArray[np.float32]]) -> list[States | BadAudio]:
        """Return the waveforms as they are, (t,) each."""
        return list(waveforms)

    def encode(self, network: MaxMViTGMU, record: States, device: torch.device) -> Tensor:
        """Return the features of one waveform, which the speech model in the network computes."""
        with _ALONE:
            return super().encode(network, record, device)

    def inputs(self, record: States, device: torch.device) -> Any:
        """Return one waveform as the network reads it: `Waves` (1, t)."""
        waveform = torch.from_numpy(record).to(device)
        return Waves(waveform[None], torch.tensor([len(waveform)], device=device))


def open_speech(
    facts: SpeechFacts,
    pooling: Literal["mean", "attention"] | None,
    folder: Path,
    device: torch.device,
    name: str | None = None,
    is_trained: bool = False,
    tokens: int | None = None,
) -> SpeechReader:
    """Load the speech model of a fold.

    Args:
        facts: Of the fold.
        pooling: As `model.speech.pooling`; None is `mean`.
        folder: Folder of the fold, for messages.
        device: Device that is to compute.
        name: Folder of the model, or its name on the hub; None is where the training had it.
        is_trained: Whether a part of it was trained, so that the network holds it.
        tokens: As `model.speech.tokens`.

    Raises:
        InputError: It is another model, or the package transformers is missing.
        RunError: It cannot be downloaded.
    """
    check_extra("a pretrained speech model", "transformers", "speech")
    if is_trained:
        check_extra("adapters of a speech model", "peft", "speech")
    revision = facts.revision if name is None else None
    try:
        model = load_speech_model(name or facts.name, revision)
    except (InputError, RunError) as error:
        way = "" if name else f". Or name its folder where it lies now: {WAYS}"
        raise type(error)(
            f"{folder} reads the speech model {facts.name}, identity {facts.model[:12]}: "
            f"{error}{way}"
        ) from error
    found = model.settings
    if found["model"] != facts.model:
        raise InputError(
            f"{folder} was trained with another speech model than the one at {model.name} "
            f"(identity {facts.model[:12]}, there {model.identity[:12]}): name the folder of the "
            f"same files with {WAYS}"
        )
    if found != facts.settings:
        other = sorted(k for k in found if found[k] != facts.settings.get(k))
        raise InputError(
            f"{folder} was trained by a version of this code that ran the speech model with "
            f"another {', '.join(other)}: use that version, or train again"
        )
    reader = WaveformReader if is_trained else SpeechReader
    return reader(model.to(device), facts, pooling or "mean", tokens)
