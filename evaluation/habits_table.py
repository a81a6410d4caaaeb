"""habits.json as a table for people: what each bad habit of evaluation adds to UA, in words."""

from collections.abc import Mapping
from typing import Any

from corpora.stamps import TRANSDUCTIVE, is_transductive
from evaluation.wording import in_code, markdown_table, percent, with_interval
from system.text import count_of

KEYS = "command made_with trained protocols folds n_folds seeds rows".split()  # of habits.json
MADE_WITH = ("commit", "device", "threads", "torch")  # facts in the caption
HEAD = ["config", "habit", "UA", "difference, points", "trainings that it raises"]


def habits_markdown(found: Mapping[str, Any]) -> str:
    """Return caption and table.

    Args:
        found: Content of habits.json, written by `experiments/habits.py`.
    """
    rows = [
        [
            row["config"] or "all configs",
            f"{row['habit']} ({row['note']})" if row["note"] else row["habit"],
            "–" if row["ua"] is None else with_interval(row["ua"], row["interval"]),
            percent(row["price"], "+"),
            "–" if row["higher"] is None else "{} of {}".format(*row["higher"]),
        ]
        for row in found["rows"]
    ]
    return f"{_caption(found)}\n\n{markdown_table(HEAD, rows, n_words=2)}\n"


def _caption(found: Mapping[str, Any]) -> str:
    """Say what was trained, what the columns mean, and what the scores must not be used for."""
    own, random = found["protocols"]["own"], found["protocols"]["random"]
    folds = ", ".join(map(str, found["folds"]))
    seeds = ", ".join(map(str, found["seeds"]))
    configs = list(dict.fromkeys(row["config"] for row in found["rows"] if row["config"]))
    known = {key: found["made_with"].get(key, ["unknown"]) for key in MADE_WITH}
    known["commit"] = [f"{c[:10]}{'-dirty' * c.endswith('-dirty')}" for c in known["commit"]]
    made = ", ".join(f"{key} {' and '.join(values)}" for key, values in known.items())
    synthetic = " The speech is synthetic." if found.get("synthetic") else ""
    stamp = f"**{TRANSDUCTIVE}**\n\n" if is_transductive(own["id"]) else ""
    said = f"""\
**The test scores here are exploratory and must not be reported as results: test was evaluated after
every epoch.**{synthetic} Trained: {" and ".join(map(in_code, configs))}, on test folds {folds} of \
{found["n_folds"]} with {"seed" if len(found["seeds"]) == 1 else "seeds"} {seeds}, under
{in_code(own["id"])} (test speakers are unheard in training; {own["n_train"]:.0f} utterances train a
fold) and {in_code(random["id"])} (they are heard; {random["n_train"]:.0f}): \
{count_of(found["trained"], "training")}.

Percent, mean over folds and seeds. Honest: unheard speakers, the epoch that dev selects. The
difference is to the honest row of the same config; that of the choice on test is to the choice on
dev. Intervals are 95 % percentile intervals of the UA pooled over folds, mean over seeds; their
difference is that of the widths, and below zero the score looks surer than it is. Made with \
{made}:

    {found["command"]}"""
    return stamp + said
