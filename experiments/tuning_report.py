"""How a study stands: trials.csv, the best config, figures, a table for people."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from config.loading import dump_config, load_config
from config.schema import GATED
from experiments.search_space import Range
from experiments.trials import Outcome, Trials
from experiments.tuning_figures import Dot, draw_history, draw_importance, draw_slices
from system.files import write_csv, write_text
from system.locks import lock
from system.text import format_duration, printable

LOCK = ".lock.report"
SHOWN = 10  # trials in the table
NEEDS = "importance needs two complete trials with different dev UA"
COLUMNS = ("number", "state", "dev_ua", "best_epoch", "epochs", "seconds")
HEADER = """\
# The best of {n} complete trials ({all} in all) by dev UA: trial {number}, dev UA {ua:.4f} in epoch
# {epoch}, on fold {fold} with seed {seed}. Tuned by
#   {command}
# Train and test it:
#   python {entry} --config {file}
# The dev UA is the highest of {all} looks at the same clips: expect less of new ones.
# Test speakers of the other folds were training or dev data of fold {fold} while this was tuned, so
# only the test score of fold {fold} is untouched by tuning, and run.folds names it alone. For all
# folds, tune each of them by itself (nested tuning) and test each with its own config.
"""


def write_trials(folder: Path, trials: Trials) -> None:
    """Write trials.csv: one row a trial, its values and what came of it."""
    # Read and written under one lock, so that an older state never replaces a newer one
    with lock(folder / LOCK, f"the tables of {folder}", blocking=True):
        keys = list(trials.space)
        rows = []
        for one in trials.outcomes():
            facts = asdict(one)
            values = [json.dumps(one.values[k]) if k in one.values else "" for k in keys]
            shown = ["" if facts[c] is None else facts[c] for c in COLUMNS]
            rows.append([*shown, *values, printable(one.reason, keep="")])
        write_csv(folder / "trials.csv", [*COLUMNS, *keys, "reason"], rows)


def write_best(folder: Path, trials: Trials, command: Sequence[str]) -> Path | None:
    """Write best.yaml, a config that the training entry takes as it is; None where there is none.

    Args:
        folder: Of the study.
        trials: Of the study.
        command: That tuned it.
    """
    with lock(folder / LOCK, f"the tables of {folder}", blocking=True):
        everyone = trials.outcomes()
        ranked = best_first(everyone)
        if not ranked:
            return None
        best, file = ranked[0], folder / "best.yaml"
        config = load_config(trials.place(best.number) / "config.yaml", [_named(folder)])
        header = HEADER.format(
            n=len(ranked),
            all=len(everyone),
            number=best.number,
            ua=best.dev_ua,
            epoch=best.best_epoch,
            fold=(config.run.folds or [1])[0],
            seed=config.run.seeds[0],
            command=printable(shlex.join(command), keep=""),
            entry="train_gmu.py" if config.model.fusion in GATED else "train.py",
            file=printable(shlex.quote(str(file)), keep=""),
        )
        write_text(file, header + dump_config(config))
        return file


def draw_study(folder: Path, trials: Trials) -> None:
    """Draw history.png, importance.png and slices.png."""
    settled = [one for one in trials.outcomes() if one.state != "running"]
    dots = [Dot(one.number, one.state, one.dev_ua) for one in settled]
    draw_history(folder / "history.png", dots)
    draw_importance(folder / "importance.png", trials.importance(), NEEDS)
    ranges = trials.space.items()
    logs = [key for key, values in ranges if isinstance(values, Range) and values.log]
    columns = {key: [one.values.get(key) for one in settled] for key in trials.space}
    draw_slices(folder / "slices.png", dots, columns, logs)


def best_first(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the complete trials, the highest dev UA first; of equal ones the earlier is better."""
    complete = [one for one in outcomes if one.state == "complete"]
    return sorted(complete, key=lambda one: (-(one.dev_ua or 0), one.number))


def describe_study(folder: Path, trials: Trials) -> str:
    """Return the best trials as a table, how the others ended, and where to look."""
    outcomes = trials.outcomes()
    counts = Counter(one.state for one in outcomes)
    ranked = best_first(outcomes)
    lines = [", ".join(f"{n} {state}" for state, n in counts.most_common()) + f" in {folder}"]
    if not ranked:
        reasons = sorted({one.reason for one in outcomes if one.reason})
        return "\n".join([*lines, "No trial is complete, so there is no best.yaml", *reasons])
    shown = ranked[:SHOWN]
    keys = list(trials.space)
    table = [["trial", "dev UA %", "epoch", "time", *keys]]
    for one in shown:
        values = [_short(one.values.get(key)) for key in keys]
        took = "" if one.seconds is None else format_duration(one.seconds)
        table.append([str(one.number), f"{100 * (one.dev_ua or 0):.1f}", str(one.best_epoch), took])
        table[-1] += values
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(w.rjust(n) for w, n in zip(row, widths, strict=True)) for row in table]
    lines.append(f"Best config: {folder / 'best.yaml'}, whose first lines say what it is worth")
    if not trials.importance():
        lines.append(f"No importance: {NEEDS}")
    return "\n".join(lines)


def _named(folder: Path) -> str:
    return f"name={folder.name.removesuffix('_tuning')}_tuned"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
