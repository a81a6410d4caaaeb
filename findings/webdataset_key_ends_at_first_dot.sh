#!/usr/bin/env bash
# webdataset 1.0.2: a key ends at its first dot, also where the library itself wrote the key.
#
# Segments of videos are often named by their times, as in video_12.0_14.5. TarWriter takes such a
# key without a word. On reading, "video_12" is the key and "0_14.5.wav" the field, so that clips
# that follow one another and share the part before the dot come back as one sample: three clips
# with three labels are one, nothing has the field "wav", and nothing is said.
#
# Seen: three samples written, one sample read, with six fields. Way out: keys without a dot.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check webdataset==1.0.2 numpy==2.4.6
cd "$work"
venv/bin/python - <<'PYTHON'
import io
import wave

import webdataset as wds


def silence(n: int) -> bytes:
    """Return a WAV file of n samples."""
    file = io.BytesIO()
    with wave.open(file, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(16_000)
        sound.writeframes(bytes(2 * n))
    return file.getvalue()


clips = {"video_12.0_14.5": "happy", "video_12.0_15.0": "sad", "video_12.7_16.0": "angry"}
with wds.TarWriter("clips.tar") as tar:
    for i, (key, label) in enumerate(clips.items()):
        tar.write({"__key__": key, "wav": silence(100 + i), "cls": label.encode()})

samples = list(wds.WebDataset("clips.tar", shardshuffle=False))
for sample in samples:
    print(sample["__key__"], sorted(field for field in sample if not field.startswith("__")))
assert [sample["__key__"] for sample in samples] == ["video_12"]
assert "wav" not in samples[0] and len([f for f in samples[0] if f.endswith(".wav")]) == 3
print("as described: three clips were written, one sample was read")
PYTHON
