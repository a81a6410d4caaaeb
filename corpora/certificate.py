"""The id of a protocol, and the certificate of its splits."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from audio.fingerprint import Copy
from audio.segment import AudioSource
from config.several import CROSS_CORPUS
from corpora.fold_table import GivenFolds
from corpora.given import GIVEN, describe_given, given_column
from corpora.leakage import NEARLY, NO_FILES, LeakageRules, check_leakage, describe_copies
from corpora.published import PUBLISHED
from corpora.splits import (
    SPEAKER_DEPENDENT,
    SPEAKERS_UNKNOWN,
    Split,
    check_settings,
    everyone,
    recording_of,
)
from corpora.stamps import SPEAKER_NORMALIZED, is_transductive
from corpora.unannotated_speakers import is_unannotated
from corpora.utterance import Utterance
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
    assignment: str = "",
    folds: GivenFolds | None = None,
    speaker_normalized: bool = False,
    speakers_unknown: bool = False,
) -> str:
    """Return the id of a protocol; only results with equal ids may be compared.

    Args:
        label_set_name: Name of the label set.
        split: Value of `protocol.split`.
        dev: Value of `protocol.dev`; None is the default of the split.
        subset: Value of `corpus.subset`.
        n_folds: Value of `protocol.n_folds`.
        text_groups: Value of `protocol.text_groups`.
        assignment: From `given_digest`; only for `given`.
        folds: Folds of `protocol.folds`, in the place of `assignment`.
        speaker_normalized: Whether `train.normalize` is `speaker`, which is a protocol of its own.
        speakers_unknown: Whether nobody knows the speakers of the corpus.

    >>> protocol_id("ravdess8", "speaker-k-fold", None, "all", 6)
    'ravdess8/speaker-6-fold/dev-fold/all'
    """
    dev = check_settings(split, dev if folds is None else None, n_folds)
    scheme = {
        "speaker-k-fold": f"speaker-{n_folds}-fold",
        "random-utterance": f"random-utterance-{n_folds}-fold-{SPEAKER_DEPENDENT}",
        GIVEN: f"{GIVEN}-{assignment}",
    }.get(split, split)
    texts = "" if text_groups is None else f"/{text_groups}{TEXT_GROUPS}"
    dev_scheme = f"dev-{dev}"
    if folds is not None:
        scheme, dev_scheme = folds.scheme, folds.dev_scheme
    if speakers_unknown:
        dependent = "" if SPEAKER_DEPENDENT in scheme else f"-{SPEAKER_DEPENDENT}"
        scheme = f"{scheme}{dependent}-{SPEAKERS_UNKNOWN}"
    normalized = SPEAKER_NORMALIZED * speaker_normalized
    return f"{label_set_name}/{scheme}/{dev_scheme}/{subset}{texts}{normalized}"


def protocol_parts(protocol: str) -> dict[str, str]:
    """Return the value of each config key that a protocol id names.

    >>> protocol_parts("ravdess8/speaker-6-fold/dev-fold/all")["protocol.split"]
    'speaker-6-fold'
    """
    splits = protocol.removesuffix(SPEAKER_NORMALIZED)
    labels, *rest = splits.rsplit("/", 4 if _has_text_groups(protocol) else 3)
    parts = dict(zip(KEYS, [labels, *rest, "any text"], strict=False))
    return parts | {"train.normalize": "speaker" if is_transductive(protocol) else "not speaker"}


def _has_text_groups(protocol: str) -> bool:
    return protocol.removesuffix(SPEAKER_NORMALIZED).endswith(TEXT_GROUPS)


def describe_corpus(name: str, root: str, manifest: str | None) -> dict[str, Any]:
    """Return {name: for people, synthetic: whether it is the demo corpus}; see section `corpus`."""
    if Path(root, "demo.json").expanduser().exists():
        return {"name": "the demo corpus", "synthetic": True}
    if name == "manifest":
        return {"name": f"the corpus of {Path(str(manifest)).name}", "synthetic": False}
    if name == "folder":
        folder = Path(root).expanduser().absolute().name
        return {"name": f"the corpus of the folder {folder}", "synthetic": False}
    title = PUBLISHED[name].title if name in PUBLISHED else name
    return {"name": title, "synthetic": False}


def certify(
    splits: Sequence[Split],
    hashes: Mapping[AudioSource, str],
    protocol: str,
    speaker_dependent: bool,
    copies: Sequence[Copy] = (),
    refuse_near: bool = True,
    files: Mapping[AudioSource, str] = NO_FILES,
    folds: GivenFolds | None = None,
) -> dict[str, Any]:
    """Check all folds for leaks and return their certificate.

    No speaker, session, recording (same samples), near-identical recording or overlapping segments
    of a file may be in two splits of a fold, and every utterance must be tested exactly once,
    except where each part is given: then at most once. In `leave-one-speaker-out`, dev and test
    share a session on purpose; train shares none with them. Texts shared by train and test are
    counted, and refused if the protocol has text groups.

    Args:
        splits: All folds, with class names as labels.
        hashes: Hash of each file or segment; equal samples have equal hashes.
        protocol: From `protocol_id`.
        speaker_dependent: Whether speakers may be in two splits; must agree with `protocol`.
        copies: Near-identical recordings, by hash.
        refuse_near: Whether near-identical recordings in two splits are refused, or only counted.
        files: Hash of the bytes of each utterance's file; segments of one may not overlap.
        folds: Folds of `protocol.folds`; `given` in the certificate says who made them.

    Returns:
        The certificate, ready for JSON. Its `id` is a digest of utterances and folds, equal on any
        machine; `checks` and `near_identical` do not enter it, since rounding may differ there.

    Raises:
        InputError: A check failed; lists the first leaks of each kind.
    """
    split = protocol_parts(protocol)["protocol.split"]  # a class may be called anything
    if speaker_dependent != (SPEAKER_DEPENDENT in split):
        raise ValueError(f"speaker_dependent={speaker_dependent}, but the protocol is {protocol}")
    utterances = everyone(splits)
    rules = _rules(protocol, utterances, speaker_dependent, refuse_near, folds)
    results, leaks = check_leakage(splits, hashes, copies, rules, files)
    _refuse(protocol, leaks, folds is not None)
    if split.startswith(CROSS_CORPUS):
        results["text"] = "not checked: each corpus has names of its own for its texts"
    if split.startswith(GIVEN):
        results["folds"] = describe_given(utterances) if folds is None else folds.words()
    certificate = {
        "protocol": protocol,
        "speaker_dependent": speaker_dependent,
        "utterances": len(utterances),
        "identical_recordings": _count_identical(utterances, hashes),
        "folds": [_describe(split, hashes) for split in splits],
    }
    facts = {"checks": results, "near_identical": describe_copies(splits, hashes, copies)}
    facts |= {} if folds is None else {"given": folds.describe()}
    return {"id": _digest(certificate)[:10], **certificate, **facts}


def _rules(
    protocol: str,
    utterances: Sequence[Utterance],
    speaker_dependent: bool,
    refuse_near: bool,
    folds: GivenFolds | None,
) -> LeakageRules:
    split = protocol_parts(protocol)["protocol.split"]
    has_sessions = any(u.session is not None for u in utterances)
    if folds is not None:
        some_untested = not folds.partition.rotating
    else:
        some_untested = split.startswith(CROSS_CORPUS)
        some_untested |= split.startswith(GIVEN) and given_column(utterances) == "split"
    return LeakageRules(
        speaker_dependent,
        shared_session=split == "leave-one-speaker-out" and has_sessions,
        texts_apart=_has_text_groups(protocol),
        refuse_near=refuse_near,
        some_untested=some_untested,
        shared_dev=folds is not None and folds.shared_dev,
    )


def _refuse(protocol: str, leaks: Sequence[str], may_share: bool) -> None:
    """Raise an error that lists the leaks, if there are any."""
    if leaks:
        nearly = any(NEARLY in leak for leak in leaks)
        hint = "; protocol.near_identical=count accepts near-identical recordings" * nearly
        if may_share and any(": speaker " in leak for leak in leaks):
            hint += "; protocol.allow_speaker_overlap=true accepts these folds, stamped"
        other = "choose another protocol.split or n_folds"
        if protocol_parts(protocol)["protocol.split"].startswith(CROSS_CORPUS):
            other = "take one of the corpora out"
        raise InputError(
            f"{protocol}: the folds leak, so nothing is trained on them. Correct the corpus, or "
            f"{other}{hint}\n  " + "\n  ".join(leaks)
        )


def _count_identical(
    utterances: Iterable[Utterance], hashes: Mapping[AudioSource, str]
) -> dict[str, int]:
    """Count recordings that have several ids, and those of them that have several classes."""
    labels_of = defaultdict(list)
    for utterance in utterances:
        labels_of[recording_of(utterance, hashes)].append((utterance.label, utterance.target))
    repeated = [labels for labels in labels_of.values() if len(labels) > 1]
    return {
        "recordings": len(repeated),
        "utterances": sum(map(len, repeated)),
        "recordings_with_different_classes": sum(len(set(labels)) > 1 for labels in repeated),
    }


def _describe(split: Split, hashes: Mapping[AudioSource, str]) -> dict[str, Any]:
    classes = sorted({u.label for _, part in split.parts() for u in part})
    train_texts = {u.text_id for u in split.train} - {None}
    shared_texts = [u.text_id for u in split.test if u.text_id in train_texts]
    assignment = [
        [u.id, name, u.label, recording_of(u, hashes), str(u.speaker), str(u.session)]
        + ([] if u.target is None else [list(u.target)])
        for name, part in split.parts()
        for u in part
    ]
    return {
        "fold": split.fold,
        "assignment": _digest(sorted(assignment)),
        **{name: _describe_part(part, classes, hashes) for name, part in split.parts()},
        "text_in_train_and_test": {
            "texts": len(set(shared_texts)),
            "test_utterances": len(shared_texts),
        },
    }


def _describe_part(
    part: Sequence[Utterance], classes: Sequence[str], hashes: Mapping[AudioSource, str]
) -> dict[str, Any]:
    counts = Counter(u.label for u in part)
    unknown = sum(is_unannotated(u.speaker) for u in part)
    return {
        "utterances": len(part),
        "classes": {name: counts[name] for name in classes},
        "missing_classes": [name for name in classes if not counts[name]],
        "speakers": sorted({u.speaker for u in part if not is_unannotated(u.speaker)}),
        **({"unannotated_speakers": unknown} if unknown else {}),
        "sessions": sorted({u.session for u in part if u.session is not None}),
        "recordings": digest_recordings(part, hashes),
    }


def digest_recordings(part: Sequence[Utterance], hashes: Mapping[AudioSource, str]) -> str:
    """Return the digest of the recordings of a part, whatever their order."""
    return _digest(sorted(recording_of(u, hashes) for u in part))


def _digest(value: Any) -> str:
    """Return the SHA-256 of canonical JSON, in hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()
