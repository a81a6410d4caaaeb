"""What the branches `speech` and `file` read, beside the images or in their place.

Hidden states of a speech model are computed once for each recording and kept in the feature store
of `run.store`; vectors of the user's own are read from their file. Both are opened once a session.
A speech model that is trained reads waveforms, anew in each step.
"""

from collections.abc import Mapping, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from audio.opening import BadAudio
from audio.reading import read_audio
from audio.segment import AudioSource
from config.schema import Config
from corpora.plan import Plan
from corpora.utterance import Utterance
from data import NOTHING, Vectors
from models.speech import Frames, load_speech_model
from models.speech_states import SpeechModel
from models.speech_tuning import Waves
from storage.own_vectors import OwnVectors
from storage.source_facts import KnownModel
from storage.speech_store import SpeechStore
from system.errors import RunError
from training.distributed import from_first

Sources = Mapping[str, SpeechStore | OwnVectors]
AT_ONCE = 256  # utterances in memory
IN_MEMORY = 2**30  # bytes of the means of a split; more are read from the store batch by batch
TINY = 1e-6


def open_sources(config: Config, known: KnownModel | None = None) -> Sources:
    """Open what the branches beside the images read, once in a process; empty without any.

    Args:
        config: Config of the run.
        known: Takes the place of the speech model where all its hidden states are kept.

    Raises:
        InputError: There is no such model or file, or it holds something else.
    """
    model = config.model
    speech = vectors = None
    if "speech" in model.reads:
        settings = model.speech
        layers = None if settings.layers is None else tuple(settings.layers)
        pooling, precision = settings.pooling or "mean", settings.precision or "float16"
        tokens = settings.tokens
        if settings.is_trained:  # kept for statistics alone
            pooling, tokens = "mean", None
        name = settings.model or ""
        speech = _Speech(name, settings.revision, pooling, precision, layers, tokens)
    if "file" in model.reads:
        vectors = model.vectors
    return _open(config.run.store, speech, vectors, known)


class _Speech(NamedTuple):
    """What decides the hidden states that are kept."""

    model: str
    revision: str | None
    pooling: Literal["mean", "attention"]
    precision: Literal["float16", "float32"]
    layers: tuple[int, ...] | None
    tokens: int | None


@lru_cache(maxsize=2)  # a session is copied often, and a large model loads slowly
def _open(
    store: str, speech: _Speech | None, vectors: str | None, known: KnownModel | None
) -> Sources:
    found: dict[str, SpeechStore | OwnVectors] = {}
    if speech is not None:
        model: Any = known or load_speech_model(speech.model, speech.revision)
        found["speech"] = SpeechStore(
            Path(store), model, speech.pooling, speech.layers, speech.precision, speech.tokens
        )
    if vectors is not None:
        found["file"] = OwnVectors(Path(vectors))
    return found


def trained_model(config: Config, sources: Sources) -> SpeechModel | None:
    """Return the speech model, where a config trains a part of it."""
    speech = sources.get("speech")
    is_trained = isinstance(speech, SpeechStore) and config.model.speech.is_trained
    return speech.model if is_trained else None  # type: ignore[union-attr]


def built_at_once(config: Config, sources: Sources, plan: Plan) -> Sequence[Utterance]:
    """Return the utterances whose hidden states must be there before anything is trained.

    Of a speech model that is trained it is those that may prove too short for it; its statistics
    need no others than those of a training split, see `_OfWaveforms`.
    """
    if (model := trained_model(config, sources)) is None:
        return plan.utterances
    safe = 2 * model.min_samples / model.sample_rate  # s, however it is resampled
    return [u for u in plan.utterances if plan.recordings[u.audio].seconds < safe]


def check_vectors(sources: Sources, plan: Plan) -> None:
    """Refuse a file that lacks the vector of an utterance, before anything is trained.

    Raises:
        InputError: It does.
    """
    ids, hashes = [u.id for u in plan.utterances], [plan.hashes[u.audio] for u in plan.utterances]
    for source in sources.values():
        if isinstance(source, OwnVectors):
            source.check(ids, hashes)


def source_shapes(sources: Sources) -> dict[str, tuple[int, ...]]:
    """Return the shape of what each branch reads: (L, D) of `speech`, (D,) of `file`."""
    return {
        branch: (source.width,) if isinstance(source, OwnVectors) else _shape(source)
        for branch, source in sources.items()
    }


def source_facts(sources: Sources) -> dict[str, dict[str, Any]]:
    """Return what model.json says of each source: names and hashes."""
    return {
        branch: {"file": source.path.name, "sha256": source.sha256}
        if isinstance(source, OwnVectors)
        else _speech_facts(source)
        for branch, source in sources.items()
    }


def _speech_facts(store: SpeechStore) -> dict[str, Any]:
    """Return what finds the speech model of a run and decides its states: `SpeechFacts`."""
    model = store.model
    revision = {} if model.revision is None else {"revision": model.revision}
    kept = {"layers": store.layers, "precision": store.precision}
    return {"name": model.name, **revision, **model.settings, **kept}


def _shape(store: SpeechStore) -> tuple[int, int]:
    return len(store.layers), store.model.width


