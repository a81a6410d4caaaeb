"""Several corpora as one: common classes, names of their own, and a fold for each test corpus.

Ids, speakers, sessions and texts get the key of their corpus before them, as in `ravdess/01`, so
that 01 of one corpus is not 01 of another. One recording in two corpora is found by its samples.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from config.schema import Config
from config.several import CROSS_CORPUS, each_corpus, of_corpus, roles
from config.tasks import RATINGS, RatingScale
from corpora.audio_files import Unread
from corpora.certificate import describe_corpus
from corpora.dev_draw import draw_dev
from corpora.label_maps import Relabelled
from corpora.labels import LabelSet
from corpora.listing import Listing, list_corpus, relabelled_of
from corpora.splits import Split, check_train_classes
from corpora.unannotated_speakers import is_unannotated
from corpora.unknown_speakers import is_unknown
from corpora.utterance import Utterance
from system.errors import InputError

UNIT = RatingScale(-1.0, 1.0)  # of ratings whose raters had other scales


class Joined(NamedTuple):
    """Several corpora, listed as one.

    Args:
        listing: All utterances, under their common label set.
        relabelled: What became of the labels of manifests and folders.
        facts: What the certificate says of each corpus, by key.
    """

    listing: Listing
    relabelled: Relabelled
    facts: dict[str, dict[str, Any]]


def list_corpora(config: Config, refusals: list[str] | None = None) -> Joined:
    """List the corpus of a config, or all of them as one.

    Args:
        config: Config of a run.
        refusals: See `list_corpus`.

    Raises:
        InputError: See `list_corpus`, and `list_several` of several.
    """
    if config.corpus.corpora is not None:
        return list_several(config, refusals)
    listing = list_corpus(config, refusals)
    return Joined(listing, relabelled_of(config, listing), {})


def list_several(config: Config, refusals: list[str] | None = None) -> Joined:
    """Read each corpus with its own reader and labels, and join them under common classes.

    Args:
        config: Config with a list of corpora.
        refusals: See `list_corpus`; each begins with the key of its corpus.

    Raises:
        InputError: A corpus cannot be used, see `list_corpus`; or their classes differ; names the
            corpus.
    """
    listed: dict[str, Listing] = {}
    mapped: dict[str, str] = {}
    left_out: dict[str, int] = {}
    votes: dict[str, float] = {}
    silent = 0
    for key, own in each_corpus(config).items():
        with of_corpus(key):
            refused: list[str] | None = None if refusals is None else []
            listed[key] = list_corpus(own, refused)
            relabelled = relabelled_of(own, listed[key])
        if refusals is not None:
            refusals += [f"{key}: {why}" for why in refused or ()]
        mapped |= {f"{key}/{label}": name for label, name in relabelled.mapped.items()}
        left_out |= {f"{key}/{label}": n for label, n in relabelled.left_out.items()}
        votes |= {f"{key}/{label}": n for label, n in relabelled.votes.items()}
        silent += relabelled.silent
    labels = _common_labels(config, {key: one.labels for key, one in listed.items()})
    chosen: list[Utterance] = []
    facts = {}
    for key, one in listed.items():
        named = [u for u in one.chosen if not is_unannotated(u.speaker)]
        members = [_member(key, u, one.labels, labels) for u in named]
        facts[key] = _describe(config, key, one, members)
        chosen += members
    unread = _join_unread({key: one.unread for key, one in listed.items()})
    became = Relabelled(mapped, left_out, votes, silent)
    return Joined(Listing(labels, chosen, chosen, unread), became, facts)


def _common_labels(config: Config, sets: Mapping[str, LabelSet]) -> LabelSet:
    """Return the label set that all corpora share, in the order of the first one's classes.

    All must have the same classes: UA over fewer would be another score under the same name.
    """
    first, *others = sets
    for key in others:
        if set(sets[key].classes) != set(sets[first].classes):
            told = "\n".join(
                f"  {one}: {', '.join(sorted(sets[one].classes))}" for one in (first, key)
            )
            raise InputError(
                f"the corpora {first} and {key} have different {_noun(sets[first])}:\n{told}\n"
                "Keep the common ones: corpus.KEY.classes=[...] of a published corpus leaves out "
                "or merges classes, corpus.KEY.labels=[...] and corpus.KEY.label_map={...} of a "
                "folder or manifest"
            )
    of = each_corpus(config)
    subsets = {key: own.corpus.subset for key, own in of.items()}
    words = {
        role: "+".join(
            sets[key].name + f":{subsets[key]}" * (subsets[key] != "all")
            for key, own_role in roles(config).items()
            if own_role == role
        )
        for role in ("train", "test")
    }
    return LabelSet(
        f"{words['train']}-to-{words['test']}",
        sets[first].classes,
        {f"{key}/{label}": name for key in sets for label, name in sets[key].classes_of.items()},
        {},
        sets[first].task,
        UNIT if sets[first].task == RATINGS else None,
    )


def _noun(labels: LabelSet) -> str:
    return "dimensions" if labels.task == RATINGS else "classes"


def _member(key: str, one: Utterance, own: LabelSet, common: LabelSet) -> Utterance:
    """Return an utterance under the name of its corpus, with its target as all corpora have it."""
    target = one.target
    if target is not None:
        if own.scale is not None:  # ratings of other scales, as shares of their scale
            target = tuple(own.scale.to_unit(rating) for rating in target)
        target = tuple(target[own.classes.index(name)] for name in common.classes)
    return replace(
        one,
        corpus=key,
        id=f"{key}/{one.id}",
        speaker=f"{key}/{one.speaker}",
        session=None if one.session is None else f"{key}/{one.session}",
        text_id=None if one.text_id is None else f"{key}/{one.text_id}",
        target=target,
    )


def _describe(
    config: Config, key: str, listing: Listing, members: Sequence[Utterance]
) -> dict[str, Any]:
    """Return what the certificate says of one corpus: what it is, and what of it is used."""
    corpus = each_corpus(config)[key].corpus
    unnamed = len(listing.chosen) - len(members)
    return {
        **describe_corpus(corpus.name, corpus.root, corpus.manifest),
        "role": roles(config)[key],
        "labels": listing.labels.name,
        "subset": corpus.subset,
        **({"unannotated_speakers_left_out": unnamed} if unnamed else {}),
    }


def with_counts(
    facts: Mapping[str, Mapping[str, Any]], utterances: Sequence[Utterance]
) -> dict[str, dict[str, Any]]:
    """Add to the facts of each corpus how many utterances, classes and speakers are used.

    Args:
        facts: From `list_several`.
        utterances: Utterances of the plan.
    """
    counted = {}
    for key, about in facts.items():
        members = [one for one in utterances if one.corpus == key]
        classes = Counter(one.label for one in members)
        known = not any(map(is_unknown, members))
        counted[key] = {
            **about,
            "utterances": len(members),
            "classes": {name: classes[name] for name in sorted(classes)},
            "speakers": len({one.speaker for one in members}) if known else None,
        }
    return counted


def _join_unread(several: Mapping[str, Unread]) -> Unread:
    """Return what was not read of all corpora; names begin with the key of their corpus."""
    return Unread(
        tuple(f"{key}/{name}" for key, one in several.items() for name in one.files),
        tuple(f"{key}/{name}" for key, one in several.items() for name in one.closed),
        all(one.named for one in several.values() if one.files),
        all(one.is_whole for one in several.values()),
    )


def cross_corpus_splits(role_of: Mapping[str, str], utterances: Sequence[Utterance]) -> list[Split]:
    """Return a fold for each test corpus, which it tests as a whole.

    Train and dev are the same in all folds and of the training corpora alone. Dev is drawn from
    each of these by whole speakers of each gender, or whole sessions, see `draw_dev`.

    Args:
        role_of: Role of each corpus by key, in the order of the list.
        utterances: Utterances of all corpora.

    Raises:
        InputError: A corpus has too few speakers for a dev split, or no utterance is left of it, or
            training lacks a class.
    """
    ordered = sorted(utterances, key=lambda one: one.id)
    of = {key: tuple(one for one in ordered if one.corpus == key) for key in role_of}
    if empty := [key for key, members in of.items() if not members]:
        raise InputError(f"no utterance is left of {', '.join(empty)}")
    training = [key for key, role in role_of.items() if role == "train"]
    drawn: set[str] = set()
    for key in training:
        try:
            drawn |= draw_dev("speakers", of[key])
        except InputError as error:
            raise InputError(
                f"{key}: no dev split can be drawn from this training corpus, which has one "
                "session alone, or one speaker of each gender: train on another corpus"
            ) from error
    both = [one for key in training for one in of[key]]
    train = tuple(one for one in both if one.id not in drawn)
    dev = tuple(one for one in both if one.id in drawn)
    tested = [key for key, role in role_of.items() if role == "test"]
    splits = [Split(fold, train, dev, of[key]) for fold, key in enumerate(tested, start=1)]
    check_train_classes(splits)
    return splits


def describe_corpora(config: Config) -> dict[str, Any]:
    """Return {name, synthetic} of the corpus of a config, see `describe_corpus`, or of several.

    Of several the tested ones come first: "IEMOCAP, trained on RAVDESS".
    """
    about = {
        key: describe_corpus(own.corpus.name, own.corpus.root, own.corpus.manifest)
        for key, own in each_corpus(config).items()
    }
    if config.corpus.corpora is None:
        return about[""]
    names = {
        wanted: " and ".join(
            about[key]["name"] for key, role in roles(config).items() if role == wanted
        )
        for wanted in ("train", "test")
    }
    return {
        "name": f"{names['test']}, trained on {names['train']}",
        "synthetic": any(one["synthetic"] for one in about.values()),
    }


def cross_corpus_warnings(certificate: Mapping[str, Any]) -> list[str]:
    """Say what several corpora cost, and what is left out of them."""
    facts: Mapping[str, Mapping[str, Any]] = certificate.get("corpora", {})
    lines = []
    tested = [key for key, one in facts.items() if one["role"] == "test"]
    if len(tested) > 1:
        lines.append(
            f"{CROSS_CORPUS}: fold k tests the k-th of {', '.join(tested)}. All {len(tested)} "
            "folds train on the same utterances, each a network of its own for every seed"
        )
    for key, one in facts.items():
        if n := one.get("unannotated_speakers_left_out"):
            lines.append(f"{key}: {n} utterances are left out because nobody named their speakers")
        if one["speakers"] is None:
            lines.append(f"{key}: nobody knows who speaks, so that its scores have no interval")
    return lines


def path_in_corpus(config: Config, utterance: Utterance) -> Path:
    """Return the path of an utterance's file relative to the root of its corpus, if it is in it."""
    own = each_corpus(config)[utterance.corpus or ""]
    root = Path(own.corpus.root).expanduser()
    path = utterance.path
    return path.relative_to(root) if path.is_relative_to(root) else path
