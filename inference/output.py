"""Predictions as lines: a table for people, CSV, or JSON Lines; to standard output or to a file.

A file is written as the work goes. Until it is whole, a note beside it says with which model and
options; the same command then resumes it.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from config.fusions import share_column
from config.tasks import RatingScale
from inference.prediction import SILENCE, Prediction
from system.errors import InputError
from system.files import (
    MAX_TABLE,
    append,
    check_writable,
    read_json,
    read_text,
    write_json,
    write_text,
)
from system.text import printable

Format = Literal["table", "csv", "jsonl"]
FORMATS: tuple[Format, ...] = ("table", "csv", "jsonl")
GATE = "gate (1 = CQT, 0 = Mel)"
ENDS = ("problem", "unlike")  # the last columns of CSV
PROBLEM = "not labelled: "  # begins the second cell of a table's row without probabilities


class Lines:
    """The lines of predictions in one format.

    Args:
        form: `table` (tab-separated, rounded), `csv` or `jsonl`.
        outputs: Names of the classes or dimensions, in order.
        scale: Scale of ratings; None of classes.
        with_risk: Whether a risk is stated, so that predictions may be unsure.
        with_times: Whether they are of parts of recordings, with a start and an end in s.
        sources: Names of the shares of the gate, of fusions of other sources than both images.
    """

    def __init__(
        self,
        form: Format,
        outputs: Sequence[str],
        scale: RatingScale | None = None,
        with_risk: bool = False,
        with_times: bool = False,
        sources: Sequence[str] = (),
    ) -> None:
        self.form, self.outputs, self.scale, self.with_risk = form, outputs, scale, with_risk
        self.with_times, self.sources = with_times, sources

    def header(self) -> list[str]:
        """Return the lines before the first prediction: one, or none of JSON Lines."""
        unsure = ["unsure"] * self.with_risk
        path = ["path", *["start", "end"] * self.with_times]
        shares = [share_column(source) for source in self.sources]
        if self.form == "table":
            return [_tabs([*path, "emotion", *self.outputs, *(shares or [GATE]), *unsure])]
        if self.form == "csv":
            confidence = [] if self.scale else ["emotion", "confidence"]
            gates = ["gate", *shares]
            return [_commas([*path, *confidence, *unsure, *self.outputs, *gates, *ENDS])]
        return []

    def line(self, one: Prediction) -> str:
        """Return the line of a prediction."""
        return {"table": self._table, "csv": self._csv, "jsonl": self._json}[self.form](one)

    def read(self, lines: Iterable[str]) -> dict[str, list[bool]]:
        """Return whether each line has a problem, by path, in order; without the header.

        Silence is no problem of a part of a recording.

        Raises:
            ValueError: They are not such lines.
        """
        found: dict[str, list[bool]] = {}
        for path, problem in map(self._problem, self._rows(lines)):
            found.setdefault(path, []).append(problem not in ("", SILENCE))
        return found

    def _rows(self, lines: Iterable[str]) -> Iterable[Any]:
        if self.form == "jsonl":
            return map(json.loads, lines)
        if self.form == "table":
            return (line.split("\t") for line in lines)
        return csv.reader(lines, strict=True)

    def _problem(self, row: Any) -> tuple[str, str]:
        """Return the path of a row, and its problem or an empty string."""
        if self.form == "jsonl":
            return _key(row["path"]), row["problem"] or ""
        if self.form == "csv":
            return row[0], row[-2]
        label = row[3 if self.with_times else 1]
        return row[0], label.removeprefix(PROBLEM) if label.startswith(PROBLEM) else ""

    def _times(self, one: Prediction) -> list[str]:
        """Return the cells for start and end, to the millisecond."""
        return [f"{time or 0:.3f}" for time in (one.start, one.end)] if self.with_times else []

    def _table(self, one: Prediction) -> str:
        if one.problem is not None:
            return _tabs([one.name, *self._times(one), f"{PROBLEM}{one.problem}"])
        scale = self.scale
        what = one.emotion or ("" if scale is None else f"ratings, {scale.low:g} to {scale.high:g}")
        outputs = [f"{one.probs[output]:.3f}" for output in self.outputs]
        gates = ["" if one.gate is None else f"{one.gate:.3f}"]
        if self.sources:
            gates = [f"{share:.3f}" for share in self._shares(one)]
        unsure = ["unsure" if one.unsure else ""] * self.with_risk
        return _tabs([one.name, *self._times(one), what, *outputs, *gates, *unsure])

    def _shares(self, one: Prediction) -> list[float | None]:
        """Return the share of each source; None of a recording that is not labelled."""
        return [(one.gate_shares or {}).get(source) for source in self.sources]

    def _csv(self, one: Prediction) -> str:
        confidence = [] if self.scale else [one.emotion or "", _number(one.confidence)]
        unsure = [{None: "", False: "no", True: "yes"}[one.unsure]] * self.with_risk
        outputs = [_number(one.probs.get(output)) for output in self.outputs]
        unlike = "; ".join(f"{kind} {value}" for kind, value in one.unlike.items())
        gates = map(_number, [one.gate, *self._shares(one)])
        cells = [one.name, *self._times(one), *confidence, *unsure, *outputs, *gates]
        return _commas([*cells, one.problem or "", unlike])

    def _json(self, one: Prediction) -> str:
        row: dict[str, Any] = {"path": one.name}
        if self.with_times:
            row |= {"start": round(one.start or 0, 3), "end": round(one.end or 0, 3)}
        if self.scale is None:
            row |= {"emotion": one.emotion, "confidence": _rounded(one.confidence)}
        row |= {"unsure": one.unsure} if self.with_risk else {}
        outputs = {output: _rounded(one.probs.get(output)) for output in self.outputs}
        row["probs" if self.scale is None else "ratings"] = outputs if one.probs else None
        row |= {"gate": _rounded(one.gate)}
        if self.sources:
            shares = zip(self.sources, map(_rounded, self._shares(one)), strict=True)
            row |= {"gate_shares": dict(shares) if one.gate_shares else None}
        row |= {"problem": one.problem, "unlike": dict(one.unlike)}
        return json.dumps(row)


class Output:
    """Predictions on standard output; nothing of it is resumed.

    Args:
        lines: Their lines.

    Attributes:
        done: Whether there was a problem, by the path of each recording that had its lines already.
        begun: Whether each line has a problem, by the path of the last recording, where lines are
            of parts of recordings: more may follow. Empty otherwise.
    """

    def __init__(self, lines: Lines) -> None:
        self.lines = lines
        self.done: dict[str, bool] = {}
        self.begun: dict[str, list[bool]] = {}

    def start(self) -> None:
        """Write what is before the first line."""
        print(*self.lines.header(), sep="\n", end="\n" * bool(self.lines.header()), flush=True)

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Write the lines of some predictions; whoever reads has them when this returns."""
        print(*map(self.lines.line, predictions), sep="\n", flush=True)

    def finish(self) -> None:
        """Say that nothing will follow."""

    def is_done(self, name: str) -> bool:
        """Return whether a recording has its line, or all of its lines."""
        return _key(name) in self.done

    def problems_begun(self, name: str) -> list[bool]:
        """Return whether each line has a problem, of a recording that may not have all of them."""
        return self.begun.get(_key(name), [])

    def check_begun(self, names: Iterable[str]) -> None:
        """Do nothing: no recording was begun before."""