class _OfRows:
    """The kept hidden states of the utterances of a split; means are in memory where they fit."""

    def __init__(self, store: SpeechStore, hashes: Sequence[str]) -> None:
        self.store = store
        self.rows = [store.rows[key] for key in hashes]
        self.means: Tensor | None = None  # (n, L, D), or (n, N, L, D) with N tokens
        if store.pooling == "mean" and len(hashes) * store.recording_bytes <= IN_MEMORY:
            self.means = torch.from_numpy(store.means([row.start for row in self.rows]))

    def __call__(self, utterances: NDArray) -> Any:
        """Return hidden states: (B, L, D), or (B, N, L, D), or `Frames`."""
        if self.means is not None:
            return self.means[torch.from_numpy(utterances)]
        rows = [self.rows[i] for i in utterances.tolist()]
        if self.store.pooling == "mean":
            return torch.from_numpy(self.store.means([row.start for row in rows]))
        frames = [torch.from_numpy(np.array(self.store.frames(row))) for row in rows]  # (T, L, D)
        lengths = torch.tensor([len(one) for one in frames])
        return Frames(pad_sequence(frames, batch_first=True), lengths)


class _OfWaveforms:
    """The waveforms of the utterances of a split, for a speech model that is trained."""

    def __init__(
        self,
        store: SpeechStore,
        hashes: Sequence[str],
        recordings: Sequence[AudioSource],
        workers: int,
        device: torch.device | str,
    ) -> None:
        self.store, self.sample_rate = store, store.model.sample_rate
        self.hashes, self.recordings = hashes, recordings
        self.workers, self.device = workers, device

    @cached_property
    def at_first(self) -> _OfRows:
        """What the model gives before it is trained, computed where the store lacks it.

        Raises:
            RunError: It gives NaN or infinite numbers, or a file has changed.
        """
        wanted = dict(zip(self.hashes, self.recordings, strict=True))
        for source, reason in self.store.build(wanted, self.workers, self.device).items():
            raise RunError(f"{source} {reason}. Leave it out, or put back what it was")
        return _OfRows(self.store, self.hashes)

    def __call__(self, utterances: NDArray) -> Waves:
        """Return waveforms, read from the audio files."""
        found = [self._read(i) for i in utterances.tolist()]
        lengths = torch.tensor([len(waveform) for waveform in found])
        return Waves(pad_sequence(found, batch_first=True), lengths)

    def _read(self, i: int) -> Tensor:
        try:
            samples = read_audio(self.recordings[i], self.sample_rate, self.hashes[i])
        except BadAudio as error:
            raise RunError(
                f"{self.recordings[i]} {error}. Put the recording back, and run the same command "
                "again"
            ) from error
        return torch.from_numpy(samples)


class _OfFile:
    """The vectors of the utterances of a split."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.vectors = torch.from_numpy(vectors)

    def __call__(self, utterances: NDArray) -> Tensor:
        """Return vectors: (B, D)."""
        return self.vectors[torch.from_numpy(utterances)]


def beside(
    sources: Sources,
    ids: Sequence[str],
    hashes: Sequence[str],
    recordings: Sequence[AudioSource] | None = None,
    workers: int = 0,
    device: torch.device | str = "cpu",
) -> Mapping[str, Vectors]:
    """Return what the branches beside the images read of the utterances of a split.

    Args:
        sources: From `open_sources`, with the hidden states of these recordings built.
        ids: Utterance ids.
        hashes: Audio hash of each.
        recordings: Audio of each, where a speech model is trained, which reads the waveforms. Its
            states need not be built.
        workers: Threads that read these where statistics are made.
        device: Device that computes states for these.

    Raises:
        InputError: The file has no vector for some.
    """
    found: dict[str, Vectors] = {}
    for branch, source in sources.items():
        if isinstance(source, OwnVectors):
            found[branch] = _OfFile(source.of(ids, hashes))
        elif recordings is not None:
            found[branch] = _OfWaveforms(source, hashes, recordings, workers, device)
        else:
            found[branch] = _OfRows(source, hashes)
    return found or NOTHING


def statistics_of_each(vectors: Mapping[str, Vectors], n: int) -> dict[str, tuple[Tensor, Tensor]]:
    """Return `statistics_of` each branch; of several processes the first computes them."""
    return from_first(lambda: {name: statistics_of(own, n) for name, own in vectors.items()})


def statistics_of(vectors: Vectors, n: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of what a branch reads in training, over n utterances.

    Where nothing varies the deviation is 1. Frames or tokens of a recording have its mean. Of a
    speech model that is trained it is what it gives at first.
    """
    vectors = getattr(vectors, "at_first", vectors)
    total = squares = torch.zeros(())
    for start in range(0, n, AT_ONCE):
        some = vectors(np.arange(start, min(start + AT_ONCE, n)))
        values = some.means() if isinstance(some, Frames) else some
        values = values.double()  # (B, L, D) or (B, D), or of tokens (B, N, L, D)
        values = values.mean(1) if values.dim() == 4 else values
        total, squares = total + values.sum(0), squares + values.square().sum(0)
    mean = total / n
    deviation = (squares / n - mean.square()).clamp_min(0).sqrt()
    deviation[deviation < TINY * (1 + mean.abs())] = 1
    return mean.float(), deviation.float()
