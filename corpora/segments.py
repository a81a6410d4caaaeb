"""Segments of files: read from a row of a table, written to one, searched for overlaps."""

import math
import re
from collections import defaultdict
from collections.abc import Collection, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from audio.segment import MIN_SECONDS, AudioSource, Segment, format_seconds
from corpora.utterance import Utterance
from system.errors import InputError
from system.text import short_repr

# Columns: audformat has start and end, NeMo offset and duration, EmoBox start_time and end_time.
STARTS = ("start", "begin", "onset", "start_time", "begin_time")
OFFSET = "offset"  # a start; an end in a row that has an onset
ENDS = ("end", "end_time")
DURATION = "duration"
TIME_COLUMNS = (STARTS[0], ENDS[0])  # as written
SEGMENT_COLUMNS = (*STARTS, OFFSET, *ENDS, DURATION)
# Words of other columns for times, whose unit or meaning is not sure: xmin is one of images too.
EDGES = set("start starts begin begins beg onset offset end ends stop stops".split())
EDGES |= set("starttime begintime endtime stoptime xmin xmax tmin tmax".split())
LENGTHS = set("duration dur length len frames samples".split())
BESIDE = set(
    "time timestamp ts s sec secs second seconds ms msec millis milliseconds us ns".split()
)
BESIDE |= set("sample frame num n at in pos position index idx".split())
BESIDE |= set("segment seg utterance utt clip turn file audio speech".split())
OPEN = ("", "nat", "nan")  # how audformat and pandas write a time that is not given
MAX_TIME = 1e9  # s, 30 years
AGREE = 0.01  # s, by which two columns for one time may differ: tables round

NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
TIMEDELTA = re.compile(  # as pandas writes it
    r"((?P<days>\d{1,6}) days? )?(?P<hours>\d\d):(?P<minutes>[0-5]\d):(?P<seconds>[0-5]\d(\.\d+)?)",
    re.ASCII,
)

Member = tuple[str, Utterance]  # name of a group, e.g. of a split, and an utterance in it


def read_segment(row: Mapping[str, str]) -> tuple[float, float | None]:
    """Return start and end of the part of its file that a row names; (0, None) is the whole file.

    Times are seconds, or text as '0 days 00:00:01.5'. A start that is not given is 0, an end that
    is not given the end of the file; `duration` counts from the start; `offset` is a start, but an
    end in a row that has the column `onset`, whether or not it is filled in.

    Args:
        row: Values by column; those not in `SEGMENT_COLUMNS` are not read.

    Raises:
        InputError: A time is not a number of seconds or is negative, columns contradict each other,
            or the segment is too short.
    """
    times = {name: _read_time(name, row[name]) for name in SEGMENT_COLUMNS if row.get(name)}
    given = {name: time for name, time in times.items() if time is not None}
    start_names, end_names = _time_names(row)
    start = _agreed({name: given[name] for name in start_names if name in given}) or 0.0
    ends = {name: given[name] for name in end_names if name in given}
    if DURATION in given:  # rounded: 0.1 + 0.2 is the 0.3 of another row
        ends[f"start + {DURATION}"] = round(start + given[DURATION], 9)
    end = _agreed(ends)
    if end is not None and end - start < MIN_SECONDS:
        raise InputError(
            f"the segment from {format_seconds(start)} s to {format_seconds(end)} s must end at "
            f"least {1000 * MIN_SECONDS:g} ms after its start; times are seconds from the "
            "beginning of the file"
        )
    return start, end


