"""Which way a gate points, in words: of both images it is one number, of other sources shares."""

from collections.abc import Sequence

from config.fusions import BRANCH_TITLES, IMAGES

IN_FULL = {
    "cqt": "CQT / MaxViT",
    "mel": "Mel-STFT / MViTv2",
    "speech": "the speech model",
    "file": "the vectors of model.vectors",
}
OF_IMAGES = f"1 = {IN_FULL['cqt']}, 0 = {IN_FULL['mel']}"


def polarity(sources: Sequence[str]) -> str:
    """Return what a gate of 1 means.

    >>> polarity(["cqt", "mel"])
    '1 = CQT / MaxViT, 0 = Mel-STFT / MViTv2'
    >>> polarity(["cqt", "speech"])
    'shares of CQT / MaxViT and the speech model, which add up to 1: 1 = that source alone'
    """
    if tuple(sources) == IMAGES:
        return OF_IMAGES
    named = listed([IN_FULL[source] for source in sources])
    return f"shares of {named}, which add up to 1: 1 = that source alone"


def share_polarity(source: str) -> str:
    """Return what a share of one source means, for the axis of a figure.

    >>> share_polarity("speech")
    '0 = without speech ... 1 = speech alone'
    """
    return f"0 = without {BRANCH_TITLES[source]} ... 1 = {BRANCH_TITLES[source]} alone"


def of_gates(with_shares: bool) -> str:
    """Return how a column of gates is read, in tables that may hold runs of other sources.

    >>> of_gates(True)
    '1 = CQT, 0 = Mel, of other sources the share of each: 1 = that source alone'
    """
    others = ", of other sources the share of each: 1 = that source alone"
    return f"1 = CQT, 0 = Mel{others * with_shares}"


def titles(sources: Sequence[str]) -> list[str]:
    """Return the names of sources as tables have them."""
    return [BRANCH_TITLES[source] for source in sources]


def listed(words: Sequence[str], last: str = "and") -> str:
    """Return words as a list in a sentence.

    >>> listed(["CQT", "Mel", "speech"]), listed(["CQT", "Mel"], "nor"), listed(["CQT"])
    ('CQT, Mel and speech', 'CQT nor Mel', 'CQT')
    """
    return f" {last} ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
