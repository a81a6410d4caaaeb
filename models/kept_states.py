"""Hidden states as runs keep and read them: of some layers, means or frames, in a precision.

Of a recording of T frames are kept, as n rows (n, L, D):

    mean               n = 1, the mean over its frames
    mean, with tokens  n tokens, the means over n equal spans of its frames
    attention          n = T, the frames
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from audio.opening import BadAudio
from models.speech_states import SpeechModel

MAX_FLOAT16 = 65_504.0

States = NDArray[np.float16] | NDArray[np.float32]


class Beyond(ValueError):
    """States are larger than the precision in which they are kept."""


@contextmanager
def _without_tf32() -> Iterator[None]:
    """Compute in float32 on a GPU: what is kept is shared by runs of any `train.precision`."""
    cudnn: Any = torch.backends.cudnn
    before = torch.get_float32_matmul_precision(), cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        cudnn.allow_tf32 = before[1]


class KeptStates:
    """What is kept of recordings.

    Args:
        model: The speech model, in evaluation mode, on the device that is to compute.
        pooling: `mean` keeps the means of a recording's states, `attention` its frames.
        layers: Hidden states that are kept, in this order, from 0, the input of the first layer;
            None is all.
        precision: Type of what is kept.
        tokens: Means over as many spans in the place of one; with `mean`.

    Raises:
        InputError: The model has no such layers.
    """

    def __init__(
        self,
        model: SpeechModel,
        pooling: Literal["mean", "attention"],
        layers: Sequence[int] | None,
        precision: Literal["float16", "float32"],
        tokens: int | None = None,
    ) -> None:
        self.model, self.pooling, self.precision = model, pooling, precision
        self.tokens = tokens
        self.layers = model.check_layers(layers)

    @torch.inference_mode()
    @_without_tf32()
    def compute(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        """Return the states of recordings at the model's rate: (n, L, D) each."""
        if self.tokens:
            return list(self.model.spans(waveforms, self.tokens, self.layers).cpu().numpy())
        if self.pooling == "mean":
            return list(self.model.means(waveforms, self.layers).cpu().numpy()[:, None])
        states, lengths = self.model(waveforms, self.layers)  # (B, T, L, D), (B,)
        on_cpu = states.cpu().numpy()
        return [on_cpu[i, :n] for i, n in enumerate(lengths.tolist())]

    def narrowed(self, states: NDArray[np.float32]) -> States:
        """Return states in the precision of what is kept: (n, L, D).

        Raises:
            BadAudio: Some are NaN or infinite.
            Beyond: Some are larger than float16 holds.
        """
        if (layer := self._first_layer(~np.isfinite(states))) is not None:
            raise BadAudio(f"has hidden states that are NaN or infinite, {layer} the first")
        if self.precision == "float32":
            return states
        if (layer := self._first_layer(np.abs(states) > MAX_FLOAT16)) is not None:
            raise Beyond(
                f"{layer} of the speech model {self.model.name} reaches "
                f"{np.abs(states).max():.3g}, and float16 ends at {MAX_FLOAT16:.0f}: keep the "
                "states with precision float32, or leave that layer out"
            )
        return states.astype(np.float16)

    def _first_layer(self, is_odd: NDArray[np.bool_]) -> str | None:
        """Return the first hidden state with an odd number, (n, L, D); None if there is none."""
        odd = np.flatnonzero(is_odd.any((0, 2)))
        return f"state {self.layers[odd[0]]}" if len(odd) else None
