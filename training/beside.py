"""What the branches `speech` and `file` read, beside the images or in their place.

Hidden states of a speech model are computed once for each recording and kept in the feature store
of `run.store`; vectors of the user's own are read from their file. Both are opened once a session.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from config.schema import Config
from data import NOTHING, Vectors
from models.speech import Frames, load_speech_model
from storage.own_vectors import OwnVectors
from storage.speech_store import SpeechStore

Sources = Mapping[str, SpeechStore | OwnVectors]
AT_ONCE = 256  # utterances in memory
IN_MEMORY = 2**30  # bytes of the means of a split; more are read from the store batch by batch
TINY = 1e-6


def open_sources(config: Config) -> Sources:
    """Open what the branches beside the images read, once in a process; empty without any.

    Raises:
        InputError: There is no such model or file, or it holds something else.
    """
    model = config.model
    speech = vectors = None
    if "speech" in model.reads:
        settings = model.speech
        layers = None if settings.layers is None else tuple(settings.layers)
        pooling, precision = settings.pooling or "mean", settings.precision or "float16"
        speech = _Speech(settings.model or "", settings.revision, pooling, precision, layers)
    if "file" in model.reads:
        vectors = model.vectors
    return _open(config.run.store, speech, vectors)


class _Speech(NamedTuple):
    """What decides the hidden states that are kept."""

    model: str
    revision: str | None
    pooling: Literal["mean", "attention"]
    precision: Literal["float16", "float32"]
    layers: tuple[int, ...] | None


@lru_cache(maxsize=2)  # a session is copied often, and a large model loads slowly
def _open(store: str, speech: _Speech | None, vectors: str | None) -> Sources:
    found: dict[str, SpeechStore | OwnVectors] = {}
    if speech is not None:
        model = load_speech_model(speech.model, speech.revision)
        found["speech"] = SpeechStore(
            Path(store), model, speech.pooling, speech.layers, speech.precision
        )
    if vectors is not None:
        found["file"] = OwnVectors(Path(vectors))
    return found


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
        else {"name": source.model.name, **source.model.settings, "layers": source.layers}
        for branch, source in sources.items()
    }


def _shape(store: SpeechStore) -> tuple[int, int]:
    return len(store.layers), store.model.width


class _OfRows:
    """The kept hidden states of the utterances of a split; means are in memory where they fit."""

    def __init__(self, store: SpeechStore, hashes: Sequence[str]) -> None:
        self.store = store
        self.rows = [store.rows[key] for key in hashes]
        self.means: Tensor | None = None  # (N, L, D)
        if store.pooling == "mean" and len(hashes) * store.record_bytes <= IN_MEMORY:
            self.means = torch.from_numpy(store.means([row.start for row in self.rows]))

    def __call__(self, utterances: NDArray) -> Any:
        """Return hidden states: (B, L, D), or `Frames`."""
        if self.means is not None:
            return self.means[torch.from_numpy(utterances)]
        rows = [self.rows[i] for i in utterances.tolist()]
        if self.store.pooling == "mean":
            return torch.from_numpy(self.store.means([row.start for row in rows]))
        frames = [torch.from_numpy(np.array(self.store.frames(row))) for row in rows]  # (T, L, D)
        lengths = torch.tensor([len(one) for one in frames])
        return Frames(pad_sequence(frames, batch_first=True), lengths)


class _OfFile:
    """The vectors of the utterances of a split."""

    def __init__(self, vectors: NDArray[np.float32]) -> None:
        self.vectors = torch.from_numpy(vectors)

    def __call__(self, utterances: NDArray) -> Tensor:
        """Return vectors: (B, D)."""
        return self.vectors[torch.from_numpy(utterances)]


def beside(sources: Sources, ids: Sequence[str], hashes: Sequence[str]) -> Mapping[str, Vectors]:
    """Return what the branches beside the images read of the utterances of a split.

    Args:
        sources: From `open_sources`, with the hidden states of these recordings built.
        ids: Utterance ids.
        hashes: Audio hash of each.

    Raises:
        InputError: The file has no vector for some.
    """
    found: dict[str, Vectors] = {}
    for branch, source in sources.items():
        if isinstance(source, OwnVectors):
            found[branch] = _OfFile(source.of(ids, hashes))
        else:
            found[branch] = _OfRows(source, hashes)
    return found or NOTHING


def statistics_of(vectors: Vectors, n: int) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of what a branch reads in training, over n utterances.

    Where nothing varies the deviation is 1. Frames of a recording count as one utterance each.
    """
    total = squares = torch.zeros(())
    for start in range(0, n, AT_ONCE):
        some = vectors(np.arange(start, min(start + AT_ONCE, n)))
        values = some.means() if isinstance(some, Frames) else some
        values = values.double()  # (B, ...)
        total, squares = total + values.sum(0), squares + values.square().sum(0)
    mean = total / n
    deviation = (squares / n - mean.square()).clamp_min(0).sqrt()
    deviation[deviation < TINY * (1 + mean.abs())] = 1
    return mean.float(), deviation.float()
