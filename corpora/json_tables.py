"""Rows of a JSON file: a list of objects, and what s3prl and SpeechBrain write."""

import json
from typing import Any

from corpora.columns import Header, Row, unique_object
from system.text import short_repr

S3PRL = "meta_data"
SPEECHBRAIN = "SpeechBrain"
FORMS = "a list of objects, {id: object} as of SpeechBrain, or {meta_data: [...]} as of s3prl"


class UnknownForm(ValueError):
    """A JSON value is of no form that is known."""


def read_json_rows(text: str, header: Header) -> tuple[str, list[tuple[str, Row]]]:
    """Return what wrote a JSON file, and its rows with their places.

    Raises:
        ValueError: It is not JSON, or of no form that is known.
    """
    return rows_of(parse_json(text), header)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text; a key that occurs twice is refused."""
    return json.loads(text, object_pairs_hook=unique_object)


def rows_of(value: Any, header: Header) -> tuple[str, list[tuple[str, Row]]]:
    """Return what wrote a value of JSON, and its rows with their places.

    Raises:
        UnknownForm: It is of no form that is known.
        ValueError: A row cannot be read.
    """
    if isinstance(value, list):
        return "a table", objects(value, header)
    if not isinstance(value, dict):
        raise UnknownForm(f"it must hold {FORMS}, got {short_repr(value)}")
    if S3PRL in value:
        return "s3prl", objects(value[S3PRL], header)
    if not value or not all(isinstance(one, dict) for one in value.values()):
        lists = [key for key, one in value.items() if isinstance(one, list)]
        way = f": jq .{lists[0]} FILE > list.json takes the list out" if len(lists) == 1 else ""
        raise UnknownForm(f"it must hold {FORMS}, got the keys {short_repr(list(value))}{way}")
    return SPEECHBRAIN, objects([{"id": key} | one for key, one in value.items()], header)


def objects(values: Any, header: Header) -> list[tuple[str, Row]]:
    """Return numbered rows under our names of their keys.

    Raises:
        ValueError: There is something else than objects, or two keys have one meaning.
    """
    if not isinstance(values, list):
        raise ValueError(f"its rows must be a list of objects, got {short_repr(values)}")
    rows = []
    for number, value in enumerate(values, start=1):
        place = f"row {number}"
        if not isinstance(value, dict):
            raise ValueError(f"{place}: must be an object, got {short_repr(value)}")
        try:
            names = header.names(list(value))
        except ValueError as error:
            raise ValueError(f"{place}: {error}") from None
        rows.append((place, dict(zip(names, value.values(), strict=True))))
    return rows
