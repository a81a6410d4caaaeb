"""What several raters chose for one utterance: their votes, or shares of classes.

A manifest says it in one of these ways, and IEMOCAP's label files in the first:

    votes              happy; happy; sad         each rater one vote
                       happy; happy+sad          a rater who named two gives each half a vote
    votes (JSON)       ["happy", "happy", "sad"] likewise
                       {"happy": 2, "sad": 1}    votes, or shares, by label
    prob_<label>       a column for each label, with its share or number of votes
"""

import json
import math
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from corpora.columns import SHARE, VOTES, unique_object
from corpora.names import clean_name
from system.errors import InputError
from system.text import short_repr

TWICE = f"(both {VOTES} and {SHARE}...)"  # in the place of votes that a row says twice


def votes_text(row: Mapping[str, Any]) -> str:
    """Return the votes of a manifest's row as text, unchecked: they may not be used."""
    shares = {k.removeprefix(SHARE): v for k, v in row.items() if k.startswith(SHARE)}
    found = row.get(VOTES)
    given = [name for name, value in shares.items() if value not in (None, "") and value == value]
    if found is None or found != found or not found:  # NaN
        found = shares if given else ""
    elif given:
        return TWICE
    return found.strip() if isinstance(found, str) else json.dumps(found)


def read_votes(text: str) -> dict[str, float]:
    """Return the votes by label.

    Raises:
        InputError: They are of no form that is read, negative, or none.

    >>> read_votes("happy; happy+sad"), read_votes('{"happy": 0.25, "sad": 0.75}')
    ({'happy': 1.5, 'sad': 0.5}, {'happy': 0.25, 'sad': 0.75})
    """
    if text == TWICE:
        raise InputError(
            f"votes are in the column {VOTES} and in columns {SHARE}<label>: empty one of them, or "
            "rename it"
        )
    found = _parse(text) if text[:1] in ("{", "[") else text.split(";")
    votes: dict[str, float] = defaultdict(float)
    if isinstance(found, Mapping):
        for name, weight in found.items():
            votes[clean_name(name)] += _weight(text, name, weight)
    else:
        for vote in found:
            if not isinstance(vote, str):
                raise _unread(text)
            names = [name for word in vote.split("+") if (name := clean_name(word))]
            for name in names:
                votes[name] += 1 / len(names)
    if not sum(votes.values()) > 0:
        raise InputError(f"votes must hold a vote at least, got {short_repr(text)}")
    return dict(votes)


def _parse(text: str) -> Any:
    try:
        found = json.loads(text, object_pairs_hook=unique_object)
    except (ValueError, RecursionError) as error:
        raise _unread(text) from error
    if not isinstance(found, dict | list):
        raise _unread(text)
    return found


def _weight(text: str, name: str, weight: Any) -> float:
    try:
        found = float(weight or 0) if not isinstance(weight, bool) else math.nan
    except (TypeError, ValueError):
        found = math.nan
    if not 0 <= found < math.inf:
        raise InputError(
            f"votes of {short_repr(name)} must be a number, 0 or more, got {short_repr(text)}"
        )
    return found


def _unread(text: str) -> InputError:
    return InputError(
        "votes must be labels with ; between them, a JSON list of labels, or a JSON object of "
        f"numbers by label, got {short_repr(text)}"
    )
