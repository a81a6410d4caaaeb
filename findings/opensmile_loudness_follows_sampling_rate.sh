#!/usr/bin/env bash
# opensmile 2.6.0, eGeMAPSv02: the loudness of one and the same sound depends on its sampling rate.
#
# The sound here has nothing above 4 kHz, so 16 and 48 kHz hold the same signal. Its mean loudness at
# 16 kHz is 0.554 of that at 48 kHz, while mean pitch is 1.000: all functionals of loudness move with
# the rate, and nothing is said. On RAVDESS (48 kHz, brought to 16) it is 45 % lower, too. A model that
# was trained at one rate sees other values at another: bring all audio to one stated rate first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check opensmile==2.6.0 soxr==1.0.0 numpy
cd "$work"
venv/bin/python - <<'PYTHON'
import numpy as np
import opensmile
import soxr

RATE, SECONDS, PITCH, TOP = 48_000, 2, 180.0, 4000  # Hz, s, Hz, Hz
t = np.arange(SECONDS * RATE) / RATE
voice = sum(np.sin(2 * np.pi * k * PITCH * t) / k for k in range(1, int(TOP / PITCH)))
voice = (0.1 * voice * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * t))).astype(np.float32)
smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
found = {
    rate: smile.process_signal(soxr.resample(voice, RATE, rate, "VHQ"), rate).iloc[0]
    for rate in (16_000, RATE)
}
low, high = found.values()
loudness, pitch = (
    float(low[name] / high[name])
    for name in ("loudness_sma3_amean", "F0semitoneFrom27.5Hz_sma3nz_amean")
)
print(f"16 kHz in parts of 48 kHz: mean loudness {loudness:.3f}, mean pitch {pitch:.3f}")
assert loudness < 0.75 and abs(pitch - 1) < 0.01
print("as described: the loudness follows the sampling rate")
PYTHON
