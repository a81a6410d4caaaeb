"""Label parts of long recordings: lines as the work goes, timelines in a folder, a live stream."""

import logging
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from audio.opening import BadAudio
from audio.streaming import PcmFormat, pcm_stream
from inference.cuts import Cuts
from inference.emotion_model import AT_ONCE, EmotionModel
from inference.labelling import Labelled, from_input, lines_of, made_by, rest_of
from inference.output import Format, Output, OutputFile, open_output, write_each
from inference.prediction import SILENCE, Prediction
from inference.timeline import Parts, label_cuts
from inference.timeline_files import beside, write_others
from inference.unlike import unlike_lines
from inference.windows import windows
from system.errors import InputError
from system.files import make_folder, read_json
from system.output import progress_bar

log = logging.getLogger(__name__)
LIVE = "-"  # name of a live stream in its lines


class _Labelling:
    """The work that files have in common: counts, what is unlike the training data, warnings."""

    def __init__(self, model: EmotionModel, cuts: Cuts, hidden: bool) -> None:
        model.check_cuts()
        self.model, self.cuts, self.hidden = model, cuts, hidden
        self.counts = Labelled()
        self._unlike: dict[str, dict[str, str]] = {}

    def label(
        self,
        source: Path,
        path: Path,
        begun: Sequence[bool],
        write: Callable[[Sequence[Prediction]], None],
    ) -> float:
        """Label the parts of a file; return its duration in s.

        Args:
            source: The file.
            path: Name in the lines.
            begun: Whether there was a problem, of each part that has its line already.
            write: Takes the lines of the others.
        """
        parts = Parts(self.model, source, self.cuts, len(begun))
        with progress_bar(None, f"label {path.name}", "part", self.hidden) as bar:
            write_each(self._counted(parts, str(path), bar, sum(begun)), write, AT_ONCE)
        return parts.seconds

    def finish(self) -> Labelled:
        """Say what is unlike the training data; return the counts."""
        for line in unlike_lines(self._unlike, self.model.training_data, self.counts.n):
            print(line, file=sys.stderr)
        return self.counts

    def _counted(self, parts: Parts, name: str, bar: Any, n_bad: int) -> Iterator[Prediction]:
        """Yield the parts under the name that the user gave, and count them."""
        kinds: Counter[str] = Counter()
        values: dict[str, str] = {}
        n = 0
        for one in parts:
            bar.update()
            if one.problem is None:
                n += 1
                kinds.update(list(one.unlike))
                values = dict(one.unlike) | values
                self.counts.n_unsure += bool(one.unsure)
            elif one.problem != SILENCE:
                n_bad += 1
                if n_bad == 1:
                    log.warning("%s, from %.2f s on: %s", name, one.start or 0, one.problem)
            yield replace(one, name=name)
        self.counts.n += 1
        self.counts.n_bad += n_bad > 0
        self.counts.n_labels += n
        most = {kind: values[kind] for kind, count in kinds.items() if 2 * count > n}
        if most:
            self._unlike[name] = most


def label_parts(
    model: EmotionModel,
    files: Sequence[Path],
    cuts: Cuts,
    form: Format,
    out: Path | None = None,
    risk: float | None = None,
) -> Labelled:
    """Label the parts of files, and write a line for each as the work goes.

    Args:
        model: The model.
        files: The files, of any length; `-` reads one from standard input.
        cuts: How they are cut.
        form: Format of the lines.
        out: File to which they go; resumed inside the recording where an earlier command was
            interrupted. None prints.
        risk: Stated risk; the model knows it, see `about`.

    Raises:
        InputError: `out` is finished or was begun by another command, or the model reads vectors
            of whole recordings.
        RunError: `out` cannot be written.
    """
    work = _Labelling(model, cuts, not sys.stderr.isatty() and out is None)
    lines = lines_of(model, form, risk, with_times=True)
    made = made_by(model, form, risk) | cuts.settings()
    output = open_output(lines, out, made)
    rest, work.counts = rest_of(files, output)
    output.check_begun(map(str, rest))
    rest.sort(key=lambda path: not output.problems_begun(str(path)))  # its lines stay together
    output.start()
    with from_input(rest) as sources:
        for source, path in zip(sources, rest, strict=True):
            work.label(source, path, output.problems_begun(str(path)), output.write)
    output.finish()
    return work.finish()


