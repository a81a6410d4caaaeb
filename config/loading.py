"""Configs: files and overrides joined and checked, with errors that name key and file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config.effects import (
    BRANCH_SCALES,
    MAPPINGS,
    idle_value,
    keys_without_effect,
    usual_values,
    what_rules_out,
    whole_key,
)
from config.fusions import branches_of
from config.image_keys import idle_defaults
from config.messages import IdleKey, explain, refuse, say_idle
from config.pairs import check_pairs, outweighed, without_effect
from config.schema import Config
from config.several import share_on_bad_audio, with_corpora
from config.yaml_files import read_with_parents, read_yaml
from system.errors import InputError
from system.files import MAX_CONFIG
from system.text import control_character, short_repr, truncate


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file and its parents, apply `section.key=value` overrides, and check the result.

    Args:
        path: YAML file; `base: other.yaml` in it inherits from a file in the same folder.
        overrides: For example `optim.lr=1e-3` or `run.folds=[1,2]`, with YAML values; the last
            override of a key wins.

    Raises:
        InputError: One message naming each bad key, where it was set, and what is allowed.
    """
    return _load(read_with_parents(Path(path)), overrides, str(path), is_new=True)


def load_stored_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """Read the config.yaml that a run or study wrote, perhaps with an earlier version.

    Args:
        path: The file.
        overrides: See `load_config`.

    Raises:
        InputError: See `load_config`.
    """
    files = [(file, with_new_names(mapping)) for file, mapping in read_with_parents(path)]
    if defaults := idle_defaults(read_stored(path)):
        files.append((path, defaults))
    if any("baseline" in mapping for _, mapping in files):
        raise InputError(f"{path} is of a baseline, which has no network: name a run of a fusion")
    return _load(files, overrides, str(path))


def complete_stored(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the values that a command wrote, with defaults for the keys that came since.

    Args:
        values: By dotted key, perhaps of an earlier version.
        path: Where they were written, for messages.

    Raises:
        InputError: See `load_config`.
    """
    nested: dict[str, Any] = {}
    for key, value in with_new_names(values).items():
        _merge(nested, _nest(key, value), str(path), {})
    files = [(path, nested), (path, idle_defaults(nested))]
    return flatten(_load(files, (), str(path)).model_dump())


def read_stored(path: Path) -> dict[str, Any]:
    """Return the sections of a config.yaml that a run wrote, unchecked.

    Raises:
        InputError: It cannot be read or is not YAML.
    """
    values: dict[str, Any] = {}
    for file, mapping in read_with_parents(path):
        _merge(values, with_corpora(values, mapping, str(file)), str(file), {})
    return values


def with_new_names(mapping: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config, as sections or dotted keys, with today's names of its keys.

    >>> with_new_names({"train": {"pictures": "stored"}}), with_new_names({"train.pictures": 1})
    ({'train': {'images': 'stored'}}, {'train.images': 1})
    """
    renamed = {RENAMED.get(key, key): value for key, value in mapping.items()}
    for old, new in RENAMED.items():
        section, name = old.split(".")
        if isinstance(values := renamed.get(section), Mapping) and name in values:
            new_name = new.split(".")[1]
            renamed[section] = {new_name if k == name else k: v for k, v in values.items()}
    return renamed


def _load(
    files: Iterable[tuple[Path, Mapping[str, Any]]],
    overrides: Sequence[str],
    path: str,
    is_new: bool = False,
) -> Config:
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    files = list(files)
    given = [(str(file), mapping) for file, mapping in files]
    given += [("the command line", parse_override(override)) for override in overrides]
    for source, mapping in given:
        _merge(values, with_corpora(values, mapping, source), source, sources)
    _spread_number(values)
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, sources, path, len(files) > 1)) from None
    return _complete(config, sources, is_new)


