"""Files of a timeline: CSV, JSON, a Praat TextGrid, WebVTT captions, a picture.

NAME.csv is written as the work goes and resumed; the others are made from it at the end, NAME.json
last: it stands for a timeline that is whole.
"""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from inference.intervals import TOUCHING, Interval, Timeline
from inference.output import Lines
from inference.prediction import SILENCE
from inference.timeline_figure import timeline_png
from system.files import (
    MAX_TABLE,
    atomic_write,
    corrupt_file,
    read_text,
    write_json,
    write_text,
)
from system.text import printable

PROBLEMS = "problem"  # the tier of parts that cannot be labelled


def beside(csv_file: Path, suffix: str) -> Path:
    """Return the file of another format beside NAME.csv.

    >>> print(beside(Path("out/a.wav.csv"), "vtt"))
    out/a.wav.vtt
    """
    return csv_file.with_name(f"{csv_file.name.removesuffix('.csv')}.{suffix}")


def write_others(csv_file: Path, lines: Lines, made_by: Mapping[str, Any], seconds: float) -> None:
    """Write the other files of a timeline from its CSV.

    Args:
        csv_file: NAME.csv, whole.
        lines: Its lines.
        made_by: What decides the timeline, for NAME.json.
        seconds: Duration of the recording.

    Raises:
        RunError: The CSV is corrupt, or the folder cannot be written.
    """
    found = read_timeline(csv_file, lines, seconds)
    write_text(beside(csv_file, "TextGrid"), textgrid(found))
    write_text(beside(csv_file, "vtt"), webvtt(found))
    png = timeline_png(found)
    with atomic_write(beside(csv_file, "png"), len(png)) as temporary:
        temporary.write_bytes(png)
    write_json(beside(csv_file, "json"), as_json(found, made_by))


def read_timeline(csv_file: Path, lines: Lines, seconds: float = 0.0) -> Timeline:
    """Read a timeline from its CSV.

    Args:
        csv_file: NAME.csv.
        lines: Its lines.
        seconds: Duration of the recording, where it reaches beyond the last part.

    Raises:
        RunError: It is corrupt.
    """
    try:
        text = read_text(csv_file, MAX_TABLE)
        header, *rows = csv.reader(text.split("\n")[:-1], strict=True)
        return _timeline(header, rows, lines, seconds)
    except (OSError, ValueError, IndexError, csv.Error) as error:
        raise corrupt_file(csv_file, error) from error


def as_json(found: Timeline, made_by: Mapping[str, Any]) -> dict[str, Any]:
    """Return a timeline as JSON: `parts` as labelled, `intervals` as joined, times in s."""
    classes = found.scale is None
    parts = []
    for i, (start, end) in enumerate(found.times.tolist()):
        row: dict[str, Any] = {"start": start, "end": end}
        labelled = not found.problems[i]
        outputs = dict(zip(found.outputs, found.probs[i].tolist(), strict=True))
        if classes:
            best = max(outputs, key=outputs.__getitem__)
            row |= {"emotion": best if labelled else None}
            row |= {"confidence": outputs[best] if labelled else None}
        if found.unsure[i] is not None:
            row |= {"unsure": found.unsure[i]}
        row["probs" if classes else "ratings"] = outputs if labelled else None
        row["gate"] = None if np.isnan(found.gate[i]) else float(found.gate[i])
        if found.shares is not None:
            shares = dict(zip(found.sources, found.shares[i].tolist(), strict=True))
            row["gate_shares"] = shares if labelled else None
        parts.append(row | {"problem": found.problems[i] or None})
    scale = {} if found.scale is None else {"scale": [found.scale.low, found.scale.high]}
    return {
        "path": found.name,
        "seconds": found.seconds,
        "made_by": dict(made_by),
        "classes" if classes else "dimensions": list(found.outputs),
        **scale,
        "parts": parts,
        "intervals": {
            tier: [_json_interval(one) for one in some] for tier, some in found.intervals().items()
        },
    }


def textgrid(found: Timeline) -> str:
    """Return a TextGrid in Praat's long format: a tier for the emotion, or one for each dimension.

    The intervals of a tier cover the recording; what has no label is empty. Where a part cannot be
    labelled for another reason than silence, a tier `problem` says so.
    """
    tiers = found.intervals()
    if any(problem not in ("", SILENCE) for problem in found.problems):
        tiers[PROBLEMS] = found.problem_intervals()
    end = found.seconds
    head = ['File type = "ooTextFile"', 'Object class = "TextGrid"', ""]
    head += ["xmin = 0", f"xmax = {end:.3f}", "tiers? <exists>", f"size = {len(tiers)}", "item []:"]
    rows = [line for i, tier in enumerate(tiers, start=1) for line in _tier(i, tier, tiers, end)]
    return "\n".join([*head, *rows, ""])


