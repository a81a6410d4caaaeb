"""Corpora whose speakers nobody knows: which protocols may use them."""

from collections.abc import Iterable

from config.schema import Config
from config.several import CROSS_CORPUS, roles, roots
from corpora.given import GIVEN
from corpora.utterance import NO_SPEAKER, Utterance
from system.errors import InputError

MAY_SHARE = ("random-utterance", GIVEN, CROSS_CORPUS)  # splits that do not need to know who speaks
WAY_ON = (
    "Say who speaks: a column `speaker` (or corpus.columns={speaker: COLUMN}), or a part of each "
    "path (corpus.layout={speaker}/{label}/*.wav, or {label}/{speaker}_*.wav). Where nobody knows, "
    "protocol.allow_speaker_overlap=true with protocol.split=random-utterance (and n_folds) or "
    "given trains all the same, and every table is marked SPEAKER-DEPENDENT"
)


def is_unknown(utterance: Utterance) -> bool:
    """Return whether nobody knows the speakers of the corpus of an utterance."""
    key = "" if utterance.corpus is None else f"{utterance.corpus}/"
    return utterance.speaker == f"{key}{NO_SPEAKER}"


def speakers_unknown(utterances: Iterable[Utterance]) -> bool:
    """Return whether nobody knows the speakers of a corpus, or of one of several.

    Raises:
        InputError: Some of one corpus are known and some are not.
    """
    corpora: dict[str | None, list[Utterance]] = {}
    for utterance in utterances:
        corpora.setdefault(utterance.corpus, []).append(utterance)
    return any([_all_unknown(members) for members in corpora.values()])


def _all_unknown(utterances: Iterable[Utterance]) -> bool:
    unknown: list[str] = []
    known: list[str] = []
    for utterance in utterances:
        (unknown if is_unknown(utterance) else known).append(utterance.id)
    if unknown and known:
        raise InputError(
            f"the speakers of {len(unknown)} utterances are unknown, the first is {unknown[0]}, "
            f"and those of {len(known)} are known, the first is {known[0]}: name all, or leave out "
            "those without one"
        )
    return bool(unknown)


def check_unknown_speakers(config: Config, utterances: Iterable[Utterance]) -> bool:
    """Return whether speakers are unknown; refuse protocols that would need them.

    Args:
        config: Config of the run.
        utterances: Utterances with a label that is used.

    Raises:
        InputError: Speakers are unknown and the protocol keeps them apart, or normalizes by them.
    """
    utterances = list(utterances)
    protocol = config.protocol
    if not speakers_unknown(utterances):
        if protocol.split == CROSS_CORPUS and protocol.allow_speaker_overlap:
            raise InputError(
                "protocol.allow_speaker_overlap has no effect on cross-corpus where all speakers "
                "are known; leave it out"
            )
        return False
    if protocol.split not in MAY_SHARE or not protocol.allow_speaker_overlap:
        raise InputError(
            f"nothing says who speaks in {roots(config)}, so nobody can show that "
            f"protocol.split={protocol.split} tests speakers that training did not hear. {WAY_ON}"
        )
    trained = [one for one in utterances if roles(config).get(one.corpus or "") == "train"]
    if blind := {one.corpus for one in trained if is_unknown(one)}:
        raise InputError(
            f"nothing says who speaks in {', '.join(sorted(map(str, blind)))}, so that no dev "
            "speakers can be kept apart: a corpus without speakers can be tested, not trained on"
        )
    if config.train.normalize == "speaker":
        raise InputError(
            "train.normalize=speaker needs speakers, and nothing says who speaks: set it to true"
        )
    return True
