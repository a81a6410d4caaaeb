"""recipes.json as a table for people: what each change of a config does to dev UA."""

from collections.abc import Mapping
from typing import Any

from corpora.stamps import TRANSDUCTIVE
from evaluation.wording import in_code, markdown_table, percent

KEYS = (  # of recipes.json
    *("transductive", "protocol", "command", "made_with", "last epochs", "folds", "seeds"),
    *("folds that test dev speakers", "not tried", "recipes"),
)
MADE_WITH = ("commit", "device", "threads", "torch")  # facts in the caption
HEAD = ["recipe", "what it changes", "dev UA, last epochs", "difference, points", "best epoch's"]


def recipes_markdown(found: Mapping[str, Any]) -> str:
    """Return the content of recipes.json as caption and table."""
    rows = []
    for row in found["recipes"]:
        error, difference = row["standard_error"], percent(row["difference"], "+")
        if error is not None:
            difference += f" ± {percent(error)}"
        n = row["diverged"]
        ua = percent(row["dev_ua"]) if not n else f"diverged {n} time{'s' if n > 1 else ''}"
        rows.append([row["recipe"], row["changes"], ua, difference, percent(row["best_dev_ua"])])
    stamp = f"**{TRANSDUCTIVE}**\n\n" if found["transductive"] else ""
    return f"{stamp}{_caption(found)}\n\n{markdown_table(HEAD, rows, n_words=2)}\n"


def _caption(found: Mapping[str, Any]) -> str:
    """Say on what the recipes were read, and which tests are no longer of unseen speakers."""
    folds, seeds, tested = (
        ", ".join(map(str, found[name]))
        for name in ("folds", "seeds", "folds that test dev speakers")
    )
    left = found["not tried"]
    missing = f" Not tried on all of these: {', '.join(left)}." if left else ""
    known = {key: found["made_with"].get(key, ["unknown"]) for key in MADE_WITH}
    made = ", ".join(f"{key} {' and '.join(values)}" for key, values in known.items())
    return f"""\
Dev UA in percent, mean over folds {folds} with seeds {seeds} of {in_code(found["protocol"])}. No
test split was opened; but dev speakers here are tested in folds {tested}, so what is chosen by this
table is chosen on them. Each recipe has the changes of the first, too. "Last epochs" is the mean of
the last {found["last epochs"]}, or of all where there are fewer; the difference is to the first on
the same folds and seeds, ± its standard error over these.{missing} Made with {made}:

    {found["command"]}"""
