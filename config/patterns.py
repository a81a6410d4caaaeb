"""Patterns of paths, such as `{speaker}/{label}/*.wav`: their parts, checked."""

import re
from collections.abc import Iterator

from system.errors import nearest

# What a part of a path, a file of Kaldi or a column of audformat may say; tables have more
FIELDS = ("label", "speaker", "session", "text", "gender", "split", "fold")
TOKEN = re.compile(r"\{(\w*)\}|\*\*/|\*|[^*{}]+|[{}]")


def tokens(pattern: str) -> Iterator[tuple[str, str | None]]:
    """Yield the parts of a pattern: (text, name of the field or None).

    >>> list(tokens("{speaker}/*"))
    [('{speaker}', 'speaker'), ('/', None), ('*', None)]
    """
    for match in TOKEN.finditer(pattern.removeprefix("./")):
        yield match.group(), match.group(1)


def check_pattern(pattern: str) -> str:
    """Return a pattern that can be read.

    Raises:
        ValueError: A field is not known, two are not separated, or the label is not among them.
    """
    fields = set()
    before = ""
    for token, name in tokens(pattern):
        if token in "{}":
            raise ValueError("a brace has no partner, as in {label}")
        if name is not None:
            if name not in FIELDS:
                raise ValueError(
                    f"{{{name}}} is not known; {nearest(name, FIELDS)}; write * for a part that "
                    "says nothing"
                )
            if before.endswith("}"):
                raise ValueError(
                    f"nothing separates {before} and {token}: nobody can say where one ends"
                )
            fields.add(name)
        before = token
    if "label" not in fields:
        raise ValueError("it must say where the class is, as {label}")
    if pattern.startswith(("/", "~")) or ".." in pattern.split("/"):
        raise ValueError("it starts from corpus.root: leave out /, ~ and ..")
    return pattern
