"""What is tuned: config keys and the values that each may take, from a YAML file.

    model.fusion_hidden_dim: {choices: [null, 512, 768, 1024]}
    optim.lr: {low: 1e-5, high: 1e-2, log: true}
    loss.alpha: {low: 0, high: 1.5, step: 0.1}

A key whose numbers are whole in the schema is drawn in whole numbers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import BaseModel

from config.loading import flatten, load_config, read_yaml
from config.schema import ONLY_WITH, Config
from system.errors import InputError, nearest
from system.files import MAX_CONFIG, read_text
from system.text import short_repr, truncate

SECTIONS = ("features", "augment", "model", "loss", "optim", "train")  # others change the question
FIXED = ("train.precision", "train.checkpoint_minutes")  # one a process; no effect on a score
MOST_STEPS = 10**6  # of a range
WORDS = ("low", "high", "log", "step", "choices")


class Range(NamedTuple):
    """Numbers from `low` to `high`, both in it; `log` draws their logarithms evenly."""

    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False  # 1, 2, 3 ...

    def ends(self) -> tuple[Any, ...]:
        """Return the values that are tried before anything is trained."""
        return self.low, self.high


class Choices(NamedTuple):
    """One of some values."""

    values: tuple[Any, ...]

    def ends(self) -> tuple[Any, ...]:
        """Return the values that are tried before anything is trained."""
        return self.values


Space = Mapping[str, Range | Choices]


def read_space(
    file: Path, recipe: str | Path, overrides: Sequence[str] = ()
) -> tuple[Space, list[str]]:
    """Read a space for a recipe; return it, and a line for each key left out of it.

    Keys that have no effect with the recipe's other values (`loss.alpha` without a contrastive
    loss) are left out, as long as the space does not vary the key that decides it.

    Args:
        file: YAML, dotted keys to their values.
        recipe: The config file, with which every end and choice must be a valid config.
        overrides: Of the recipe.

    Raises:
        InputError: The file, a key or a value is wrong, or nothing is left.
    """
    try:
        rows = read_yaml(read_text(file, MAX_CONFIG), str(file))
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read the space {file}: {error}") from None
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{file} must hold `section.key: {{low: ..., high: ...}}` lines")
    whole_space = {str(key): _read_row(file, str(key), row) for key, row in rows.items()}
    decided = flatten(load_config(recipe, overrides).model_dump())
    space, lines = {}, []
    for key, values in whole_space.items():
        only = ONLY_WITH.get(key)
        if only and not set(_taken(only.controller, whole_space, decided)) & set(only.values):
            has = f"{only.controller}={decided[only.controller]}"
            lines.append(f"{key} is left out of the space: it has no effect with {has}")
        else:
            space[key] = values
    if not space:
        raise InputError(f"nothing of {file} can be tuned: " + "; ".join(lines))
    _try_ends(file, space, recipe, overrides)
    return space, lines


def overrides_of(values: dict[str, Any]) -> list[str]:
    """Return the overrides of one trial; keys that its other values make idle are set to null.

    >>> overrides_of({"optim.lr": 1e-05, "model.fusion_hidden_dim": None})
    ['optim.lr=1e-05', 'model.fusion_hidden_dim=null']
    """
    return as_overrides(values | dict.fromkeys(idle_keys(values)))


def idle_keys(values: Mapping[str, Any]) -> list[str]:
    """Return the keys that have no effect with these values of others.

    >>> "loss.alpha" in idle_keys({"model.fusion": "gmu", "loss.alpha": 0.3})
    True
    """
    return [
        key
        for key, only in ONLY_WITH.items()
        if only.controller in values and values[only.controller] not in only.values
    ]


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Write dotted keys and plain values as overrides of a config.

    >>> as_overrides({"run.folds": [1], "run.root": "runs"})
    ['run.folds=[1]', 'run.root="runs"']
    """
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]


def describe_space(space: Space) -> dict[str, dict[str, Any]]:
    """Return a space as plain values, ready for JSON."""
    return {
        key: {name: list(v) if isinstance(v, tuple) else v for name, v in one._asdict().items()}
        for key, one in space.items()
    }


def _read_row(file: Path, key: str, row: Any) -> Range | Choices:
    where = f"{file}: {truncate(key)}"
    whole = _is_whole(where, key)
    if not isinstance(row, dict) or not all(isinstance(word, str) for word in row):
        raise InputError(
            f"{where} must be {{choices: [...]}} or {{low: .., high: ..}}, got {row!r}"
        )
    for word in row:
        if word not in WORDS:
            raise InputError(f"{where} has no {truncate(word)!r}; {nearest(word, WORDS)}")
    if "choices" in row:
        return _read_choices(where, row)
    return _read_range(where, row, whole)


