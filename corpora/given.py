"""Folds that a manifest gives in its column `split` or `fold`."""

import hashlib
import json
import re
from collections.abc import Sequence

from corpora.names import is_placeholder, two_spellings
from corpora.utterance import Utterance
from system.errors import InputError
from system.text import short_repr, truncate

GIVEN = "given"
MIN_FOLDS = 3  # for train, dev and test
PART_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("dev", "devel", "development", "val", "valid", "validation"), "dev"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def given_column(utterances: Sequence[Utterance]) -> str:
    """Return which column gives the folds: `split` or `fold`.

    Raises:
        InputError: There is neither or there are both, or some rows lack it.
    """
    columns = [name for name in ("split", "fold") if any(getattr(u, name) for u in utterances)]
    if not columns:
        raise InputError(
            "protocol.split=given reads the folds from a table or folder, but this corpus has no "
            "column `split` (train, dev, test) or `fold` (one value a fold): add one, or use "
            "another protocol.split, e.g. speaker-k-fold"
        )
    if len(columns) > 1:
        raise InputError(
            "protocol.split=given: the manifest has both columns `split` and `fold`; rename "
            "the one that is not to be used"
        )
    column = columns[0]
    without = [u.id for u in utterances if _is_missing(getattr(u, column))]
    if without:
        raise InputError(
            f"protocol.split=given: {len(without)} of {len(utterances)} utterances have no "
            f"`{column}`, the first is {without[0]}; fill it in, or remove these rows"
        )
    return column


def given_parts(utterances: Sequence[Utterance]) -> dict[str, list[Utterance]]:
    """Return the utterances of train, dev and test by the column `split`.

    Raises:
        InputError: A word is not known, or one of the three is empty.
    """
    parts: dict[str, list[Utterance]] = {"train": [], "dev": [], "test": []}
    for utterance in utterances:
        word = (utterance.split or "").casefold()
        if word not in PART_OF:
            raise InputError(
                f"the column `split` says {short_repr(utterance.split)} for {utterance.id}; "
                f"write one of {', '.join(PART_OF)}"
            )
        parts[PART_OF[word]].append(utterance)
    if empty := [name for name, part in parts.items() if not part]:
        raise InputError(
            f"the column `split` names no utterance for {' and '.join(empty)}: train, dev (which "
            "selects the epoch) and test each need some, with speakers of their own"
        )
    return parts


def given_folds(utterances: Sequence[Utterance]) -> list[str]:
    """Return the values of the column `fold`, numbers in their order.

    Raises:
        InputError: There are too few, or a name is ambiguous.
    """
    folds = sorted({utterance.fold or "" for utterance in utterances}, key=in_order)
    check_fold_names(folds, "the column `fold`")
    if len(folds) < MIN_FOLDS:
        raise InputError(
            f"the column `fold` needs at least {MIN_FOLDS} values (train, dev, test), but names "
            f"{', '.join(folds)}: add folds, or write a column `split` with train, dev and test"
        )
    return folds


def check_fold_names(folds: Sequence[str], where: str) -> None:
    """Refuse names by which a typing error would make other folds.

    Args:
        folds: Names of folds that are tested in turn.
        where: What gives them, for messages.

    Raises:
        InputError: A fold has two spellings, or is called as a part or as "unknown" is.
    """
    for first, second in two_spellings(folds):
        raise InputError(
            f"{where} says {short_repr(first)} and {short_repr(second)}: write each fold in one way"
        )
    for name in folds:
        if name.casefold() in PART_OF:
            others = [short_repr(fold) for fold in folds if fold.casefold() not in PART_OF]
            cure = f", and correct {truncate(', '.join(others))}" if others else ""
            raise InputError(
                f"{where} says {short_repr(name)}, which is a part, not a fold: call the column "
                f"`split`{cure}; or give the fold another name"
            )
        if is_placeholder(name):
            raise InputError(f"{where} says {short_repr(name)}: name the fold")


def given_digest(utterances: Sequence[Utterance]) -> str:
    """Return a short hash of which utterance is in which part or fold."""
    if given_column(utterances) == "split":
        parts = given_parts(utterances)
        rows = [[u.id, name] for name, part in parts.items() for u in part]
    else:
        rows = [[u.id, str(u.fold)] for u in utterances]
    return hashlib.sha256(json.dumps(sorted(rows)).encode()).hexdigest()[:8]


def describe_given(utterances: Sequence[Utterance]) -> str:
    """Say which column gave the folds, and the values that are tested in turn."""
    if given_column(utterances) == "split":
        return "given by the manifest's column split"
    return (
        f"given by the manifest's column fold, in this order: {', '.join(given_folds(utterances))}"
    )


def unused_columns(utterances: Sequence[Utterance], split: str, folds: str | None) -> list[str]:
    """Say which columns of a manifest give folds in vain.

    Args:
        utterances: Utterances of the corpus.
        split: Value of `protocol.split`.
        folds: Value of `protocol.folds`.
    """
    if split == GIVEN and folds is None:
        return []
    used = f"protocol.split is {split}; protocol.split={GIVEN} takes the folds from it"
    if folds is not None:
        used = f"protocol.folds is {folds}; without it the column gives the folds"
    return [
        f"the column `{column}` is not used: {used}"
        for column in ("split", "fold")
        if any(getattr(one, column) for one in utterances)
    ]


def _is_missing(word: str | None) -> bool:
    return word is None or is_placeholder(word)


def in_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that puts fold 10 after fold 2.

    >>> sorted(["fold10", "fold2"], key=in_order)
    ['fold2', 'fold10']
    """
    words = re.split(r"(\d+)", name)  # every second one is a number
    return [(len(word.lstrip("0")) if word.isdigit() else 0, word) for word in words]
