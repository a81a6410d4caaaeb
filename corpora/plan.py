"""The plan of a run: utterances, splits and certificate, settled before anything is trained."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

from audio.fingerprint import Copy
from audio.reading import Recording
from audio.segment import AudioSource
from config.schema import Config
from corpora.audio_files import Unread
from corpora.bad_audio import refuse_bad_audio, usable
from corpora.certificate import certify
from corpora.fold_table import GivenFolds
from corpora.given import GIVEN, unused_columns
from corpora.label_maps import Relabelled
from corpora.labels import LabelSet
from corpora.leakage import LeakageRules, check_leakage, count_lone_speakers
from corpora.protocol import Listed, Protocol, name_protocol, read_given_folds, split_corpus
from corpora.published import PUBLISHED
from corpora.readers import Utterance
from corpora.recordings import index_audio
from corpora.segments import overlaps
from corpora.several import cross_corpus_warnings, describe_corpora, list_corpora, with_counts
from corpora.splits import Split, check_train_classes, get_fold
from corpora.stamps import stamps
from corpora.unknown_speakers import check_unknown_speakers, speakers_unknown
from system.errors import InputError
from system.placeholders import LFS_POINTER, is_lfs_pointer

NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Plan:
    """Who is trained, selected and tested, and on which recordings.

    Args:
        config: Config of the run.
        labels: Label set.
        utterances: Utterances with usable audio.
        recordings: Recording of each audio file, or of each segment where files have several.
        bad: Reason for each audio file or segment that was left out.
        splits: All folds, or the one fold of a tuning plan.
        certificate: Facts about the splits, with their hash as `id`.
        has_test: False for a tuning plan, whose test utterances were not opened.
        unread: Audio files below `corpus.root` that the reader did not read.
        given: Folds of `protocol.folds`.
        relabelled: What became of the labels of a manifest or folder.
        copies: Near-identical recordings, by hash.
    """

    config: Config
    labels: LabelSet
    utterances: Sequence[Utterance]
    recordings: Mapping[AudioSource, Recording]
    bad: Mapping[AudioSource, str]
    splits: Sequence[Split]
    certificate: Mapping[str, Any]
    has_test: bool = True
    unread: Unread = Unread()
    given: GivenFolds | None = None
    relabelled: Relabelled = Relabelled({}, {})
    copies: Sequence[Copy] = ()

    @cached_property
    def hashes(self) -> dict[AudioSource, str]:
        """Audio hash of each file or segment."""
        return {source: recording.hash for source, recording in self.recordings.items()}

    def wanted(self) -> Sequence[Split]:
        """Return the folds that `run.folds` names, or all."""
        return _wanted(self.config, self.splits)


def check_listing(config: Config) -> None:
    """Refuse, in seconds, what tables and the first bytes of audio files show; index nothing.

    Raises:
        InputError: As for `make_plan`; or audio files are Git LFS pointers and must not be.
    """
    utterances = list_trainable(config).utterances
    refuse_bad_audio(config, {u.audio: LFS_POINTER for u in utterances if is_lfs_pointer(u.path)})


def make_plan(config: Config, keep: bool = False) -> Plan:
    """Read the corpus, choose labels, index all audio, split, and certify the splits.

    Args:
        config: Config of the run.
        keep: Save the audio index in `run.store`.

    Raises:
        InputError: The corpus, its labels or its audio cannot be used, a fold does not exist, or
            the splits leak.
    """
    listed = list_trainable(config)
    recordings, bad = index_utterances(config, listed.utterances, keep)
    plan = settle(config, listed.labels, listed.protocol, listed.utterances, recordings, bad)
    return with_facts(plan, listed.unread, listed.relabelled, listed.corpora)


def make_tuning_plan(config: Config, keep: bool = False, with_dev: bool = True) -> Plan:
    """Plan one fold without opening its test audio: split by metadata, then index the rest.

    Train and dev equal those of `make_plan`, except where audio that is left out as bad
    (`corpus.on_bad_audio: skip`) would move speakers between the folds.

    Args:
        config: Config of the run; `run.folds` names one fold.
        keep: Save the audio index in `run.store`.
        with_dev: False leaves out the dev split as well.

    Raises:
        InputError: As for `make_plan`; or the splits depend on the recordings themselves.
    """
    if config.protocol.split == "random-utterance":
        raise InputError(
            "random-utterance keeps copies of a recording together, so all audio, test audio too, "
            "must be indexed before it can split: choose another protocol.split, e.g. "
            "speaker-k-fold"
        )
    if config.run.folds is None or len(config.run.folds) != 1:
        raise InputError(f"run.folds must name one fold, e.g. [1], got {config.run.folds}")
    labels, utterances, protocol, *_ = list_trainable(config)
    split = get_fold(split_corpus(config, protocol.given, utterances, {}, ()), config.run.folds[0])
    split = replace(split, test=(), dev=split.dev if with_dev else ())
    opened = [*split.train, *split.dev]
    recordings, bad = index_utterances(config, opened, keep)
    return _settle_without_test(config, labels, protocol, opened, recordings, bad, split)


def folds_that_test(config: Config, speakers: Collection[str]) -> list[int]:
    """Return the folds in which one of some speakers is tested; opens no audio."""
    _, utterances, protocol, *_ = list_utterances(config)
    splits = split_corpus(config, protocol.given, utterances, {}, ())
    return [split.fold for split in splits if any(u.speaker in speakers for u in split.test)]


def without_bad_audio(plan: Plan, bad: Mapping[AudioSource, str]) -> Plan:
    """Return a plan without audio files that proved bad after it was made.

    Args:
        plan: The plan.
        bad: Reason for each bad file.

    Raises:
        InputError: `corpus.on_bad_audio` is `error`, or what is left cannot be split.
    """
    if not bad:
        return plan
    protocol = Protocol(plan.certificate["protocol"], plan.given)
    parts = (plan.config, plan.labels, protocol, plan.utterances, plan.recordings)
    bad = {**plan.bad, **bad}
    if plan.has_test:
        corpora = plan.certificate.get("corpora", {})
        return with_facts(settle(*parts, bad), plan.unread, plan.relabelled, corpora)
    return _settle_without_test(*parts, bad, plan.splits[0])


def plan_warnings(plan: Plan) -> list[str]:
    """Return what was not read, and what the leakage check allowed."""
    warnings = stamps(plan.certificate["protocol"], plan.certificate["speaker_dependent"])
    if plan.given is not None:
        warnings += [*plan.given.stamps(), plan.given.words()]
    warnings += [*cross_corpus_warnings(plan.certificate)]
    if stamp := plan.certificate.get("started_from", {}).get("stamp"):
        warnings.append(stamp)
    warnings += [*plan.relabelled.words(), *plan.unread.words()]
    warnings += _warn_of_columns(plan)
    wanted = {str(split.fold) for split in plan.wanted()}
    for fold in plan.certificate["folds"]:
        shared = fold["text_in_train_and_test"]
        if shared["texts"] and str(fold["fold"]) in wanted:
            warnings.append(
                f"fold {fold['fold']}: {shared['texts']} texts are in train and test, spoken in "
                f"{shared['test_utterances']} test utterances"
            )
    mixed = plan.certificate["identical_recordings"]["recordings_with_different_classes"]
    if mixed:
        warnings.append(f"{mixed} recordings occur more than once, under different classes")
    near = plan.certificate["near_identical"]["pairs_across_parts"]
    for fold in sorted(near.keys() & wanted, key=int):
        warnings.append(
            f"fold {fold}: {near[fold]} pairs of near-identical recordings in two parts"
        )
    return warnings


def _warn_of_columns(plan: Plan) -> list[str]:
    """Say what a manifest's columns cannot show, or show in vain."""
    warnings = []
    if lone := count_lone_speakers(plan.utterances):
        warnings.append(
            f"{lone} of {len(plan.utterances)} utterances are the only one of their speaker: check "
            "that `speaker` holds speakers, not recordings. Otherwise nothing shows that train and "
            "test share no speaker, and intervals and tests take utterances as independent"
        )
    protocol = plan.config.protocol
    manifest = plan.config.corpus.manifest
    if (name := plan.config.corpus.name) in PUBLISHED:
        if not PUBLISHED[name].split or (protocol.split == GIVEN and protocol.folds is None):
            return warnings
        used = f"folds is {protocol.folds}" if protocol.folds else f"split is {protocol.split}"
        return [*warnings, f"{PUBLISHED[name].title}'s own split is not used: protocol.{used}"]
    folds = None if protocol.folds == manifest else protocol.folds  # it may be both
    return warnings + unused_columns(plan.utterances, protocol.split, folds)