class OutputFile(Output):
    """A file of predictions that is written as the work goes, and resumed.

    Args:
        path: The file.
        lines: Its lines.
        made_by: What decides its predictions; the same in a command that resumes it.
        option: Option that names the file, for messages.

    Raises:
        InputError: The file is finished, was begun by another command, or is not such a file.
        RunError: It cannot be written.
    """

    def __init__(
        self, path: Path, lines: Lines, made_by: Mapping[str, Any], option: str = "--out"
    ) -> None:
        super().__init__(lines)
        self.path, self._option = path, option
        check_out(path, option)
        self._note = _note(path)
        if path.exists():
            self._resume(dict(made_by))
        else:
            write_json(self._note, dict(made_by))
            write_text(path, "".join(f"{line}\n" for line in lines.header()))

    def start(self) -> None:
        """Do nothing: the header is there."""

    def write(self, predictions: Sequence[Prediction]) -> None:
        """Append predictions; they are on disk when this returns."""
        text = "".join(f"{self.lines.line(one)}\n" for one in predictions)
        append(self.path, text.encode(), is_line=True)

    def check_begun(self, names: Iterable[str]) -> None:
        """Refuse to leave the last recording unfinished, because `names` lacks it."""
        if missing := self.begun.keys() - set(map(_key, names)):
            raise InputError(
                f"{self._option} {self.path} may end in the middle of {missing.pop()}: name that "
                "file, too"
            )

    def finish(self) -> None:
        """Mark the file as whole."""
        self._note.unlink(missing_ok=True)

    def _resume(self, made_by: dict[str, Any]) -> None:
        before, what = read_json(self._note), f"{self._option} {self.path}"
        if changed := [key for key in made_by if before.get(key) != made_by[key]]:
            raise InputError(
                f"{what} was begun with another {', '.join(changed)}: give that command "
                "again, remove the file, or name another one"
            )
        text = read_text(self.path, MAX_TABLE)
        whole, _, torn = text.rpartition("\n")
        if torn:  # by a crash
            write_text(self.path, f"{whole}\n")
        rows = whole.split("\n") if whole else []
        n = len(self.lines.header())
        try:
            if rows[:n] != self.lines.header():
                raise ValueError("its header is another one")
            found = self.lines.read(rows[n:])
        except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
            raise InputError(
                f"{what} cannot be resumed ({error}): remove it or name another file"
            ) from error
        if found and self.lines.with_times:
            self.begun = dict([found.popitem()])
        self.done = {path: any(problems) for path, problems in found.items()}


