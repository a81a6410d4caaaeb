"""State of a study: trials.csv, the best config, figures, and a table for people."""

import json
import logging
import shlex
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from config.fusions import FUSIONS
from config.loading import dump_config, load_stored_config
from corpora.stamps import TRANSDUCTIVE
from experiments.study import COMPLETE, Result, Study
from storage.folders import CONFIG
from system.files import atomic_write, write_csv, write_text
from system.locks import lock
from system.text import format_duration, printable

log = logging.getLogger(__name__)

LOCK = ".lock.report"
MAX_ROWS = 10  # of the printed table
DPI = 150
COLUMNS = ("number", "state", "dev_ua", "best_epoch", "epochs", "seconds")
HEADER = """\
# Best of {n} complete trials ({total} in all) by dev UA: trial {number}, dev UA {ua:.4f} in epoch
# {epoch}, on fold {fold} with seed {seed}. Tuned by
#   {command}
# Train and test it:
#   python {entry} --config {file}
# This dev UA is the highest of {total} trials on the same dev utterances: expect less on new ones.
# Test speakers of the other folds were training or dev data of fold {fold} in this study, so
# only the test score of fold {fold} is untouched by tuning, and run.folds names it alone. For all
# folds, tune each of them by itself (nested tuning) and test each with its own config.
"""


def write_results(study: Study, command: Sequence[str]) -> None:
    """Write trials.csv, one row per trial, and best.yaml, a config ready to train with.

    Args:
        study: The open study.
        command: Command that resumes the tuning, for best.yaml.
    """
    # Read and written under one lock, so that an older state never replaces a newer one
    with lock(study.folder / LOCK, f"the tables of {study.folder}", blocking=True):
        trials = study.results()
        rows = []
        for trial in trials:
            facts = [getattr(trial, column) for column in COLUMNS]
            shown = ["" if fact is None else fact for fact in facts]
            values = [json.dumps(trial.values[k]) if k in trial.values else "" for k in study.space]
            rows.append([*shown, *values, printable(trial.reason, keep="")])
        write_csv(study.folder / "trials.csv", [*COLUMNS, *study.space, "reason"], rows)
        if any(trial.state == COMPLETE for trial in trials):
            _write_best(study, trials, command)


def best_first(trials: Sequence[Result]) -> list[Result]:
    """Return the complete trials, the highest dev UA first; of equal ones the earlier is better."""
    complete = [trial for trial in trials if trial.state == COMPLETE]
    return sorted(complete, key=lambda trial: (-(trial.dev_ua or 0), trial.number))


def draw_figures(study: Study) -> None:
    """Draw Optuna's figures of the study.

    history.png and slices.png show the complete trials, curves.png the dev UA of all by epoch.
    importance.png (PED-ANOVA, Watanabe et al. 2023: how far the values of better trials stand out)
    needs two complete trials with different dev UA. Without a complete trial nothing is drawn.
    """
    if not best_first(study.results()):
        return
    import matplotlib
    from optuna.importance import PedAnovaImportanceEvaluator
    from optuna.visualization import matplotlib as plots

    matplotlib.use("agg")  # no window, whatever the display
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # it comments on each category axis
    with matplotlib.rc_context(), warnings.catch_warnings(record=True) as notes:
        history = plots.plot_optimization_history(study.optuna, target_name="best dev UA")
        _save(history, study.folder / "history.png")
        slices = plots.plot_slice(study.optuna, target_name="best dev UA")
        _save(slices, study.folder / "slices.png")
        curves = plots.plot_intermediate_values(study.optuna)
        curves.set(title="", xlabel="epoch", ylabel="best dev UA so far")
        if legend := curves.get_legend():
            legend.remove()  # its row per trial would outgrow the figure
        _save(curves, study.folder / "curves.png")
        if has_importance(study.results()):
            evaluator = PedAnovaImportanceEvaluator()
            bars = plots.plot_param_importances(study.optuna, evaluator, target_name="dev UA")
            _save(bars, study.folder / "importance.png")
    for note in notes:  # Optuna marks these functions as experimental
        log.debug("%s", note.message)


def has_importance(trials: Sequence[Result]) -> bool:
    """Return whether two complete trials differ in dev UA."""
    return len({trial.dev_ua for trial in trials if trial.state == COMPLETE}) > 1


def describe_study(study: Study) -> str:
    """Return the best trials as a table, the number of trials by state, and where the files are."""
    trials, folder, keys = study.results(), study.folder, list(study.space)
    counts = Counter(trial.state for trial in trials)
    lines = [", ".join(f"{n} {state}" for state, n in counts.most_common()) + f" in {folder}"]
    ranked = best_first(trials)
    if not ranked:
        reasons = sorted({trial.reason for trial in trials if trial.reason})
        return "\n".join([*lines, "No trial is complete, so there is no best.yaml", *reasons])
    table = [["trial", "dev UA %", "epoch", "time", *keys]]
    for trial in ranked[:MAX_ROWS]:
        ua, time = f"{100 * (trial.dev_ua or 0):.1f}", format_duration(trial.seconds)
        values = [_short(trial.values.get(key)) for key in keys]
        table.append([str(trial.number), ua, str(trial.best_epoch), time, *values])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines += ["  ".join(w.rjust(n) for w, n in zip(row, widths, strict=True)) for row in table]
    lines.append(f"Best config: {folder / 'best.yaml'}; its first lines say what its score means")
    if not has_importance(trials):
        lines.append("No importance.png: it needs two complete trials with different dev UA")
    return "\n".join(lines)


def _write_best(study: Study, trials: Sequence[Result], command: Sequence[str]) -> None:
    ranked, file = best_first(trials), study.folder / "best.yaml"
    best = ranked[0]
    name = f"name={study.folder.name.removesuffix('_tuning')}_tuned"
    config = load_stored_config(study.trial_folder(best.number) / CONFIG, [name])
    header = HEADER.format(
        n=len(ranked),
        total=len(trials),
        number=best.number,
        ua=best.dev_ua,
        epoch=best.best_epoch,
        fold=(config.run.folds or [1])[0],
        seed=config.run.seeds[0],
        command=printable(shlex.join(command), keep=""),
        entry=FUSIONS[config.model.fusion].entry,
        file=printable(shlex.quote(str(file)), keep=""),
    )
    if config.train.normalize == "speaker":
        header += f"# {TRANSDUCTIVE}.\n"
    write_text(file, header + dump_config(config))


def _save(plot: Any, file: Path) -> None:
    """Save the figure of one or several axes, with words of the config as they are."""
    import numpy as np
    from matplotlib import pyplot
    from matplotlib.category import StrCategoryFormatter

    figure = np.ravel(plot)[0].figure
    for axes in figure.axes:
        if isinstance(axes.xaxis.get_major_formatter(), StrCategoryFormatter):
            for label in axes.get_xticklabels():
                label.set_parse_math(False)  # a path may hold two $
    with atomic_write(file) as temporary:
        figure.savefig(
            temporary, format="png", dpi=DPI, bbox_inches="tight", metadata={"Software": None}
        )
    pyplot.close(figure)


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else json.dumps(value)
