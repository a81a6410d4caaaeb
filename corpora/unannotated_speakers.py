"""Utterances of a corpus with speakers whom nobody has named: never shown to be apart.

Each counts as a speaker of its own, so that they are never taken for one person; which of the
named ones it is, nobody knows. A fold must not rest on that: see `hold_back`.
"""

from collections.abc import Mapping, Sequence

from corpora.fold_lists import EXCLUDED
from corpora.utterance import NO_SPEAKER, Utterance

PREFIX = "not annotated: "  # before the id of an utterance, in the place of its speaker
UNANNOTATED = "UNANNOTATED-SPEAKERS-IN-TRAIN"  # in the protocol id
UNKNOWN = "unknown"  # what people read in the place of a speaker whom nobody knows
STAMP = f"{UNANNOTATED}: nothing shows that none of them is tested"


def unannotated(utterance_id: str) -> str:
    """Return the name of the speaker of an utterance whom nobody has named.

    >>> is_unannotated(unannotated("MSP-PODCAST_0001_0008")), is_unannotated("39")
    (True, False)
    """
    return f"{PREFIX}{utterance_id}"


def is_unannotated(speaker: str) -> bool:
    """Return whether nobody has named a speaker."""
    return speaker.startswith(PREFIX)


def is_known(speaker: str) -> bool:
    """Return whether a speaker has a name: two utterances of it are of one person.

    >>> is_known("39"), is_known(unannotated("clip")), is_known(NO_SPEAKER)
    (True, False, False)
    """
    return speaker != NO_SPEAKER and not is_unannotated(speaker)


def speaker_name(speaker: str) -> str:
    """Return the name of a speaker for people, or UNKNOWN."""
    return speaker if is_known(speaker) else UNKNOWN


def hold_back(
    parts: Sequence[Mapping[str, str]], utterances: Sequence[Utterance], may_train: bool
) -> list[dict[str, str]]:
    """Return the parts of each fold without utterances that nothing shows to be apart.

    Whoever speaks in one of them may speak in any other part. So they are excluded from dev and
    test always, and from train unless the config takes them and the protocol says so.

    Args:
        parts: {utterance id: train, dev, test or excluded} of each fold.
        utterances: Utterances with a label that is used.
        may_train: Whether those of train stay.
    """
    unknown = [one.id for one in utterances if is_unannotated(one.speaker)]
    allowed = ("train",) if may_train else ()
    return [
        {**fold, **{name: EXCLUDED for name in unknown if fold[name] not in allowed}}
        for fold in parts
    ]
