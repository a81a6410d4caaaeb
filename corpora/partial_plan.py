"""A plan as far as a corpus allows: what would stop a run is told, and the rest is planned."""

from collections.abc import Sequence
from dataclasses import replace

from audio.fingerprint import near_copies
from config.schema import Config
from config.several import each_corpus, with_members
from corpora.bad_audio import bad_audio_list, describe_bad_audio
from corpora.plan import Plan, index_utterances, list_utterances, settle, with_facts
from corpora.protocol import Listed, Protocol, split_corpus
from corpora.splits import Split
from system.errors import InputError


def make_partial_plan(config: Config) -> tuple[Plan, list[str]]:
    """Plan a run as `make_plan` does, but go on where that would stop.

    Bad audio is left out. Where counts differ from the published ones, the utterances that are
    there are planned; where the splits are refused, the plan has them without a certificate; where
    they cannot be made, it has none.

    Args:
        config: Config of the run. The audio index is saved in its `run.store`.

    Returns:
        The plan, and the message of each refusal. Bad audio is in the plan alone.

    Raises:
        InputError: The corpus is not there, its labels do not fit, or no audio of it can be used.
    """
    (labels, utterances, protocol, unread, relabelled, corpora), refusals = _listed(config)
    recordings, bad = index_utterances(config, utterances, keep=True)
    if not recordings:
        listed = "\n".join(describe_bad_audio(bad, bad_audio_list(config)))
        raise InputError(f"none of {len(bad)} audio files can be used:\n{listed}")
    skipping = config.corpus.model_copy(update={"on_bad_audio": "skip"})
    relaxed = config.model_copy(update={"corpus": skipping})
    try:
        plan = settle(relaxed, labels, protocol, utterances, recordings, bad)
    except InputError as error:
        refusals.append(str(error))
        kept = [utterance for utterance in utterances if utterance.audio in recordings]
        copies = near_copies({one.hash: one.words for one in recordings.values()})
        plan = Plan(relaxed, labels, kept, recordings, bad, (), {}, copies=copies)
        plan = replace(plan, splits=_splits(relaxed, protocol, plan), given=protocol.given)
    return with_facts(replace(plan, config=config), unread, relabelled, corpora), refusals


def _listed(config: Config) -> tuple[Listed, list[str]]:
    """List the utterances, of an incomplete corpus those that are there."""
    try:
        return list_utterances(config), []
    except InputError as error:
        of = each_corpus(config)
        counted = [key for key, own in of.items() if own.corpus.expect_published_counts]
        if not counted:
            raise
        relaxed = {key: {"expect_published_counts": False} if key in counted else {} for key in of}
        try:
            return list_utterances(with_members(config, relaxed)), [str(error)]
        except InputError:
            raise error from None


def _splits(config: Config, protocol: Protocol, plan: Plan) -> Sequence[Split]:
    """Return the folds that the checks refuse; none where they cannot be made."""
    try:
        return split_corpus(config, protocol.given, plan.utterances, plan.hashes, plan.copies)
    except InputError:
        return ()
