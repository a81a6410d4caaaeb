"""Label sets: the class of each label of a published corpus, and the published counts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from config.tasks import CLASS, DISTRIBUTION, RATINGS, RatingScale, TaskName
from corpora.utterance import Utterance


@dataclass(frozen=True)
class LabelSet:
    """The classes of a task, and the class of each corpus label.

    Args:
        name: Part of the protocol id, so that results with other classes are never compared.
        classes: Class names; the position is the target index.
        classes_of: Corpus label -> class, or None if utterances with the label are left out. An
            utterance with any other label is an error; it is not dropped silently.
        published: Subset -> class -> published number of utterances; empty if none is published.
        task: Task whose targets these are, see `config.tasks`; of dimensions, `classes` are their
            names.
        scale: Scale of the ratings; None for classes.
    """

    name: str
    classes: tuple[str, ...]
    classes_of: Mapping[str, str | None]
    published: Mapping[str, Mapping[str, int]]
    task: TaskName = CLASS
    scale: RatingScale | None = None

    def missing(self, utterances: Iterable[Utterance]) -> list[str]:
        """Return the classes that no utterance has; ratings need not take every value."""
        if self.task == RATINGS:
            return []
        if self.task == DISTRIBUTION:
            voted = zip(*(utterance.target or () for utterance in utterances), strict=True)
            return [name for name, mass in zip(self.classes, voted, strict=False) if not any(mass)]
        present = {utterance.label for utterance in utterances}
        return [name for name in self.classes if name not in present]

    def describe(self) -> dict[str, list[str]]:
        """Return the corpus labels of each class, for the certificate."""
        return {
            name: sorted(label for label, one in self.classes_of.items() if one == name)
            for name in self.classes
        }


def _label_set(
    name: str, classes_of: dict[str, str | None], published: dict[str, list[int]]
) -> LabelSet:
    """Order the classes and their published counts as `classes_of` first names them."""
    classes = tuple(dict.fromkeys(value for value in classes_of.values() if value is not None))
    counts = {subset: dict(zip(classes, n, strict=True)) for subset, n in published.items()}
    return LabelSet(name, classes, classes_of, counts)


_IEMOCAP = {"neu": "neutral", "hap": "happy", "ang": "angry", "sad": "sad"}
# xxx: the raters found no majority
_IEMOCAP_OTHER = dict.fromkeys(("fru", "sur", "fea", "dis", "oth", "xxx"))

LABEL_SETS: dict[str, tuple[LabelSet, ...]] = {
    # Counted in the label files of the corpus; the literature has 5531, 4490, 2943 and 2280 too.
    "iemocap": (
        _label_set(
            "iemocap4-exc",
            {**_IEMOCAP, "exc": "happy", **_IEMOCAP_OTHER},
            {
                "all": [1708, 1636, 1103, 1084],  # 5531
                "improvised": [1099, 947, 289, 608],  # 2943
                "scripted": [609, 689, 814, 476],  # 2588
            },
        ),
        _label_set(
            "iemocap4",
            {**_IEMOCAP, "exc": None, **_IEMOCAP_OTHER},
            {
                "all": [1708, 595, 1103, 1084],  # 4490
                "improvised": [1099, 284, 289, 608],  # 2280
                "scripted": [609, 311, 814, 476],  # 2210
            },
        ),
    ),
    # 20 speakers x 5 emotions x 350 sentences, Zhou et al. 2022
    "esd": (
        _label_set(
            "esd5",
            {
                "Neutral": "neutral",
                "Happy": "happy",
                "Angry": "angry",
                "Sad": "sad",
                "Surprise": "surprised",
            },
            {"all": [7000] * 5, "english": [3500] * 5, "mandarin": [3500] * 5},
        ),
    ),
    # 24 actors x 60 recordings, neutral at one intensity only, Livingstone & Russo 2018
    "ravdess": (
        _label_set(
            "ravdess8",
            {
                "neutral": "neutral",
                "calm": "calm",
                "happy": "happy",
                "sad": "sad",
                "angry": "angry",
                "fearful": "fearful",
                "disgust": "disgust",
                "surprised": "surprised",
            },
            {"all": [96, *[192] * 7]},
        ),
    ),
    # 535 published recordings; counts of EmoBox's list, Ma et al. 2024
    "emodb": (
        _label_set(
            "emodb7",
            {
                "neutral": "neutral",
                "happiness": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "boredom": "bored",
            },
            {"all": [79, 71, 127, 62, 69, 46, 81]},
        ),
    ),
    # 7442 recordings, intended emotion, Cao et al. 2014; counts of EmoBox's list
    "cremad": (
        _label_set(
            "cremad6",
            {
                "NEU": "neutral",
                "HAP": "happy",
                "ANG": "angry",
                "SAD": "sad",
                "FEA": "fearful",
                "DIS": "disgust",
            },
            {"all": [1087, *[1271] * 5]},
        ),
    ),
    # 4 men x (6 emotions x 15 sentences, neutral 30): AudioData/Info.txt, EmoBox's list
    "savee": (
        _label_set(
            "savee7",
            {
                "neutral": "neutral",
                "happiness": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "surprise": "surprised",
            },
            {"all": [120, *[60] * 6]},
        ),
    ),
    # 2 women x 7 emotions x 200 words, Dupuis & Pichora-Fuller 2010; EmoBox's list
    "tess": (
        _label_set(
            "tess7",
            {
                "neutral": "neutral",
                "happy": "happy",
                "angry": "angry",
                "sad": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "pleasant surprise": "surprised",
            },
            {"all": [400] * 7},
        ),
    ),
    # 6 actors x 7 emotions x 14 sentences, Costantini et al. 2014; EmoBox's list
    "emovo": (
        _label_set(
            "emovo7",
            {
                "neutral": "neutral",
                "joy": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "surprise": "surprised",
            },
            {"all": [84] * 7},
        ),
    ),
    # 4481 rows of the published data.tsv, Christop 2024
    "nemo": (
        _label_set(
            "nemo6",
            {
                "neutral": "neutral",
                "happiness": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "surprised": "surprised",
            },
            {"all": [809, 749, 749, 769, 736, 669]},
        ),
    ),
    # The authors say "around 500" and add actors; 604 is EmoBox's list, Ma et al. 2024
    "aesdd": (
        _label_set(
            "aesdd5",
            {
                "happiness": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
            },
            {"all": [119, 121, 122, 120, 122]},
        ),
    ),
    # Tables of the repository declare-lab/MELD; two of the utterances have no usable audio
    "meld": (
        _label_set(
            "meld7",
            {
                "neutral": "neutral",
                "joy": "happy",
                "anger": "angry",
                "sadness": "sad",
                "fear": "fearful",
                "disgust": "disgust",
                "surprise": "surprised",
            },
            {"all": [6436, 2308, 1607, 1002, 358, 361, 1636]},
        ),
    ),
    # Numbers grow with each release, and none is published by class. O: other, X: no agreement
    "msppodcast": (
        _label_set(
            "msppodcast8",
            {
                "N": "neutral",
                "H": "happy",
                "A": "angry",
                "S": "sad",
                "F": "fearful",
                "D": "disgust",
                "U": "surprised",
                "C": "contempt",
                **dict.fromkeys(("O", "X")),
            },
            {},
        ),
    ),
    # 400 files of the published repository, Latif et al. 2018
    "urdu": (
        _label_set(
            "urdu4",
            {"Neutral": "neutral", "Happy": "happy", "Angry": "angry", "Sad": "sad"},
            {"all": [100] * 4},
        ),
    ),
}
