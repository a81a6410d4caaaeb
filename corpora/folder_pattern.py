"""Patterns that say what folders and file names mean, such as `{speaker}/{label}/*.wav`."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from config.patterns import check_pattern, tokens
from system.errors import InputError
from system.text import short_repr, truncate

AMBIGUOUS_SHOWN = 3


class Pattern:
    """A pattern of paths below a folder.

    `{field}` is a part of a folder's or file's name, `*` is any part of a name, `**/` any number of
    folders. A field that occurs twice must be the same in both places.

    Args:
        pattern: The pattern, from the folder on.

    Raises:
        InputError: A field is not known, or the label is not among them.
    """

    def __init__(self, pattern: str) -> None:
        try:
            self.pattern = check_pattern(pattern)
        except ValueError as error:
            raise InputError(f"corpus.layout={pattern}: {error}") from None
        self.fields = {name for _, name in tokens(pattern) if name is not None}
        self._shortest = re.compile(_regex(pattern, "+?", "*?"))
        self._longest = re.compile(_regex(pattern, "+", "*"))

    def read(self, path: str) -> dict[str, str] | None:
        """Return the fields of a path, or None if it does not match.

        Raises:
            InputError: It can be read in two ways.

        >>> Pattern("{speaker}/{label}_*.wav").read("ann/joy_1.wav")
        {'speaker': 'ann', 'label': 'joy'}
        """
        short, long = self._shortest.fullmatch(path), self._longest.fullmatch(path)
        if short is None or long is None:
            return None
        a, b = short.groupdict(), long.groupdict()
        if a != b:
            raise InputError(
                f"{truncate(path)} can be read in two ways: {_words(a)}, or {_words(b)}"
            )
        return a


def read_paths(pattern: Pattern, root: Path, paths: Iterable[Path]) -> dict[Path, dict[str, str]]:
    """Return the fields of the files that match a pattern.

    Args:
        pattern: The pattern.
        root: Folder that it starts from.
        paths: Files below it.

    Raises:
        InputError: Paths can be read in two ways; names the first.
    """
    found, ambiguous = {}, []
    for path in paths:
        try:
            fields = pattern.read(path.relative_to(root).as_posix())
        except InputError as error:
            ambiguous.append(str(error))
            continue
        if fields is not None:
            found[path] = fields
    if ambiguous:
        shown = "\n  ".join(ambiguous[:AMBIGUOUS_SHOWN])
        raise InputError(
            f"corpus.layout={pattern.pattern}: {len(ambiguous)} paths can be read in two ways, "
            f"because a part may hold what separates it from the next one:\n  {shown}\nWrite a * "
            "for each part of these names, as in *-*-{speaker}.wav, rename them, or list them in "
            "a table (corpus.name=manifest)"
        )
    return found


def _regex(pattern: str, some: str, any_number: str) -> str:
    """Return the regular expression, with quantifiers of one part of a name."""
    parts: list[str] = []
    seen: set[str] = set()
    for token, name in tokens(pattern):
        if name is not None:
            parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>[^/]{some})")
            seen.add(name)
        elif token == "**/":
            parts.append(f"(?:[^/]+/){any_number}")
        else:
            parts.append(f"[^/]{any_number}" if token == "*" else re.escape(token))
    return "".join(parts)


def _words(fields: Mapping[str, str]) -> str:
    return " and ".join(f"{name} {short_repr(value)}" for name, value in fields.items())
