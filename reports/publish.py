"""A comparison as files: Markdown, LaTeX, JSON and a report."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from config.tasks import check_classes
from evaluation.comparison import compare, run_names
from evaluation.comparison_file import comparison_json
from evaluation.corpus_matrix import (
    CorpusMatrix,
    corpus_matrix,
    is_cross_corpus,
    matrix_json,
    matrix_markdown,
)
from evaluation.layer_table import layers_markdown
from evaluation.results import (
    Comparison,
)
from evaluation.subgroups import breakdown, breakdown_markdown
from evaluation.summary import summarize
from evaluation.tables import comparison_latex, comparison_markdown, identity, stamps_of
from inference.robustness import check_robust, measure_robustness, robustness_markdown
from reports.report import write_report
from storage.run_folder import Run, read_run
from system.errors import InputError
from system.files import make_folder, write_json, write_text

log = logging.getLogger(__name__)


def gather(
    folders: Sequence[Path],
    breakdowns: bool = False,
    robustness: bool = False,
    reference: int | None = None,
) -> tuple[list[Run], Comparison]:
    """Read runs and compare them.

    Args:
        folders: Run folders.
        breakdowns: Also compute scores by group and calibration.
        robustness: Also test the frozen weights on changed recordings: reads the test audio and
            adds to each run's ledger.
        reference: Index of the run with which the others are compared; None compares all pairs.

    Raises:
        InputError: Protocol, splits, folds or seeds differ, or the corpus that `robustness` needs
            is missing, or there are baselines alone, which it does not measure.
        RunError: A file of a run is corrupt.
    """
    runs = [read_run(folder) for folder in folders]
    comparison = compare(runs, reference)  # refuses before anything is measured
    if breakdowns or robustness:
        check_classes(comparison.task, "--breakdown and --robustness are")
    named = list(zip(run_names(runs), runs, strict=True))
    if robustness:
        networks = {name: run for name, run in named if not run.is_baseline}
        if not networks:
            raise InputError("robustness is measured for fusions, and these are baselines")
        if left_out := [name for name, run in named if run.is_baseline]:
            log.info("robustness is measured for fusions alone, not for %s", ", ".join(left_out))
        for run in networks.values():  # all of them before any is measured
            check_robust(run)
        measured = {name: measure_robustness(run) for name, run in networks.items()}
        for run in networks.values():
            summarize(run.folder)  # it counts the test evaluations
        comparison = replace(compare(runs, reference), robustness=measured)
    if breakdowns:
        parts = {name: breakdown(run) for name, run in named}
        comparison = replace(comparison, breakdown=parts)
    return runs, comparison


def gather_matrix(folders: Sequence[Path]) -> tuple[CorpusMatrix | None, bool]:
    """Return the matrix of train x test corpora, and whether the runs may be compared in pairs.

    Args:
        folders: Run folders. Without a run of `cross-corpus` there is no matrix, and `gather` says
            which runs may be compared.

    Raises:
        InputError: The runs differ in task or classes.
        RunError: A file of a run is corrupt.
    """
    runs = [read_run(folder) for folder in folders]
    if not any(map(is_cross_corpus, runs)):
        return None, True
    return corpus_matrix(runs), len({run.certificate["id"] for run in runs}) == 1


def publish_matrix(folder: Path, matrix: CorpusMatrix) -> None:
    """Write matrix.md and matrix.json.

    Args:
        folder: Output folder, made if missing.
        matrix: From `gather_matrix`.

    Raises:
        InputError: `folder` is a file.
        RunError: A file could not be written.
    """
    _make_output(folder)
    write_text(folder / "matrix.md", matrix_markdown(matrix))
    write_json(folder / "matrix.json", matrix_json(matrix))


def markdown(comparison: Comparison) -> str:
    """Return all tables of a comparison."""
    blocks = [comparison_markdown(comparison)]
    stamp = "".join(f"**{words}**\n\n" for words in stamps_of(comparison))
    stamp += f"{identity(comparison)}.\n\n"
    blocks += [f"{block}\n" for block in layers_markdown(comparison.runs)]
    for name, parts in (comparison.breakdown or {}).items():
        blocks.append(stamp + breakdown_markdown(name, parts))
    if comparison.robustness is not None:
        blocks.append(stamp + robustness_markdown(comparison.robustness))
    return "\n".join(blocks)


def publish(folder: Path, runs: Sequence[Run], comparison: Comparison, audio: bool = True) -> None:
    """Write comparison.md, comparison.tex, comparison.json and report.html.

    Args:
        folder: Output folder, made if missing.
        runs: Runs from `gather`.
        comparison: Comparison from `gather`.
        audio: Embed the sound of the worst errors in the report.

    Raises:
        InputError: `folder` is a file.
        RunError: The disk is full, lost or read-only; files that were written are complete.
    """
    _make_output(folder)
    write_text(folder / "comparison.md", markdown(comparison))
    write_text(folder / "comparison.tex", comparison_latex(comparison))
    write_json(folder / "comparison.json", comparison_json(comparison))
    write_report(folder / "report.html", runs, comparison, audio)


def _make_output(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: --out names a folder for the tables and the report")
    make_folder(folder)
