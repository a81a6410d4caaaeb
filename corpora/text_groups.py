"""Folds in which no text that is tested is trained or selected on."""

from collections import Counter
from collections.abc import Iterable, Sequence

from corpora.readers import Utterance
from corpora.splits import Split, check_train_classes
from system.errors import InputError


def cross_with_texts(splits: Sequence[Split], n_groups: int) -> list[Split]:
    """Make a fold of every fold and group of texts; every utterance is tested once as before.

    Fold (k, g) tests what fold k tests, texts of group g only, and trains and selects on what fold
    k does, without the texts of group g. Fold k becomes folds (k - 1) * n_groups + 1, + 2, ...

    Args:
        splits: From `make_splits`.
        n_groups: Texts are dealt to so many groups of like size; each utterance without a text
            (improvised, or unknown) counts as a text of its own.

    Raises:
        InputError: The corpus names fewer texts than groups, a part would be empty, or a class
            would be missing from training.
    """
    everyone = [one for split in splits for one in split.test]
    group_of = _deal(everyone, n_groups)
    crossed: list[Split] = []
    for split in splits:
        for group in range(n_groups):
            train, dev = (
                tuple(one for one in part if group_of[_text(one)] != group)
                for part in (split.train, split.dev)
            )
            test = tuple(one for one in split.test if group_of[_text(one)] == group)
            crossed.append(Split(len(crossed) + 1, train, dev, test))
    for split in crossed:
        for name, part in split.parts():
            if not part:
                raise InputError(
                    f"protocol.text_groups={n_groups} leaves nothing for {name} in fold "
                    f"{split.fold}: use fewer groups or fewer folds"
                )
    check_train_classes(crossed)
    return crossed


def _text(utterance: Utterance) -> str:
    return f"text {utterance.text_id}" if utterance.text_id else f"utterance {utterance.id}"


def _deal(utterances: Iterable[Utterance], n_groups: int) -> dict[str, int]:
    """Give each text, the most frequent first, to the group with the fewest utterances."""
    spoken = Counter(_text(one) for one in utterances)
    texts = [text for text in spoken if text.startswith("text ")]
    if len(texts) < n_groups:
        raise InputError(
            f"protocol.text_groups={n_groups} needs as many texts, and this corpus names "
            f"{len(texts)}: use a smaller number, or leave it out"
        )
    sizes = [0] * n_groups
    group_of = {}
    for text in sorted(spoken, key=lambda text: (-spoken[text], text)):
        group_of[text] = min(range(n_groups), key=sizes.__getitem__)
        sizes[group_of[text]] += spoken[text]
    return group_of
