#!/usr/bin/env bash
# ONNX Runtime 1.32.0, CPU: a DFT whose length is no power of two is 35 to 55 dB less precise.
#
# Spectrograms are exported to ONNX with its operator DFT (or STFT). Frames of speech models are
# often 25 ms: 400 samples at 16 kHz, or 100 ms at 44.1 kHz, 4410. In float32 an FFT of noise is
# right to about -150 dB (NumPy). ONNX Runtime's is right to about -127 dB at powers of two, and the
# error grows with the length elsewhere: above the floor of -80 dB that log spectrograms have, so
# that quiet cells of an image are the error. No warning is given.
#
# Seen, error against float64 relative to the spectrum: 512: -127 dB, 400: -91 dB, 4096: -125 dB,
# 4410: -69 dB. Way out: pad frames to a power of two, split the length into two steps of small
# matrix products, or convolve with cosines and sines.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnx==1.23.2 onnxruntime==1.32.0 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper


def transform(samples: np.ndarray) -> np.ndarray:
    """Return the one-sided DFT of a frame by ONNX Runtime: (n,) -> (n / 2 + 1,)."""
    n = len(samples)
    constants = [
        helper.make_tensor("n", TensorProto.INT64, [], [n]),
        helper.make_tensor("axis", TensorProto.INT64, [], [1]),
    ]
    graph = helper.make_graph(
        [helper.make_node("DFT", ["x", "n", "axis"], ["y"], onesided=1)],
        "frame",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, n, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    [found] = session.run(None, {"x": samples[None, :, None]})  # (1, n / 2 + 1, 2)
    return found[0, :, 0] + 1j * found[0, :, 1]


def error_db(found: np.ndarray, exact: np.ndarray) -> float:
    return float(20 * np.log10(np.linalg.norm(found - exact) / np.linalg.norm(exact)))


errors = {}
for n in (400, 512, 4096, 4410):
    samples = np.random.default_rng(0).standard_normal(n).astype(np.float32)
    exact = np.fft.rfft(samples.astype(np.float64))
    errors[n] = error_db(transform(samples), exact)
    by_numpy = error_db(np.fft.rfft(samples), exact)
    print(f"{n} samples: ONNX Runtime {errors[n]:.0f} dB, NumPy {by_numpy:.0f} dB")
    assert by_numpy < -140
assert errors[512] < -120 and errors[4096] < -120, "powers of two were precise"
assert -96 < errors[400] < -86 and -74 < errors[4410] < -64, "others were not"
PYTHON
echo "as described"
