"""Runs side by side as one self-contained HTML page: no network, no script, no other file."""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.effects import TOKENS
from evaluation import figures
from evaluation.calibration import Calibration
from evaluation.conclusion import chance_score, conclusion
from evaluation.results import Comparison, GroupScores, RunSummary
from evaluation.summary import sessions_of
from evaluation.tables import notes, pairs_caption, shown_task, stamps_of
from evaluation.tasks import task_of
from evaluation.wording import p_value, percent
from gates import tables as gate_tables
from gates import wording as gate_wording
from gates.results import FIGURES, SHARE_FIGURES, Stale, UnimodalRun, read_analysis
from inference.predictor import weights_digests
from reports.classes import largest_confusions, shown_classes
from reports.examples import PER_RUN, run_of_images, worst_errors
from reports.media import data_uri
from reports.plots import draw_plots, scores_of
from reports.shares import layer_section, share_sections
from reports.templates import templates
from storage.ledger import read_ledger
from storage.run_folder import Run
from system.files import write_text

GLYPHS = dict(zip("os^Dv*P", "●■▲◆▼★✚", strict=True))  # matplotlib's markers as text


@dataclass(frozen=True)
class RunOnPage:
    """What the template shows of a run.

    Attributes:
        summary: Its scores.
        colour: Colour of its marks, as CSS.
        glyph: Its mark.
        made_with: Commands, commits, versions and machines of its folds, and their time in seconds.
        certificate: Its split certificate.
        ledger: Lines of its ledger on the current splits.
    """

    summary: RunSummary
    colour: str
    glyph: str
    made_with: Mapping[str, Any]
    certificate: Mapping[str, Any]
    ledger: Sequence[Mapping[str, Any]]

    @property
    def name(self) -> str:
        """Name of the run in the comparison."""
        return self.summary.name


def write_report(
    path: Path, runs: Sequence[Run], comparison: Comparison, audio: bool = True
) -> None:
    """Write the page.

    Args:
        path: Path of the HTML file.
        runs: Runs in the order of `comparison.runs`.
        comparison: From `publish.gather`.
        audio: Embed the sound of the worst errors. Such a page holds recordings of the corpus: its
            licence applies.

    Raises:
        RunError: A file of a run is corrupt, or the page cannot be written.
    """
    environment = templates()
    environment.globals.update(
        percent=percent,
        p_value=p_value,
        pairs_caption=pairs_caption,
        gate_tables=gate_tables,
        gate_wording=gate_wording,
    )
    shown, task = shown_classes(comparison), shown_task(comparison)
    page = environment.get_template("report.html").render(
        c=comparison,
        tokens=TOKENS,
        answer=conclusion(comparison),
        chance=chance_score(comparison.runs[0]),
        shown=shown,
        confusions=largest_confusions(comparison),
        runs=_runs(runs, comparison),
        errors=worst_errors(runs, audio),
        axes=_axes(runs),
        images_of=run_of_images(runs),
        figures={k: _svg_uri(v) for k, v in draw_plots(runs, comparison, shown).items()},
        gates=_gates(runs, shown),
        shares=share_sections(runs, shown),
        layers=layer_section(comparison),
        analyses=_analyses(runs),
        calibrations=_calibrations(comparison),
        groups=_groups(comparison),
        conditions=_conditions(comparison),
        notes=[note.replace("`", "") for note in notes(comparison)],
        task=task,
        measures=task.measures,
        metrics={name: task.measures[name].name for name in scores_of(task)},
        stamps=stamps_of(comparison),
        audio=audio,
        n_worst=PER_RUN,
        other_images=any(key.startswith("features.") for key in comparison.config_differences),
    )
    write_text(path, page)


def _runs(runs: Sequence[Run], comparison: Comparison) -> list[RunOnPage]:
    """Return each run's scores with its colour, provenance and ledger."""
    return [
        RunOnPage(
            summary=summary,
            colour=figures.colour(place),
            glyph=GLYPHS[figures.marker(place)],
            made_with=_made_with(run),
            certificate=run.certificate,
            ledger=_ledger(run),
        )
        for place, (run, summary) in enumerate(zip(runs, comparison.runs, strict=True))
    ]


def _ledger(run: Run) -> list[dict[str, Any]]:
    """Return the test evaluations on the current splits; other splits have other test data."""
    lines = read_ledger(run.folder)
    return [line for line in lines if line["certificate"] == run.certificate["id"]]


def _made_with(run: Run) -> dict[str, Any]:
    """Return commands, commits, versions and machines of the folds, each once."""
    made = sessions_of(run)
    versions = [{"python": e.get("python", "?"), **e.get("packages", {})} for e in made]
    facts = {
        "commands": [_command(e["command"]) for e in made],
        "commits": [str(e.get("git_commit")) for e in made],
        "versions": [", ".join(f"{k} {v}" for k, v in names.items()) for names in versions],
        "machines": [_machine(e) for e in made],
    }
    seconds = sum(fold.environment().get("seconds", 0) for fold in run.folds)
    distinct: dict[str, Any] = {key: list(dict.fromkeys(values)) for key, values in facts.items()}
    return {**distinct, "seconds": seconds}


def _machine(session: Mapping[str, Any]) -> str:
    """Return devices, threads and system of a session, each device once."""
    processes = session.get("processes") or [session]
    devices = dict.fromkeys(str(process.get("device", "?")) for process in processes)
    several = f"{len(processes)} processes on " if len(processes) > 1 else ""
    threads, system = session.get("threads", "?"), session.get("platform", "?")
    return f"{several}{' and '.join(devices)}, threads: {threads}, {system}"


def _command(words: Sequence[str]) -> str:
    python = ["python"] if words and words[0].endswith(".py") else []
    return shlex.join([*python, *words])


