"""A plan as far as a corpus allows: what would stop a run is told, and the rest is planned."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from audio.fingerprint import near_copies
from config.schema import Config
from corpora.audio_files import Unread
from corpora.bad_audio import bad_audio_list, describe_bad_audio
from corpora.label_maps import Relabelled
from corpora.labels import LabelSet
from corpora.plan import Plan, index_utterances, settle, with_facts
from corpora.protocol import Protocol, name_protocol, read_given_folds, split_corpus
from corpora.several import list_corpora
from corpora.splits import Split
from corpora.unknown_speakers import speakers_unknown
from corpora.utterance import Utterance
from system.errors import InputError


def make_partial_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan a run as `make_plan` does, but go on where that would stop.

    Bad audio is left out. Where counts differ from the published ones or a class has no utterance,
    the utterances that are there are planned; where the splits are refused, the plan has them
    without a certificate; where they cannot be made or the protocol is refused, it has none.

    Args:
        config: Config of the run. The audio index is saved in its `run.store`.

    Returns:
        The plan, and the message of each refusal. Bad audio is in the plan alone.

    Raises:
        InputError: The corpus is not there, its labels do not fit, or no audio of it can be used;
            with what was refused before.
    """
    listed, refusals = _list(config)
    utterances, labels = listed.utterances, listed.labels
    recordings, bad = index_utterances(config, utterances, keep=True)
    if not recordings:
        files = "\n".join(describe_bad_audio(bad, bad_audio_list(config)))
        raise InputError(
            "\n".join([f"none of {len(bad)} audio files can be used:\n{files}", *refusals])
        )
    skipping = config.corpus.model_copy(update={"on_bad_audio": "skip"})
    relaxed = config.model_copy(update={"corpus": skipping})
    copies = near_copies({one.hash: one.words for one in recordings.values()})
    kept = [utterance for utterance in utterances if utterance.audio in recordings]
    plan = Plan(relaxed, labels, kept, recordings, bad, (), {}, copies=copies)
    if listed.protocol is not None:
        try:
            plan = settle(relaxed, labels, listed.protocol, utterances, recordings, bad, copies)
        except InputError as error:
            _add(refusals, error)
            splits = _splits(relaxed, listed.protocol, plan, refusals)
            plan = replace(plan, splits=splits, given=listed.protocol.given)
    plan = replace(plan, config=config)
    return with_facts(plan, listed.unread, listed.relabelled, listed.corpora), refusals


class _Listed(NamedTuple):
    """A `Listed` as far as the corpus allows: without a protocol where that is refused."""

    labels: LabelSet
    utterances: list[Utterance]
    protocol: Protocol | None
    unread: Unread
    relabelled: Relabelled
    corpora: Mapping[str, Mapping[str, Any]]


def _list(config: Config) -> tuple[_Listed, list[str]]:
    """List the utterances that are there as `list_utterances` does; collect its refusals."""
    refusals: list[str] = []
    (labels, everyone, chosen, unread), relabelled, facts = list_corpora(config, refusals)
    if not chosen:
        raise InputError("\n".join([*refusals, *unread.words()]))
    protocol = None
    try:
        given = read_given_folds(config, everyone, chosen)
        if given is not None:
            chosen = [utterance for utterance in chosen if given.used(utterance)]
        protocol = name_protocol(config, labels, chosen, given)
    except InputError as error:
        _add(refusals, error)
    return _Listed(labels, chosen, protocol, unread, relabelled, facts), refusals


def _add(refusals: list[str], error: InputError) -> None:
    """Add a refusal, once."""
    if str(error) not in refusals:
        refusals.append(str(error))


def _splits(config: Config, protocol: Protocol, plan: Plan, refusals: list[str]) -> Sequence[Split]:
    """Return the folds that the checks refuse; none where they cannot be made, with the reason."""
    try:
        return split_corpus(config, protocol.given, plan.utterances, plan.hashes, plan.copies)
    except InputError as error:
        if not speakers_unknown(plan.utterances):  # which was refused, and says more
            _add(refusals, error)
        return ()
