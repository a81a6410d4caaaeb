"""A list under `corpus:`: train on some corpora, test on others.

A list becomes one section, `{name: several, corpora: {KEY: section}}`, when a config is read. Each
corpus is read, checked and named as if it were alone, see `each_corpus`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from config.corpus_schema import CorpusConfig, MemberCorpus
from config.effects import SEVERAL
from config.messages import refuse
from config.schema import Config
from system.errors import InputError, nearest
from system.text import short_repr

CROSS_CORPUS = "cross-corpus"  # value of `protocol.split`
# What the section of a list holds beside its corpora; the keys have no effect there
FIXED: dict[str, Any] = {"name": SEVERAL, "root": "", "labels": "common"}


def with_corpora(
    values: dict[str, Any], mapping: Mapping[str, Any], source: str
) -> Mapping[str, Any]:
    """Return a config file or override in which a list of corpora is one section.

    A list takes the place of any corpus of a parent. `corpus.KEY` then is a corpus of the list.

    Args:
        values: Values of all parents; their section `corpus` is removed if a list replaces it.
        mapping: Sections of one file or override.
        source: Where they come from, for messages.

    Raises:
        InputError: The list is not one of corpora, or there is no corpus of a key.
    """
    corpus, parent = mapping.get("corpus"), values.get("corpus")
    if isinstance(corpus, list):
        values.pop("corpus", None)
        return {**mapping, "corpus": {**FIXED, "corpora": _keyed(corpus, source)}}
    known = parent.get("corpora") if isinstance(parent, Mapping) else None
    if not (isinstance(corpus, Mapping) and isinstance(known, Mapping)):
        return mapping
    if not isinstance(long := corpus.get("corpora", {}), Mapping):
        return mapping
    # `manifest` is a key of a corpus and may be that of a corpus of the list
    inner = {
        k: v
        for k, v in corpus.items()
        if k not in CorpusConfig.model_fields or (k in known and isinstance(v, Mapping))
    }
    own = {k: v for k, v in corpus.items() if k not in inner and k != "corpora"}
    inner |= long
    if wrong := [key for key in inner if key not in known]:
        raise InputError(
            f"corpus.{wrong[0]} (in {source}): no corpus is called so; {nearest(wrong[0], known)}, "
            f"as in corpus.{next(iter(known))}.root=DIR"
        )
    return {**mapping, "corpus": {**own, **({"corpora": inner} if inner else {})}}


def _keyed(corpora: Sequence[Any], source: str) -> dict[str, Any]:
    """Return the corpora of a list by their name, and a number for another one of it."""
    keyed: dict[str, Any] = {}
    names: list[str] = []
    for corpus in corpora:
        if not isinstance(corpus, Mapping) or not isinstance(corpus.get("name"), str):
            raise InputError(
                f"corpus (in {source}): each corpus of the list must be a section with a name, "
                f"such as {{name: ravdess, labels: ravdess8, root: DIR}}, got {short_repr(corpus)}"
            )
        names.append(name := corpus["name"])
        n = names.count(name)
        keyed[name if n == 1 else f"{name}-{n}"] = corpus
    return keyed


def share_on_bad_audio(values: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Give a list of corpora the `on_bad_audio` that they share, which all code reads there.

    Args:
        values: All sections; changed.
        sources: Where the value of each dotted key comes from.
    """
    corpus = values["corpus"]
    told = {member["on_bad_audio"] for member in (corpus["corpora"] or {}).values()}
    if len(told) == 1 and "corpus.on_bad_audio" not in sources:
        corpus["on_bad_audio"] = told.pop()


def each_corpus(config: Config) -> dict[str, Config]:
    """Return a config for each corpus by its key, as if it were alone; of one corpus "" is the key.

    Args:
        config: Config of a run.
    """
    if config.corpus.corpora is None:
        return {"": config}
    return {
        key: config.model_copy(update={"corpus": _alone(member)})
        for key, member in config.corpus.corpora.items()
    }


