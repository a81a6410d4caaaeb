"""What is odd in a corpus: one finding for each kind, with numbers, meaning and what to set."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from config.schema import Config
from corpora.survey import Survey
from corpora.unannotated_speakers import speaker_name
from corpora.utterance import Utterance

CHECK, KNOW = "check", "know"


class Finding(NamedTuple):
    """Something that a researcher should know before training.

    Args:
        id: Name of the kind, for tables and programs.
        weight: `check`: perhaps a fault of the data; `know`: true of the data, and may matter.
        title: What it is, with its numbers.
        meaning: What follows from it.
        remedy: What to do; keys of a config as `section.key=value`.
        utterances: Ids of the utterances concerned, most striking first; empty where it is not
            about single ones.
        details: One line for each thing that is named.
    """

    id: str
    weight: str
    title: str
    meaning: str
    remedy: str
    utterances: Sequence[str] = ()
    details: Sequence[str] = ()


Rule = Callable[[Survey], Finding | None]


def ids(utterances: Iterable[Utterance]) -> list[str]:
    """Return the ids of utterances, each once, in their order."""
    return list(dict.fromkeys(one.id for one in utterances))


def who(utterance: Utterance) -> str:
    """Return the id of an utterance, with its class and speaker."""
    return f"{utterance.id} ({utterance.label}, {speaker_name(utterance.speaker)})"


def without_places(text: str, config: Config) -> str:
    """Return a text without the folders of this machine: paths are relative to `corpus.root`.

    Args:
        text: Text with paths; those of other files of the config keep their name alone.
        config: Config of the run.
    """
    root = Path(config.corpus.root).expanduser()
    files = [config.corpus.manifest, config.protocol.folds, config.run.store, config.run.root]
    folders = {str(path): "corpus.root" for path in (root, root.absolute(), root.resolve())}
    for path in (Path(name).expanduser() for name in files if name is not None):
        folders |= {
            str(place.parent): ""
            for place in (path, path.absolute(), path.resolve())
            if str(place.parent) not in folders
        }
    for folder in sorted(filter(os.path.isabs, folders), key=len, reverse=True):
        if folder != "/":
            place = rf"(?<![\w/.-]){re.escape(folder)}"
            text = re.sub(rf"{place}/(?=[^\s/])", "", text)
            text = re.sub(rf"{place}(?![\w/.-])", folders[folder] or Path(folder).name, text)
    return text


def percent(share: float) -> str:
    """Return a share in percent, with a decimal where it is small.

    >>> percent(0.428), percent(0.0042), percent(1.0)
    ('43 %', '0.4 %', '100 %')
    """
    value = 100 * share
    return f"{value:.1f} %" if 0 < value < 9.95 and value != round(value) else f"{value:.0f} %"


def hertz(value: float) -> str:
    """Return a frequency.

    >>> hertz(440), hertz(16_000), hertz(3969.4)
    ('440 Hz', '16 kHz', '3.97 kHz')
    """
    return f"{value:.0f} Hz" if value < 1000 else f"{value / 1000:.3g} kHz"
