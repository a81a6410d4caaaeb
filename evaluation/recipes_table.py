"""recipes.json as a table for people: what each change of a config does to dev UA."""

from collections.abc import Mapping
from typing import Any

from corpora.stamps import TRANSDUCTIVE
from evaluation.wording import markdown_table, percent

KEYS = ("command", "last epochs", "folds", "seeds", "recipes")  # of recipes.json
HEAD = ["recipe", "what it changes", "dev UA, last epochs", "difference, points", "best epoch's"]


def recipes_markdown(found: Mapping[str, Any]) -> str:
    """Return the content of recipes.json as caption and table."""
    rows = []
    for row in found["recipes"]:
        error, difference = row["standard_error"], percent(row["difference"], "+")
        if error is not None:
            difference += f" ± {percent(error)}"
        values = [percent(row["dev_ua"]), difference, percent(row["best_dev_ua"])]
        rows.append([row["recipe"], row["changes"], *values])
    folds, seeds = (", ".join(map(str, found[name])) for name in ("folds", "seeds"))
    caption = f"""\
Dev UA in percent, mean over folds {folds} with seeds {seeds}; no test split was opened. Each recipe
has the changes of the first, too. "Last epochs" is the mean of the last {found["last epochs"]}; the
difference is to the first on the same folds and seeds, ± its standard error over these. Made with

    {found["command"]}"""
    stamp = f"**{TRANSDUCTIVE}**\n\n" if found.get("transductive") else ""
    return f"{stamp}{caption}\n\n{markdown_table(HEAD, rows, n_words=2)}\n"
