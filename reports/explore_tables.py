"""What a corpus holds as tables: by class for people, by utterance as CSV, all of it as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from corpora.findings import CHECK, Finding
from corpora.several import describe_corpora, path_in_corpus
from corpora.shortcuts import Shortcut
from corpora.survey import NUMBERS, Survey
from corpora.unannotated_speakers import UNKNOWN, is_known, speaker_name
from evaluation.wording import in_markdown, markdown_table
from system.text import count_of

PERCENTILES = (0, 1, 25, 50, 75, 99, 100)
DECIMALS = {"offset": 5, "peak": 5, "silence": 4}  # of a column in the CSV; 3 for the others


class ClassRow(NamedTuple):
    """One class, or all of them."""

    name: str
    utterances: int
    share: float  # of all utterances
    speakers: int  # whose names are known
    unknown: int  # utterances whose speaker nobody knows
    minutes: float
    seconds: float  # median
    level: float  # median, dBFS
    silence: float  # share of the audio at its silent ends
    bandwidth: float  # median, Hz


def class_rows(survey: Survey) -> list[ClassRow]:
    """Return a row for each class that occurs, and one for all."""
    names = [name for name in survey.classes if survey.class_counts[name]]
    rows = [
        _class_row(survey, name, survey.targets == survey.classes.index(name)) for name in names
    ]
    return [*rows, _class_row(survey, "all", np.full(len(survey.utterances), True))]


def _class_row(survey: Survey, name: str, of_class: Any) -> ClassRow:
    columns = {key: values[of_class] for key, values in survey.columns.items()}
    inside = [one for one, is_in in zip(survey.utterances, of_class, strict=True) if is_in]
    speakers = {one.speaker for one in inside if is_known(one.speaker)}
    n, seconds = int(of_class.sum()), float(columns["seconds"].sum())
    silent = float((columns["silence_start"] + columns["silence_end"]).sum())
    return ClassRow(
        name=name,
        utterances=n,
        share=n / len(survey.utterances),
        speakers=len(speakers),
        unknown=sum(not is_known(one.speaker) for one in inside),
        minutes=seconds / 60,
        seconds=float(np.median(columns["seconds"])),
        level=float(np.median(columns["level"])),
        silence=silent / seconds,
        bandwidth=float(np.median(columns["bandwidth"])),
    )


CLASS_HEAD = (
    *("class", "utterances", "share, %", "speakers", "minutes", "seconds", "level, dBFS"),
    *("silence, %", "bandwidth, kHz"),
)


def class_cells(rows: Sequence[ClassRow]) -> list[list[str]]:
    """Return the rows as text, under CLASS_HEAD; seconds, level and bandwidth are medians."""
    return [
        [
            row.name,
            str(row.utterances),
            f"{100 * row.share:.1f}",
            _speakers(row),
            f"{row.minutes:.1f}",
            f"{row.seconds:.2f}",
            f"{row.level:.1f}",
            f"{100 * row.silence:.1f}",
            f"{row.bandwidth / 1000:.1f}",
        ]
        for row in rows
    ]


def _speakers(row: ClassRow) -> str:
    """Return the number of known speakers, and whether there may be others."""
    words = [str(row.speakers)] * (row.speakers > 0) + [UNKNOWN] * (row.unknown > 0)
    return " and ".join(words)


def corpus_name(survey: Survey) -> str:
    """Return the name of the corpus for people."""
    return str(describe_corpora(survey.config)["name"])


def headline(survey: Survey) -> str:
    """Say in one line what there is."""
    hours = float(survey.columns["seconds"].sum()) / 3600
    length = f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.1f} minutes"
    n_classes = sum(survey.class_counts[name] > 0 for name in survey.classes)
    n = survey.unknown.total()
    speakers = count_of(len(survey.speakers), "speaker") if survey.speakers else "unknown speakers"
    if n and survey.speakers:
        speakers += f" ({UNKNOWN} in {count_of(n, 'utterance')})"
    return (
        f"{count_of(len(survey.utterances), 'utterance')}, {length}, "
        f"{speakers}, {n_classes} classes"
    )


def exploration_markdown(survey: Survey, findings: Sequence[Finding]) -> str:
    """Return the table by class and the list of what is odd, for a terminal."""
    table = markdown_table(CLASS_HEAD, class_cells(class_rows(survey)))
    name = in_markdown(corpus_name(survey))
    lines = [f"{name}: {headline(survey)}.", "", table, ""]
    for one in findings:
        lines.append(f"- {one.weight} {in_markdown(one.title)}. {in_markdown(one.remedy)}")
        lines += [f"  - {in_markdown(line)}" for line in one.details[:MENTIONED]]
        if (more := len(one.details) - MENTIONED) > 0:
            lines.append(f"  - and {more} more")
    lines.append(verdict(findings))
    return "\n".join(lines)


MENTIONED = 3  # details of a finding in a terminal


def verdict(findings: Sequence[Finding]) -> str:
    """Say how much is odd."""
    if not findings:
        return "Nothing odd was found."
    n_check = sum(one.weight == CHECK for one in findings)
    n_know = len(findings) - n_check
    parts = [f"{n_check} to check"] * (n_check > 0) + [f"{n_know} to know"] * (n_know > 0)
    return f"{count_of(len(findings), 'thing')} odd: {', '.join(parts)}."


TABLE_HEAD = (
    *("id", "path", "start", "end", "class", "speaker", "gender", "session", "text"),
    *(*NUMBERS, "odd"),
)


def recording_rows(survey: Survey, findings: Sequence[Finding]) -> list[list[Any]]:
    """Return a row for each utterance, under TABLE_HEAD; `odd` names its findings."""
    odd: dict[str, list[str]] = {}
    for finding in findings:
        for name in finding.utterances:
            odd.setdefault(name, []).append(finding.id)
    rows = []
    for i, one in enumerate(survey.utterances):
        path = path_in_corpus(survey.config, one)
        numbers = [round(float(survey.columns[name][i]), DECIMALS.get(name, 3)) for name in NUMBERS]
        words = [one.label, speaker_name(one.speaker), one.gender, one.session, one.text_id]
        end = "" if one.end is None else one.end
        shown = ["" if word is None else word for word in words]
        rows.append(
            [one.id, str(path), one.start, end, *shown, *numbers, " ".join(odd.get(one.id, []))]
        )
    return rows


def exploration_json(
    survey: Survey, shortcuts: Sequence[Shortcut], findings: Sequence[Finding]
) -> dict[str, Any]:
    """Return everything but the rows of single utterances, ready for JSON."""
    points = {
        name: dict(
            zip(map(str, PERCENTILES), np.percentile(values, PERCENTILES).tolist(), strict=True)
        )
        for name, values in survey.columns.items()
    }
    return {
        "corpus": corpus_name(survey),
        "config": survey.config.name,
        "utterances": len(survey.utterances),
        "classes": [row._asdict() for row in class_rows(survey)],
        "speakers": {name: dict(counts) for name, counts in survey.speakers.items()},
        "unknown_speakers": dict(survey.unknown),
        "percentiles": points,
        "shortcuts": [one._asdict() for one in shortcuts],
        "folds": fold_rows(survey),
        "protocol": survey.plan.certificate.get("protocol"),
        "odd": [one._asdict() for one in findings],
    }


def fold_rows(survey: Survey) -> list[Mapping[str, Any]]:
    """Return sizes, tested speakers and tested utterances of each class, by fold."""
    return [
        {
            "fold": split.fold,
            **{name: len(part) for name, part in split.parts()},
            "speakers": sorted({speaker_name(one.speaker) for one in split.test}),
            "tested": {
                name: sum(one.label == name for one in split.test) for name in survey.classes
            },
        }
        for split in survey.plan.splits
    ]
