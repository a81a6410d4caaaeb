"""What a design can show, as a table for people."""

from collections.abc import Mapping
from typing import Any

from evaluation.wording import count_of, markdown_table

KEYS = ("command", "design", "pairs", "rows")  # of what `scripts/power.py` writes
CHANCE = ("by_speaker", "by_training")


def power_markdown(found: Mapping[str, Any]) -> str:
    """Return a design and its table in words.

    Args:
        found: `command`, `design` (fields of `Design`), `pairs` and `rows` of `power_table`.
    """
    design, differences = found["design"], sorted({row["difference"] for row in found["rows"]})
    rows = []
    for seeds in sorted({row["seeds"] for row in found["rows"]}):
        by = {r["difference"]: r["power"] for r in found["rows"] if r["seeds"] == seeds}
        rows.append([str(seeds), *(f"{by[d]:.2f}" for d in differences)])
    chance = [f"{100 * design[name]:g} points over {name[3:]}s" for name in CHANCE]
    return f"""\
{count_of(design["n_folds"], "fold")} of {count_of(design["n_each"], "speaker")} with \
{design["n_utterances"]} utterances; a run's UA varies by {" and ".join(chance)}; \
{found["pairs"]} simulated pairs each:

    {found["command"]}

{markdown_table(["seeds", *(f"{100 * d:g} points" for d in differences)], rows)}
"""