def webvtt(found: Timeline) -> str:
    """Return captions: the label and its mean confidence, or the ratings, in each interval."""
    cues = []
    if found.scale is None:
        (some,) = found.intervals().values()
        cues = [(one, f"{one.label} ({one.confidence:.2f})") for one in some]
    else:
        for (start, end), *values in zip(
            found.regions().tolist(), *found.tiers().values(), strict=True
        ):
            if values[0] is not None:
                words = (f"{k} {v}" for k, v in zip(found.outputs, values, strict=True))
                cues.append((Interval(start, end, "", None), ", ".join(words)))
    blocks = [
        f"{clock(one.start)} --> {clock(one.end)}\n{_escaped(text)}\n"
        for one, text in cues
        if clock(one.start) < clock(one.end)
    ]
    return "\n".join(["WEBVTT\n", *blocks])


def clock(seconds: float) -> str:
    """Return a time as hours, minutes, seconds and milliseconds.

    >>> clock(3725.5), clock(36_000.0004)
    ('01:02:05.500', '10:00:00.000')
    """
    whole = round(1000 * seconds)
    minutes, milliseconds = divmod(whole, 60_000)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:02d}:{minutes:02d}:{milliseconds // 1000:02d}.{milliseconds % 1000:03d}"


def _timeline(header: list[str], rows: list[list[str]], lines: Lines, seconds: float) -> Timeline:
    if not rows:
        raise ValueError("it has no rows")
    if not all(len(row) == len(header) for row in rows):
        raise ValueError(f"not all rows have {len(header)} cells")
    first = 3 + 2 * (lines.scale is None) + lines.with_risk  # column of the first output
    stop = first + len(lines.outputs)  # column of the gate, behind which are the shares
    shares = [[_value(cell) for cell in row[stop + 1 : -2]] for row in rows]
    unsure = {"yes": True, "no": False, "": None}
    return Timeline(
        name=rows[0][0],
        outputs=lines.outputs,
        scale=lines.scale,
        times=np.array([row[1:3] for row in rows], float),
        probs=np.array([[_value(cell) for cell in row[first:stop]] for row in rows]),
        gate=np.array([_value(row[stop]) for row in rows]),
        problems=[row[-2] for row in rows],
        unsure=[unsure[row[first - 1]] if lines.with_risk else None for row in rows],
        seconds=max(round(seconds, 3), float(rows[-1][2])),
        sources=lines.sources,
        shares=np.array(shares) if lines.sources else None,
    )


def _value(cell: str) -> float:
    return float(cell) if cell else np.nan


def _json_interval(one: Interval) -> dict[str, Any]:
    row: dict[str, Any] = {"start": round(one.start, 3), "end": round(one.end, 3)}
    row["label"] = one.label
    return row | ({} if one.confidence is None else {"confidence": round(one.confidence, 6)})


def _tier(i: int, tier: str, tiers: Mapping[str, list[Interval]], end: float) -> list[str]:
    """Return the lines of a tier; gaps become empty intervals."""
    rows: list[tuple[float, float, str]] = []
    place = 0.0
    for one in tiers[tier]:
        start = place if one.start - place <= TOUCHING else one.start
        if start > place:
            rows.append((place, start, ""))
        rows.append((start, one.end, one.label))
        place = one.end
    if end > place:
        rows.append((place, end, ""))
    head = [f"    item [{i}]:", '        class = "IntervalTier"', f"        name = {_quoted(tier)}"]
    head += ["        xmin = 0", f"        xmax = {end:.3f}"]
    head += [f"        intervals: size = {len(rows)}"]
    for k, (start, stop, text) in enumerate(rows, start=1):
        head += [f"        intervals [{k}]:", f"            xmin = {start:.3f}"]
        head += [f"            xmax = {stop:.3f}", f"            text = {_quoted(text)}"]
    return head


def _quoted(text: str) -> str:
    return '"' + printable(text, keep="").replace('"', '""') + '"'


def _escaped(text: str) -> str:
    """Return the text of a cue: WebVTT reads `<` as a tag."""
    text = printable(text, keep="")
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
