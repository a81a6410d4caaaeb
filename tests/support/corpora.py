"""A clean corpus made by hand, in which tests plant what is odd."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
import yaml

from config.loading import load_config
from config.schema import Config
from tests.audio.test_fingerprint import RATE, speech

CLASSES = ("angry", "happy", "neutral", "sad")
SPEAKERS = ("ann", "bob", "cid", "dot", "eve", "fay")
PER_CELL = 3  # utterances of each class and speaker


@dataclass
class Spoken:
    """One recording before it is written."""

    name: str
    label: str
    speaker: str
    text: str
    samples: np.ndarray  # (T,) or (T, channels)
    rate: int = RATE
    subtype: str = "PCM_16"


@dataclass
class MadeCorpus:
    """Recordings in memory, written with their manifest by `config`.

    Args:
        root: Folder of audio and manifest.
        spoken: Recordings by name, "ann-angry-0" the first.
        overrides: Of the config.
    """

    root: Path
    spoken: dict[str, Spoken] = field(default_factory=dict)
    overrides: list[str] = field(default_factory=list)

    def of(self, label: str = "", speaker: str = "") -> Iterator[Spoken]:
        """Iterate over the recordings of a class, a speaker, or both."""
        for one in list(self.spoken.values()):
            if label in ("", one.label) and speaker in ("", one.speaker):
                yield one

    def config(self) -> Config:
        """Write everything; return the config of the corpus."""
        rows = [["path", "label", "speaker", "text"]]
        for one in self.spoken.values():
            path = f"{one.name}.wav"
            soundfile.write(self.root / path, one.samples, one.rate, subtype=one.subtype)
            rows.append([path, one.label, one.speaker, one.text])
        with (self.root / "list.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        values = {
            "name": "made",
            "corpus": {
                **{"name": "manifest", "labels": "all"},
                **{"root": str(self.root), "manifest": str(self.root / "list.csv")},
            },
            "protocol": {"split": "speaker-k-fold", "n_folds": 3},
            "features": {
                "sample_rate": RATE,
                "cqt": {"fmin": 100.0, "n_bins": 40, "bins_per_octave": 8, "hop_length": 256},
                "mel": {"n_fft": 512, "hop_length": 256, "n_mels": 32},
            },
            "model": {
                **{"fusion": "gmu", "cqt_backbone": "test_maxvit", "image_size": 32},
                **{"mel_backbone": "mvitv2_micro", "pretrained": False},
            },
            "run": {
                "root": str(self.root / "runs"),
                "store": str(self.root / "store"),
                "workers": 0,
            },
        }
        path = self.root / "made.yaml"
        path.write_text(yaml.safe_dump(values))
        return load_config(path, self.overrides)


def clean_corpus(root: Path, seed: int = 9000) -> MadeCorpus:
    """Six speakers, four classes, levels and durations that say nothing; no text occurs twice."""
    made = MadeCorpus(root)
    rng = np.random.default_rng(seed)
    for speaker in SPEAKERS:
        for label in CLASSES:
            for k in range(PER_CELL):
                seed += 1
                samples = speech(seed, rng.uniform(1.1, 1.6)) * rng.uniform(0.3, 0.9)
                samples = samples - samples.mean() + 1e-3 * rng.standard_normal(len(samples))
                name = f"{speaker}-{label}-{k}"
                made.spoken[name] = Spoken(name, label, speaker, f"text {name}", samples)
    return made
