"""All that is settled before anything is trained: the clips, their parts, the certificate."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from audio.fingerprint import Copy, near_copies
from audio.reading import Recording
from config.schema import Config
from corpora.certificate import certify, protocol_id
from corpora.labels import LabelSet, label_set, select_labels
from corpora.leakage import LeakageRules, check_leakage, group_recordings
from corpora.readers import Utterance, read_corpus
from corpora.recordings import index_audio
from corpora.splits import STAMP, Split, check_train_classes, get_fold, make_splits
from corpora.text_groups import cross_with_texts
from system.errors import InputError


@dataclass(frozen=True)
class Plan:
    """All that is settled before anything is trained."""

    config: Config
    labels: LabelSet
    utterances: Sequence[Utterance]
    recordings: Mapping[Path, Recording]
    bad: Mapping[Path, str]  # left out: {path: reason}
    splits: Sequence[Split]
    certificate: Mapping[str, Any]
    without_test: bool = False  # see `make_tuning_plan`

    @cached_property
    def hashes(self) -> dict[Path, str]:
        """Recording of each path."""
        return {path: recording.hash for path, recording in self.recordings.items()}

    def wanted(self) -> Sequence[Split]:
        """Return the folds that the config asks for."""
        folds = self.config.run.folds
        return self.splits if folds is None else [get_fold(self.splits, k) for k in folds]


def make_plan(config: Config, keep: bool = False) -> Plan:
    """Read the corpus, choose labels, hear every clip, split, and certify the splits.

    Args:
        config: Of the run.
        keep: Remember what was heard, in `run.store`.

    Raises:
        InputError: Whatever is wrong with the corpus, the labels, the audio, the folds, or a leak.
    """
    labels, utterances = _read(config)
    paths = [utterance.path for utterance in utterances]
    recordings, bad = index_audio(paths, config.run.workers, Path(config.run.store), keep)
    return leave_out(Plan(config, labels, utterances, recordings, {}, [], {}), bad)


def make_tuning_plan(config: Config, keep: bool = False, with_dev: bool = True) -> Plan:
    """Plan one fold of which no test clip is opened: split by metadata, then hear the others.

    Train and dev are those of `make_plan`, except where audio that is bad and left out
    (`corpus.on_bad_audio: skip`) would move speakers between the folds.

    Args:
        config: `run.folds` names the one fold.
        keep: Remember what was heard, in `run.store`.
        with_dev: False leaves out the dev clips likewise.

    Raises:
        InputError: As for `make_plan`; or the split depends on the recordings themselves.
    """
    if config.protocol.split == "random-utterance":
        raise InputError(
            "random-utterance keeps copies of a recording together, so all clips must be heard "
            "before they are split, the test clips too: take another protocol.split, e.g. "
            "speaker-k-fold"
        )
    if config.run.folds is None or len(config.run.folds) != 1:
        raise InputError(f"run.folds must name one fold, e.g. [1], got {config.run.folds}")
    labels, utterances = _read(config)
    whole = get_fold(_split(config, utterances, {}, ()), config.run.folds[0])
    split = replace(whole, test=(), dev=whole.dev if with_dev else ())
    parts = [*split.train, *split.dev]
    paths = [utterance.path for utterance in parts]
    recordings, bad = index_audio(paths, config.run.workers, Path(config.run.store), keep)
    return leave_out(Plan(config, labels, parts, recordings, {}, [split], {}, True), bad)


def _read(config: Config) -> tuple[LabelSet, list[Utterance]]:
    """Read what the corpus says of its clips, and choose labels; no audio is opened."""
    corpus = config.corpus
    manifest = None if corpus.manifest is None else Path(corpus.manifest)
    outside = corpus.absolute_paths or False
    found = read_corpus(corpus.name, Path(corpus.root), manifest, outside)
    labels = label_set(corpus.name, corpus.labels, found)
    utterances = select_labels(
        found, labels, corpus.subset, corpus.expect_published_counts or False
    )
    return labels, list(utterances)


def leave_out(plan: Plan, bad: Mapping[Path, str]) -> Plan:
    """Leave out bad audio where the config allows it, and (re)make splits and certificate."""
    if bad and plan.config.corpus.on_bad_audio == "error":
        listed = "\n".join(f"  {path} {reason}" for path, reason in sorted(bad.items()))
        raise InputError(
            f"{len(bad)} audio files cannot be used:\n{listed}\n"
            "Repair or remove them, or set corpus.on_bad_audio=skip to leave them out"
        )
    if plan.certificate and not bad:
        return plan
    plan = replace(
        plan,
        utterances=[u for u in plan.utterances if u.path not in bad],
        recordings={path: one for path, one in plan.recordings.items() if path not in bad},
        bad={**plan.bad, **bad},
    )
    _check_classes(plan)
    copies = near_copies({one.hash: one.words for one in plan.recordings.values()})
    if plan.without_test:
        return _settle_untested(plan, copies)
    splits = _split(plan.config, plan.utterances, plan.hashes, copies)
    plan = replace(plan, splits=splits, certificate=_certify(plan, splits, copies))
    plan.wanted()  # a fold that does not exist is refused before anything is computed
    return plan


def plan_warnings(plan: Plan) -> list[str]:
    """Return what the leakage check let pass and a reader should know."""
    found = [STAMP] if plan.certificate["speaker_dependent"] else []
    wanted = {str(split.fold) for split in plan.wanted()}
    for fold in plan.certificate["folds"]:
        shared = fold["text_in_train_and_test"]
        if shared["texts"] and str(fold["fold"]) in wanted:
            found.append(
                f"fold {fold['fold']}: {shared['texts']} texts are in train and test, spoken in "
                f"{shared['test_utterances']} test clips"
            )
    mixed = plan.certificate["identical_recordings"]["recordings_with_different_classes"]
    if mixed:
        found.append(f"{mixed} recordings occur more than once, under different classes")
    near = plan.certificate["near_identical"]["pairs_across_parts"]
    for fold in sorted(near.keys() & wanted, key=int):
        found.append(f"fold {fold}: {near[fold]} pairs of near-identical recordings in two parts")
    return found


def _check_classes(plan: Plan) -> None:
    """Refuse a corpus of which bad audio has left a class without a clip."""
    left = {utterance.label for utterance in plan.utterances}
    if missing := [name for name in plan.labels.classes if name not in left]:
        raise InputError(
            f"no usable clip of {', '.join(missing)} is left: {len(plan.bad)} audio files are bad. "
            "Repair them, or choose other corpus.labels"
        )


def _settle_untested(plan: Plan, copies: Sequence[Copy]) -> Plan:
    """Leave bad audio out of a fold without test, and check that train and dev are apart."""
    (split,) = plan.splits
    train, dev = (
        tuple(one for one in part if one.path in plan.recordings)
        for part in (split.train, split.dev)
    )
    split = replace(split, train=train, dev=dev)
    check_train_classes([split])
    refuse_near = plan.config.protocol.near_identical == "refuse"
    rules = LeakageRules(False, False, False, refuse_near, untested=True)
    results, leaks = check_leakage([split], plan.hashes, copies, rules)
    if leaks:
        raise InputError("train and dev are not apart:\n  " + "\n  ".join(leaks))
    heard = sorted(
        [name, one.id, one.label, one.speaker, plan.hashes[one.path]]
        for name, part in split.parts()
        for one in part
    )
    digest = hashlib.sha256(json.dumps(heard).encode()).hexdigest()[:10]
    facts = {"protocol": _name(plan), "fold": split.fold, "without": "test", "checks": results}
    return replace(plan, splits=[split], certificate={"id": digest, **facts})


def _split(
    config: Config,
    utterances: Sequence[Utterance],
    hashes: Mapping[Path, str],
    copies: Sequence[Copy],
) -> list[Split]:
    protocol = config.protocol
    splits = make_splits(
        utterances,
        protocol.split,
        protocol.dev,
        protocol.n_folds,
        group_recordings(hashes, copies),
        protocol.allow_speaker_overlap,
    )
    return cross_with_texts(splits, protocol.text_groups) if protocol.text_groups else splits


def _name(plan: Plan) -> str:
    protocol = plan.config.protocol
    return protocol_id(
        plan.labels.name,
        protocol.split,
        protocol.dev,
        plan.config.corpus.subset,
        protocol.n_folds,
        protocol.text_groups,
    )


def _certify(plan: Plan, splits: Sequence[Split], copies: Sequence[Copy]) -> dict[str, Any]:
    protocol = plan.config.protocol
    return certify(
        splits,
        plan.hashes,
        _name(plan),
        protocol.allow_speaker_overlap,
        copies,
        protocol.near_identical == "refuse",
    )