def _alone(member: MemberCorpus) -> CorpusConfig:
    return CorpusConfig(**member.model_dump(exclude={"role"}))


def with_members(config: Config, changes: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return a config with other values of its corpora.

    Args:
        config: Config of a run.
        changes: New values of keys, by the keys of `each_corpus`.
    """
    corpus = config.corpus
    if corpus.corpora is None:
        corpus = corpus.model_copy(update=dict(changes[""]))
    else:
        members = {
            key: member.model_copy(update=dict(changes[key]))
            for key, member in corpus.corpora.items()
        }
        corpus = corpus.model_copy(update={"corpora": members})
    return config.model_copy(update={"corpus": corpus})


def roles(config: Config) -> dict[str, str]:
    """Return {key: role} of several corpora, in their order."""
    return {key: member.role for key, member in (config.corpus.corpora or {}).items()}


def roots(config: Config) -> str:
    """Return the folders of all corpora, for messages."""
    return ", ".join(own.corpus.root for own in each_corpus(config).values())


def trained_on(config: Config) -> str:
    """Return the names of the corpora that train, for the model card."""
    return "+".join(
        own.corpus.name
        for key, own in each_corpus(config).items()
        if not key or roles(config)[key] == "train"
    )


@contextmanager
def of_corpus(key: str) -> Iterator[None]:
    """Name the corpus in an input error; "" is the only one and is not named."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{key}: {error}" if key else str(error)) from error


def check_several(config: Config) -> None:
    """Refuse several corpora without a part for each, and a protocol that does not fit.

    Raises:
        InputError: One message that names the keys, and what to change.
    """
    corpus, protocol = config.corpus, config.protocol
    if (corpus.corpora is None) != (corpus.name != SEVERAL):
        raise InputError(
            "corpus.name=several and corpus.corpora belong together: write a list of corpora under "
            "`corpus:`, or one section without corpora"
        )
    if corpus.corpora is None:
        if protocol.split == CROSS_CORPUS:
            raise InputError(
                "protocol.split=cross-corpus trains on some corpora and tests on others: write a "
                "list of corpora under `corpus:`, or choose another protocol.split"
            )
        return
    if protocol.split != CROSS_CORPUS:
        raise InputError(
            f"protocol.split={protocol.split} divides one corpus: with a list of corpora set it to "
            "cross-corpus, or name one corpus"
        )
    if {"train", "test"} - set(roles(config).values()):
        told = ", ".join(f"{key} {role}" for key, role in roles(config).items())
        raise InputError(
            "a list of corpora needs some to train on and some with `role: test`, which the others "
            f"have not; here are {told}"
        )
    _check_members(config)


def _check_members(config: Config) -> None:
    """Refuse values of the list that only its corpora have, and one that all must share."""
    assert config.corpus.corpora is not None
    members = config.corpus.corpora
    told = {member.on_bad_audio for member in members.values()}
    if len(told) > 1:
        raise InputError(
            "on_bad_audio must be the same for all corpora: set corpus."
            f"{'.on_bad_audio=skip and corpus.'.join(members)}.on_bad_audio=skip, or leave it out"
        )
    usual = CorpusConfig(**FIXED, corpora=members, on_bad_audio=told.pop())
    idle = [
        f"corpus.{key}={found} has no effect with several corpora, each of which has its "
        f"own: set {' or '.join(f'corpus.{one}.{key}' for one in members)}"
        for key, value in usual.model_dump(exclude={"corpora"}).items()
        if (found := getattr(config.corpus, key)) != value
    ]
    if config.protocol.text_groups is not None:
        idle.append(
            "protocol.text_groups has no effect with protocol.split=cross-corpus, since no corpus "
            "shares the names of its texts with another: set it to null"
        )
    refuse(idle)
    for key, member in members.items():
        if member.unannotated_speakers == "train":
            raise InputError(
                f"corpus.{key}.unannotated_speakers=train: with several corpora utterances whose "
                "speaker nobody has named are left out; set it to exclude"
            )
