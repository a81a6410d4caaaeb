"""What a corpus holds, before anything is trained: a row for each utterance, and counts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from audio.quality import Quality
from audio.segment import AudioSource
from config.schema import Config
from config.tasks import RATINGS
from corpora.partial_plan import make_partial_plan
from corpora.plan import Plan
from corpora.qualities import measure_qualities
from corpora.rating_parts import label_parts
from corpora.splits import Split
from corpora.unannotated_speakers import is_known
from corpora.utterance import Utterance

Numbers = NDArray[np.float64]
NUMBERS = (  # columns of a survey, in the order of the table
    *("seconds", "rate", "channels", "level", "peak", "flat_tops", "offset"),
    *("silence_start", "silence_end", "silence", "bandwidth", "cutoff", "difference"),
)


@dataclass(frozen=True)
class Survey:
    """Utterances of a corpus with what was measured of their recordings.

    Args:
        plan: Utterances, recordings and splits, as far as the corpus allows.
        refusals: What would stop a run, except bad audio.
        qualities: Quality of each recording.
    """

    plan: Plan
    refusals: Sequence[str]
    qualities: Mapping[AudioSource, Quality]

    @property
    def utterances(self) -> Sequence[Utterance]:
        """Utterances with usable audio, in the order of all columns."""
        return self.plan.utterances

    @property
    def classes(self) -> Sequence[str]:
        """Class names, in the order of their indices."""
        return self.plan.labels.classes

    @property
    def config(self) -> Config:
        """Config whose corpus and protocol this is."""
        return self.plan.config

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """Class index of each utterance: (n,)."""
        index = {name: i for i, name in enumerate(self.classes)}
        return np.array([index[one.label] for one in self.utterances], np.int64)

    @cached_property
    def columns(self) -> Mapping[str, Numbers]:
        """Numbers of each utterance, see `RecordingFacts` and `Quality`: {name: (n,)}.

        `silence` is the share of both silent ends of the recording.
        """
        rows = [
            {
                **self.plan.recordings[one.audio].facts._asdict(),
                **self.qualities[one.audio]._asdict(),
            }
            for one in self.utterances
        ]
        names = [name for name in NUMBERS if name != "silence"]
        found = {name: np.array([row[name] for row in rows], np.float64) for name in names}
        silent = (found["silence_start"] + found["silence_end"]) / found["seconds"]
        return {**found, "silence": silent}

    @cached_property
    def speakers(self) -> Mapping[str, Counter[str]]:
        """Number of utterances of each class, by known speaker in the order of their names."""
        known = sorted({one.speaker for one in self.utterances if is_known(one.speaker)})
        counts: dict[str, Counter[str]] = {name: Counter() for name in known}
        for one in self.utterances:
            if one.speaker in counts:
                counts[one.speaker][one.label] += 1
        return counts

    @cached_property
    def unknown(self) -> Counter[str]:
        """Number of utterances of each class whose speaker nobody knows."""
        return Counter(one.label for one in self.utterances if not is_known(one.speaker))

    @cached_property
    def speaker_index(self) -> NDArray[np.int64]:
        """Index of each utterance's speaker, one for all unknown ones: (n,)."""
        index = {name: i for i, name in enumerate(self.speakers)}
        return np.array([index.get(one.speaker, len(index)) for one in self.utterances], np.int64)

    @cached_property
    def class_counts(self) -> Counter[str]:
        """Number of utterances of each class."""
        return Counter(one.label for one in self.utterances)

    @cached_property
    def texts(self) -> Mapping[str, Sequence[Utterance]]:
        """Utterances of each text that the corpus names."""
        found: dict[str, list[Utterance]] = {}
        for one in self.utterances:
            if one.text_id is not None:
                found.setdefault(one.text_id, []).append(one)
        return found

    @cached_property
    def same(self) -> Sequence[Sequence[Utterance]]:
        """Groups of utterances with the same samples, of two or more."""
        groups: dict[str, list[Utterance]] = {}
        for one in self.utterances:
            groups.setdefault(self.plan.hashes[one.audio], []).append(one)
        return [group for group in groups.values() if len(group) > 1]

    @cached_property
    def near(self) -> Sequence[tuple[Utterance, Utterance, float]]:
        """Pairs of near-identical recordings, and the share of fingerprint bits that differ."""
        first = {self.plan.hashes[one.audio]: one for one in reversed(self.utterances)}
        return [(first[c.first], first[c.second], c.error) for c in self.plan.copies]

    @cached_property
    def folds(self) -> Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Indices of utterances that are not tested, and of those that are, in each fold.

        Without splits of the config, speakers are divided into groups in turn.
        """
        place = {one.id: i for i, one in enumerate(self.utterances)}
        tests = [[place[u.id] for u in split.test if u.id in place] for split in self.plan.splits]
        rests = [
            [place[u.id] for u in (*split.train, *split.dev) if u.id in place]
            for split in self.plan.splits
        ]
        if not tests:
            group = self.speaker_index % OWN_FOLDS
            tests = [np.flatnonzero(group == k).tolist() for k in range(OWN_FOLDS)]
            rests = [np.flatnonzero(group != k).tolist() for k in range(OWN_FOLDS)]
        return [
            (np.array(rest, np.int64), np.array(test, np.int64))
            for rest, test in zip(rests, tests, strict=True)
            if rest and test
        ]


OWN_FOLDS = 5


def survey_corpus(config: Config) -> Survey:
    """Read, index and measure a corpus; audio index and measures are saved in `run.store`.

    Where ratings are predicted, the classes are parts of their scale, see `rating_parts`.

    Args:
        config: Config of a run.

    Raises:
        InputError: See `make_partial_plan`.
        RunError: A saved file is corrupt, or one cannot be written.
    """
    plan, refusals = make_partial_plan(config)
    used = {one.audio: plan.recordings[one.audio] for one in plan.utterances}
    qualities, changed = measure_qualities(used, config.run.workers, Path(config.run.store))
    if changed:
        plan = replace(
            plan,
            bad={**plan.bad, **changed},
            utterances=[one for one in plan.utterances if one.audio not in changed],
            splits=[_without(split, changed) for split in plan.splits],
        )
    if plan.labels.task == RATINGS:
        labels, utterances, splits = label_parts(plan.labels, plan.utterances, plan.splits)
        plan = replace(plan, labels=labels, utterances=utterances, splits=splits)
    return Survey(plan, refusals, qualities)


def _without(split: Split, bad: Mapping[AudioSource, str]) -> Split:
    """Leave bad audio out of a fold."""
    parts = (tuple(u for u in part if u.audio not in bad) for _, part in split.parts())
    return Split(split.fold, *parts)
