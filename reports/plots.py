"""The plots that every page has: scores, recalls, and curves over epochs."""

from collections.abc import Sequence

from evaluation import figures
from evaluation.conclusion import chance_score
from evaluation.results import Comparison
from evaluation.tables import shown_task
from evaluation.tasks import Task
from storage.run_folder import Run


def draw_plots(runs: Sequence[Run], comparison: Comparison, shown: Sequence[int]) -> dict[str, str]:
    """Return the plots that every page has, as SVG."""
    classes, summaries = [comparison.classes[k] for k in shown], comparison.runs
    task = shown_task(comparison)
    main = task.measures[task.main]
    plotted = [m for m in scores_of(task) if task.measures[m].scale.most == main.scale.most]
    tests = [summary.test for summary in summaries]
    scores = [
        figures.Dots([t[m].pooled for m in plotted], [t[m].interval for m in plotted])
        for t in tests
    ]
    by_run = [[run.per_class_recall[k] for k in shown] for run in summaries]
    recalls = [figures.Dots(values, [None] * len(classes)) for values in by_run]
    names = [task.measures[metric].name for metric in plotted]
    unit = "percent, " if main.in_percent else ""
    plots = {
        "scores": figures.dot_plot(
            names,
            scores,
            f"{unit}pooled, 95 % interval",
            {main.name: chance_score(summaries[0])},
            percent=main.in_percent,
        ),
        **({"recalls": figures.dot_plot(classes, recalls, "recall, percent")} if classes else {}),
        **{
            key: figures.epochs(_histories(runs, column), label, in_percent)
            for key, (column, label, in_percent) in _curves(task).items()
            if _has_history(runs, column)
        },
    }
    return plots


def scores_of(task: Task) -> list[str]:
    """Return the scores of the page's tables."""
    return list(dict.fromkeys([*task.columns, *task.pooled]))


def _curves(task: Task) -> dict[str, tuple[str, str, bool]]:
    """Return the column of history.csv, the label and whether it is in percent, by figure."""
    main = task.measures[task.main]
    label = f"dev {main.name}{', percent' * main.in_percent}"
    return {
        "loss": ("loss", "training loss", False),
        "dev_loss": ("dev_loss", "dev loss", False),
        "dev_main": (f"dev_{task.main}", label, main.in_percent),
    }


def _has_history(runs: Sequence[Run], key: str) -> bool:
    """Return whether there are epochs, and all of them have a column; some baselines have none."""
    histories = [rows for run in runs for fold in run.folds if (rows := fold.history())]
    return bool(histories) and all(key in rows[0] for rows in histories)


def _histories(runs: Sequence[Run], key: str) -> list[figures.Line]:
    lines = []
    for place, run in enumerate(runs):
        for fold in run.folds:
            if not (rows := fold.history()):
                continue
            x, y = [row["epoch"] for row in rows], [row[key] for row in rows]
            lines.append(figures.Line(place, x, y, fold.metrics.best_epoch))
    return lines
