"""The protocol of an experiment: its labels, its splits, its name, and its certificate."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audio.fingerprint import Copy
from corpora.leakage import NEARLY, Gate, check, describe_copies
from corpora.readers import Utterance
from corpora.splits import (
    SPEAKER_DEPENDENT,
    Split,
    check_settings,
    recording_of,
)
from system.errors import InputError

TEXT_GROUPS = "-text-groups"
KEYS = ("corpus.labels", "protocol.split", "protocol.dev", "corpus.subset", "protocol.text_groups")


def protocol_id(
    label_set_name: str,
    split: str,
    dev: str | None,
    subset: str,
    n_folds: int | None,
    text_groups: int | None = None,
) -> str:
    """Name what was measured; only results with equal ids may be compared.

    >>> protocol_id("ravdess8", "speaker-k-fold", None, "all", 6)
    'ravdess8/speaker-6-fold/dev-fold/all'
    """
    dev = check_settings(split, dev, n_folds)
    scheme = {
        "speaker-k-fold": f"speaker-{n_folds}-fold",
        "random-utterance": f"random-utterance-{n_folds}-fold-{SPEAKER_DEPENDENT}",
    }.get(split, split)
    texts = "" if text_groups is None else f"/{text_groups}{TEXT_GROUPS}"
    return f"{label_set_name}/{scheme}/dev-{dev}/{subset}{texts}"


def protocol_parts(protocol: str) -> dict[str, str]:
    """Return the config keys that an id names, and what it says of each.

    >>> protocol_parts("ravdess8/speaker-6-fold/dev-fold/all")["protocol.split"]
    'speaker-6-fold'
    """
    labels, *rest = protocol.rsplit("/", 4 if protocol.endswith(TEXT_GROUPS) else 3)
    return dict(zip(KEYS, [labels, *rest, "any text"], strict=False))


def certify(
    splits: Sequence[Split],
    hashes: Mapping[Path, str],
    protocol: str,
    speaker_dependent: bool,
    copies: Sequence[Copy] = (),
    refuse_near: bool = True,
) -> dict[str, Any]:
    """Check that the parts of every fold are apart, and write down who is where.

    No speaker, session, recording (same samples) or near-identical recording may be in two parts of
    a fold, and every utterance must be tested exactly once. Dev and test of `leave-one-speaker-out`
    share a session on purpose, training never does. Text shared by train and test is counted, and
    refused where the protocol says that texts are apart.

    Args:
        splits: All folds, with class names as labels.
        hashes: Recording of each path.
        protocol: From `protocol_id`.
        speaker_dependent: Whether speakers may be in two parts, as `protocol` must then say.
        copies: Near-identical recordings, by hash.
        refuse_near: False counts them and lets them be.

    Returns:
        JSON-ready; `id` is the digest of clips and folds, equal on any machine: what was checked
        and found nearly the same, where rounding may differ, is no part of it.

    Raises:
        InputError: A check failed; lists the first leaks of each kind.
    """
    split = protocol_parts(protocol)["protocol.split"]  # a class may be called anything
    if speaker_dependent != (SPEAKER_DEPENDENT in split):
        raise ValueError(f"speaker_dependent={speaker_dependent}, but the protocol is {protocol}")
    in_sessions = any(one.session is not None for fold in splits for one in fold.test)
    partners = split == "leave-one-speaker-out" and in_sessions
    gate = Gate(speaker_dependent, partners, protocol.endswith(TEXT_GROUPS), refuse_near)
    results, leaks = check(splits, hashes, copies, gate)
    if leaks:
        nearly = any(NEARLY in leak for leak in leaks)
        hint = "; protocol.near_identical=count lets pass what is only nearly the same" * nearly
        raise InputError(
            f"{protocol}: the folds leak, so nothing is trained on them. Correct the corpus, or "
            f"choose another protocol.split or n_folds{hint}\n  " + "\n  ".join(leaks)
        )
    everyone = {one.id: one for split in splits for _, part in split.parts() for one in part}
    certificate = {
        "protocol": protocol,
        "speaker_dependent": speaker_dependent,
        "utterances": len(everyone),
        "identical_recordings": _count_identical(everyone.values(), hashes),
        "folds": [_describe(split, hashes) for split in splits],
    }
    near = describe_copies(splits, hashes, copies)
    return {
        "id": _digest(certificate)[:10],
        **certificate,
        "checks": results,
        "near_identical": near,
    }


def _count_identical(utterances: Iterable[Utterance], hashes: Mapping[Path, str]) -> dict[str, int]:
    """Count recordings that occur under several ids, and those with several classes."""
    groups = defaultdict(list)
    for utterance in utterances:
        groups[recording_of(utterance, hashes)].append(utterance.label)
    repeated = [labels for labels in groups.values() if len(labels) > 1]
    return {
        "recordings": len(repeated),
        "utterances": sum(map(len, repeated)),
        "recordings_with_different_classes": sum(len(set(labels)) > 1 for labels in repeated),
    }


def _describe(split: Split, hashes: Mapping[Path, str]) -> dict[str, Any]:
    classes = sorted({one.label for _, part in split.parts() for one in part})
    trained = {one.text_id for one in split.train} - {None}
    heard = [one.text_id for one in split.test if one.text_id in trained]
    assignment = [
        [one.id, name, one.label, recording_of(one, hashes), *map(str, (one.speaker, one.session))]
        for name, part in split.parts()
        for one in part
    ]
    return {
        "fold": split.fold,
        "assignment": _digest(sorted(assignment)),
        **{name: _describe_part(part, classes, hashes) for name, part in split.parts()},
        "text_in_train_and_test": {"texts": len(set(heard)), "test_utterances": len(heard)},
    }


def _describe_part(
    part: Sequence[Utterance], classes: Sequence[str], hashes: Mapping[Path, str]
) -> dict[str, Any]:
    counts = Counter(one.label for one in part)
    return {
        "utterances": len(part),
        "classes": {name: counts[name] for name in classes},
        "missing_classes": [name for name in classes if not counts[name]],
        "speakers": sorted({one.speaker for one in part}),
        "sessions": sorted({one.session for one in part if one.session is not None}),
        "recordings": _digest(sorted(recording_of(one, hashes) for one in part)),
    }


def _digest(value: Any) -> str:
    """Sha256 over canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
