"""comparison.json: a comparison as written by compare.py, and read back to make tables of it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from evaluation.results import Comparison
from system.errors import RunError
from system.files import MAX_JSON, read_text
from system.text import truncate

OPTIONAL = ("robustness", "breakdown", "classes")  # keys that comparison.json lacks where None


def comparison_json(comparison: Comparison) -> dict[str, Any]:
    """Return the content of comparison.json."""
    return asdict(
        comparison,
        dict_factory=lambda items: {k: v for k, v in items if v is not None or k not in OPTIONAL},
    )


def read_comparison(path: Path) -> Comparison:
    """Read a comparison.json, also that of an earlier version.

    Raises:
        RunError: It is missing or corrupt.
    """
    try:
        return TypeAdapter(Comparison).validate_json(read_text(path, MAX_JSON))
    except (OSError, ValueError) as error:
        reason = str(error)
        if isinstance(error, ValidationError):
            first = error.errors()[0]
            reason = f"{truncate('.'.join(map(str, first['loc'])))}: {first['msg']}"
        raise RunError(
            f"{path} is missing, corrupt or of another version ({reason}): "
            "write it again with compare.py --out"
        ) from error
