"""What is odd in who says what in a corpus: classes, speakers, folds."""

from collections import Counter

import numpy as np

from config.effects import CLASSES_KEY
from config.tasks import CLASS
from corpora.audio_files import first
from corpora.bad_audio import group_by_reason
from corpora.findings import CHECK, KNOW, Finding, Rule, ids, percent
from corpora.leakage import count_lone_speakers
from corpora.stamps import stamps
from corpora.survey import Survey
from corpora.unannotated_speakers import is_known
from system.text import count_of

UNBALANCED = 1.5  # times as many utterances of one class, speaker or fold as of another
UNEVEN = 3.0  # times as many utterances of a speaker as of the median one, or as few
FEW_SPEAKERS = 2  # of a class, where the corpus has many more
MANY_SPEAKERS = 5
FEW_TESTED = 5  # utterances of a class in a tested part


def bad_audio(survey: Survey) -> Finding | None:
    """Count audio that cannot be used, by reason."""
    bad = survey.plan.bad
    if not bad:
        return None
    lines = [
        f"{count_of(len(sources), 'file')}: {reason} ({first(map(str, sources), 3)})"
        for reason, sources in group_by_reason(bad).items()
    ]
    return Finding(
        "bad-audio",
        CHECK,
        f"{count_of(len(bad), 'recording')} cannot be used",
        "They are left out of everything below. A run stops at them.",
        "Put intact files in their place, or set corpus.on_bad_audio=skip.",
        details=lines,
    )


def refused(survey: Survey) -> Finding | None:
    """Say what would stop a run of this config."""
    if not survey.refusals:
        return None
    return Finding(
        "refused",
        CHECK,
        "A run of this config would stop",
        "The rest of this page shows the utterances that are there.",
        "The message says what to do.",
        details=[line for message in survey.refusals for line in message.splitlines()],
    )


def unread(survey: Survey) -> Finding | None:
    """Say which audio below the root belongs to no utterance."""
    words = survey.plan.unread.words()
    if not words:
        return None
    return Finding(
        "unread",
        KNOW,
        "Audio files that no utterance names",
        "They are below corpus.root and were not read.",
        "Nothing, if they are not part of the corpus.",
        details=words,
    )


def left_out(survey: Survey) -> Finding | None:
    """Say which labels have other names or are left out."""
    words = survey.plan.relabelled.words()
    if not words:
        return None
    return Finding(
        "labels",
        KNOW,
        "Labels that are mapped to other classes, or left out",
        "All else here is about the utterances that are left, under the names of their classes.",
        "Nothing, if it is meant; corpus.label_map and corpus.labels decide it.",
        details=words,
    )


def stamped(survey: Survey) -> Finding | None:
    """Say what tables of scores will say of the folds: stamps, left out utterances, and origin."""
    plan = survey.plan
    facts = plan.certificate
    words = stamps(facts["protocol"], facts["speaker_dependent"]) if facts else []
    if plan.given is not None:
        words += [*plan.given.stamps(), plan.given.words()]
        if excluded := plan.given.describe()["excluded"] - plan.given.held_back:
            words.append(f"{count_of(excluded, 'utterance')} of the corpus are in no fold")
    if not words:
        return None
    return Finding(
        "protocol",
        KNOW,
        "What the tables of scores will say of these folds",
        "Scores are compared with those of the same protocol alone.",
        "Nothing, if it is meant; protocol.split, protocol.folds and corpus.unannotated_speakers "
        "decide it.",
        details=words,
    )


def lone_speakers(survey: Survey) -> Finding | None:
    """Say that the column `speaker` seems to hold no speakers."""
    known = [one for one in survey.utterances if is_known(one.speaker)]
    lone = count_lone_speakers(known)
    if not lone:
        return None
    return Finding(
        "lone-speakers",
        CHECK,
        f"{lone} of {count_of(len(known), 'utterance')} are the only one of their speaker",
        "Nothing then shows that train and test share no speaker.",
        "Check that the column `speaker` holds speakers, not recordings.",
    )


def class_sizes(survey: Survey) -> Finding | None:
    """Say that classes are of different sizes."""
    counts = survey.class_counts
    (most, n_most), (least, n_least) = (f(counts.items(), key=lambda c: c[1]) for f in (max, min))
    if n_most < UNBALANCED * n_least:
        return None
    meaning, remedy = (
        "WA follows the large classes; UA, which selects the epoch, counts all alike.",
        "train.sampling=balanced draws classes equally often; loss.class_weights=balanced weighs "
        "them.",
    )
    if survey.config.task != CLASS:
        meaning = "Scores over all utterances follow the large groups."
        remedy = "Nothing, if the corpus is so; keys that balance classes need task=class."
    return Finding(
        "class-sizes",
        KNOW,
        f"{n_most / n_least:.1f} times as many utterances of {most} ({n_most}) as of {least} "
        f"({n_least})",
        meaning,
        remedy,
    )


