"""Hidden states of a pretrained speech transformer: recordings in batches, each as if alone.

Shapes: B recordings, T frames (20 ms for the published models), L hidden states, D their width.
State 0 is the input of the first layer, state i the output of layer i. The last is the network's
output, behind the final norm of models that have one. So were the `hidden_states` of transformers
up to its version 5.0; later ones give the last before that norm.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from audio.opening import BadAudio
from models.speech_files import SpeechFiles
from system.errors import InputError

# Model types of transformers that read a waveform, and whether a mask hides padding from a model
# with layer norms. Not so in data2vec, whose positions are convolved five times without the mask,
# and in conformers, whose layers convolve, too.
WAVEFORM = {
    "wav2vec2": True,
    "hubert": True,
    "wavlm": True,
    "unispeech": True,
    "unispeech-sat": True,
    "data2vec-audio": False,
    "wav2vec2-conformer": False,
}
PIECE_SECONDS = 60  # longest waveform that a model sees at once: WavLM's memory grows as its square
BATCH_SECONDS = 30  # of audio with padding that are in a model at once


@contextmanager
def _without_onednn() -> Iterator[None]:
    """Leave oneDNN out on a CPU: it keeps buffers of up to 1024 shapes, which may be gigabytes."""
    onednn: Any = torch.backends.mkldnn
    before = onednn.enabled
    onednn.enabled = False
    try:
        yield
    finally:
        onednn.enabled = before


class SpeechModel(nn.Module):
    """A pretrained speech transformer: waveforms to hidden states.

    A recording's states do not depend on those beside it. One that is longer than `piece_seconds`
    is cut into equal pieces, each of which the network sees alone.

    Args:
        files: Files of the model.
        network: Its network, a module of transformers.
        sample_rate: Sampling rate of its waveforms, Hz.

    Attributes:
        files: Its files.
        identity: SHA-256 of its files, the same wherever they lie.
        n_states: L, the number of layers and one: state 0 is the input of the first.
        width: D of a hidden state.
        pads: Whether recordings of unlike lengths share a batch, behind a mask.
    """

    piece_seconds: float = PIECE_SECONDS
    min_samples = 1  # of one frame
    pads = True

    def __init__(self, files: SpeechFiles, network: Any, sample_rate: int) -> None:
        super().__init__()
        self.files, self.name = files, files.name
        self.identity = files.identity()
        self.network = network
        self.sample_rate = sample_rate
        config = network.config
        self.n_states = int(config.num_hidden_layers) + 1
        self.width = int(config.hidden_size)

    @property
    def revision(self) -> str | None:
        """Of a model of the hub, as the user gave it."""
        return self.files.revision

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its hidden states, for keys of what is computed with it."""
        return {
            "model": self.identity,
            "sample_rate": self.sample_rate,
            "piece_seconds": self.piece_seconds,
        }

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of a piece of a waveform."""
        raise NotImplementedError

    def check(self, waveform: NDArray[np.float32]) -> None:
        """Refuse a waveform that is shorter than one frame.

        Raises:
            BadAudio: It is.
        """
        if len(waveform) < self.min_samples:
            have, need = (1000 * n / self.sample_rate for n in (len(waveform), self.min_samples))
            raise BadAudio(
                f"is too short: {have:.3g} ms, where the speech model {self.name} needs {need:.3g}"
            )

    def check_layers(self, layers: Sequence[int] | None) -> list[int]:
        """Return the hidden states that are meant; None is all.

        Raises:
            InputError: The model has no such state, or one is named twice or none at all.
        """
        wanted = list(range(self.n_states)) if layers is None else list(layers)
        wrong = [layer for layer in wanted if not 0 <= layer < self.n_states]
        if wrong or not wanted or len(set(wanted)) < len(wanted):
            raise InputError(
                f"layers {wanted} of the speech model {self.name}: name hidden states from 0, the "
                f"input of the first layer, to {self.n_states - 1}, each once"
            )
        return wanted

    def forward(
        self, waveforms: Sequence[NDArray[np.float32]], layers: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the hidden states of recordings, and the number of frames of each.

        Args:
            waveforms: (t,) each, at `sample_rate`, of any lengths.
            layers: Hidden states that are returned; None is all.

        Shape:
            (B, T, L, D), zeros behind a recording's end; (B,)

        Raises:
            BadAudio: A waveform is shorter than one frame.
            InputError: The model has no such hidden states.
            ValueError: There are no waveforms.
        """
        parts: list[dict[int, Tensor]] = [{} for _ in waveforms]
        for i, first, states in self._states(waveforms, layers):
            parts[i][first] = states
        whole = [torch.cat([part[t] for t in sorted(part)]) for part in parts]  # (T, L, D) each
        lengths = torch.tensor([len(states) for states in whole], device=whole[0].device)
        return pad_sequence(whole, batch_first=True), lengths

    def means(
        self, waveforms: Sequence[NDArray[np.float32]], layers: Sequence[int] | None = None
    ) -> Tensor:
        """Return the means of hidden states over the frames of each recording: (B, L, D).

        Arguments and errors are those of `forward`; of long recordings one piece is in memory.
        """
        sums: list[Tensor | float] = [0.0] * len(waveforms)
        n_frames = [0] * len(waveforms)
        for i, _, states in self._states(waveforms, layers):
            sums[i] = sums[i] + states.sum(0)  # (L, D)
            n_frames[i] += len(states)
        return torch.stack([torch.as_tensor(s) / n for s, n in zip(sums, n_frames, strict=True)])

    def spans(
        self,
        waveforms: Sequence[NDArray[np.float32]],
        n: int,
        layers: Sequence[int] | None = None,
    ) -> Tensor:
        """Return the means of hidden states over n equal spans of each recording: (B, n, L, D).

        Of T frames, span i has those from floor(i T / n) to ceil((i + 1) T / n), as torch's
        adaptive average pooling has them: neighbours share a frame where n does not divide T.

        Arguments and errors are those of `forward`; of long recordings one piece is in memory.
        """
        sums: list[Tensor | float] = [0.0] * len(waveforms)
        sizes = []  # frames in each span: (n,) of each recording
        spans = []
        for waveform in waveforms:
            pieces = self._pieces(len(waveform))
            total = sum(self.n_frames(piece.stop - piece.start) for piece in pieces)
            spans.append([(i * total // n, -(-(i + 1) * total // n)) for i in range(n)])
            sizes.append(torch.tensor([last - first for first, last in spans[-1]]))
        for i, first, states in self._states(waveforms, layers):
            frames = range(first, first + len(states))
            inside = [[float(a <= t < b) for t in frames] for a, b in spans[i]]
            which = torch.tensor(inside, device=states.device)  # (n, t)
            sums[i] = sums[i] + torch.einsum("nt,tld->nld", which, states)
        means = [
            torch.as_tensor(s) / size.to(s.device)[:, None, None]  # type: ignore[union-attr]
            for s, size in zip(sums, sizes, strict=True)
        ]
        return torch.stack(means)

    def _pieces(self, n_samples: int) -> list[slice]:
        """Cut a recording into equal pieces, which the network sees alone."""
        most = int(self.piece_seconds * self.sample_rate)
        size = math.ceil(n_samples / math.ceil(n_samples / most))
        starts = range(0, n_samples, size)
        return [slice(start, min(start + size, n_samples)) for start in starts]

    def _states(
        self, waveforms: Sequence[NDArray[np.float32]], layers: Sequence[int] | None
    ) -> Iterator[tuple[int, int, Tensor]]:
        """Yield (recording, first frame, states of a piece from there: (t, L, D)), in no order."""
        wanted = self.check_layers(layers)
        if not waveforms:
            raise ValueError("there are no waveforms: give at least one")
        pieces: list[tuple[int, int, NDArray[np.float32]]] = []
        for i, waveform in enumerate(waveforms):
            self.check(waveform)
            whole, first = self._normalized(waveform), 0
            for place in self._pieces(len(whole)):
                pieces.append((i, first, whole[place]))
                first += self.n_frames(place.stop - place.start)
        for group in self.batches([len(piece) for *_, piece in pieces]):
            batch = [pieces[j] for j in group]
            inputs = self._inputs([piece for *_, piece in batch])
            with _without_onednn():
                output = self.network(**inputs, output_hidden_states=True)
            every = [*output.hidden_states[:-1], output.last_hidden_state]  # L x (b, T, D)
            states = torch.stack([every[layer] for layer in wanted], 2)  # (b, T, L, D)
            for (i, first, piece), of_piece in zip(batch, states, strict=True):
                yield i, first, of_piece[: self.n_frames(len(piece))]

    def batches(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Split waveforms by their lengths in samples into what the network sees at once.

        A batch has at most BATCH_SECONDS with padding, or one waveform; where padding would have an
        effect, waveforms of one length. Yields indices.
        """
        most = BATCH_SECONDS * self.sample_rate
        batch: list[int] = []
        for j in sorted(range(len(lengths)), key=lengths.__getitem__):
            too_many = (len(batch) + 1) * self._padded(lengths[j]) > most
            if batch and (too_many or (not self.pads and lengths[batch[0]] != lengths[j])):
                yield batch
                batch = []
            batch.append(j)
        if batch:
            yield batch

    def _padded(self, n_samples: int) -> int:
        """Return the samples that a piece takes in a batch of which it is the longest."""
        return n_samples

    def _normalized(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a whole recording as the network expects it."""
        return waveform

    def _inputs(self, pieces: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """Return the arguments of the network for some pieces."""
        raise NotImplementedError


class WaveformModel(SpeechModel):
    """wav2vec2 and its kin: convolutions over the waveform, then a transformer.

    With `feat_extract_norm: group` the first convolution is normalized over the whole time axis,
    padding included, and no mask changes that: such models get recordings of equal length, or one.
    """

    def __init__(self, files: SpeechFiles, network: Any, extractor: Any) -> None:
        super().__init__(files, network, int(extractor.sampling_rate))
        config = network.config
        self.normalizes = bool(extractor.do_normalize)
        self._convolutions = list(zip(config.conv_kernel, config.conv_stride, strict=True))
        self.min_samples = 1
        for kernel, stride in reversed(self._convolutions):
            self.min_samples = (self.min_samples - 1) * stride + kernel
        self.pads = (
            WAVEFORM[config.model_type]
            and config.feat_extract_norm == "layer"
            and not getattr(config, "conv_pos_batch_norm", False)  # shifts the padding, of HuBERT
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides its hidden states, for keys of what is computed with it."""
        return {**super().settings, "normalizes": self.normalizes}

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of a piece of a waveform."""
        for kernel, stride in self._convolutions:
            n_samples = (n_samples - kernel) // stride + 1
        return n_samples

    def _normalized(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a recording with zero mean and unit variance, as the extractor does."""
        if not self.normalizes:
            return waveform
        scaled: NDArray[np.float32] = (waveform - waveform.mean()) / np.sqrt(waveform.var() + 1e-7)
        return scaled

    def _inputs(self, pieces: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """Return padded waveforms (b, t), and a mask unless all are of one length."""
        lengths = [len(piece) for piece in pieces]
        tensors = [torch.from_numpy(np.ascontiguousarray(piece)) for piece in pieces]
        inputs = {"input_values": pad_sequence(tensors, batch_first=True)}
        if len(set(lengths)) > 1:
            inside = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (b, t)
            inputs["attention_mask"] = inside.long()
        return {name: value.to(self.network.device) for name, value in inputs.items()}


class WhisperModel(SpeechModel):
    """Whisper's encoder: a log-mel spectrogram that is padded with silence to 30 s."""

    def __init__(self, files: SpeechFiles, network: Any, extractor: Any) -> None:
        super().__init__(files, network, int(extractor.sampling_rate))
        config = network.config
        made = (extractor.feature_size, extractor.n_samples // extractor.hop_length)
        if made != (wanted := (config.num_mel_bins, 2 * config.max_source_positions)):
            raise files.refuse(
                f"its feature extractor makes {made[0]} bands x {made[1]} frames, where the "
                f"encoder reads {wanted[0]} x {wanted[1]}"
            )
        self._extractor = extractor
        self._longest: int = extractor.n_samples
        self.piece_seconds = self._longest / self.sample_rate
        self._frame: int = 2 * extractor.hop_length  # samples: the encoder halves the frames

    def n_frames(self, n_samples: int) -> int:
        """Return the number of frames of a piece of a waveform."""
        return math.ceil(n_samples / self._frame)

    def _padded(self, n_samples: int) -> int:
        return self._longest

    def _inputs(self, pieces: Sequence[NDArray[np.float32]]) -> dict[str, Tensor]:
        """Return log-mel spectrograms: (b, bands, frames)."""
        with torch.autocast("cpu", enabled=False):  # it computes in torch, and returns NumPy
            made = self._extractor(
                list(pieces), sampling_rate=self.sample_rate, return_tensors="pt"
            )
        return {"input_features": made["input_features"].to(self.network.device)}
