"""Write docs/tutorial.ipynb from docs/TUTORIAL.md: `python -m scripts.make_notebook`."""

import json
import re
from pathlib import Path
from typing import Any

from system.cli import run_entry
from system.files import write_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
TEXT, NOTEBOOK = DOCS / "TUTORIAL.md", DOCS / "tutorial.ipynb"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```\n", re.MULTILINE | re.DOTALL)
START = (
    "import os\n\nif os.path.basename(os.getcwd()) == 'docs':\n"
    "    os.chdir('..')  # commands start from the root of the repository\n"
)


def cells(text: str) -> list[tuple[str, str]]:
    r"""Return (kind, text) of each cell: markdown, bash or python.

    Blocks of other kinds, such as those without a language, stay in the text around them.

    >>> cells("# A\n\n```bash\nls\n```\nB\n")
    [('markdown', '# A'), ('bash', 'ls\n'), ('markdown', 'B')]
    """
    found, end = [], 0
    for block in BLOCK.finditer(text):
        found += [("markdown", text[end : block.start()].strip()), (block[1], block[2])]
        end = block.end()
    return [cell for cell in [*found, ("markdown", text[end:].strip())] if cell[1]]


def notebook(text: str) -> str:
    """Return the notebook of a page as JSON."""
    parts = cells(text)
    made = [_cell(0, *parts[0]), _cell(1, "python", START)]
    made += [_cell(i, kind, part) for i, (kind, part) in enumerate(parts[1:], start=2)]
    python = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {
        "cells": made,
        "metadata": {"kernelspec": python, "language_info": {"name": "python"}},
        "nbformat": 4,
        "nbformat_minor": 5,
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _cell(number: int, kind: str, text: str) -> dict[str, Any]:
    if kind == "bash":
        text = "".join(f"!{line}\n" for line in text.splitlines())
    lines = text.rstrip("\n").splitlines(keepends=True)
    cell: dict[str, Any] = {"id": f"cell-{number}", "metadata": {}, "source": lines}
    if kind == "markdown":
        return {"cell_type": "markdown", **cell}
    return {"cell_type": "code", "execution_count": None, "outputs": [], **cell}


def main() -> None:
    """Write the notebook."""
    write_text(NOTEBOOK, notebook(TEXT.read_text(encoding="utf-8")))


if __name__ == "__main__":
    run_entry(main)
