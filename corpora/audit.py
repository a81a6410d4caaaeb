"""Audit a partition: what is in two parts of a fold, without training anything on it."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, NamedTuple

from audio.fingerprint import near_copies
from audio.reading import Recording
from audio.segment import AudioSource, Segment
from corpora.audit_members import Members
from corpora.leakage import PARTS
from corpora.partition import Partition
from corpora.segments import overlaps
from corpora.utterance import NO_SPEAKER, Utterance
from system.text import printable

NO_AUDIO = "not made: audio was not read"
LEAKS_SHOWN = 5
PASSED = "passed"


class Leak(NamedTuple):
    """Something that two parts of a fold share.

    Args:
        fold: Name of the fold.
        parts: The two parts, as "train and test".
        what: The speaker, session, text, or start of the recording's hash.
        ids: An utterance of each part.
    """

    fold: str
    parts: str
    what: str
    ids: tuple[str, str]


@dataclass(frozen=True)
class Check:
    """Result of one check.

    Args:
        name: What must not be shared.
        result: `passed`, how much is shared, or why the check was not made.
        leaks: All that is shared.
        counted: Whether sharing is only counted.
    """

    name: str
    result: str
    leaks: tuple[Leak, ...] = ()
    counted: bool = False


@dataclass(frozen=True)
class Audit:
    """All checks of a partition, and what the parts hold."""

    partition: Partition
    corpus: str
    folds: Sequence[Members]
    checks: Sequence[Check]
    notes: Sequence[str]

    @property
    def clean(self) -> bool:
        """Whether no check that counts found anything."""
        return not any(check.leaks and not check.counted for check in self.checks)

    @property
    def id(self) -> str:
        """Digest of who is where, the same on any machine."""
        rows = [
            [fold.fold, *sorted([part, u.id, u.speaker, str(u.session)] for part, u in fold)]
            for fold in self.folds
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:10]

    def as_json(self) -> dict[str, Any]:
        """Return everything, ready for JSON."""
        partition = self.partition
        return {
            "partition": partition.name,
            "made_by": partition.made_by,
            "source": partition.source,
            "corpus": self.corpus,
            "clean": self.clean,
            "certificate": self.id,
            "checks": {
                check.name: {
                    "result": check.result,
                    "refused": bool(check.leaks) and not check.counted,
                    "shared": [leak._asdict() for leak in check.leaks],
                }
                for check in self.checks
            },
            "folds": [_describe(fold) for fold in self.folds],
            "notes": list(self.notes),
        }


def audit(
    partition: Partition,
    corpus: str,
    folds: Sequence[Members],
    notes: Sequence[str],
    recordings: Mapping[AudioSource, Recording] | None = None,
    texts_apart: bool = False,
) -> Audit:
    """Search every fold for what two of its parts share.

    Args:
        partition: The partition.
        corpus: Name of the corpus, for the report.
        folds: What the parts hold, from `members_of`.
        notes: What else is to be said.
        recordings: Indexed audio; utterances without one are not compared. None makes no check of
            audio.
        texts_apart: Whether a shared text is refused, or only counted.
    """
    everyone = [one for fold in folds for _, one in fold]
    checks = [_check("utterance", _shared(folds, lambda one: one.id))]
    if everyone and all(one.speaker == NO_SPEAKER for one in everyone):
        checks.append(Check("speaker", "not made: no speakers are known"))
    else:
        checks.append(_check("speaker", _shared(folds, lambda one: one.speaker)))
    if any(one.session is not None for one in everyone):
        checks.append(_check("session", _shared(folds, lambda one: one.session)))
    else:
        checks.append(Check("session", "not made: no sessions are known"))
    checks += _audio_checks(folds, everyone, recordings)
    if any(one.text_id is not None for one in everyone):
        leaks = _shared(folds, lambda one: one.text_id)
        checks.append(_check("text", leaks, counted=not texts_apart))
    else:
        checks.append(Check("text", "not made: no texts are known"))
    return Audit(partition, corpus, folds, checks, notes)


def _audio_checks(
    folds: Sequence[Members],
    everyone: Sequence[Utterance],
    recordings: Mapping[AudioSource, Recording] | None,
) -> list[Check]:
    if not recordings:
        return [Check(name, NO_AUDIO) for name in ("recording", "near-identical")]
    hashes = {source: recording.hash for source, recording in recordings.items()}
    sources = list(dict.fromkeys(one.audio for one in everyone))  # the order of the lists
    there = [source for source in sources if source in hashes]
    lacking = len(sources) - len(there)
    partly = f"; audio of {lacking} of {len(sources)} utterances was not there" if lacking else ""
    words = {hashes[source]: recordings[source].words for source in there}
    near = [(copy.first, copy.second) for copy in near_copies(words)]
    checks = [
        _check("recording", _shared(folds, lambda one: hashes.get(one.audio), 12), partly),
        _check("near-identical", _pairs(folds, hashes, near), partly),
    ]
    if any(isinstance(source, Segment) for source in sources):
        files = {source: recording.file_hash for source, recording in recordings.items()}
        checks.append(_check("overlap", _overlapping(folds, files), partly))
    return checks


def _check(name: str, leaks: Iterator[Leak], more: str = "", counted: bool = False) -> Check:
    found = tuple(leaks)
    if not found:
        return Check(name, f"{PASSED}{more}", counted=counted)
    by_parts: dict[str, set[str]] = defaultdict(set)
    for leak in found:
        by_parts[leak.parts].add(leak.what)
    shared = ", ".join(f"{len(what)} in {parts}" for parts, what in by_parts.items())
    return Check(name, f"{shared}{'; counted' if counted else ''}{more}", found, counted)


def _shared(
    folds: Sequence[Members], key: Callable[[Utterance], str | None], width: int | None = None
) -> Iterator[Leak]:
    """Yield each value that two parts of a fold have; None is not compared."""
    for fold in folds:
        values = [(name, {key(one): one.id for one in part}) for name, part in fold.parts]
        for (a, of_a), (b, of_b) in combinations(values, 2):
            for value in sorted(v for v in of_a.keys() & of_b.keys() if v is not None):
                yield Leak(fold.fold, f"{a} and {b}", value[:width], (of_a[value], of_b[value]))


def _pairs(
    folds: Sequence[Members],
    hashes: Mapping[AudioSource, str],
    near: Sequence[tuple[str, str]],
) -> Iterator[Leak]:
    """Yield near-identical recordings that are in two parts of a fold."""
    for fold in folds:
        where: dict[str, dict[str, str]] = defaultdict(dict)  # recording -> part -> id
        for part, one in fold:
            if one.audio in hashes:
                where[hashes[one.audio]][part] = one.id
        for first, second in near:
            for a, id_a in where[first].items():
                for b, id_b in where[second].items():
                    if a != b:
                        yield _pair(fold.fold, (a, id_a), (b, id_b))


def _overlapping(folds: Sequence[Members], files: Mapping[AudioSource, str]) -> Iterator[Leak]:
    """Yield segments of one file that share samples and are in two parts of a fold."""
    for fold in folds:
        inside = [(part, one) for part, one in fold if one.audio in files]
        for (a, one), (b, other) in overlaps(inside, files):
            if a != b:
                yield _pair(fold.fold, (a, one.id), (b, other.id))


def _pair(fold: str, *members: tuple[str, str]) -> Leak:
    """Return two (part, id) as a leak, in the order of the parts."""
    (a, id_a), (b, id_b) = sorted(members, key=lambda member: PARTS.index(member[0]))
    return Leak(fold, f"{a} and {b}", f"{id_a}, {id_b}", (id_a, id_b))


def _describe(fold: Members) -> dict[str, Any]:
    return {
        "fold": fold.fold,
        **{
            name: {
                "utterances": len(part),
                "speakers": sorted({one.speaker for one in part}),
                "sessions": sorted({one.session for one in part if one.session is not None}),
            }
            for name, part in fold.parts
        },
    }


def audit_markdown(found: Audit) -> str:
    """Return the report for people."""
    partition, n_folds = found.partition, len(found.folds)
    who = sorted({one.speaker for fold in found.folds for _, one in fold})
    ids = {one.id for fold in found.folds for _, one in fold}
    source = f"; {partition.source}" if partition.source else ""
    utterances = "" if partition.by_speaker and ids == set(who) else f"{len(ids)} utterances, "
    lines = [
        f"{partition.name} on {found.corpus}: {n_folds} fold{'s' * (n_folds > 1)}, {utterances}"
        f"{len(who)} speakers. Made by: {partition.made_by}{source}",
        "",
        "| must not be in two parts | result |",
        "|---|---|",
        *(f"| {check.name} | {check.result} |" for check in found.checks),
        "",
    ]
    for check in found.checks:
        for leak in check.leaks[:LEAKS_SHOWN] if not check.counted else ():
            lines.append(
                f"- fold {leak.fold}: {check.name} {leak.what} is in {leak.parts} ({leak.ids[0]}, "
                f"{leak.ids[1]})"
            )
        if (more := len(check.leaks) - LEAKS_SHOWN) > 0 and not check.counted:
            lines.append(f"- ... and {more} more of {check.name}; --json has all")
    lines += [f"- note: {note}" for note in found.notes]
    refused = [check.name for check in found.checks if check.leaks and not check.counted]
    if refused:
        lines.append(f"REFUSED: {', '.join(refused)} in two parts of a fold")
    else:
        missing = [check.name for check in found.checks if check.result.startswith("not made")]
        but = f" (not checked: {', '.join(missing)})" if missing else ""
        lines.append(f"PASSED{but}, certificate {found.id}")
    return "\n".join(printable(line, keep="") for line in lines)