def open_output(lines: Lines, out: Path | None, made_by: Mapping[str, Any]) -> Output:
    """Return a file of predictions, new or resumed; standard output where none is named."""
    return Output(lines) if out is None else OutputFile(out, lines, made_by)


def check_out(path: Path, option: str = "--out") -> None:
    """Refuse a file that cannot be begun or resumed, before a model is loaded.

    Args:
        path: The file.
        option: Option that names it.

    Raises:
        InputError: It is finished, or its folder is missing.
        RunError: Its folder cannot be written.
    """
    if not path.parent.is_dir():
        raise InputError(f"{option}: there is no folder {path.parent}")
    if path.exists() and not _note(path).exists():
        raise InputError(f"{option} {path} exists: remove it or name another file")
    check_writable(path.parent, f"{option} {path}")


def write_each(
    predictions: Iterable[Prediction], write: Callable[[Sequence[Prediction]], None], at_once: int
) -> None:
    """Hand predictions on, a few at a time; what is there when the work stops is handed on too."""
    some: list[Prediction] = []
    try:
        for one in predictions:
            some.append(one)
            if len(some) == at_once:
                full, some = some, []  # so that a signal while they are written repeats none
                write(full)
    finally:
        if some:
            write(some)


def _note(path: Path) -> Path:
    """Return the note beside a file that is not whole."""
    return path.with_name(f".{path.name}.resume.json")


def _key(name: str) -> str:
    """Return the path of a recording as a file of predictions has it."""
    return printable(name, keep="")


def _tabs(cells: Sequence[str]) -> str:
    return "\t".join(map(_key, cells))


def _commas(cells: Sequence[str]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="").writerow([_key(cell) for cell in cells])
    return text.getvalue()


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
