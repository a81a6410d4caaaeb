"""Label recordings with ONNX Runtime alone: `python example.py recording.wav ...`.

Needs numpy, soundfile and onnxruntime. Prints a JSON line for each file: probabilities (ratings of
a model of ratings), and the gate of a gated model, from 0 (Mel-STFT) to 1 (CQT).
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import soundfile

FOLDER = Path(__file__).resolve().parent
BUNDLE = json.loads((FOLDER / "bundle.json").read_text(encoding="utf-8"))
RATE, TRIM_DB = BUNDLE["sample_rate"], BUNDLE["trim_db"]  # Hz, dB or None


def resample(x: np.ndarray, rate: int) -> np.ndarray:
    """Change the rate through the spectrum: (T,) -> (T',)."""
    size = int(np.ceil(len(x) / rate + 0.1)) * rate  # whole seconds, 0.1 s of silence or more
    spectrum = np.fft.rfft(x, size)[: size // rate * min(rate, RATE) // 2]
    return np.fft.irfft(spectrum, size // rate * RATE)[: round(len(x) * RATE / rate)] * RATE / rate


def trim(x: np.ndarray) -> np.ndarray:
    """Cut off silent ends: frames TRIM_DB below the loudest one."""
    frame, hop = round(2048 / 44_100 * RATE), round(512 / 44_100 * RATE)
    sums = np.cumsum(np.pad(np.square(x.astype(float)), (frame // 2 + 1, frame // 2)))
    starts = hop * np.arange((len(sums) - 1 - frame) // hop + 1)
    levels = sums[starts + frame] - sums[starts]
    loud = np.flatnonzero(levels > levels.max() * 10 ** (-TRIM_DB / 10))
    return x[loud[0] * hop : (loud[-1] + 1) * hop] if len(loud) else x


if __name__ == "__main__":
    session = onnxruntime.InferenceSession(FOLDER / "model.onnx")
    for name in sys.argv[1:]:
        samples, rate = soundfile.read(name, dtype="float32", always_2d=True)
        x = samples.mean(1)
        x = x if rate == RATE else resample(x, rate)
        x = x if TRIM_DB is None else trim(x)
        outputs = session.run(None, {"waveform": x[None].astype(np.float32)})  # any batch (B, T)
        found = dict(zip(BUNDLE["classes"], outputs[0][0].tolist(), strict=True))
        gate = {"gate": float(outputs[1][0])} if len(outputs) > 1 else {}
        print(json.dumps({"path": name, "probs": found, **gate}))
