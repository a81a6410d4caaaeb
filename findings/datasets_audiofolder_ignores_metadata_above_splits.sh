#!/usr/bin/env bash
# datasets 5.2.0: metadata.csv above the folders train and test is not read, and nothing is said.
#
# An audiofolder may have one metadata.csv, whose file_name says where each recording lies. Where the
# folders below it are called train and test, each becomes a split, and the splits take the files of
# their folder alone: the metadata belongs to none. `load_dataset` then infers labels as if there
# were no metadata: from the folders, so that the label of a recording is the name of its split, and
# the label of another is missing.
#
# Seen: labels of the file joy and awe; read: no label in train, "test" in test, no speakers. With a
# metadata.csv in each folder the labels are read. Way out: one metadata.csv in each split.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check \
    datasets==5.2.0 torchcodec==0.17.0 torch==2.14.1 numpy soundfile
cd "$work"
export HF_HOME="$work/cache" HF_HUB_OFFLINE=1 HF_DATASETS_DISABLE_PROGRESS_BARS=1
venv/bin/python - <<'PYTHON'
from pathlib import Path

import numpy
import soundfile
from datasets import Audio, Features, Value, load_dataset

FEATURES = Features(
    audio=Audio(decode=False), label=Value("string"), speaker=Value("string")
)
HEADER = "file_name,label,speaker\n"


def read(root):
    found = load_dataset("audiofolder", data_dir=str(root), features=FEATURES)
    return {
        split: [(row["label"], row["speaker"]) for row in rows] for split, rows in found.items()
    }


for root in (Path("above"), Path("inside")):
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        soundfile.write(root / split / "1.wav", numpy.zeros(1600), 16000)
Path("above/metadata.csv").write_text(HEADER + "train/1.wav,joy,ann\ntest/1.wav,awe,bob\n")
Path("inside/train/metadata.csv").write_text(HEADER + "1.wav,joy,ann\n")
Path("inside/test/metadata.csv").write_text(HEADER + "1.wav,awe,bob\n")

above, inside = read(Path("above")), read(Path("inside"))
print("metadata.csv above the splits:", above)
print("metadata.csv in each split:   ", inside)
assert inside == {"train": [("joy", "ann")], "test": [("awe", "bob")]}, inside
assert above == {"train": [(None, None)], "test": [("test", None)]}, above
PYTHON
echo "as described"