def _read_choices(where: str, row: Mapping[str, Any]) -> Choices:
    choices = row["choices"]
    if len(row) > 1:
        raise InputError(f"{where} has choices and {', '.join(w for w in row if w != 'choices')}")
    if not isinstance(choices, list) or not choices:
        raise InputError(f"{where}: choices must be a list, got {short_repr(choices)}")
    for value in choices:
        if not isinstance(value, bool | int | float | str | None):
            raise InputError(f"{where}: a choice must be a word, a number or null, got {value!r}")
    if len({(type(value), value) for value in choices}) < len(choices):
        raise InputError(f"{where}: each choice must be named once, got {short_repr(choices)}")
    return Choices(tuple(choices))


def _read_range(where: str, row: Mapping[str, Any], whole: bool) -> Range:
    for word in ("low", "high", "step"):
        value = row.get(word, None if word == "step" else "nothing")
        if value is None and word == "step":
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InputError(f"{where}: {word} must be a number, got {short_repr(value)}")
        if whole and not isinstance(value, int):
            raise InputError(f"{where}: {word} must be a whole number, got {value:g}")
    log, step = row.get("log", False), row.get("step")
    if not isinstance(log, bool):
        raise InputError(f"{where}: log must be true or false, got {short_repr(log)}")
    if not row["low"] < row["high"]:  # NaN is refused, too
        raise InputError(f"{where}: low must be below high, got {row['low']} and {row['high']}")
    if log and (row["low"] <= 0 or step is not None):
        raise InputError(f"{where}: log needs a low above 0 and no step")
    if step is not None and not 0 < step <= row["high"] - row["low"]:
        raise InputError(f"{where}: step must be above 0 and fit between low and high, got {step}")
    if step is not None and not _divides(step, row["high"] - row["low"]):
        raise InputError(
            f"{where}: low to high must be whole steps, {MOST_STEPS} at most, got {step} from "
            f"{row['low']} to {row['high']}"
        )
    number = int if whole else float
    ends = number(row["low"]), number(row["high"])
    return Range(*ends, log, None if step is None else number(step), whole)


def _divides(step: float, whole: float) -> bool:
    n = whole / step
    return n <= MOST_STEPS and abs(n - round(n)) < 1e-9 * n


def _is_whole(where: str, key: str) -> bool:
    """Return whether a key takes whole numbers only; refuse those that cannot be tuned."""
    if key.partition(".")[0] not in SECTIONS and key.partition(".")[0] in Config.model_fields:
        raise InputError(
            f"{where} says what is trained on and where: only {', '.join(SECTIONS)} can be tuned"
        )
    keys = dict(_leaves(Config))
    if key not in keys:
        raise InputError(f"{where} is no key of a config; {_near_keys(key, keys)}")
    if key in FIXED:
        raise InputError(f"{where} cannot be tuned: give it on the command line")
    types = set(_types(keys[key]))
    return int in types and float not in types


def _near_keys(key: str, keys: Mapping[str, Any]) -> str:
    section = f"{key.partition('.')[0]}."
    near = [k for k in keys if k.startswith(section)]
    return nearest(key, near or [k for k in keys if k.startswith(tuple(f"{s}." for s in SECTIONS))])


def _leaves(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, annotation) of the whole schema."""
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _leaves(inner, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", inner


def _types(annotation: Any) -> Iterator[Any]:
    """Yield what an annotation is made of: unions and Annotated taken apart."""
    inner = get_args(annotation)
    if not inner:
        yield annotation
    for one in inner:
        yield from _types(one)


def _taken(key: str, space: Space, decided: Mapping[str, Any]) -> Sequence[Any]:
    """Return the values that a key takes in some trial."""
    values = space.get(key)
    return values.values if isinstance(values, Choices) else [decided[key]]


def _try_ends(file: Path, space: Space, recipe: str | Path, overrides: Sequence[str]) -> None:
    """Load the recipe with every end and choice."""
    for key, values in space.items():
        only, beside = ONLY_WITH.get(key), {}
        if only and isinstance(deciding := space.get(only.controller), Choices):
            beside[only.controller] = next(v for v in deciding.values if v in only.values)
        for value in values.ends():
            try:
                load_config(recipe, [*overrides, *overrides_of({**beside, key: value})])
            except InputError as error:
                raise InputError(f"{file}: {key}={json.dumps(value)} cannot be: {error}") from None
