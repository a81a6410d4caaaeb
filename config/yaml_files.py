"""YAML that configs, recipes and overrides are written in, and files with `base:` parents."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from config.messages import no_such_config
from system.errors import InputError
from system.files import MAX_CONFIG, read_text
from system.text import short_repr, truncate

MAX_PARENTS = 20  # files in one chain of `base:`


class _Loader(yaml.SafeLoader):
    """Safe YAML loader that reads 1e-3 as a number and refuses duplicate keys and aliases."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Build a mapping, or refuse a duplicate key."""
        if not isinstance(node, yaml.MappingNode):  # `!!map` may tag any value
            raise yaml.constructor.ConstructorError(None, None, "!!map must be a mapping")
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be a word")
            if key in seen:
                mark = node.start_mark
                words = f"key {short_repr(key)} twice"
                raise yaml.constructor.ConstructorError(None, None, words, mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Refuse aliases, which allow values of unlimited depth and size."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(None, None, "an alias (*name): use `base:`", mark)
        return super().compose_node(parent, index)


_Loader.add_implicit_resolver(  # YAML 1.1 reads only "1.0e-3" as a number
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read_yaml(text: str, source: str) -> Any:
    """Return the value of a YAML text.

    Args:
        text: YAML.
        source: Where the text comes from, for the error message.

    Raises:
        InputError: The text is not valid YAML.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506, a SafeLoader
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, RecursionError) as error:
        deep = isinstance(error, RecursionError)
        reason = "it is nested too deeply" if deep else truncate(str(error), 500)
        hint = "; a pattern with {label} stands in quotes" * ("{label}" in text)
        raise InputError(f"{source} is not valid YAML: {reason}{hint}") from None


def read_with_parents(
    path: Path, seen: tuple[Path, ...] = (), named_by: Path | None = None
) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield (file, mapping) of a file and its parents, the oldest parent first.

    Args:
        path: The file.
        seen: Files that inherit from it, resolved.
        named_by: The last of them, for the message.

    Raises:
        InputError: A file cannot be read, is no YAML of sections, or has a `base` that is no file
            name; or they inherit from one another in a circle.
    """
    try:
        resolved, text = path.resolve(), read_text(path, MAX_CONFIG)
    except FileNotFoundError:
        raise InputError(no_such_config(path, named_by)) from None
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: circular links
        raise InputError(f"cannot read the config file {path}: {error}") from None
    if resolved in seen:
        chain = " -> ".join(file.name for file in (*seen, resolved))
        raise InputError(f"config files inherit from each other in a circle: {chain}")
    if len(seen) > MAX_PARENTS:
        raise InputError(f"{path}: more than {MAX_PARENTS} files inherit from one another")
    mapping = read_yaml(text, str(path))
    if not isinstance(mapping, dict):
        raise InputError(f"{path} must hold `section:` blocks, got {type(mapping).__name__}")
    base = mapping.pop("base", None)
    if base is not None and not isinstance(base, str):
        raise InputError(f"{path}: base must be a file name, got {short_repr(base)}")
    if base:
        yield from read_with_parents(path.parent / base, (*seen, resolved), path)
    yield path, mapping