def _axes(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return the frequencies in Hz at the bottom and the top of both images that are shown."""
    if (run := run_of_images(runs)) is None:
        return {}
    config = run.config
    octaves = (config["features.cqt.n_bins"] - 1) / config["features.cqt.bins_per_octave"]
    lowest = config["features.cqt.fmin"]
    highest = config["features.mel.fmax"] or config["features.sample_rate"] / 2
    return {
        "CQT": (lowest, lowest * 2**octaves),
        "Mel": (config["features.mel.fmin"], highest),
    }


def _gates(runs: Sequence[Run], shown: Sequence[int]) -> list[dict[str, Any]]:
    """Return the gate figures of the runs that gate both images, over all folds and seeds."""
    sections = []
    for place, run in enumerate(runs):
        tables = [fold.test for fold in run.folds]
        gates = [table.gate for table in tables if table.gate is not None]
        if len(gates) < len(tables):
            continue
        gate, task = np.concatenate(gates), task_of(run.folds[0])  # (N,)
        targets = np.concatenate([task.group_of(table.targets) for table in tables])
        preds = np.concatenate([task.group_of(table.preds) for table in tables])
        right, groups = preds == targets, shown or range(len(task.group_names))
        by_class = [gate[targets == k].tolist() for k in groups]
        names = [task.group_names[k] for k in groups]
        plots = {
            "histogram": figures.gate_histogram(gate[right].tolist(), gate[~right].tolist()),
            "by_class": figures.gate_by_class(by_class, names, place),
        }
        numbers = {"mean": gate.mean(), "low": gate.min(), "high": gate.max(), "n": len(gate)}
        sections.append({"run": place, **numbers, **{k: _svg_uri(v) for k, v in plots.items()}})
    return sections


def _analyses(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the gate analysis of each run that has one; of a stale one, only its message."""
    analyses: list[dict[str, Any]] = []
    for place, run in enumerate(runs):
        try:
            analysis = read_analysis(run)
        except Stale as stale:
            analyses.append({"run": place, "stale": str(stale)})
            continue
        if analysis is not None:
            plots = [
                {
                    "uri": data_uri("image/png", data),
                    "words": (FIGURES if analysis.results.of_images else SHARE_FIGURES)[name],
                    "polarity": gate_wording.figure_polarity(analysis.results, name),
                }
                for name, data in analysis.figures.items()
            ]
            ablation = analysis.results.branch_ablation
            retrained = [] if ablation is None else _retrained(ablation.unimodal, runs)
            results = {"results": analysis.results, "retrained": retrained}
            analyses.append({"run": place, "stale": None, **results, "plots": plots})
    return analyses


def _retrained(unimodal: Sequence[UnimodalRun], runs: Sequence[Run]) -> list[str]:
    """Return the names of the unimodal runs whose weights have changed since the analysis."""
    names = {row.run for row in unimodal}
    now = {run.name: weights_digests(run) for run in runs if run.name in names}
    return [row.run for row in unimodal if now.get(row.run, row.weights) != row.weights]


def _calibrations(comparison: Comparison) -> dict[str, Any] | None:
    """Return the reliability of each run with a breakdown, and risk over coverage of all."""
    parts = comparison.breakdown or {}
    names = [run.name for run in comparison.runs]
    rows = [(place, parts[name]) for place, name in enumerate(names) if name in parts]
    if not rows:
        return None
    curves = [(place, part.risk_coverage) for place, part in rows]
    risks = [figures.Line(place, curve.coverage, curve.risk) for place, curve in curves]
    plot = figures.curves(risks, "coverage, percent", "risk, percent", percent=True)
    runs = [
        {"run": place, "breakdown": part, "plot": _svg_uri(_reliability(part.calibration))}
        for place, part in rows
    ]
    return {"risk": _svg_uri(plot), "runs": runs}


def _reliability(calibration: Calibration) -> str:
    bars = []
    for bins in (calibration.reliability, calibration.reliability_scaled):
        full = [row for row in bins if row.n]
        columns = ([getattr(row, key) for row in full] for key in ("confidence", "accuracy", "n"))
        bars.append(figures.Bars(*columns))
    return figures.reliability_plot(*bars)


def _groups(comparison: Comparison) -> dict[str, list[dict[int, GroupScores]]]:
    """Return {grouping: rows}, each row a group with the scores of every run by its place."""
    groupings: dict[str, dict[str, dict[int, GroupScores]]] = {}
    parts = comparison.breakdown or {}
    for place, run in enumerate(comparison.runs):
        found = parts[run.name].groups if run.name in parts else {}
        for grouping, rows in found.items():
            groups = groupings.setdefault(grouping, {})
            for row in rows:
                groups.setdefault(row.group, {})[place] = row
    return {name: list(rows.values()) for name, rows in groupings.items()}


def _conditions(comparison: Comparison) -> dict[str, Any] | None:
    """Return the plot of all runs by condition and its rows; None where not measured."""
    parts = comparison.robustness or {}
    lists = [parts[run.name].conditions if run.name in parts else [] for run in comparison.runs]
    measured = [{row.condition: row for row in rows} for rows in lists]
    names = list(dict.fromkeys(name for rows in measured for name in rows))
    if not names:
        return None
    table = [[rows.get(name) for name in names] for rows in measured]
    dots = [
        figures.Dots(
            [None if row is None else row.ua for row in rows],
            [None if row is None else row.interval for row in rows],
        )
        for rows in table
    ]
    rows = [{"name": name, "runs": cells} for name, *cells in zip(names, *table, strict=True)]
    return {"plot": _svg_uri(figures.dot_plot(names, dots, "UA, percent")), "rows": rows}


def _svg_uri(svg: str) -> str:
    return data_uri("image/svg+xml", svg.encode())
