"""What is wrong with a config, in words: the key, where it was set, what is allowed, the way on."""

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from config.corpus_schema import MemberCorpus
from config.schema import Config
from config.section import section_in
from config.training_schema import EACH, NUMBER
from system.errors import InputError, nearest
from system.text import short_repr, truncate

WRONG = "the configuration is wrong:\n  "
FINDINGS_SHOWN = 20
UNION_PARTS = ("str", "list[str]", "list[union[str,float]]", "float")  # in pydantic's `loc`
OTHER_WORDS = {  # what other tools call a key
    "learning_rate": "lr",
    "n_epochs": "epochs",
    "num_epochs": "epochs",
    "max_epochs": "epochs",
    "bs": "batch_size",
    "gradient_accumulation_steps": "accumulate",
    "seed": "seeds",
    "fold": "folds",
    "num_workers": "workers",
    "dtype": "precision",
    "img_size": "image_size",
}


def explain(error: ValidationError, sources: Mapping[str, str], file: str, has_base: bool) -> str:
    """Turn pydantic's findings into lines that name key, file and what is allowed.

    Args:
        error: The findings.
        sources: Where the value of each dotted key comes from.
        file: The config file.
        has_base: Whether it names a parent.
    """
    lines = []
    findings = error.errors()
    for finding in findings[:FINDINGS_SHOWN]:
        unknown = finding["type"] == "extra_forbidden"
        path = _path(finding["loc"], () if unknown else UNION_PARTS)
        source = next((sources[p] for p in _prefixes(path) if p in sources), file)
        dotted = ".".join(path).replace("corpus.corpora.", "corpus.")  # as on the command line
        if unknown:
            words = f"no such key; {_nearest_key(path)}"
        elif finding["type"] == "missing":
            words = f"must be set; add it to {file} or give {dotted}=... on the command line"
        elif finding["type"] in ("model_type", "dataclass_type"):
            keys = [f"{dotted}.{name}" for name in _fields_at(path)]
            words = f"is a section, got {short_repr(finding['input'])}: set {' or '.join(keys)}"
        else:
            said = finding["msg"].removeprefix("Value error, ")
            words = f"{said}, got {short_repr(finding['input'])}{_meant(finding)}"
        lines.append(f"{truncate(dotted)} (in {source}): {words}")
    if len(findings) > FINDINGS_SHOWN:
        lines.append(f"and {len(findings) - FINDINGS_SHOWN} more")
    if not has_base and any(finding["type"] == "missing" for finding in findings):
        others = [other.name for other in _yaml_files(Path(file).parent) if other != Path(file)]
        way = f"such as `base: {others[0]}`" if others else "so put it into configs/ and name one"
        lines.append(f"{file} has no `base:`; a config beside it gives all other keys, {way}")
    return WRONG + "\n  ".join(lines)


class IdleKey(NamedTuple):
    """A key that has no effect, and another value than it must have then."""

    corpus: str  # words that name one of several corpora, or ""
    key: str
    source: str  # of its value
    idle: Any  # value that it must have
    decides: str  # key because of which it has no effect
    value: Any  # of that key
    allowed: tuple[str, ...]  # values of that key that would give it one

    @property
    def line(self) -> str:
        """What is wrong with it."""
        value = json.dumps(self.value) if self.value in (None, True, False) else self.value
        return (
            f"{self.corpus}{self.key} (in {self.source}) has no effect with {self.decides}="
            f"{value}: remove it or set it to {json.dumps(self.idle)}"
        )

    @property
    def way_on(self) -> str:
        """What would give it an effect."""
        return f"or set {self.decides} to {' or '.join(self.allowed)}"


def say_idle(found: Sequence[IdleKey]) -> Iterator[str]:
    """Yield a line for each key without effect, and one for what would give several of them one."""
    groups: dict[tuple[object, ...], list[IdleKey]] = {}
    for one in found:
        groups.setdefault((one.corpus, one.decides, one.allowed), []).append(one)
    for first, *others in groups.values():
        if not others:
            yield f"{first.line}, {first.way_on}"
            continue
        yield from (one.line for one in (first, *others))
        yield f"{first.corpus}{first.way_on}, with which these {len(others) + 1} have one"


