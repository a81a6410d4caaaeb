"""`protocol.folds`: folds of others, matched to a corpus, with their dev split and their origin."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from config.effects import CLASSES_KEY
from corpora.dev_draw import RULES, SHARING, draw_dev
from corpora.fold_lists import EXCLUDED
from corpora.fold_names import match
from corpora.given import GIVEN
from corpora.partition import Partition
from corpora.splits import MIN_GROUPS, SPEAKER_DEPENDENT, Split, check_train_classes
from corpora.unannotated_speakers import UNANNOTATED, hold_back, is_unannotated
from corpora.utterance import Utterance
from system.errors import InputError, nearest

SHARED_DEV = "DEV-SHARES-SPEAKERS"  # in the protocol id


@dataclass(frozen=True)
class GivenFolds:
    """Folds that `protocol.folds` names, matched to a corpus.

    Args:
        partition: The folds as read.
        parts: {utterance id: train, dev, test or excluded} of each fold, before dev is drawn.
        dev: How dev is made, a key of `RULES`.
        speaker_dependent: Whether test shares speakers or sessions with train or dev.
        shared_dev: Whether train and dev share speakers or sessions.
        digest: Short hash of which utterance is where.
        unannotated: Number of training utterances whose speaker nobody has named.
        held_back: Number of utterances that are excluded because nobody has named their speaker.
    """

    partition: Partition
    parts: tuple[Mapping[str, str], ...]
    dev: str
    digest: str = ""
    speaker_dependent: bool = False
    shared_dev: bool = False
    unannotated: int = 0
    held_back: int = 0

    @property
    def scheme(self) -> str:
        """Part of the protocol id between the label set and dev."""
        dependent = f"-{SPEAKER_DEPENDENT}" if self.speaker_dependent else ""
        return f"{GIVEN}-{self.digest}{dependent}{f'-{UNANNOTATED}' if self.unannotated else ''}"

    @property
    def dev_scheme(self) -> str:
        """Part of the protocol id that says dev."""
        return f"dev-{self.dev}{f'-{SHARED_DEV}' if self.shared_dev else ''}"

    def used(self, utterance: Utterance) -> bool:
        """Return whether an utterance is in any fold."""
        return any(parts.get(utterance.id, EXCLUDED) != EXCLUDED for parts in self.parts)

    def describe(self) -> dict[str, Any]:
        """Return what the certificate says of the folds' origin."""
        partition = self.partition
        unnamed = {"train": self.unannotated, "left_out": self.held_back}
        return {
            "table": partition.name,
            "made_by": partition.made_by,
            "source": partition.source,
            "digest": self.digest,
            "folds": [fold or "1" for fold in partition.folds],
            "dev": RULES[self.dev],
            "excluded": sum(
                all(parts[name] == EXCLUDED for parts in self.parts) for name in self.parts[0]
            ),
            **({"unannotated_speakers": unnamed} if any(unnamed.values()) else {}),
        }

    def stamps(self) -> list[str]:
        """Say that dev shares speakers or sessions with train, and that test does not, if so."""
        apart = "" if self.speaker_dependent else "; test has not"
        stamp = f"{SHARED_DEV}: dev has speakers or sessions of train{apart}"
        lines = [stamp] if self.shared_dev else []
        if self.held_back:
            lines.append(
                f"{self.held_back} utterances are left out because nobody has named their speakers,"
                " who may be tested; corpus.unannotated_speakers=train trains on those of train"
            )
        if self.unannotated:
            lines.append(f"nobody has named the speakers of {self.unannotated} training utterances")
        return lines

    def words(self) -> str:
        """Say in one line where the folds come from."""
        made_by = self.partition.made_by
        return f"folds of {self.partition.name}, made by {made_by}; dev: {RULES[self.dev]}"


