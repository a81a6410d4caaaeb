"""The speech store: hidden states of a pretrained speech model, computed once, shared by all runs.

With mean pooling a recording has one record, the means of its hidden states (L, D): a weighted sum
of pooled states is the pooled weighted sum, so weights of layers can be learned on these. With
tokens it has one for each of as many spans, with attention pooling for each frame. The folder is
named after the model's files and all else that decides a record; see `row_store.py` for the index
and interrupted builds.

Batches are made of what is missing, so an interrupted build may differ from a whole one in the last
bits that padding and the order of sums decide.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from audio.parallel import in_parallel
from audio.reading import BadAudio, read_audio
from audio.segment import AudioSource
from models.kept_states import Beyond, KeptStates, States
from models.speech_states import SpeechModel
from storage.row_store import Item, RowStore
from system.errors import RunError

VERSION = 1  # raised when equal settings give other records
DATA_FILE = {"mean": "means", "attention": "frames"}  # by pooling, without its ending
COMMIT_ROW_BYTES = 64e6  # of records between two writes to the index


class SpeechStore(RowStore):
    """Hidden states by audio hash.

    Args:
        root: Folder that holds all stores.
        model: The speech model, in evaluation mode, on the CPU.
        pooling: `mean` keeps the means of a recording's states, `attention` its frames.
        layers: Hidden states that are kept, in this order, from 0, the input of the first layer;
            None is all.
        precision: Type of what is kept. Large models may have states beyond float16, which are
            refused by their layer.
        tokens: Means over as many spans of a recording in the place of one; with `mean`.

    Attributes:
        layers: Hidden states that are kept.
        precision: Type of what is kept.

    Raises:
        InputError: The model has no such layers.
        RunError: The files in the store's folder cannot be read.
    """

    def __init__(
        self,
        root: Path,
        model: SpeechModel,
        pooling: Literal["mean", "attention"] = "mean",
        layers: Sequence[int] | None = None,
        precision: Literal["float16", "float32"] = "float16",
        tokens: int | None = None,
    ) -> None:
        self._kept = KeptStates(model, pooling, layers, precision, tokens)
        self.model, self.pooling, self.precision = model, pooling, precision
        self.tokens = tokens
        self.layers = self._kept.layers
        described = {
            "speech_version": VERSION,
            **model.settings,
            "pooling": pooling,
            "layers": self.layers,
            "precision": precision,
            **({} if tokens is None else {"tokens": tokens}),
        }
        record = (len(self.layers), model.width)
        names = [DATA_FILE[pooling]]
        super().__init__(root, "speech-", described, names, record, precision, "speech")

    def build(
        self,
        sources: Mapping[str, AudioSource],
        workers: int,
        device: torch.device | str = "cpu",
    ) -> dict[AudioSource, str]:
        """Compute the missing records; a second builder waits for the first.

        Args:
            sources: As for `RowStore.build`.
            workers: Threads that read audio.
            device: Device that computes. The model is on the CPU before and after.
        """
        if all(key in self.rows for key in sources):
            return {}  # a model that computes nothing need not be moved, nor be there
        self.model.to(device)
        try:
            return super().build(sources, workers)
        finally:
            self.model.to("cpu")

    @property
    def recording_bytes(self) -> int:
        """Bytes of the means of a recording."""
        return self.record_bytes * (self.tokens or 1)

    def means(self, rows: Sequence[int]) -> States:
        """Return the means of recordings: (n, L, D), or of N spans of each (n, N, L, D).

        Args:
            rows: First row of each, `store.rows[hash].start`.

        Raises:
            RunError: The file was removed, cut short, or holds NaN or infinite numbers.
        """
        self._check_pooling("mean")
        every = np.asarray(rows, np.intp)[:, None] + np.arange(self.tokens or 1)  # (n, N)
        means = np.asarray(self._mapped(DATA_FILE["mean"])[every])  # (n, N, L, D)
        if not np.isfinite(means).all():
            raise RunError(
                f"the hidden states in {self.folder} are corrupt: some are NaN or infinite. Give "
                "another folder as run.store=, or remove this one; they are computed anew"
            )
        return means if self.tokens else means[:, 0]

    def frames(self, row: range) -> States:
        """Return the frames of a recording, memory-mapped: (T, L, D).

        Args:
            row: `store.rows[hash]`.

        Raises:
            RunError: The file was removed or cut short.
        """
        self._check_pooling("attention")
        return self._mapped(DATA_FILE["attention"])[row.start : row.stop]

    def _check_pooling(self, pooling: str) -> None:
        if self.pooling != pooling:
            raise ValueError(f"a store with pooling={self.pooling} keeps no {DATA_FILE[pooling]}")

    def _read(self, item: Item) -> NDArray[np.float32]:
        """Return the waveform of (audio hash, file or segment): (T,)."""
        key, source = item
        waveform = read_audio(source, self.model.sample_rate, key)
        self.model.check(waveform)
        return waveform

    def _build_chunk(
        self, chunk: Sequence[Item], workers: int, bad: dict[AudioSource, str], bar: tqdm
    ) -> None:
        """Compute the states of a chunk and append them; add unusable files to `bad`."""
        items: list[Item] = []
        waveforms: list[NDArray[np.float32]] = []
        for item, result in in_parallel(self._read, chunk, workers):
            if isinstance(result, BadAudio):
                bad[item[1]] = str(result)
                bar.update()
            else:
                items.append(item)
                waveforms.append(result)
        computed: list[tuple[str, list[States]]] = []
        for batch in self.model.batches([len(waveform) for waveform in waveforms]):
            for j, states in zip(batch, self._states([waveforms[j] for j in batch]), strict=True):
                key, source = items[j]
                bar.update()
                try:
                    computed.append((key, [self._kept.narrowed(states)]))
                except BadAudio as error:
                    bad[source] = str(error)
                except Beyond as error:  # what was stored before is kept
                    raise RunError(f"{source}: {error}") from error
            if sum(states.nbytes for _, [states] in computed) > COMMIT_ROW_BYTES:
                self._append(computed)
                computed = []
        if computed:
            self._append(computed)

    def _states(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the records of a batch: (n, L, D) each."""
        return self._kept.compute(waveforms)
