"""The protocol of a config: its id, and its folds."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from audio.fingerprint import Copy
from audio.segment import AudioSource
from config.schema import Config
from corpora.certificate import protocol_id
from corpora.fold_table import GivenFolds, given_splits, load_given_folds
from corpora.given import GIVEN, given_digest
from corpora.labels import LabelSet
from corpora.leakage import group_recordings
from corpora.splits import Split, make_splits
from corpora.text_groups import cross_with_texts
from corpora.unknown_speakers import speakers_unknown
from corpora.utterance import Utterance


class Protocol(NamedTuple):
    """Id of the protocol, and the folds of `protocol.folds` where they are set."""

    id: str
    given: GivenFolds | None


def read_given_folds(
    config: Config, everyone: Sequence[Utterance], chosen: Sequence[Utterance]
) -> GivenFolds | None:
    """Read `protocol.folds`, or return None where it is not set.

    Args:
        config: Config of the run.
        everyone: All utterances of the corpus.
        chosen: Those with a label that is used.

    Raises:
        InputError: See `load_given_folds`.
    """
    protocol = config.protocol
    if protocol.folds is None:
        return None
    overlap = protocol.allow_speaker_overlap
    return load_given_folds(protocol.folds, protocol.dev, overlap, everyone, chosen)


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
    if given is not None:
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