def one_class_speakers(survey: Survey) -> Finding | None:
    """Name speakers who utter a single class: then the voice tells the class."""
    if len(survey.classes) < 2:
        return None
    single = {
        name: counts
        for name, counts in survey.speakers.items()
        if len(counts) == 1 and counts.total() > 1
    }
    if not single:
        return None
    lines = [f"{name}: {n} {label}" for name, c in single.items() for label, n in c.items()]
    return Finding(
        "one-class-speakers",
        CHECK,
        f"{len(single)} of {count_of(len(survey.speakers), 'speaker')} utter one class alone",
        "A model can learn who speaks instead of the emotion, and fail on other speakers.",
        "Look for their other recordings, or leave these speakers out.",
        ids(one for one in survey.utterances if one.speaker in single),
        lines,
    )


def missing_classes(survey: Survey) -> Finding | None:
    """Name speakers who lack classes that others have."""
    lines = [
        f"{name} lacks {', '.join(missing)}"
        for name, counts in survey.speakers.items()
        if len(counts) > 1 and (missing := [c for c in survey.classes if not counts[c]])
    ]
    known = [one for one in survey.utterances if is_known(one.speaker)]
    if not lines or count_lone_speakers(known):
        return None
    return Finding(
        "missing-classes",
        KNOW,
        f"{len(lines)} of {count_of(len(survey.speakers), 'speaker')} do not utter every class",
        "Recall of a class is then measured on fewer speakers than it seems.",
        "Nothing, if the corpus is so; the table of classes and speakers shows where.",
        details=lines,
    )


def few_speakers(survey: Survey) -> Finding | None:
    """Name classes that hardly anyone utters."""
    speakers = {
        name: sum(counts[name] > 0 for counts in survey.speakers.values())
        for name in survey.classes
    }
    few = {name: n for name, n in speakers.items() if 0 < n <= FEW_SPEAKERS}
    if len(survey.speakers) < MANY_SPEAKERS or not few:
        return None
    return Finding(
        "few-speakers",
        CHECK,
        f"Classes that {FEW_SPEAKERS} speakers or fewer utter: {', '.join(few)}",
        "In some fold nobody is left to train or to test on.",
        f"Leave the class out by {CLASSES_KEY}, or record more speakers.",
        ids(one for one in survey.utterances if one.label in few),
        [f"{name}: {count_of(n, 'speaker')}" for name, n in few.items()],
    )


def speaker_sizes(survey: Survey) -> Finding | None:
    """Name speakers with far more or fewer utterances than others."""
    totals = {name: counts.total() for name, counts in survey.speakers.items()}
    if not totals:
        return None
    middle = float(np.median(list(totals.values())))
    odd = {n: k for n, k in totals.items() if k >= UNEVEN * middle or k * UNEVEN <= middle}
    if not odd:
        return None
    order = sorted(odd, key=lambda name: -abs(np.log(odd[name] / middle)))
    return Finding(
        "speaker-sizes",
        KNOW,
        f"{count_of(len(odd), 'speaker')} with {UNEVEN:.0f} times as many utterances as the median "
        "one, or as few",
        f"The median speaker has {middle:g}. Pooled scores follow those who speak most.",
        "Nothing, if the corpus is so; intervals resample speakers, whatever their size.",
        details=[f"{name}: {odd[name]}" for name in order],
    )


def texts_in_both(survey: Survey) -> Finding | None:
    """Say how many tested utterances have a text that was trained on."""
    if survey.config.protocol.text_groups is not None or not survey.plan.splits:
        return None
    tested = known = 0
    for split in survey.plan.splits:
        trained = {one.text_id for one in split.train} - {None}
        tested += len(split.test)
        known += sum(one.text_id in trained for one in split.test)
    if not known:
        return None
    return Finding(
        "texts-in-both",
        KNOW,
        f"{percent(known / tested)} of the tested utterances have a text that is trained on",
        "Scores then say nothing about other words.",
        "protocol.text_groups=2 tests on texts that were not trained.",
    )


def fold_sizes(survey: Survey) -> Finding | None:
    """Say that folds are of different sizes, or that some test few utterances of a class."""
    splits = survey.plan.splits
    if not splits:
        return None
    sizes = [len(split.test) for split in splits]
    lines = []
    if max(sizes) >= UNBALANCED * min(sizes):
        lines.append(f"tested parts have {min(sizes)} to {max(sizes)} utterances")
    for split in splits:
        counts = Counter(one.label for one in split.test)
        few = {name: counts[name] for name in survey.classes if counts[name] < FEW_TESTED}
        if few:
            shown = ", ".join(f"{n} of {name}" for name, n in few.items())
            lines.append(f"fold {split.fold} tests {shown}")
    if not lines:
        return None
    return Finding(
        "fold-sizes",
        KNOW,
        "Folds of different sizes, or with few utterances of a class",
        f"Recall of a class with fewer than {FEW_TESTED} tested utterances is coarse, and so is "
        "the UA of that fold; pooled scores count all utterances together.",
        "A smaller protocol.n_folds makes larger folds, where the protocol has it.",
        details=lines,
    )


DESIGN_RULES: tuple[Rule, ...] = (
    *(refused, bad_audio, lone_speakers, one_class_speakers, few_speakers, left_out, stamped),
    *(unread, class_sizes, missing_classes, speaker_sizes, texts_in_both, fold_sizes),
)
