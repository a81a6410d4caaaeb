"""A protocol that some utterances allow: the first that the planner itself takes."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from audio.fingerprint import Copy
from corpora.certificate import certify, protocol_id
from corpora.given import GIVEN, given_digest
from corpora.leakage import group_recordings
from corpora.segments import overlaps
from corpora.splits import MIN_GROUPS, make_splits
from corpora.unknown_speakers import speakers_unknown
from corpora.utterance import Utterance
from system.errors import InputError

MAX_FOLDS = 5


class Suggestion(NamedTuple):
    """A protocol, and why those before it do not go.

    Args:
        protocol: Keys and values of the section `protocol`; None where none goes.
        refused: What the planner says of each split that it refuses, by `protocol.split`.
    """

    protocol: dict[str, Any] | None
    refused: dict[str, str]


def suggest_protocol(utterances: Sequence[Utterance]) -> Suggestion:
    """Return the first of the candidates whose folds the planner makes and certifies.

    No audio is opened: copies of a recording are found only when a run is planned.

    Args:
        utterances: Labelled utterances, each with an id of its own.
    """
    refused: dict[str, str] = {}
    for protocol in _candidates(utterances):
        try:
            _try(utterances, **protocol)
        except InputError as error:
            refused[protocol["split"]] = str(error)
            continue
        return Suggestion(protocol, refused)
    return Suggestion(None, refused)


def _candidates(utterances: Sequence[Utterance]) -> Iterator[dict[str, Any]]:
    """Yield protocols in the order of their worth: the user's own folds come first.

    `n_folds` is null where it has no effect, since the base of a config may set it.
    """
    unknown = speakers_unknown(utterances)
    overlap = {"allow_speaker_overlap": True} if unknown else {}
    if any(one.split or one.fold for one in utterances):
        yield {"split": GIVEN, "n_folds": None, **overlap}
    if not unknown and any(one.session for one in utterances):
        yield {"split": "leave-one-session-out", "n_folds": None}
    split = "random-utterance" if unknown else "speaker-k-fold"
    for n_folds in range(MAX_FOLDS, MIN_GROUPS - 1, -1):
        yield {"split": split, "n_folds": n_folds, **overlap}


def _try(
    utterances: Sequence[Utterance],
    split: str,
    n_folds: int | None,
    allow_speaker_overlap: bool = False,
) -> None:
    """Make and certify folds as the planner does, each file or segment a recording of its own.

    Raises:
        InputError: The planner refuses them.
    """
    hashes = {one.audio: f"{one.audio}" for one in utterances}
    together = [
        Copy(hashes[one.audio], hashes[other.audio], 0.0)
        for (_, one), (_, other) in overlaps([("", one) for one in utterances], {})
    ]
    grouped = group_recordings(hashes, together)
    splits = make_splits(utterances, split, None, n_folds, grouped, allow_speaker_overlap)
    digest = given_digest(utterances) if split == GIVEN else ""
    unknown = speakers_unknown(utterances)
    name = protocol_id(
        "labels", split, None, "all", n_folds, assignment=digest, speakers_unknown=unknown
    )
    certify(splits, hashes, name, allow_speaker_overlap)
