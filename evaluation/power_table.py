"""What a design can show, as a table for people."""

from collections.abc import Mapping
from typing import Any

from evaluation.wording import markdown_table
from system.text import count_of

KEYS = ("command", "design", "level", "pairs", "rows")  # of what `scripts/power.py` writes


def power_markdown(found: Mapping[str, Any]) -> str:
    """Return a design and its table in words.

    Args:
        found: `command`, `design` (fields of `Design`), `pairs` and `rows` of `power_table`.
    """
    design, differences = found["design"], sorted({row["difference"] for row in found["rows"]})
    rows = []
    for seeds in sorted({row["seeds"] for row in found["rows"]}):
        by = {r["difference"]: r for r in found["rows"] if r["seeds"] == seeds}
        rows.append([str(seeds), *(_cell(by[d]) for d in differences)])
    return f"""\
{count_of(design["n_folds"], "fold")} of {count_of(design["n_each"], "speaker")} with \
{design["n_utterances"]} utterances. Assumed standard deviations of UA: over speakers \
{100 * found["level"]:g} points in both runs alike and {100 * design["by_speaker"]:g} in each apart;
over trainings {100 * design["by_training"]:g}. {found["pairs"]} simulated pairs each:

    {found["command"]}

{markdown_table(["seeds", *(f"{100 * d:g} points" for d in differences)], rows)}
"""


def _cell(row: Mapping[str, Any]) -> str:
    if row["power"] is None:
        return f"cannot be tested: p >= {row['smallest_p']:.2f}"
    return f"{row['power']:.2f}"
