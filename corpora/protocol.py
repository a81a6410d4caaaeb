"""The protocol of a config: its id, and its folds."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from audio.fingerprint import Copy
from audio.segment import AudioSource
from config.schema import Config
from config.several import CROSS_CORPUS, roles
from corpora.audio_files import Unread, first
from corpora.certificate import protocol_id
from corpora.fold_table import GivenFolds, fit_folds, given_splits
from corpora.given import GIVEN, given_digest
from corpora.label_maps import Relabelled
from corpora.labels import LabelSet
from corpora.leakage import group_recordings
from corpora.partition import Entry, Partition, find_partition, read_partition
from corpora.published import PUBLISHED
from corpora.several import cross_corpus_splits
from corpora.splits import Split, make_splits
from corpora.text_groups import cross_with_texts
from corpora.unannotated_speakers import is_unannotated
from corpora.unknown_speakers import speakers_unknown
from corpora.utterance import Utterance
from system.errors import InputError


class Listed(NamedTuple):
    """What lists and names say of a corpus, before any audio is opened.

    Args:
        labels: Label set.
        utterances: Utterances with a label that is used, in a fold that is used.
        protocol: Id and given folds.
        unread: Audio files that are not part of the corpus.
        relabelled: What became of the labels of a manifest or folder.
        corpora: What the certificate says of each of several corpora, by key.
    """

    labels: LabelSet
    utterances: list[Utterance]
    protocol: "Protocol"
    unread: Unread
    relabelled: Relabelled
    corpora: Mapping[str, Any] = MappingProxyType({})


class Protocol(NamedTuple):
    """Id of the protocol, and the folds of `protocol.folds` where they are set."""

    id: str
    given: GivenFolds | None


def read_given_folds(
    config: Config, everyone: Sequence[Utterance], chosen: Sequence[Utterance]
) -> GivenFolds | None:
    """Read `protocol.folds` or a corpus's own split, or return None where there is neither.

    Args:
        config: Config of the run.
        everyone: All utterances of the corpus.
        chosen: Those with a label that is used.

    Raises:
        InputError: See `fit_folds`; or speakers whom nobody has named cannot be kept apart.
    """
    protocol, corpus = config.protocol, config.corpus
    if protocol.folds is not None:
        table = find_partition(protocol.folds)
        same = corpus.manifest is not None and table.samefile(Path(corpus.manifest).expanduser())
        partition = read_partition([table], corpus.columns or {} if same else None)
    elif protocol.split == GIVEN and corpus.name in PUBLISHED and PUBLISHED[corpus.name].split:
        partition = own_split(corpus.name, chosen)
    else:
        _refuse_unannotated(protocol.split, chosen)
        return None
    train = corpus.unannotated_speakers == "train"
    overlap = protocol.allow_speaker_overlap
    given = fit_folds(partition, protocol.dev, overlap, everyone, chosen, train)
    if given.unannotated and config.train.normalize == "speaker":
        raise InputError(
            f"train.normalize=speaker needs speakers, but nobody has named those of "
            f"{given.unannotated} training utterances: set corpus.unannotated_speakers=exclude"
        )
    return given


def own_split(corpus: str, utterances: Sequence[Utterance]) -> Partition:
    """Return the split that a corpus is published with.

    Args:
        corpus: Name of a corpus that has one.
        utterances: Utterances that say their part.
    """
    published = PUBLISHED[corpus]
    entries = tuple(
        Entry("", str(one.split), {"id": one.id}, f"{published.title}, {one.id}")
        for one in utterances
    )
    name = f"{published.title}'s own split"
    return Partition(name, published.split, "", False, False, ("",), entries)


def _refuse_unannotated(split: str, utterances: Sequence[Utterance]) -> None:
    unknown = [one.id for one in utterances if is_unannotated(one.speaker)]
    if unknown:
        raise InputError(
            f"protocol.split={split} divides speakers, but nobody has named those of "
            f"{len(unknown)} of {len(utterances)} utterances: {first(unknown)}. Use the corpus's "
            f"own split, protocol.split={GIVEN}, which leaves them out"
        )


def split_corpus(
    config: Config,
    given: GivenFolds | None,
    utterances: Sequence[Utterance],
    hashes: Mapping[AudioSource, str],
    copies: Sequence[Copy],
) -> list[Split]:
    """Divide a corpus into the folds of its config.

    Args:
        config: Config of the run.
        given: Folds of `protocol.folds`.
        utterances: Utterances to divide.
        hashes: Hash of each file or segment.
        copies: Near-identical recordings, which random-utterance keeps together.

    Raises:
        InputError: See `make_splits` and `given_splits`.
    """
    protocol = config.protocol
    if protocol.split == CROSS_CORPUS:
        splits = cross_corpus_splits(roles(config), utterances)
    elif given is not None:
        splits = given_splits(given, utterances)
    else:
        splits = make_splits(
            utterances,
            protocol.split,
            protocol.dev,
            protocol.n_folds,
            group_recordings(hashes, copies),
            protocol.allow_speaker_overlap,
        )
    return cross_with_texts(splits, protocol.text_groups) if protocol.text_groups else splits


def name_protocol(
    config: Config, labels: LabelSet, utterances: Sequence[Utterance], given: GivenFolds | None
) -> Protocol:
    """Return the protocol of a config, with its id.

    Raises:
        InputError: Settings contradict each other, or a manifest's column gives no folds.
    """
    protocol = config.protocol
    by_column = protocol.split == GIVEN and given is None
    name = protocol_id(
        labels.name,
        protocol.split,
        protocol.dev,
        config.corpus.subset,
        protocol.n_folds,
        protocol.text_groups,
        given_digest(utterances) if by_column else "",
        given,
        config.train.normalize == "speaker",
        speakers_unknown(utterances),
    )
    return Protocol(name, given)
