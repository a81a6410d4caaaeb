"""Utterances of one corpus with their targets, before any audio is opened."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from config.schema import Config
from config.tasks import DISTRIBUTION
from corpora.audio_files import Unread, unread_audio
from corpora.label_maps import Relabelled, describe_labels, describe_votes
from corpora.labels import LabelSet
from corpora.readers import read_corpus, select_subset
from corpora.targets import select_targets, target_set, votes_of
from corpora.utterance import Utterance
from system.errors import InputError


class Listing(NamedTuple):
    """What the tables and names of a corpus say.

    Args:
        labels: Label set.
        everyone: All utterances, as they were read.
        chosen: Those with a target that is used, with it.
        unread: Audio files that are not part of the corpus.
    """

    labels: LabelSet
    everyone: Sequence[Utterance]
    chosen: list[Utterance]
    unread: Unread


def list_corpus(config: Config, refusals: list[str] | None = None) -> Listing:
    """Read a corpus, choose labels, list audio that was not read.

    Args:
        config: Config with one corpus.
        refusals: Gets why counts of classes are refused, and all that is there is listed; None
            raises it.

    Raises:
        InputError: See `read_corpus`, `target_set` and `select_targets`.
    """
    corpus, root = config.corpus, Path(config.corpus.root)
    manifest = None if corpus.manifest is None else Path(corpus.manifest)
    outside = corpus.absolute_paths or False
    utterances = read_corpus(corpus.name, root, manifest, outside, corpus.layout, corpus.columns)
    labels = target_set(config, utterances)
    published = corpus.expect_published_counts or False
    paths = [utterance.path for utterance in utterances]
    unread = unread_audio(root, paths, named=manifest is None)
    try:
        chosen = select_targets(utterances, labels, corpus.subset, published, refusals)
    except InputError as error:  # what was not read may be what is missing
        raise InputError("\n".join([str(error), *unread.words()])) from error
    return Listing(labels, utterances, chosen, unread)


def relabelled_of(config: Config, listing: Listing) -> Relabelled:
    """Return what became of the labels of a manifest or folder, or of votes for labels."""
    corpus, labels = config.corpus, listing.labels
    if labels.task == DISTRIBUTION:
        voted = select_subset(listing.everyone, corpus.subset)
        silent = len(voted) - len(listing.chosen)
        return describe_votes(corpus.name, labels.classes_of, map(votes_of, voted), silent)
    own = (one.label for one in listing.everyone)
    return describe_labels(corpus.name, labels.classes_of, own)
