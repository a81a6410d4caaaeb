"""A corpus before training as one self-contained HTML page, and a table of its recordings."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from audio.quality import SILENCE_DB
from config.schema import Config
from corpora.findings import Finding, hertz
from corpora.odd_audio import NARROW_ALL
from corpora.shortcuts import N_SHUFFLES, Shortcut
from corpora.survey import Survey
from corpora.unannotated_speakers import UNKNOWN, is_known, speaker_name
from evaluation.figures import MANY
from features import SpectrogramImages
from reports import explore_plots as plots
from reports.explore_examples import (
    PER_CLASS,
    SOUND_SECONDS,
    Card,
    class_examples,
    frequency_marks,
    make_card,
    odd_examples,
    shown_classes,
)
from reports.explore_tables import (
    CLASS_HEAD,
    TABLE_HEAD,
    class_cells,
    class_rows,
    corpus_name,
    fold_rows,
    headline,
    recording_rows,
    verdict,
)
from reports.media import data_uri
from reports.templates import templates
from storage.provenance import git_commit
from system.files import make_folder, write_csv, write_text
from system.output import progress_bar
from system.text import format_bytes, without_place

PAGE, TABLE = "explore.html", "recordings.csv"
DETAILS_SHOWN = 50  # of a finding
SPEAKERS_SHOWN = 200
SPEAKERS_OPEN = 30  # up to so many rows the table of speakers is not folded
TEXTS_SHOWN = 30
KEY = re.compile(rf"\b((?:{'|'.join(Config.model_fields)})\.\w+(?:\.\w+)*(?:=[\w-]+)?)")
LIMITS = {
    "details_shown": DETAILS_SHOWN,
    "speakers_open": SPEAKERS_OPEN,
    "n_shuffles": N_SHUFFLES,
    "per_class": PER_CLASS,
    "sound_seconds": SOUND_SECONDS,
    "silence_db": SILENCE_DB,
    "many": MANY,
}
IMAGE_SIZE = 224  # pixels of an image in the page, at least


def write_exploration(
    folder: Path,
    survey: Survey,
    shortcuts: Sequence[Shortcut],
    findings: Sequence[Finding],
    command: Sequence[str],
    audio: bool = True,
) -> None:
    """Write explore.html and recordings.csv.

    Args:
        folder: Output folder, made if missing.
        survey: The corpus.
        shortcuts: What single numbers tell of the class.
        findings: What is odd.
        command: Command that made the page.
        audio: Embed the sound of the examples. Such a page holds recordings of the corpus: its
            licence applies.

    Raises:
        RunError: A file cannot be written.
    """
    make_folder(folder)
    write_csv(folder / TABLE, TABLE_HEAD, recording_rows(survey, findings))
    environment = templates()
    environment.filters.update(minus=_minus, keys=_with_keys, speaker=speaker_name)
    environment.globals.update(LIMITS, hertz=hertz, table=TABLE)
    config = survey.config
    size = max(config.model.image_size, IMAGE_SIZE)
    front_end = SpectrogramImages(**config.features.model_dump(), image_size=size)
    by_class, odd_cards = _cards(survey, findings, front_end, audio)
    page = environment.get_template("explore.html").render(
        survey=survey,
        name=corpus_name(survey),
        headline=headline(survey),
        verdict=verdict(findings),
        findings=findings,
        class_head=CLASS_HEAD,
        class_rows=class_cells(class_rows(survey)),
        speakers=_speakers(survey),
        figures=_figures(survey, shortcuts),
        shortcuts=shortcuts,
        rates=_rates(survey),
        texts=_texts(survey),
        shown=shown_classes(survey),
        folds=_folds(survey),
        by_class=by_class,
        odd_cards=odd_cards,
        marks=frequency_marks(front_end),
        top_db=front_end.top_db,
        image_size=size,
        audio=audio,
        command=_command(command),
        commit=git_commit(),
    )
    write_text(folder / PAGE, page)


def _minus(text: str) -> str:
    """Write the sign of a negative number as a minus; not for texts, whose names may hold one."""
    return re.sub(r"(?<![\w-])-(?=\d)", "−", text)


def _with_keys(text: str) -> Markup:
    """Mark config keys as code in a text of ours."""
    parts = KEY.split(text)  # every second one is a key
    marked = [
        Markup("<code>{}</code>").format(p) if i % 2 else escape(p) for i, p in enumerate(parts)
    ]
    return Markup("").join(marked)


def page_size(folder: Path) -> str:
    """Return the size of the page in words."""
    return format_bytes((folder / PAGE).stat().st_size)


def _cards(
    survey: Survey, findings: Sequence[Finding], front_end: SpectrogramImages, audio: bool
) -> tuple[dict[str, list[Card]], list[Card]]:
    """Return the examples of each class, and of what is odd."""
    chosen, odd = class_examples(survey), odd_examples(survey, findings)
    total = sum(map(len, chosen.values())) + len(odd)
    with progress_bar(total, "draw examples", "recording") as bar:

        def card(place: int, title: str | None = None) -> Card:
            made = make_card(survey, place, front_end, audio, title)
            bar.update()
            return made

        by_class = {name: [card(place) for place in places] for name, places in chosen.items()}
        return by_class, [card(place, title) for place, title in odd]


def _figures(survey: Survey, shortcuts: Sequence[Shortcut]) -> dict[str, str]:
    """Return all plots as data URIs."""
    columns = survey.columns
    names = shown_classes(survey)
    masks = [survey.targets == survey.classes.index(name) for name in names]

    def by_class(values: Any, label: str, at_zero: bool = False) -> str:
        return plots.percentiles(names, [values[mask] for mask in masks], label, at_zero)

    drawn = {
        "seconds": plots.histogram(columns["seconds"], "duration, s"),
        "seconds_by_class": by_class(columns["seconds"], "duration, s"),
        "level": plots.histogram(columns["level"], "level, dBFS"),
        "level_by_class": by_class(columns["level"], "level, dBFS"),
        "silence": plots.histogram(100 * columns["silence"], "silence at the ends, percent"),
        "silence_by_class": by_class(
            100 * columns["silence"], "silence at the ends, percent", at_zero=True
        ),
        "bandwidth": plots.histogram(
            columns["bandwidth"] / 1000, "bandwidth, kHz", float(columns["rate"].max()) / 2000
        ),
        "bandwidth_by_class": by_class(columns["bandwidth"] / 1000, "bandwidth, kHz", True),
    }
    if shortcuts:
        drawn["shortcuts"] = plots.shortcut_plot(shortcuts)
    return {name: data_uri("image/svg+xml", svg.encode()) for name, svg in drawn.items()}


def _speakers(survey: Survey) -> list[dict[str, Any]]:
    """Return the counts of each speaker, of many those with the most; unknown ones in one row."""
    totals = {name: counts.total() for name, counts in survey.speakers.items()}
    most = set(sorted(totals, key=lambda name: -totals[name])[:SPEAKERS_SHOWN])
    gender = {one.speaker: one.gender for one in survey.utterances}
    rows = [(name, counts) for name, counts in survey.speakers.items() if name in most]
    rows += [(UNKNOWN, survey.unknown)] * bool(survey.unknown)
    largest = max(max(counts.values()) for _, counts in rows)
    return [
        {
            "name": name,
            "gender": gender.get(name) or "",
            "counts": [(counts[c], counts[c] / largest) for c in shown_classes(survey)],
            "total": counts.total(),
        }
        for name, counts in rows
    ]


def _rates(survey: Survey) -> list[list[str]]:
    """Return number, bandwidth and cutoff of the recordings of each rate and channel count."""
    columns, rows = survey.columns, []
    kinds = np.unique(np.stack([columns["rate"], columns["channels"]], 1), axis=0)
    for rate, channels in kinds.tolist():
        of_kind = (columns["rate"] == rate) & (columns["channels"] == channels)
        p1, median, p99 = np.percentile(columns["bandwidth"][of_kind], [1, 50, 99]).tolist()
        cut = columns["cutoff"][of_kind]
        early = cut <= NARROW_ALL * rate / 2
        ends = f"{int(early.sum())}"
        if early.any():
            ends += f" (median {hertz(float(np.median(cut[early])))})"
        shown = [f"{rate:.0f}", f"{channels:.0f}", str(int(of_kind.sum()))]
        rows.append([*shown, hertz(rate / 2), *map(hertz, (p1, median, p99)), ends])
    return rows


def _texts(survey: Survey) -> dict[str, Any] | None:
    """Return how texts are shared; None where the corpus names none."""
    if not survey.texts:
        return None
    shown = shown_classes(survey)
    rows: list[dict[str, Any]] = [
        {
            "text": text,
            "n": len(members),
            "speakers": len({one.speaker for one in members if is_known(one.speaker)}),
            "counts": [sum(one.label == name for one in members) for name in shown],
            "classes": len({one.label for one in members}),
        }
        for text, members in sorted(survey.texts.items(), key=lambda item: -len(item[1]))
    ]
    named = sum(row["n"] for row in rows)
    return {
        "rows": rows[:TEXTS_SHOWN],
        "texts": len(rows),
        "without": len(survey.utterances) - named,
        "several_speakers": sum(row["speakers"] > 1 for row in rows),
        "one_class": sum(row["speakers"] > 1 and row["classes"] == 1 for row in rows),
    }


def _folds(survey: Survey) -> list[dict[str, Any]]:
    """Return the folds, with the tested utterances of the classes that have a column."""
    shown = shown_classes(survey)
    return [{**row, "shown": [row["tested"][name] for name in shown]} for row in fold_rows(survey)]


def _command(words: Sequence[str]) -> str:
    return shlex.join(["python", *(without_place(word) for word in words)])
