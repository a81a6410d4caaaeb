"""Values of `corpus.layout`, `corpus.columns` and `corpus.label_map`, and what they allow."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from config.patterns import FIELDS, check_pattern
from config.tasks import DIMENSIONS
from system.errors import nearest
from system.text import short_repr

CLASSES, AUDIOFOLDER, KALDI, AUDFORMAT = LAYOUTS = ("classes", "audiofolder", "kaldi", "audformat")
COLUMNS = (
    *("path", *FIELDS, "id", "dataset", *DIMENSIONS, "votes"),
    *("start", "end", "duration"),
)
NEEDED = ("path", "label")  # nobody can do without them
PYTHON_NULL = "None"


def _known_layout(layout: str) -> str:
    if layout in LAYOUTS:
        return layout
    if "{" not in layout:
        raise ValueError(
            f"must be one of {', '.join(LAYOUTS)}, or a pattern with {{label}}, such as "
            "{speaker}/{label}/*.wav"
        )
    return check_pattern(layout)


def _known_columns(columns: Mapping[str, str | None]) -> Mapping[str, str | None]:
    for name, word in columns.items():
        if name not in COLUMNS:
            raise ValueError(
                f"{short_repr(name)} is not a field that is read, as in {{path: file, label: "
                f"emotion}}: {nearest(name, COLUMNS)}"
            )
        if word is None and name in NEEDED:
            raise ValueError(f"{name} is needed: name its column, or leave {name} out")
        if word is not None and not word.strip():
            raise ValueError(f"the column of {name} is empty: name it, or leave {name} out")
        if word == PYTHON_NULL:
            raise ValueError(f"the column of {name} is {word!r}, a word to YAML: write null")
    words = [word for word in columns.values() if word is not None]
    if twice := sorted({word for word in words if words.count(word) > 1}):
        raise ValueError(f"{short_repr(twice[0])} is named for two fields: name it for one")
    if not columns:
        raise ValueError("names no column: leave it out")
    return columns


def _quoted(words: Any) -> Any:
    """Read numbers as words; refuse what YAML makes of yes, no and null in the place of a label."""
    if not isinstance(words, Mapping):
        return words
    labels = {}
    for name, word in words.items():
        for one in (name, word):
            if isinstance(one, bool):
                raise ValueError(f"YAML reads yes, no, on and off as {one}: write it in quotes")
        if name is None:
            raise ValueError('a label is null: write "null" in quotes')
        if str(name) in labels:
            raise ValueError(f"names {short_repr(str(name))} twice: remove one")
        if word == PYTHON_NULL:
            raise ValueError(f"the class of {name} is {word!r}, a word to YAML: write null")
        labels[str(name)] = str(word) if isinstance(word, int | float) else word
    if not labels:
        raise ValueError("maps no label: leave it out")
    return labels


Layout = Annotated[str, AfterValidator(_known_layout)]
Columns = Annotated[
    dict[str, str | None],
    AfterValidator(_known_columns),
    Field(json_schema_extra={"propertyNames": {"enum": list(COLUMNS)}}),
]
LabelMap = Annotated[dict[str, str | None], BeforeValidator(_quoted)]