def write_timelines(
    model: EmotionModel,
    files: Sequence[Path],
    cuts: Cuts,
    folder: Path,
    risk: float | None = None,
) -> Labelled:
    """Write the timeline of each file in a folder: CSV, JSON, TextGrid, WebVTT, PNG.

    A timeline that is whole is skipped; one that was interrupted is resumed at its last part.

    Args:
        model: The model.
        files: The files, of any length; `-` reads one from standard input.
        cuts: How they are cut.
        folder: Made if missing; see `timeline_names`.
        risk: Stated risk; the model knows it, see `about`.

    Raises:
        InputError: A timeline there was made by another command, two files have one name, or the
            model reads vectors of whole recordings.
        RunError: The folder cannot be written.
    """
    work = _Labelling(model, cuts, hidden=False)
    lines = lines_of(model, "csv", risk, with_times=True)
    made = made_by(model, "csv", risk) | cuts.settings()
    names = timeline_names(files)
    before = {path: _problem_in(beside(folder / names[path], "json"), made) for path in files}
    rest = [path for path in files if before[path] is None]
    if whole := [found for found in before.values() if found is not None]:
        work.counts = Labelled(len(whole), sum(whole))
        log.info("%s has %d timelines already: %d are left", folder, len(whole), len(rest))
    with from_input(rest) as sources:
        for source, path in zip(sources, rest, strict=True):
            csv_file = folder / names[path]
            make_folder(csv_file.parent)
            file = OutputFile(csv_file, lines, made, option="--timeline")
            seconds = work.label(source, path, file.problems_begun(str(path)), file.write)
            write_others(csv_file, lines, made, seconds)
            file.finish()
    return work.finish()


def timeline_names(files: Sequence[Path]) -> dict[Path, Path]:
    """Return the CSV of each file, below the folder of timelines.

    It is the path from the current folder, or from the root where the file lies elsewhere, so that
    equal names in several folders stay apart: `calls/a.wav` has `calls/a.wav.csv`.

    Raises:
        InputError: Two paths name one file.
    """
    here = os.getcwd()
    found: dict[Path, Path] = {}
    first: dict[Path, Path] = {}
    for path in files:
        whole = Path(os.path.abspath(path))
        inside = whole.is_relative_to(here)
        name = whole.relative_to(here if inside else whole.anchor)
        if name in first:
            raise InputError(f"{first[name]} and {path} are one file: name it once")
        first[name] = path
        found[path] = name.with_name(f"{name.name}.csv")
    return found


def label_live(
    model: EmotionModel,
    file: BinaryIO,
    cuts: Cuts,
    rate: int,
    pcm: PcmFormat,
    form: Format,
    risk: float | None = None,
) -> Labelled:
    """Label raw samples from a pipe as they come: a line as soon as a window is complete.

    Args:
        model: The model.
        file: Buffered binary file with mono samples, such as `sys.stdin.buffer`.
        cuts: Windows.
        rate: Rate of the samples, Hz.
        pcm: Format of the samples.
        form: Format of the lines.
        risk: Stated risk; the model knows it, see `about`.

    Raises:
        InputError: There are less than 10 ms of samples, or the model reads vectors of recordings.
    """
    model.check_cuts()
    lines = lines_of(model, form, risk, with_times=True)
    output = Output(lines)
    output.start()
    found = Labelled(n=1)
    stream = pcm_stream(file, rate, pcm, model.stream_rate)
    try:
        for one in label_cuts(model, windows(stream, *cuts.times), LIVE):
            found.n_labels += one.problem is None
            found.n_unsure += bool(one.unsure)
            if one.problem not in (None, SILENCE):
                found.n_bad = 1
            output.write([one])
    except BadAudio as error:
        raise InputError(f"--pcm: what standard input has {error}") from error
    return found


def _problem_in(json_file: Path, made: dict[str, Any]) -> bool | None:
    """Return whether parts of a whole timeline are not labelled; None where there is no timeline.

    Raises:
        InputError: Another command made it.
    """
    if not json_file.exists():
        return None
    found = read_json(json_file, "made_by", "parts")
    before = found["made_by"]
    if changed := [key for key in made.keys() | before.keys() if before.get(key) != made.get(key)]:
        raise InputError(
            f"--timeline: {json_file} was made with another {', '.join(sorted(changed))}: name "
            "another folder, or remove that timeline"
        )
    return any(part["problem"] not in (None, SILENCE) for part in found["parts"])