def with_facts(
    plan: Plan, unread: Unread, relabelled: Relabelled, corpora: Mapping[str, Any] = NOTHING
) -> Plan:
    """Add what was not read, what became of the labels, and each of several corpora."""
    certificate = dict(plan.certificate)
    if certificate and corpora:
        certificate["corpora"] = with_counts(corpora, plan.utterances)
    if certificate and (about := relabelled.facts()):
        certificate["labels"] = about
    return replace(plan, unread=unread, relabelled=relabelled, certificate=certificate)


def list_trainable(config: Config) -> Listed:
    """List utterances; refuse a protocol that needs to know who speaks where nobody knows."""
    listed = list_utterances(config)
    check_unknown_speakers(config, listed.utterances)
    return listed


def list_utterances(config: Config) -> Listed:
    """Read the corpus, choose labels, name the protocol, list audio that was not read.

    No audio is opened.
    """
    listing, relabelled, facts = list_corpora(config)
    labels, everyone, chosen, unread = listing
    given = read_given_folds(config, everyone, chosen)
    if given is not None:
        chosen = [utterance for utterance in chosen if given.used(utterance)]
    protocol = name_protocol(config, labels, chosen, given)
    return Listed(labels, chosen, protocol, unread, relabelled, facts)


def index_utterances(
    config: Config, utterances: Sequence[Utterance], keep: bool
) -> tuple[dict[AudioSource, Recording], dict[AudioSource, str]]:
    """Index the audio of utterances; see `index_audio`."""
    sources = [utterance.audio for utterance in utterances]
    return index_audio(sources, config.run.workers, Path(config.run.store), keep)


