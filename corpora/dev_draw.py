"""Draw a dev split from the training split of folds that come without one."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Sequence

from corpora.file_names import IEMOCAP_NAME
from corpora.utterance import Utterance
from system.errors import InputError

SHARE = 0.2  # of the training split, as EmoBox and s3prl draw at random
SEED = 20  # fixed, so that the folds never change
RULES = {  # protocol.dev: the rule in words
    "given": "as the folds give it",
    "fold": "the utterances that the next fold tests",
    "speakers": "whole speakers of each gender until they hold a fifth of its training utterances, "
    "or whole sessions where there are some",
    "dialogs": "whole dialogues of each training session until they hold a fifth of its utterances",
    "random": "a fifth of the training utterances of each class",
}
SHARING = ("dialogs", "random")  # rules by which dev shares speakers with train

Drawn = set[str]  # ids of utterances


def draw_dev(rule: str, train: Sequence[Utterance]) -> Drawn:
    """Return the ids that leave a training split for dev; the same on any machine.

    Groups (speakers, dialogues, utterances) are taken in the order of a hash of their names.

    Args:
        rule: `speakers`, `dialogs` or `random`.
        train: Training utterances of one fold.

    Raises:
        InputError: There are too few groups, or no dialogues.
    """
    if rule == "random":
        return _draw(train, lambda one: one.label, lambda one: one.id)
    if rule == "dialogs":
        return _draw(train, lambda one: one.session or "", dialog_of)
    if any(one.session for one in train):
        return _draw(train, lambda one: "", lambda one: one.session or "")
    return _draw(train, lambda one: one.gender or "", lambda one: one.speaker)


def dialog_of(utterance: Utterance) -> str:
    """Return the dialogue of an IEMOCAP utterance.

    Raises:
        InputError: The id and file name are not IEMOCAP's.

    >>> from pathlib import Path
    >>> path = Path("Ses05M_script01_1b_F003.wav")
    >>> dialog_of(Utterance(path.stem, path, "neu", "Ses05_F"))
    'Ses05M_script01_1b'
    """
    for stem in (utterance.id, utterance.path.stem):
        if IEMOCAP_NAME.fullmatch(stem):
            return stem.rpartition("_")[0]
    raise InputError(
        f"protocol.dev=dialogs needs dialogues, which only names of IEMOCAP tell, got "
        f"{utterance.id}: use protocol.dev=speakers or random"
    )


def _draw(
    train: Sequence[Utterance],
    stratum_of: Callable[[Utterance], str],
    group_of: Callable[[Utterance], str],
) -> Drawn:
    """Take groups of each stratum until they hold `SHARE` of its utterances; one at least stays."""
    strata: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for one in train:
        strata[stratum_of(one)][group_of(one)].append(one.id)
    drawn: Drawn = set()
    for groups in strata.values():
        wanted = SHARE * sum(map(len, groups.values()))
        taken = 0
        for name in sorted(groups, key=_key)[: len(groups) - 1]:
            if taken >= wanted:
                break
            taken += len(groups[name])
            drawn |= set(groups[name])
    if not drawn:
        raise InputError(
            "no dev split can be drawn: training has one group alone; add dev to the folds, or use "
            "another protocol.dev"
        )
    return drawn


def _key(name: str) -> str:
    return hashlib.sha256(f"{SEED}:{name}".encode()).hexdigest()
