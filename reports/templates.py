"""Templates of pages: words of users are escaped, a missing value is an error."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from system.text import printable

FOLDER = Path(__file__).resolve().parent


def templates(folder: Path = FOLDER) -> Environment:
    """Return what renders the templates of a folder."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,  # names, ids and texts come from users
        finalize=_shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _shown(value: Any) -> Any:
    """Make plain text printable; escaped text and numbers pass unchanged."""
    return printable(value) if type(value) is str else value
