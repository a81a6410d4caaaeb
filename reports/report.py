"""Runs side by side as one HTML page that needs nothing else: no network, no script, no file."""

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from corpora.splits import STAMP
from evaluation import figures
from evaluation.tables import METRICS, NAMES, notes, p_value, percent
from gates.results import FIGURES, GateResults, Stale, digests, read_results
from gates.tables import (
    ATTENTION,
    NO_EXPLANATION,
    QUESTIONS,
    beside,
    estimate_words,
    exchanged,
    gate_value,
    given_models,
    intervention_name,
    not_asked,
    question_words,
)
from reports.examples import PER_RUN, data_uri, worst_errors
from storage.ledger import read_ledger
from storage.run_folder import Run
from system.files import write_text
from system.text import printable

TEMPLATES = Path(__file__).resolve().parent
GLYPHS = dict(zip("os^Dv*P", "●■▲◆▼★✚", strict=True))  # of matplotlib's markers, for the text
HISTORIES = {  # column of history.csv: (label, whether it is a fraction)
    "loss": ("training loss", False),
    "dev_loss": ("dev loss", False),
    "dev_ua": ("dev UA, percent", True),
}
Comparison = Mapping[str, Any]  # see `comparison.compare`


def write_report(
    path: Path, runs: Sequence[Run], comparison: Comparison, audio: bool = True
) -> None:
    """Write the page.

    Args:
        path: Of the HTML file.
        runs: In the order of `comparison["runs"]`.
        comparison: From `comparison.compare`; `breakdown` and `robustness` in it, by name of the
            run, are shown where they are there.
        audio: Embed the sound of the worst errors. Such a page holds recordings of the corpus and
            may be passed on only as the corpus may.

    Raises:
        RunError: A file of a run is corrupt, or the page cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # names, ids and texts are the users'
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        percent=percent,
        p_value=p_value,
        beside=beside,
        exchanged=exchanged,
        given_models=given_models,
        not_asked=not_asked,
        gate_value=gate_value,
        estimate_words=estimate_words,
        question_words=question_words,
        intervention_name=intervention_name,
        gate_questions=QUESTIONS,
        no_explanation=NO_EXPLANATION,
        behind_attention=ATTENTION,
    )
    page = environment.get_template("report.html").render(
        c=comparison,
        runs=_runs(runs, comparison),
        errors=worst_errors(runs, audio),
        axes=_axes(runs[0].config),
        figures=_figures(runs, comparison),
        gates=_gates(runs),
        analyses=_analyses(runs),
        calibrations=_calibrations(comparison),
        groups=_groups(comparison),
        conditions=_conditions(comparison),
        notes=[note.replace("`", "") for note in notes(comparison)],
        metrics={name: NAMES[name] for name in METRICS},
        stamp=STAMP,
        audio=audio,
        n_worst=PER_RUN,
        other_images=any(key.startswith("features.") for key in comparison["config_differences"]),
    )
    write_text(path, page)


def _shown(value: Any) -> Any:
    """Return what a page shows of a value; escaped text and figures pass as they are."""
    return printable(value) if type(value) is str else value


def _runs(runs: Sequence[Run], comparison: Comparison) -> list[dict[str, Any]]:
    """Return each run's scores with its colour, what it was made with, and its ledger."""
    return [
        {
            **summary,
            "colour": figures.colour(place),
            "glyph": GLYPHS[figures.marker(place)],
            "made_with": _made_with(run),
            "certificate": run.certificate,
            "ledger": _ledger(run),
        }
        for place, (run, summary) in enumerate(zip(runs, comparison["runs"], strict=True))
    ]


def _ledger(run: Run) -> list[dict[str, Any]]:
    """Return the looks at these test data; other splits have other test data."""
    lines = read_ledger(run.folder)
    return [line for line in lines if line["certificate"] == run.certificate["id"]]


def _made_with(run: Run) -> dict[str, Any]:
    """Return what the folds of a run were made with, each thing once."""
    made = [one.environment() for one in run.folds]
    versions = [{"python": e.get("python", "?"), **e.get("packages", {})} for e in made]
    machines = [[str(e.get(key, "?")) for key in ("device", "threads", "platform")] for e in made]
    facts = {
        "commands": [_command(e["command"]) for e in made],
        "commits": [str(e["git_commit"]) for e in made],
        "versions": [", ".join(f"{k} {v}" for k, v in each.items()) for each in versions],
        "machines": ["{}, threads: {}, {}".format(*each) for each in machines],
    }
    distinct: dict[str, Any] = {key: list(dict.fromkeys(values)) for key, values in facts.items()}
    return {**distinct, "seconds": sum(e.get("seconds", 0) for e in made)}


def _command(words: Sequence[str]) -> str:
    python = ["python"] if words and words[0].endswith(".py") else []
    return shlex.join([*python, *words])