def fit_folds(
    partition: Partition,
    dev: str | None,
    allow_speaker_overlap: bool,
    everyone: Sequence[Utterance],
    chosen: Sequence[Utterance],
    train_unannotated: bool = False,
) -> GivenFolds:
    """Match folds to a corpus.

    Args:
        partition: The folds.
        dev: Value of `protocol.dev`; None takes what the folds have.
        allow_speaker_overlap: Value of that key.
        everyone: All utterances of the corpus.
        chosen: Those with a label that is used.
        train_unannotated: Whether to train on utterances whose speaker nobody has named.

    Raises:
        InputError: The folds do not fit the corpus, dev cannot be made so, or the overlap key has
            no effect.
    """
    parts = hold_back(match(partition, everyone, chosen), chosen, train_unannotated)
    given = GivenFolds(partition, tuple(parts), _resolve_dev(partition, dev))
    given = replace(given, digest=_digest(parts, chosen))
    unknown = [one for one in chosen if is_unannotated(one.speaker)]
    trained = sum(given.used(one) for one in unknown)
    given = replace(given, unannotated=trained, held_back=len(unknown) - trained)
    chosen = [one for one in chosen if given.used(one)]
    pairs = _sharing(given_splits(given, chosen))
    of_test, of_dev = {("train", "test"), ("dev", "test")} & pairs, ("train", "dev") in pairs
    drawn_shared = given.dev in SHARING and of_dev
    if allow_speaker_overlap and not (of_test or (of_dev and not drawn_shared)):
        raise InputError(
            f"protocol.allow_speaker_overlap has no effect on {partition.name}, which keeps "
            "speakers apart; leave it out"
        )
    return replace(
        given,
        speaker_dependent=allow_speaker_overlap and bool(of_test),
        shared_dev=of_dev and (drawn_shared or allow_speaker_overlap),
    )


def _resolve_dev(partition: Partition, dev: str | None) -> str:
    """Return how dev is made; refuse a rule that the folds do not allow."""
    with_dev = [
        any(entry.part == "dev" for entry in partition.of_fold(fold)) for fold in partition.folds
    ]
    if any(with_dev) and not all(with_dev):
        lacking = partition.folds[with_dev.index(False)]
        raise InputError(f"{partition.name}: fold {lacking} has no dev, others have; give all one")
    rotates = partition.rotating and len(partition.folds) >= MIN_GROUPS
    usual = "given" if all(with_dev) else "fold" if rotates else "speakers"
    if dev is None or dev == usual:
        return usual
    if dev not in RULES:
        raise InputError(f"protocol.dev {dev!r} does not go with folds; {nearest(dev, RULES)}")
    if all(with_dev):
        raise InputError(
            f"protocol.dev={dev}, but {partition.name} gives dev itself: leave protocol.dev out"
        )
    if dev == "given":
        raise InputError(
            f"protocol.dev=given, but {partition.name} gives no dev: use "
            f"{'fold, ' * rotates}speakers, dialogs or random"
        )
    if dev == "fold" and not rotates:
        raise InputError(
            f"protocol.dev=fold needs a table with a column `fold` alone and at least {MIN_GROUPS} "
            f"folds, which {partition.name} is not: use speakers, dialogs or random"
        )
    return dev


def given_splits(given: GivenFolds, utterances: Sequence[Utterance]) -> list[Split]:
    """Return the folds of some utterances; fold k is the k-th of the table.

    Raises:
        InputError: A class is missing from a training split, or dev cannot be drawn.
    """
    ordered = sorted(utterances, key=lambda one: one.id)
    splits = []
    for number, parts in enumerate(given.parts, start=1):
        part_of = {one.id: parts[one.id] for one in ordered}
        if given.dev == "fold":
            following = given.parts[number % len(given.parts)]
            dev = {name for name in part_of if following[name] == "test"}
        elif given.dev == "given":
            dev = set()
        else:
            dev = draw_dev(given.dev, [one for one in ordered if part_of[one.id] == "train"])
        part_of |= dict.fromkeys(dev, "dev")
        splits.append(
            Split(
                number,
                *(
                    tuple(one for one in ordered if part_of[one.id] == name)
                    for name in ("train", "dev", "test")
                ),
            )
        )
    _refuse_empty(given, splits)
    check_train_classes(splits)
    return splits


def _refuse_empty(given: GivenFolds, splits: Sequence[Split]) -> None:
    for split in splits:
        if empty := [name for name, part in split.parts() if not part]:
            raise InputError(
                f"{given.partition.name}: fold {split.fold} has no utterance left for "
                f"{' and '.join(empty)}; choose other folds, or other {CLASSES_KEY}"
            )


def _sharing(splits: Sequence[Split]) -> set[tuple[str, str]]:
    """Return the pairs of parts that share a speaker or session in some fold."""
    pairs = set()
    for split in splits:
        who = {
            name: {("speaker", one.speaker) for one in part}
            | {("session", one.session) for one in part if one.session is not None}
            for name, part in split.parts()
        }
        pairs |= {
            (a, b)
            for a, b in (("train", "dev"), ("train", "test"), ("dev", "test"))
            if who[a] & who[b]
        }
    return pairs


def _digest(parts: Sequence[Mapping[str, str]], utterances: Sequence[Utterance]) -> str:
    rows = [sorted([one.id, fold[one.id]] for one in utterances) for fold in parts]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:8]
