"""Runs side by side as one HTML page that needs nothing else: no network, no script, no file."""

import base64
import io
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import soundfile
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import Tensor

import figures
from audio import BadAudio, read_audio
from features import SpectrogramImages
from files import read_json, write_text
from ledger import read_ledger
from run_folder import Run
from tables import METRICS, NAMES, STAMP, notes, p_value, percent

TEMPLATES = Path(__file__).resolve().parent / "templates"
N_WORST = 6  # errors of each run
GLYPHS = dict(zip("os^Dv*P", "●■▲◆▼★✚", strict=True))  # of matplotlib's markers, for the text
HISTORIES = {  # column of history.csv: (label, whether it is a fraction)
    "loss": ("training loss", False),
    "dev_loss": ("dev loss", False),
    "dev_ua": ("dev UA, percent", True),
}
Comparison = Mapping[str, Any]  # see `comparison.compare`


class Verdict(NamedTuple):
    """What one run says of one clip."""

    run: int  # place
    seed: int
    target: str
    pred: str
    probs: Mapping[str, float]
    gate: float | None  # mean over units, 1 = CQT, 0 = Mel
    speaker: str

    @property
    def badness(self) -> float:
        """Probability of the prediction if it is wrong, less than 0 if it is right."""
        confidence = self.probs[self.pred]
        return confidence if self.pred != self.target else -confidence


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
        RunError: A file of a run is damaged, or the page cannot be written.
    """
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,  # names, ids and texts are the users'
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(percent=percent, p_value=p_value)
    page = environment.get_template("report.html").render(
        c=comparison,
        runs=_runs(runs, comparison),
        errors=_errors(runs, audio),
        figures=_figures(runs, comparison),
        gates=_gates(runs),
        calibrations=_calibrations(comparison),
        groups=_groups(comparison),
        conditions=_conditions(comparison),
        notes=[note.replace("`", "") for note in notes(comparison)],
        metrics={name: NAMES[name] for name in METRICS},
        stamp=STAMP,
        audio=audio,
        n_worst=N_WORST,
    )
    write_text(path, page)


def sound(path: Path) -> bytes:
    """Return a recording as FLAC, mono, 16 bits at its own rate, which all browsers play.

    Raises:
        BadAudio: See `read_audio`.
    """
    rate = soundfile.info(path).samplerate
    file = io.BytesIO()
    soundfile.write(file, read_audio(path, rate), rate, format="FLAC", subtype="PCM_16")
    return file.getvalue()


def _errors(runs: Sequence[Run], audio: bool) -> list[dict[str, Any]]:
    """Return a card for each clip that is among the worst errors of any run, the worst first."""
    verdicts = [_verdicts(run, place) for place, run in enumerate(runs)]
    chosen: dict[str, list[int]] = {}
    for place, found in enumerate(verdicts):
        wrong = [name for name in found if found[name].badness > 0]
        for name in sorted(wrong, key=lambda name: (-found[name].badness, name))[:N_WORST]:
            chosen.setdefault(name, []).append(place)
    worst = {name: max(found[name].badness for found in verdicts) for name in chosen}
    images: dict[str, SpectrogramImages] = {}
    return [
        {
            "utterance": name,
            "chosen_by": chosen[name],
            "verdicts": [found[name] for found in verdicts],
            **_media(runs[chosen[name][0]], name, images, audio),
        }
        for name in sorted(worst, key=lambda name: (-worst[name], name))
    ]


def _verdicts(run: Run, place: int) -> dict[str, Verdict]:
    """Return each clip's verdict: of several seeds the most confidently wrong, or least sure."""
    found: dict[str, Verdict] = {}
    for one in run.folds:
        table = one.test
        for i, name in enumerate(table.utterances.tolist()):
            target, pred = (run.classes[classes[i]] for classes in (table.targets, table.preds))
            probs = dict(zip(run.classes, table.probs[i].tolist(), strict=True))
            gate = None if table.gate is None else float(table.gate[i])
            verdict = Verdict(place, one.seed, target, pred, probs, gate, str(table.speakers[i]))
            if name not in found or verdict.badness > found[name].badness:
                found[name] = verdict
    return found


def _media(
    run: Run, utterance: str, images: dict[str, SpectrogramImages], audio: bool
) -> dict[str, Any]:
    """Return what is known of a clip, its pictures and its sound, or why there are none."""
    about = run.about.get(utterance, {})
    card: dict[str, Any] = {"about": about, "pictures": [], "sound": None, "problem": None}
    if not about:
        return {**card, "problem": "utterances.csv does not name it"}
    settings = read_json(run.folds[0].folder / "model.json", "features")["features"]
    key = json.dumps(settings)
    if key not in images:
        images[key] = SpectrogramImages(**settings)
    path = run.audio_file(utterance)
    try:
        samples = read_audio(path, images[key].input_rate)  # (T,)
        heard = _data_uri("audio/flac", sound(path)) if audio else None
    except BadAudio as error:
        reason = error if path.exists() else "is not in the corpus folder"
        return {**card, "problem": f"{about['path']} {reason}"}
    crops = images[key].cut(torch.from_numpy(samples))  # (n, T)
    facts = {"seconds": crops.shape[1] / images[key].input_rate, "crops": len(crops)}
    return {**card, **facts, "sound": heard, "pictures": _pictures(images[key], crops[:1])}


@torch.no_grad()
def _pictures(front_end: SpectrogramImages, waveform: Tensor) -> list[dict[str, Any]]:
    """Return both pictures as the networks get them before normalization: (1, T)."""
    scales = {"CQT": front_end.cqt.frequencies, "Mel-STFT": front_end.mel.edges[1:-1]}
    return [
        {
            "name": name,
            "uri": _data_uri(
                "image/png",
                figures.spectrogram_png(picture[0, 0].numpy(), -front_end.top_db),
            ),
            "low": float(hertz[0]),
            "high": float(hertz[-1]),
            "top_db": front_end.top_db,
        }
        for (name, hertz), picture in zip(scales.items(), front_end(waveform), strict=True)
    ]


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
            lines.append(figures.Line(place, x, y, one.metrics["best_epoch"]))
    return lines


def _gates(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return the gate pictures of the runs that have gates, over all folds and seeds."""
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
    return _data_uri("image/svg+xml", svg.encode())


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
