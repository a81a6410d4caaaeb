"""Small corpora of tones beside the tiny IEMOCAP, and configs that train and test on them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
import yaml

from tests.conftest import PITCHES, RECIPE, SAMPLE_RATE, tone

EMOTIONS = {"01": "neu", "03": "hap", "04": "sad", "05": "ang"}  # of RAVDESS's file names
WORDS = {"neu": "neutral", "hap": "joy", "sad": "sad", "ang": "angry"}  # of the folder
CLASSES = ["neutral", "happy", "angry", "sad"]


def write_ravdess(root: Path, actors: Sequence[int] = range(1, 7), seed: int = 5000) -> Path:
    """Write a RAVDESS of one tone for each actor and class; odd actors are men."""
    for actor in actors:
        for i, (emotion, label) in enumerate(EMOTIONS.items()):
            path = root / f"Actor_{actor:02d}" / f"03-01-{emotion}-01-01-01-{actor:02d}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            pitch = PITCHES[label] * (1 + 0.013 * actor)
            samples = tone(pitch, 0.2 + 0.02 * i, seed + 10 * actor + i)
            soundfile.write(path, samples, SAMPLE_RATE)
    return root


def write_own(root: Path, speakers: Sequence[str] = ("01", "02"), seed: int = 9000) -> Path:
    """Write a folder of two speakers whose label for happy is joy: SPEAKER/LABEL/0.wav."""
    for number, speaker in enumerate(speakers):
        for i, (label, word) in enumerate(WORDS.items()):
            path = root / speaker / word / "0.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            samples = tone(PITCHES[label] * (1.07 + 0.01 * number), 0.25, seed + 10 * number + i)
            soundfile.write(path, samples, SAMPLE_RATE)
    return root


def ravdess(root: Path, **more: Any) -> dict[str, Any]:
    """Return the section of a tiny RAVDESS."""
    known = {"name": "ravdess", "labels": "ravdess8", "classes": list(CLASSES)}
    return {**known, "root": str(root), "expect_published_counts": False, **more}


def iemocap(root: Path, **more: Any) -> dict[str, Any]:
    """Return the section of the tiny IEMOCAP."""
    known = {"name": "iemocap", "labels": "iemocap4-exc", "expect_published_counts": False}
    return {**known, "root": str(root), **more}


def own(root: Path, **more: Any) -> dict[str, Any]:
    """Return the section of a folder with speakers."""
    known = {"name": "folder", "labels": "all", "layout": "{speaker}/{label}/*.wav"}
    return {**known, "label_map": {"joy": "happy"}, "root": str(root), **more}


def write_config(
    folder: Path, corpora: Sequence[Mapping[str, Any]] | Mapping[str, Any], **more: Any
) -> Path:
    """Write a config that trains a tiny fold in a second or two; a corpus alone is no list."""
    values: dict[str, Any] = {**RECIPE, "name": "several", **more, "corpus": corpora}
    values["run"] = {"root": str(folder / "runs"), "store": str(folder / "features")}
    values["run"] |= {"device": "cpu", "workers": 0}
    is_list = not isinstance(corpora, Mapping)
    values["protocol"] = more.get("protocol", {"split": "cross-corpus"}) if is_list else {}
    values["protocol"] = more.get("protocol", values["protocol"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "several.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path