def whole_files(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[tuple[str, dict[str, Any]]]:
    """Return rows without a `duration` that stands alone: in SpeechBrain's lists, that of the file.

    It is rounded or counted from samples, so it may lie beyond the end of the file. Rows with
    another time keep it.

    Args:
        rows: (place, fields under our names) of each row.
    """
    others = set(SEGMENT_COLUMNS) - {DURATION}
    return [
        (place, row if others & row.keys() else {k: v for k, v in row.items() if k != DURATION})
        for place, row in rows
    ]


def unread_times(columns: Iterable[str], readable: Collection[str] = SEGMENT_COLUMNS) -> list[str]:
    """Return columns that seem to name a part of a file and are not read.

    None where both a start and an end are read; lengths only where a start is read without an end.

    Args:
        columns: Names in lower case; those that are read under our names.
        readable: Columns that are read as times where they are there.

    >>> unread_times({"path", "start_ms", "num_frames"}), unread_times({"start", "num_frames"})
    (['start_ms'], ['num_frames'])
    """
    read, others = set(columns) & set(readable), set(columns) - set(readable)
    starts, ends = _time_names(read)
    if read & set(starts) and read & {*ends, DURATION}:
        return []
    telling = EDGES | LENGTHS if read & set(starts) else EDGES
    words = {name: set(re.findall("[a-z]+", name)) for name in others}
    known = EDGES | LENGTHS | BESIDE
    return sorted(name for name in others if words[name] & telling and words[name] <= known)


def segment_id(file_id: str, start: float, end: float | None) -> str:
    """Return the id of an utterance that has none: that of its file, and its times if it is a part.

    >>> segment_id("dialog", 1.5, 3.0), segment_id("dialog", 0.0, None)
    ('dialog_1.5-3', 'dialog')
    """
    if start == 0 and end is None:
        return file_id
    return f"{file_id}_{format_seconds(start)}-{'end' if end is None else format_seconds(end)}"


def segment_cells(utterances: Iterable[Utterance]) -> dict[str, tuple[str, str]]:
    """Return `TIME_COLUMNS` by utterance id; empty where no utterance is a segment."""
    rows = {
        u.id: (format_seconds(u.start), "" if u.end is None else format_seconds(u.end))
        for u in utterances
    }
    return rows if any(cells != ("0", "") for cells in rows.values()) else {}


def overlaps(
    members: Iterable[Member], files: Mapping[AudioSource, str]
) -> Iterator[tuple[Member, Member]]:
    """Yield utterances that share samples of a file, of which at least one is a segment.

    Of each group only the earlier utterance that ends last is paired with a later one, so that
    there are few pairs, and all that overlap are linked by a chain of them.

    Args:
        members: Utterances, each with the name of its group.
        files: What names the content of each utterance's file; the path for those not in it.
    """
    of_file: dict[str, list[Member]] = defaultdict(list)
    for group, u in members:
        of_file[files.get(u.audio, str(u.path))].append((group, u))
    for there in of_file.values():
        if not any(isinstance(u.audio, Segment) for _, u in there):
            continue  # the same whole file: an identical recording
        last: dict[str, Utterance] = {}
        for group, u in sorted(there, key=lambda member: (member[1].start, member[1].id)):
            for other_group, other in last.items():
                if _end(other) > u.start:
                    yield (other_group, other), (group, u)
            if group not in last or _end(u) > _end(last[group]):
                last[group] = u


def _time_names(columns: Container[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the names of starts and of ends among some columns."""
    if "onset" in columns:
        return STARTS, (*ENDS, OFFSET)
    return (*STARTS, OFFSET), ENDS


def _end(utterance: Utterance) -> float:
    return math.inf if utterance.end is None else utterance.end


def _read_time(name: str, text: str) -> float | None:
    """Return seconds, or None if the time is not given."""
    if text.lower() in OPEN:
        return None
    if match := TIMEDELTA.fullmatch(text):
        days, hours, minutes = (int(match[part] or 0) for part in ("days", "hours", "minutes"))
        return round(86_400 * days + 3600 * hours + 60 * minutes + float(match["seconds"]), 9)
    if not NUMBER.fullmatch(text) or not 0 <= float(text) <= MAX_TIME:
        raise InputError(
            f"{name!r} must be seconds from 0 on, such as 1.5, or 0 days 00:00:01.5, got "
            f"{short_repr(text)}; leave it empty for the beginning or the end of the file"
        )
    return round(float(text), 9)


def _agreed(times: Mapping[str, float]) -> float | None:
    """Return the first of several columns for one time; they must agree."""
    if not times:
        return None
    if max(times.values()) - min(times.values()) > AGREE:
        shown = ", ".join(f"{name} {format_seconds(time)} s" for name, time in times.items())
        raise InputError(
            f"columns contradict each other: {shown}; keep one of them, or rename those that mean "
            "something else"
        )
    return next(iter(times.values()))