def dump_config(config: Config) -> str:
    """Return the complete config as YAML, which `load_config` reads back to an equal config."""
    return yaml.safe_dump(config.model_dump(), sort_keys=False, allow_unicode=True)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted keys to leaf values.

    >>> flatten({"optim": {"lr": 0.02}, "name": "a"})
    {'optim.lr': 0.02, 'name': 'a'}
    """
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        dotted = f"{prefix}{key}"
        inside = isinstance(value, Mapping) and whole_key(dotted) not in MAPPINGS
        leaves |= flatten(value, f"{dotted}.") if inside else {dotted: value}
    return leaves


def json_schema() -> str:
    """Return the JSON schema for editors, in which no key is required: a child may omit any."""
    schema = Config.model_json_schema()
    schema["properties"]["base"] = {
        "type": "string",
        "description": "Parent file, in the same folder.",
    }
    for part in (schema, *schema["$defs"].values()):
        part.pop("required", None)
    one, member = ({"$ref": f"#/$defs/{name}"} for name in ("CorpusConfig", "MemberCorpus"))
    schema["properties"]["corpus"] = {"anyOf": [one, {"type": "array", "items": member}]}
    schema["$defs"]["CorpusConfig"]["additionalProperties"] = member  # `corpus.KEY` of a list
    return json.dumps(schema, indent=2) + "\n"


RENAMED = {"train.pictures": "train.images"}  # keys that an earlier version stored
PATTERN = "layout"  # of a corpus: {speaker}/{label} is no YAML without quotes, which a shell takes
BELOW = object()  # key of the number that a mapping of rates was merged over
MAX_DEPTH = 10  # nested sections


def parse_override(text: str) -> dict[str, Any]:
    """Parse `section.key=value` into nested sections.

    Raises:
        InputError: The text does not have this form.

    >>> parse_override("optim.optimizer={cqt: sgd}")
    {'optim': {'optimizer': {'cqt': 'sgd'}}}
    """
    key, equals, value = text.partition("=")
    if not equals or not key or "" in key.split(".") or key.count(".") > MAX_DEPTH:
        raise InputError(f"an override must be section.key=value, got {short_repr(text)}")
    if len(text) > MAX_CONFIG:
        raise InputError(f"the override {short_repr(text)} is longer than {MAX_CONFIG} characters")
    *sections, name = key.split(".")
    is_pattern = sections[:1] == ["corpus"] and name == PATTERN and re.match(r"[^'\"]*\{", value)
    source = f"the value of {truncate(key)}"
    return _nest(key, value.strip() if is_pattern else read_yaml(value, source))


def _nest(key: str, value: Any) -> dict[str, Any]:
    """Return the sections that hold the value of one dotted key alone."""
    *sections, name = key.split(".")
    nested = {name: value}
    for section in reversed(sections):
        nested = {section: nested}
    return nested


def _merge(
    target: dict[str, Any],
    new: Mapping[str, Any],
    source: str,
    sources: dict[str, str],
    at: str = "",
) -> None:
    """Write new values over `target`, and for each dotted key where its value comes from."""
    for key, value in new.items():
        dotted = f"{at}{key}"
        if isinstance(value, Mapping):
            if not isinstance(below := target.get(key), dict):
                is_number = dotted == BRANCH_SCALES and isinstance(below, int | float)
                target[key] = {BELOW: below} if is_number else {}
            _merge(target[key], value, source, sources, f"{dotted}.")
        else:
            target[key] = value
        sources[dotted] = source


def _spread_number(values: Mapping[str, Any]) -> None:
    """Give branches that a mapping of rates does not name the number that it was merged over."""
    optim, model = values.get("optim"), values.get("model")
    scales = optim.get("backbone_lr_scale") if isinstance(optim, dict) else None
    if isinstance(scales, dict) and BELOW in scales:
        fusion, number = model.get("fusion") if isinstance(model, dict) else None, scales.pop(BELOW)
        named = model.get("branches") if isinstance(model, dict) else None
        chosen: dict[str, Any] = {"model.fusion": fusion if isinstance(fusion, str) else None}
        chosen["model.branches"] = named if isinstance(named, list) else None
        speech = model.get("speech") if isinstance(model, dict) else None
        speech = speech if isinstance(speech, dict) else {}
        trains = speech.get("lora_rank") or speech.get("unfrozen_layers")
        trained = {"cqt", "mel", *(["speech"] if trains else [])}
        for branch in set(branches_of(chosen)) & trained:  # of an unknown fusion both images
            scales.setdefault(branch, number)


def _complete(config: Config, sources: Mapping[str, str], is_new: bool) -> Config:
    """Refuse keys without effect, and give those that are null and have one their usual value.

    Args:
        config: The config as it was given.
        sources: Where the value of each dotted key comes from.
        is_new: Whether no run has it yet: those of earlier versions may have more.
    """
    values = config.model_dump()
    _refuse_control_characters(flatten(values), sources)
    parts = {"": (values, sources)}
    for key, member in (values["corpus"]["corpora"] or {}).items():
        at = f"corpus.corpora.{key}."
        where = {f"corpus.{k[len(at) :]}": v for k, v in sources.items() if k.startswith(at)}
        parts[f"{key}: "] = {"task": config.task, "corpus": member}, where
    idle = [one for corpus, part in parts.items() for one in _idle(corpus, *part)]
    known = {one.key for one in idle}
    more = [*without_effect(config), *(outweighed(config) if is_new else ())]
    refuse([*say_idle(idle), *(line for keys, line in more if not known & set(keys))])
    for own, _ in parts.values():
        _fill(own)
    share_on_bad_audio(values, sources)
    config = Config.model_validate(values)
    check_pairs(config)
    return config


def _idle(corpus: str, values: dict[str, Any], sources: Mapping[str, str]) -> Iterator[IdleKey]:
    """Yield the keys that have no effect and another value than they must have then.

    Args:
        corpus: Words before each, which name one of several corpora.
        values: Nested sections.
        sources: Where the value of each dotted key comes from.
    """
    leaves = flatten(values)
    for key in keys_without_effect(leaves):
        if key in leaves and leaves[key] != (idle := idle_value(key)):
            decides, allowed = what_rules_out(leaves, key)
            source, value = sources.get(key, "the defaults"), leaves[decides]
            yield IdleKey(corpus, key, source, idle, decides, value, allowed)


def _fill(values: dict[str, Any]) -> None:
    """Write the usual values of the keys of nested sections that have an effect and are null."""
    for key, value in usual_values(flatten(values)).items():
        *sections, name = key.split(".")
        reduce(lambda inner, part: inner[part], sections, values)[name] = value


def _refuse_control_characters(leaves: Mapping[str, Any], sources: Mapping[str, str]) -> None:
    """Refuse characters that no path or name may hold, and that YAML could not read back."""
    for key, value in leaves.items():
        several = [*value, *value.values()] if isinstance(value, Mapping) else value
        for text in several if isinstance(several, list) else [several]:
            if isinstance(text, str) and (found := control_character(text)):
                where = sources.get(key, "the defaults")
                raise InputError(f"{key} (in {where}) holds the control character {found}")
