"""The leakage gate: what two parts of a fold must not have in common."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

from audio.fingerprint import Copy
from corpora.readers import Utterance
from corpora.splits import SPEAKER_DEPENDENT, Split, recording_of

PARTS = ("train", "dev", "test")
LEAKS_SHOWN = 5
PAIRS_KEPT = 100
NEARLY = "are nearly the same recording"

Pair = tuple[str, str]  # names of two parts


class Gate(NamedTuple):
    """What may pass.

    Args:
        speaker_dependent: Speakers and sessions may be in several parts.
        partners: Dev and test share a session on purpose, as in leave-one-speaker-out.
        texts_apart: No text may be in test and in another part.
        refuse_near: Near-identical recordings may not be in two parts.
        untested: The test parts are empty on purpose, as where values are tuned.
    """

    speaker_dependent: bool
    partners: bool
    texts_apart: bool
    refuse_near: bool
    untested: bool = False


def check(
    splits: Sequence[Split], hashes: Mapping[Path, str], copies: Sequence[Copy], gate: Gate
) -> tuple[dict[str, str], list[str]]:
    """Return {check: its result in words} and the first leaks of each kind.

    Args:
        splits: All folds.
        hashes: Recording of each path.
        copies: Near-identical recordings, as `Copy` of hashes.
        gate: What may pass.
    """
    partners = [("dev", "test")] if gate.partners else []
    leaks = [] if gate.untested else _first(_not_tested_once(splits))
    leaks += _first(_shared(splits, "recording", lambda one: recording_of(one, hashes)))
    tested = "not applicable: no test data were read" if gate.untested else "passed"
    results = {"tested exactly once": tested, "recording": "passed"}
    if gate.refuse_near:
        leaks += _first(_near(splits, hashes, copies, partners))
        results["near-identical"] = "passed; dev and test may share some" if partners else "passed"
    else:
        results["near-identical"] = "counted, not refused: see near_identical"
    if gate.texts_apart:
        leaks += _first(_shared(splits, "text", lambda one: one.text_id, [("train", "dev")]))
        results["text"] = "passed: no text of test is in train or dev"
    else:
        results["text"] = "counted, not refused: see each fold"
    if gate.speaker_dependent:
        results["speaker"] = results["session"] = f"not checked: {SPEAKER_DEPENDENT}"
        return results, leaks
    leaks += _first(_shared(splits, "speaker", lambda one: one.speaker))
    results["speaker"] = "passed"
    leaks += _first(_shared(splits, "session", lambda one: one.session, partners))
    results["session"] = "passed; dev and test may share one" if partners else "passed"
    if all(u.session is None for split in splits for _, part in split.parts() for u in part):
        results["session"] = "not applicable: the corpus has no sessions"
    return results, leaks


def group_recordings(hashes: Mapping[Path, str], copies: Iterable[Copy]) -> dict[Path, str]:
    """Return one name for all recordings that are nearly the same, directly or in a chain."""
    leader = {key: key for key in hashes.values()}

    def find(key: str) -> str:
        while leader[key] != key:
            key = leader[key]
        return key

    for copy in copies:
        first, second = sorted((find(copy.first), find(copy.second)))
        leader[second] = first
    return {path: find(key) for path, key in hashes.items()}


def describe_copies(
    splits: Sequence[Split], hashes: Mapping[Path, str], copies: Sequence[Copy]
) -> dict[str, object]:
    """Count near-identical recordings and list the pairs: ids, part of the bits that differ."""
    name_of = {recording_of(one, hashes): one.id for split in splits for one in split.test}
    pairs = [[name_of[c.first], name_of[c.second], round(c.error, 3)] for c in copies]
    apart = Counter(split.fold for split in splits for _ in _near([split], hashes, copies, []))
    return {
        "pairs": len(pairs),
        "pairs_across_parts": {str(fold): n for fold, n in sorted(apart.items())},
        "first_pairs": pairs[:PAIRS_KEPT],
    }


def _near(
    splits: Sequence[Split],
    hashes: Mapping[Path, str],
    copies: Sequence[Copy],
    may_share: Sequence[Pair],
) -> Iterator[str]:
    """Find near-identical recordings in two parts of a fold."""
    named = {key for copy in copies for key in (copy.first, copy.second)}
    for split in splits if copies else ():
        held: dict[str, dict[str, str]] = defaultdict(dict)  # recording -> part -> utterance
        for name, part in split.parts():
            for utterance in part:
                if (key := recording_of(utterance, hashes)) in named:
                    held[key][name] = utterance.id
        for copy in copies:
            for first, one in held[copy.first].items():
                for second, other in held[copy.second].items():
                    pair = tuple(sorted((first, second), key=PARTS.index))
                    if first != second and pair not in may_share:
                        yield (
                            f"fold {split.fold}: {one} ({first}) and {other} ({second}) {NEARLY}, "
                            f"{100 * copy.error:.0f} % of the fingerprint differ"
                        )


def _shared(
    splits: Sequence[Split],
    what: str,
    key: Callable[[Utterance], str | None],
    may_share: Sequence[Pair] = (),
) -> Iterator[str]:
    """Find what two parts of a fold have in common, None aside."""
    for split in splits:
        holders = {name: {key(one): one.id for one in part} for name, part in split.parts()}
        for first, second in combinations(PARTS, 2):
            common = holders[first].keys() & holders[second].keys()
            for value in sorted(value for value in common if value is not None):
                if (first, second) not in may_share:
                    shown = value[:12] if what == "recording" else value
                    yield (
                        f"fold {split.fold}: {what} {shown} is in {first} "
                        f"({holders[first][value]}) and in {second} ({holders[second][value]})"
                    )


def _not_tested_once(splits: Sequence[Split]) -> Iterator[str]:
    tests = Counter(one.id for split in splits for one in split.test)
    everyone = {one.id for split in splits for _, part in split.parts() for one in part}
    for name in sorted(everyone):
        if tests[name] != 1:
            yield f"utterance {name} is tested {tests[name]} times, must be once"


def _first(leaks: Iterator[str]) -> list[str]:
    found = list(leaks)
    more = len(found) - LEAKS_SHOWN
    return found[:LEAKS_SHOWN] + ([f"... and {more} more of this kind"] if more > 0 else [])
