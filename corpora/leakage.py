"""The leakage check: what two splits of a fold must not share."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import combinations
from types import MappingProxyType
from typing import NamedTuple

from audio.fingerprint import Copy
from audio.segment import AudioSource, Segment, as_segment
from corpora.segments import overlaps
from corpora.splits import LONE, SPEAKER_DEPENDENT, Split, everyone, recording_of
from corpora.unannotated_speakers import is_unannotated
from corpora.utterance import NO_SPEAKER, Utterance

PARTS = ("train", "dev", "test")
LEAKS_SHOWN = 5
PAIRS_KEPT = 100
NEARLY = "are nearly the same recording"

NO_FILES: Mapping[AudioSource, str] = MappingProxyType({})

Pair = tuple[str, str]  # names of two splits, in the order of PARTS


class LeakageRules(NamedTuple):
    """What the protocol allows.

    Args:
        speaker_dependent: Speakers and sessions may be in several splits.
        shared_session: Dev and test may share a session, as in leave-one-speaker-out.
        texts_apart: No text of test may be in train or dev.
        refuse_near: Near-identical recordings may not be in two splits.
        untested: The test splits are empty, as in hyperparameter tuning.
        some_untested: The folds are given part by part; not every utterance needs to be tested.
        shared_dev: Train and dev may share speakers and sessions, not recordings.
    """

    speaker_dependent: bool
    shared_session: bool
    texts_apart: bool
    refuse_near: bool
    untested: bool = False
    some_untested: bool = False
    shared_dev: bool = False


def check_leakage(
    splits: Sequence[Split],
    hashes: Mapping[AudioSource, str],
    copies: Sequence[Copy],
    rules: LeakageRules,
    files: Mapping[AudioSource, str] = NO_FILES,
) -> tuple[dict[str, str], list[str]]:
    """Check all folds; return {name of the check: its result in words} and the leaks.

    Args:
        splits: All folds.
        hashes: Hash of each file or segment; equal samples have equal hashes.
        copies: Near-identical recordings, by hash.
        rules: What the protocol allows.
        files: Hash of the bytes of each utterance's file; segments of one may not overlap.

    Returns:
        Results, and the first leaks of each kind in words; no leaks means that all checks passed.
    """
    dev_test = [("dev", "test")] if rules.shared_session else []
    leaks = [] if rules.untested else _first(_not_tested_once(splits, rules.some_untested))
    leaks += _first(_shared(splits, "recording", lambda u: recording_of(u, hashes)))
    results = {"tested exactly once": _tested(splits, rules), "recording": "passed"}
    if any(isinstance(u.audio, Segment) for u in everyone(splits)):
        leaks += _first(_overlapping(splits, hashes, files))
        results["overlap"] = "passed"
    if rules.refuse_near:
        leaks += _first(_near_identical(splits, hashes, copies, dev_test))
        results["near-identical"] = "passed; dev and test may share some" if dev_test else "passed"
    else:
        results["near-identical"] = "counted, not refused: see near_identical"
    if rules.texts_apart:
        leaks += _first(_shared(splits, "text", lambda u: u.text_id, [("train", "dev")]))
        results["text"] = "passed: no text of test is in train or dev"
    else:
        results["text"] = "counted, not refused: see each fold"
    if rules.speaker_dependent:
        nobody = all(u.speaker == NO_SPEAKER for u in everyone(splits))
        why = "nobody knows the speakers" if nobody else SPEAKER_DEPENDENT
        results["speaker"] = results["session"] = f"not checked: {why}"
        return results, leaks
    train_dev = [("train", "dev")] if rules.shared_dev else []
    leaks += _first(_shared(splits, "speaker", lambda u: u.speaker, train_dev))
    lone = count_lone_speakers(everyone(splits))
    note = f"; but {lone} utterances are the only one of their speaker, so it says little"
    shared = "; train and dev may share some" if rules.shared_dev else ""
    results["speaker"] = f"passed{shared}{note if lone else ''}"
    if unknown := sum(is_unannotated(u.speaker) for u in everyone(splits)):
        results["speaker"] += f"; nobody has named those of {unknown} training utterances"
    leaks += _first(_shared(splits, "session", lambda u: u.session, [*dev_test, *train_dev]))
    results["session"] = "passed; dev and test may share one" if dev_test else "passed"
    results["session"] += "; train and dev may share one" if rules.shared_dev else ""
    if all(u.session is None for split in splits for _, part in split.parts() for u in part):
        results["session"] = "not applicable: the corpus has no sessions"
    return results, leaks


def count_lone_speakers(utterances: Iterable[Utterance]) -> int:
    """Count the utterances that are the only one of their speaker, if nearly all are; else 0."""
    counts = Counter(utterance.speaker for utterance in utterances)
    lone = sum(n == 1 for n in counts.values())
    return lone if lone >= LONE * counts.total() else 0


def group_recordings(
    hashes: Mapping[AudioSource, str], copies: Iterable[Copy]
) -> dict[AudioSource, str]:
    """Return the same name for all recordings that are near-identical, directly or in a chain."""
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
    splits: Sequence[Split], hashes: Mapping[AudioSource, str], copies: Sequence[Copy]
) -> dict[str, object]:
    """Count near-identical recordings; list the first pairs: two ids, share of differing bits."""
    id_of = {recording_of(u, hashes): u.id for u in everyone(splits)}
    pairs = [[id_of[c.first], id_of[c.second], round(c.error, 3)] for c in copies]
    across = Counter(
        split.fold for split in splits for _ in _near_identical([split], hashes, copies, [])
    )
    return {
        "pairs": len(pairs),
        "pairs_across_parts": {str(fold): n for fold, n in sorted(across.items())},
        "first_pairs": pairs[:PAIRS_KEPT],
    }


def _near_identical(
    splits: Sequence[Split],
    hashes: Mapping[AudioSource, str],
    copies: Sequence[Copy],
    may_share: Sequence[Pair],
) -> Iterator[str]:
    """Describe near-identical recordings that are in two splits of a fold."""
    copied = {key for copy in copies for key in (copy.first, copy.second)}
    for split in splits if copies else ():
        ids: dict[str, dict[str, str]] = defaultdict(dict)  # recording -> split -> utterance
        for name, part in split.parts():
            for utterance in part:
                if (key := recording_of(utterance, hashes)) in copied:
                    ids[key][name] = utterance.id
        for copy in copies:
            for a, id_a in ids[copy.first].items():
                for b, id_b in ids[copy.second].items():
                    pair = tuple(sorted((a, b), key=PARTS.index))
                    if a != b and pair not in may_share:
                        yield (
                            f"fold {split.fold}: {id_a} ({a}) and {id_b} ({b}) {NEARLY}, "
                            f"{100 * copy.error:.0f} % of the fingerprint bits differ"
                        )


def _overlapping(
    splits: Sequence[Split], hashes: Mapping[AudioSource, str], files: Mapping[AudioSource, str]
) -> Iterator[str]:
    """Describe segments of one file that share samples and are in two splits of a fold."""
    for split in splits:
        members = [(name, utterance) for name, part in split.parts() for utterance in part]
        for pair in overlaps(members, files):
            (a, one), (b, other) = sorted(pair, key=lambda member: PARTS.index(member[0]))
            if a != b and recording_of(one, hashes) != recording_of(other, hashes):
                yield (
                    f"fold {split.fold}: {one.id} ({a}) and {other.id} ({b}) overlap: segments of "
                    f"one file, {as_segment(one.audio).name} and {as_segment(other.audio).name}"
                )


def _shared(
    splits: Sequence[Split],
    what: str,
    key: Callable[[Utterance], str | None],
    may_share: Sequence[Pair] = (),
) -> Iterator[str]:
    """Describe each value of `key` that is in two splits of a fold; None is not compared."""
    for split in splits:
        ids = {name: {key(u): u.id for u in part} for name, part in split.parts()}
        for a, b in combinations(PARTS, 2):
            common = ids[a].keys() & ids[b].keys()
            for value in sorted(value for value in common if value is not None):
                if (a, b) not in may_share:
                    shown = value[:12] if what == "recording" else value
                    yield (
                        f"fold {split.fold}: {what} {shown} is in {a} "
                        f"({ids[a][value]}) and in {b} ({ids[b][value]})"
                    )


def _tested(splits: Sequence[Split], rules: LeakageRules) -> str:
    if rules.untested:
        return "not applicable: no test data were read"
    if rules.some_untested and len(splits) == 1:
        return "not applicable: there is one test split"
    never = {u.id for u in everyone(splits)} - {u.id for split in splits for u in split.test}
    return f"passed; {len(never)} utterances are tested in no fold" if never else "passed"


def _not_tested_once(splits: Sequence[Split], or_never: bool) -> Iterator[str]:
    tests = Counter(u.id for split in splits for u in split.test)
    for utterance in everyone(splits):
        n = tests[utterance.id]
        if n > 1 or (n == 0 and not or_never):
            yield f"utterance {utterance.id} is tested {n} times, must be once"


def _first(leaks: Iterator[str]) -> list[str]:
    messages = list(leaks)
    more = len(messages) - LEAKS_SHOWN
    return messages[:LEAKS_SHOWN] + ([f"... and {more} more of this kind"] if more > 0 else [])
