"""What of a corpus tells the class without its voices: single numbers of recordings, and texts."""

from collections.abc import Sequence

import numpy as np

from corpora.findings import CHECK, KNOW, Finding, ids
from corpora.odd_audio import NARROW_ALL
from corpora.shortcuts import Shortcut, find_shortcut
from corpora.survey import Survey
from corpora.unannotated_speakers import is_known
from system.text import count_of

SHORTCUTS = {  # name: column
    **{"level": "level", "duration": "seconds", "silence at the ends": "silence"},
    **{"bandwidth": "bandwidth", "cutoff": "cutoff", "sampling rate": "rate"},
    **{"channels": "channels", "offset": "offset"},
}
TELLING = {  # name: (weight, what it means, what to do)
    "level": (
        KNOW,
        "Loud and soft speech, or another gain for each class. The images do not show level under "
        "features.reference=clip.",
        "features.reference=full_scale keeps level, if it is the speaker's.",
    ),
    "duration": (
        KNOW,
        "Slow and quick speech, or classes cut in different ways. Stretched images show it as "
        "their time scale.",
        "features.seconds cuts crops of one length instead.",
    ),
    "silence at the ends": (
        CHECK,
        "Classes were cut or recorded in different ways: the images show it at their edges.",
        "features.trim_db=40 cuts it off.",
    ),
    "bandwidth": (
        KNOW,
        "Bright and dark voices, or classes recorded in different ways. Compare the recordings "
        "without speech of each class.",
        "Nothing, if it is the voices; else end the Mel image below what differs, by "
        "features.mel.fmax.",
    ),
    "cutoff": (
        CHECK,
        "Classes come from different sources: filters, codecs or rates are no emotion.",
        "features.mel.fmax at the lowest cutoff, or recordings of one source.",
    ),
    "sampling rate": (
        CHECK,
        "Classes come from different sources: a rate is no emotion.",
        "features.input_rate at the lowest rate, and features.mel.fmax at half of it.",
    ),
    "channels": (
        CHECK,
        "Classes come from different sources: the number of channels is no emotion.",
        "Look where the recordings come from.",
    ),
    "offset": (
        CHECK,
        "Classes were recorded with different equipment.",
        "features.mel.fmin=20 leaves it out of the Mel image.",
    ),
}


def text_shortcut(survey: Survey) -> Shortcut | None:
    """Return what the text alone tells of the class; an utterance without one is like no other."""
    if not survey.texts:
        return None
    names = np.array([one.text_id or f"\0{one.id}" for one in survey.utterances])
    return find_shortcut(
        "text", names, survey.targets, survey.speaker_index, survey.folds, categories=True
    )


def shortcuts(survey: Survey) -> list[Shortcut]:
    """Return what single numbers of the recordings, and the text, tell of the class."""
    columns = dict(survey.columns)
    columns["offset"] = columns["offset"].round(2)  # less says nothing
    columns["cutoff"] = np.minimum(columns["cutoff"], NARROW_ALL * columns["rate"] / 2)
    found = [
        find_shortcut(
            name,
            columns[column],
            survey.targets,
            survey.speaker_index,
            survey.folds,
            categories=column in ("rate", "channels"),
        )
        for name, column in SHORTCUTS.items()
    ]
    return [one for one in [*found, text_shortcut(survey)] if one is not None]


def telling_numbers(found_shortcuts: Sequence[Shortcut]) -> list[Finding]:
    """Name the single numbers that tell classes apart."""
    found = []
    for one in found_shortcuts:
        if not one.tells or one.name not in TELLING:
            continue
        weight, meaning, remedy = TELLING[one.name]
        title = (
            f"{one.name.capitalize()} alone tells classes apart: UA {_ua(one.ua)} where "
            f"{_ua(one.chance)} is chance"
        )
        identity = f"telling-{one.name.replace(' ', '-')}"
        found.append(Finding(identity, weight, title, meaning, remedy))
    return found


def texts_of_one_class(survey: Survey, shortcut: Shortcut | None) -> Finding | None:
    """Name texts that several speakers utter in one class alone."""
    shared = {
        text: members
        for text, members in survey.texts.items()
        if len({one.speaker for one in members if is_known(one.speaker)}) > 1
    }
    one_class = {
        text: members
        for text, members in shared.items()
        if len({one.label for one in members}) == 1
    }
    if not one_class or shortcut is None or not shortcut.tells:
        return None
    order = sorted(one_class, key=lambda text: -len(one_class[text]))
    return Finding(
        "texts-of-one-class",
        CHECK,
        f"{len(one_class)} of {count_of(len(shared), 'text')} that several speakers utter belong "
        f"to one class alone; the text alone reaches UA {_ua(shortcut.ua)} where "
        f"{_ua(shortcut.chance)} is chance",
        "A model can know the class by the words instead of the voice.",
        "protocol.text_groups=2 tests on texts that were not trained; better are texts that occur "
        "in every class.",
        ids(one for text in order for one in one_class[text]),
        [f"{text}: {len(one_class[text])} {one_class[text][0].label}" for text in order],
    )


def _ua(score: float) -> str:
    return f"{100 * score:.1f} %"