def settle(
    config: Config,
    labels: LabelSet,
    protocol: Protocol,
    utterances: Sequence[Utterance],
    recordings: Mapping[AudioSource, Recording],
    bad: Mapping[AudioSource, str],
    near: Sequence[Copy] | None = None,
) -> Plan:
    """Leave out bad audio where the config allows it; split and certify the rest.

    `near` names the near-identical recordings where they are known, see `usable`.
    """
    check_unknown_speakers(config, utterances)
    utterances, recordings, copies = usable(config, labels, utterances, recordings, bad, near)
    hashes, files = _hashes(recordings)
    together = [
        Copy(hashes[one.audio], hashes[other.audio], 0.0)
        for (_, one), (_, other) in overlaps([("", u) for u in utterances], files)
    ]
    given = protocol.given
    splits = split_corpus(config, given, utterances, hashes, [*copies, *together])
    overlap = config.protocol.allow_speaker_overlap if given is None else given.speaker_dependent
    refuse_near = config.protocol.near_identical == "refuse"
    certificate = certify(splits, hashes, protocol.id, overlap, copies, refuse_near, files, given)
    certificate["corpus"] = describe_corpora(config)
    certificate["classes"] = labels.describe()
    _wanted(config, splits)  # a fold that does not exist is refused before anything is computed
    plan = Plan(config, labels, utterances, recordings, bad, splits, certificate)
    return replace(plan, given=given, copies=copies)


def _settle_without_test(
    config: Config,
    labels: LabelSet,
    protocol: Protocol,
    utterances: Sequence[Utterance],
    recordings: Mapping[AudioSource, Recording],
    bad: Mapping[AudioSource, str],
    split: Split,
) -> Plan:
    """Leave out bad audio as `settle` does; check that train and dev are apart."""
    utterances, recordings, copies = usable(config, labels, utterances, recordings, bad)
    train, dev = (
        tuple(utterance for utterance in part if utterance.audio in recordings)
        for part in (split.train, split.dev)
    )
    split = replace(split, train=train, dev=dev)
    check_train_classes([split])
    hashes, files = _hashes(recordings)
    refuse_near = config.protocol.near_identical == "refuse"
    given = protocol.given
    shared_dev = given is not None and given.shared_dev
    rules = LeakageRules(speakers_unknown(utterances), False, False, refuse_near, True)
    rules = rules._replace(shared_dev=shared_dev)
    checks, leaks = check_leakage([split], hashes, copies, rules, files)
    if leaks:
        raise InputError("train and dev are not apart:\n  " + "\n  ".join(leaks))
    rows = sorted(
        [name, utterance.id, utterance.label, utterance.speaker, hashes[utterance.audio]]
        + ([] if utterance.target is None else [list(utterance.target)])
        for name, part in split.parts()
        for utterance in part
    )
    digest = hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:10]
    facts = {"protocol": protocol.id, "fold": split.fold, "without": "test"}
    certificate = {"id": digest, **facts, "checks": checks}
    plan = Plan(config, labels, utterances, recordings, bad, [split], certificate, has_test=False)
    return replace(plan, given=given)


def _hashes(
    recordings: Mapping[AudioSource, Recording],
) -> tuple[dict[AudioSource, str], dict[AudioSource, str]]:
    """Return the hash of the samples of each source, and that of the bytes of its file."""
    return (
        {source: recording.hash for source, recording in recordings.items()},
        {source: recording.file_hash for source, recording in recordings.items()},
    )


def _wanted(config: Config, splits: Sequence[Split]) -> Sequence[Split]:
    folds = config.run.folds
    return splits if folds is None else [get_fold(splits, k) for k in folds]
