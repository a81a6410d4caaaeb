"""What metrics.json says of a training that had trouble, checked where it is read.

Each entry becomes a sentence of the summary, so its keys and their types must be as written.
"""

import json
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, TypeAdapter

from system.files import MAX_WORD

Count = Annotated[int, Field(ge=0, le=10**12)]
Fraction = Annotated[float, Field(ge=0, le=1)]  # neither NaN nor infinite
Words = Annotated[str, Field(max_length=10 * MAX_WORD)]


@dataclass
class _Incident:
    epoch: Count
    batch: Count
    what: Words
    parts: list[Words]


@dataclass
class _Fallback:
    epoch: Count
    what: Words
    float32: list[Words]
    back_to_epoch: Count


@dataclass
class _Warning:
    epoch: Count
    what: Words
    words: Words
    epochs: Annotated[list[Count], Field(min_length=1)] = field(default_factory=lambda: [1])


def _rows(kind: Any) -> BeforeValidator:
    """Return a check of the known keys that leaves the rows as they are."""
    adapter = TypeAdapter(list[kind])

    def check(rows: Any) -> Any:
        adapter.validate_json(json.dumps(rows), strict=True)
        return rows

    return BeforeValidator(check)


Incidents = Annotated[list[dict[str, Any]], _rows(_Incident)]
Fallbacks = Annotated[list[dict[str, Any]], _rows(_Fallback)]
Warnings = Annotated[list[dict[str, Any]], _rows(_Warning)]
