"""Label many recordings: lines on standard output or in a file, and what people should be told."""

import logging
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from corpora.splits import SPEAKER_DEPENDENT
from corpora.stamps import speaker_stamp
from inference.emotion_model import AT_ONCE, EmotionModel
from inference.inputs import STANDARD_INPUT
from inference.output import Format, Lines, Output, open_output, write_each
from inference.prediction import Prediction
from inference.unlike import unlike_lines
from storage.fold_folder import WEIGHTS
from system.errors import RunError
from system.output import progress_bar
from system.regular import file_sha256

log = logging.getLogger(__name__)


@dataclass
class Labelled:
    """Counts of what was labelled.

    Attributes:
        n: Files.
        n_bad: Files that were not labelled, or not whole.
        n_labels: Labels: files, or parts of them.
        n_unsure: Unsure labels.
        what: What is wrong with files that were not labelled.
    """

    n: int = 0
    n_bad: int = 0
    n_labels: int = 0
    n_unsure: int = 0
    what: str = "are not usable audio"


def about(model: EmotionModel, risk: float | None) -> Iterator[str]:
    """Yield what people should know of a model before they read its labels; states the risk.

    Raises:
        InputError: The risk cannot be stated.
    """
    if SPEAKER_DEPENDENT in model.protocol:
        yield f"{speaker_stamp(model.protocol)}; other speakers may fare worse"
    if len(model.members) > 1:
        yield f"mean of {len(model.members)} models, of the finished folds and seeds"
    if risk is not None:
        confidence, coverage = model.state_risk(risk)
        yield (
            f"risk {risk:g}: a label is sure from a confidence of {confidence:.2f} on, which "
            f"{100 * coverage:.0f} % of the dev utterances had; at most {100 * risk:g} % of these "
            "were labelled wrong"
        )


def label_files(
    model: EmotionModel,
    files: Sequence[Path],
    form: Format,
    out: Path | None = None,
    risk: float | None = None,
) -> Labelled:
    """Label files, and write a line for each as the work goes.

    Args:
        model: The model.
        files: The files; `-` reads one from standard input.
        form: Format of the lines.
        out: File to which they go, resumed where an earlier command was interrupted; None prints.
        risk: Stated risk; the model knows it, see `about`.

    Raises:
        InputError: `out` is finished or was begun by another command, or the model reads vectors
            and there is no file of them.
        RunError: `out` cannot be written.
    """
    if model.vectors is not None:
        model.vectors.check()
    lines = lines_of(model, form, risk)
    output = open_output(lines, out, made_by(model, form, risk))
    rest, found = rest_of(files, output)
    found.what = "are not usable audio" + " or have no vector" * (model.vectors is not None)
    unlike: dict[str, Mapping[str, str]] = {}

    def write(some: Sequence[Prediction]) -> None:
        for one in some:
            found.n += 1
            found.n_labels += one.problem is None
            found.n_bad += one.problem is not None
            found.n_unsure += bool(one.unsure)
            if one.unlike:
                unlike[one.name] = one.unlike
        output.write(some)

    output.start()
    if (
        len(rest) > 1 and not model.ensemble.reads_speech
    ):  # the cores read, transform and run the network side by side
        torch.set_num_threads(1)
    hidden = not sys.stderr.isatty() and out is None
    with progress_bar(len(rest), "label", "file", hidden) as bar, from_input(rest) as sources:
        predictions = model.predict_each(sources)
        write_each(_counted(predictions, rest, bar), write, AT_ONCE)
    output.finish()
    for line in unlike_lines(unlike, model.training_data, found.n):
        print(line, file=sys.stderr)
    return found


def rest_of(files: Sequence[Path], output: Output) -> tuple[list[Path], Labelled]:
    """Return the files without lines yet, and the counts of the others."""
    rest = [path for path in files if not output.is_done(str(path))]
    if output.done:
        log.info(
            "%d files have their lines already: %d files are left", len(output.done), len(rest)
        )
    return rest, Labelled(len(output.done), sum(output.done.values()))


def check_labelled(found: Labelled, out: Path | None = None) -> None:
    """Say how many labels are unsure, and fail where files could not be labelled.

    Args:
        found: Counts of the work.
        out: File or folder that has the reasons; None where they were printed.

    Raises:
        RunError: Some could not.
    """
    if found.n_unsure:
        print(f"{found.n_unsure} of {found.n_labels} labels are unsure", file=sys.stderr)
    if found.n_bad:
        where = "see above" if out is None else f"each has its problem in {out}"
        raise RunError(f"{found.n_bad} of {found.n} files {found.what}: {where}")


def made_by(model: EmotionModel, form: Format, risk: float | None) -> dict[str, Any]:
    """Return what decides the lines of a file.

    Args:
        model: The model.
        form: Format of the lines.
        risk: Stated risk.
    """
    weights = [file_sha256(member.folder / WEIGHTS) for member in model.members]
    own = None if model.vectors is None else model.vectors.own
    vectors = {} if own is None else {"vectors": own.sha256}
    return {"model": weights, **vectors, "format": form, "risk": risk}


def lines_of(
    model: EmotionModel, form: Format, risk: float | None, with_times: bool = False
) -> Lines:
    """Return the lines of a model's predictions.

    Args:
        model: The model.
        form: Their format.
        risk: Stated risk.
        with_times: Whether they are of parts of recordings.
    """
    return Lines(form, model.classes, model.scale, risk is not None, with_times, model.sources)


def _counted(predictions: Iterator[Prediction], files: Sequence[Path], bar: Any) -> Any:
    """Yield predictions under the names that the user gave, and count them in a bar."""
    for one, path in zip(predictions, files, strict=True):
        bar.update()
        yield replace(one, name=str(path))


@contextmanager
def from_input(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield the files, with a temporary copy of standard input in the place of `-`."""
    if Path(STANDARD_INPUT) not in files:
        yield list(files)
        return
    with tempfile.TemporaryDirectory(prefix="maxmvit-") as folder:
        copy = Path(folder, "standard-input")
        with copy.open("wb") as written:
            shutil.copyfileobj(sys.stdin.buffer, written)
        yield [copy if path == Path(STANDARD_INPUT) else path for path in files]