def refuse(lines: Sequence[str]) -> None:
    """Raise an input error that says all that is wrong with a config; without a line do nothing.

    Raises:
        InputError: There are lines.
    """
    if lines:
        raise InputError(lines[0] if len(lines) == 1 else WRONG + "\n  ".join(lines))


def no_such_config(path: Path, named_by: Path | None) -> str:
    """Say that a config file does not exist, who named it, and which file may be meant.

    Args:
        path: The file.
        named_by: The config whose `base:` it is; None for the command line.
    """
    who = "" if named_by is None else f", which {named_by} names as its base"
    files = _yaml_files(path.parent)
    names = difflib.get_close_matches(path.name, [file.name for file in files], n=1, cutoff=0.6)
    meant = [path.parent / name for name in names]
    inside = (Path("configs", path.name), Path("configs", f"{path.name}.yaml"))
    found = [file for file in inside if file.is_file()]
    if named_by is not None:  # `base:` starts from the folder of its config, not from here
        found = [file.resolve() for file in found]
    meant = found + meant
    if meant:
        return f"there is no config file {path}{who}; did you mean {meant[0]}?"
    there = ", ".join(file.name for file in files[:FINDINGS_SHOWN]) or "none"
    return f"there is no config file {path}{who}; YAML files in {path.parent}: {there}"


def _yaml_files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.y*ml") if not file.name.startswith("."))


def _path(places: Sequence[int | str], union: Sequence[str]) -> list[str]:
    """Return the key of a finding, without the forms that pydantic names between its parts."""
    before = ("", *places)
    return [
        str(part)
        for above, part in zip(before, places, strict=False)
        if part not in union and not (part in (NUMBER, EACH) and above == "backbone_lr_scale")
    ]


def _nearest_key(path: Sequence[str]) -> str:
    """Name the key that may be meant, in any section; otherwise those of the section."""
    word = OTHER_WORDS.get(path[-1].lower(), path[-1].lower())
    if same := [key for key in config_keys() if key.rpartition(".")[2] == word]:
        return f"did you mean {' or '.join(same)}?"
    return nearest(truncate(path[-1]), _fields_at(path[:-1]))


def _meant(finding: Mapping[str, Any]) -> str:
    """Name the allowed word that a wrong one resembles."""
    if finding["type"] != "literal_error" or not isinstance(finding["input"], str):
        return ""
    allowed = re.findall(r"'([^']*)'", finding["ctx"]["expected"])
    given = truncate(finding["input"]).lower()
    close = difflib.get_close_matches(given, [word.lower() for word in allowed], n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def config_keys() -> list[str]:
    """Return all dotted keys of a config, in the schema's order."""
    return list(_keys(Config))


def _keys(model: Any, prefix: str = "") -> Iterator[str]:
    """Yield all dotted keys of a section; a section in the place of a number has keys, too."""
    for name, field in model.model_fields.items():
        name = field.alias or name
        inner = section_in(field.annotation)
        if inner is not field.annotation:
            yield f"{prefix}{name}"
        if inner is not None:
            yield from _keys(inner, f"{prefix}{name}.")


def _prefixes(path: Sequence[str]) -> list[str]:
    return [".".join(path[:n]) for n in range(len(path), 0, -1)]


def _fields_at(path: Sequence[str]) -> list[str]:
    model: Any = Config
    if list(path[:2]) == ["corpus", "corpora"] and len(path) > 2:  # corpora.KEY is no field
        model, path = MemberCorpus, path[3:]
    for part in path:
        model = section_in(model.model_fields[part].annotation)
        if model is None:
            return []
    return [field.alias or name for name, field in model.model_fields.items()]