def _axes(config: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Return the frequencies in Hz at the bottom and the top of both images."""
    octaves = (config["features.cqt.n_bins"] - 1) / config["features.cqt.bins_per_octave"]
    lowest = config["features.cqt.fmin"]
    highest = config["features.mel.fmax"] or config["features.sample_rate"] / 2
    return {
        "CQT": (lowest, lowest * 2**octaves),
        "Mel": (config["features.mel.fmin"], highest),
    }


def _figures(runs: Sequence[Run], comparison: Comparison) -> dict[str, str]:
    """Return the plots that every page has, as data URIs."""
    classes, found = comparison["classes"], comparison["runs"]
    tests = [run["test"] for run in found]
    scores = [
        figures.Dots([t[m]["pooled"] for m in METRICS], [t[m]["interval"] for m in METRICS])
        for t in tests
    ]
    recalls = [figures.Dots(run["per_class_recall"], [None] * len(classes)) for run in found]
    names = [NAMES[metric] for metric in METRICS]
    plots = {
        "scores": figures.dot_plot(
            names, scores, "percent, pooled, 95 % interval", 1 / len(classes)
        ),
        "recalls": figures.dot_plot(classes, recalls, "recall, percent"),
        **{
            key: figures.epochs(_histories(runs, key), *how)
            for key, how in HISTORIES.items()
            if all(key in one.history()[0] for run in runs for one in run.folds)
        },
    }
    return {name: _svg_uri(plot) for name, plot in plots.items()}


def _histories(runs: Sequence[Run], key: str) -> list[figures.Line]:
    lines = []
    for place, run in enumerate(runs):
        for one in run.folds:
            rows = one.history()
            x, y = [row["epoch"] for row in rows], [row[key] for row in rows]
            lines.append(figures.Line(place, x, y, one.metrics.best_epoch))
    return lines


def _gates(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the gate images of the runs that have gates, over all folds and seeds."""
    found = []
    for place, run in enumerate(runs):
        tables = [one.test for one in run.folds]
        gates = [table.gate for table in tables if table.gate is not None]
        if len(gates) < len(tables):
            continue
        gate = np.concatenate(gates)  # (N,)
        targets = np.concatenate([table.targets for table in tables])
        right = np.concatenate([table.preds for table in tables]) == targets
        by_class = [gate[targets == k].tolist() for k in range(len(run.classes))]
        plots = {
            "histogram": figures.gate_histogram(gate[right].tolist(), gate[~right].tolist()),
            "by_class": figures.gate_by_class(by_class, run.classes, place),
        }
        numbers = {"mean": gate.mean(), "low": gate.min(), "high": gate.max(), "n": len(gate)}
        found.append({"run": place, **numbers, **{k: _svg_uri(v) for k, v in plots.items()}})
    return found


def _analyses(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return what `analyze_gates.py` found of each run; of other weights, only that it is so."""
    analyses: list[dict[str, Any]] = []
    for place, run in enumerate(runs):
        try:
            shown = read_results(run)
        except Stale as stale:
            analyses.append({"run": place, "stale": str(stale)})
            continue
        if shown is not None:
            plots = [
                {"uri": data_uri("image/png", data), "words": FIGURES[name], "name": name}
                for name, data in shown.figures.items()
            ]
            found = {"found": shown.results, "retrained": _retrained(shown.results, runs)}
            analyses.append({"run": place, "stale": None, **found, "plots": plots})
    return analyses


def _retrained(found: GateResults, runs: Sequence[Run]) -> list[str]:
    """Return the runs of one branch whose weights are no longer those that stand beside."""
    beside_it = found.reliance.unimodal if found.reliance is not None else []
    named = {one.run for one in beside_it}
    now = {run.name: digests(run) for run in runs if run.name in named}
    return [one.run for one in beside_it if now.get(one.run, one.weights) != one.weights]


def _calibrations(comparison: Comparison) -> dict[str, Any] | None:
    """Return reliability of each run that was broken down, and risk over coverage of all."""
    parts = comparison.get("breakdown") or {}
    names = [run["name"] for run in comparison["runs"]]
    found = [{"run": i, **parts[name]} for i, name in enumerate(names) if name in parts]
    if not found:
        return None
    curves = [(one["run"], one["risk_coverage"]) for one in found]
    risks = [figures.Line(run, curve["coverage"], curve["risk"]) for run, curve in curves]
    plot = figures.curves(risks, "coverage, percent", "risk, percent", percent=True)
    plots = [_svg_uri(_reliability(one["calibration"])) for one in found]
    runs = [{**one, "plot": plot} for one, plot in zip(found, plots, strict=True)]
    return {"risk": _svg_uri(plot), "runs": runs}


def _reliability(found: Mapping[str, Any]) -> str:
    bars = []
    for key in ("reliability", "reliability_scaled"):
        full = [row for row in found[key] if row["n"]]
        bars.append(
            figures.Bars(*([row[k] for row in full] for k in ("confidence", "accuracy", "n")))
        )
    return figures.reliability_plot(*bars)


def _groups(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    """Return {grouping: rows}, each row with the scores of every run by its place."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for place, run in enumerate(comparison["runs"]):
        parts = (comparison.get("breakdown") or {}).get(run["name"], {}).get("groups", {})
        for grouping, rows in parts.items():
            for row in rows:
                group = found.setdefault(grouping, {}).setdefault(row["group"], {**row, "runs": {}})
                group["runs"][place] = row
    return {name: list(rows.values()) for name, rows in found.items()}


def _conditions(comparison: Comparison) -> dict[str, Any] | None:
    """Return the plot of all runs under changed clips, and its rows; None where not measured."""
    parts = comparison.get("robustness") or {}
    lists = [parts.get(run["name"], {}).get("conditions", []) for run in comparison["runs"]]
    measured = [{row["condition"]: row for row in rows} for rows in lists]
    names = list(dict.fromkeys(name for rows in measured for name in rows))
    if not names:
        return None
    table = [[rows.get(name, {}) for name in names] for rows in measured]
    dots = [
        figures.Dots(*([row.get(k) for row in rows] for k in ("ua", "interval"))) for rows in table
    ]
    rows = [{"name": name, "runs": cells} for name, *cells in zip(names, *table, strict=True)]
    return {"plot": _svg_uri(figures.dot_plot(names, dots, "UA, percent")), "rows": rows}


def _svg_uri(svg: str) -> str:
    return data_uri("image/svg+xml", svg.encode())
