"""Folds whose test texts are in neither train nor dev."""

from collections import Counter
from collections.abc import Iterable, Sequence

from corpora.splits import Split, check_train_classes
from corpora.utterance import Utterance
from system.errors import InputError


def cross_with_texts(splits: Sequence[Split], n_groups: int) -> list[Split]:
    """Replace each fold by one fold per group of texts; what was tested once still is.

    Fold (k, g) tests the utterances of fold k whose text is in group g; it trains and selects on
    those of fold k whose text is not. Fold k becomes folds (k - 1) * n_groups + 1, + 2, ...

    Args:
        splits: From `make_splits`.
        n_groups: Number of groups that the texts are divided into, of nearly equal size; an
            utterance without a text (improvised or unknown) counts as a text by itself.

    Raises:
        InputError: The corpus names fewer texts than groups, or a fold would have an empty split or
            train without one of its classes.
    """
    group_of = _group_texts([u for split in splits for u in split.test], n_groups)
    crossed: list[Split] = []
    for split in splits:
        for group in range(n_groups):
            train, dev = (
                tuple(u for u in part if group_of.get(_text(u)) != group)  # None: never tested
                for part in (split.train, split.dev)
            )
            test = tuple(u for u in split.test if group_of[_text(u)] == group)
            crossed.append(Split(len(crossed) + 1, train, dev, test))
    for split in crossed:
        for name, part in split.parts():
            if not part:
                raise InputError(
                    f"protocol.text_groups={n_groups} leaves no utterance for {name} in fold "
                    f"{split.fold}: use fewer groups or fewer folds"
                )
    check_train_classes(crossed)
    return crossed


def _text(utterance: Utterance) -> str:
    return f"text {utterance.text_id}" if utterance.text_id else f"utterance {utterance.id}"


def _group_texts(utterances: Iterable[Utterance], n_groups: int) -> dict[str, int]:
    """Assign each text, the most frequent first, to the group with the fewest utterances."""
    counts = Counter(_text(u) for u in utterances)
    texts = [text for text in counts if text.startswith("text ")]
    if len(texts) < n_groups:
        raise InputError(
            f"protocol.text_groups={n_groups} needs at least {n_groups} texts, but this corpus "
            f"names {len(texts)}: use a smaller number, or leave it out"
        )
    sizes = [0] * n_groups
    group_of = {}
    for text in sorted(counts, key=lambda text: (-counts[text], text)):
        group_of[text] = min(range(n_groups), key=sizes.__getitem__)
        sizes[group_of[text]] += counts[text]
    return group_of
