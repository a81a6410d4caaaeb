"""Search space of a tuning study, from a YAML file: config keys and the values each may take.

    model.fusion_hidden_dim: {choices: [null, 512, 768, 1024]}
    optim.lr: {low: 1e-5, high: 1e-2, log: true}
    loss.alpha: {low: 0, high: 1.5, step: 0.1}

Each key becomes one of Optuna's distributions; a key that takes integers only in the schema is
drawn as an integer.
"""

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from config.effects import (
    deciding_key,
    has_effect,
    idle_value,
    keys_without_effect,
    overlap,
    what_rules_out,
)
from config.fusions import BRANCHES, FUSION
from config.image_keys import LORA_RANK, OF_SPEECH, UNFROZEN
from config.loading import flatten, load_config
from config.messages import config_keys
from config.schema import Config
from config.section import section_in
from config.yaml_files import read_yaml
from system.errors import InputError, nearest
from system.files import MAX_CONFIG, read_text
from system.text import short_repr, truncate

if TYPE_CHECKING:  # 0.3 s of imports that a mistyped key need not wait for
    from optuna.distributions import BaseDistribution

SECTIONS = ("features", "augment", "model", "loss", "optim", "train")  # others change the question
FIXED = (
    "train.precision",
    "train.compile",
    "train.checkpoint_",
    "train.features",
    "model.from",
    "model.frozen",
)  # one per process; no effect on a score; another question
MAX_STEPS = 10**6  # of a range
OPTIONS = ("low", "high", "log", "step", "choices")

Space = Mapping[str, "BaseDistribution"]
Values = Mapping[str, Any]  # by dotted key


def read_space(
    file: Path, config_file: str | Path, overrides: Sequence[str] = ()
) -> tuple[Space, list[str]]:
    """Read a search space; return it, and one line for each key left out of it.

    A key without effect (`loss.alpha` without a contrastive loss) is left out, unless the space
    varies a key that decides whether it has an effect.

    Args:
        file: YAML file, dotted keys to their values.
        config_file: Config to tune; it must be valid with each end and choice of the space.
        overrides: Overrides of that config.

    Raises:
        InputError: The file, a key or a value is wrong, or no key is left.
    """
    try:
        rows = read_yaml(read_text(file, MAX_CONFIG), str(file))
    except InputError:
        raise
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the space {file}: {error}") from None
    if not isinstance(rows, dict) or not rows:
        raise InputError(f"{file} must hold `section.key: {{low: ..., high: ...}}` lines")
    config = flatten(load_config(config_file, overrides).model_dump())
    named = {str(key): _read_row(file, str(key), row) for key, row in rows.items()}
    _check_parts(file, list(named))
    space, left_out = {}, []
    for key, distribution in named.items():
        trials = [{**config, **some} for some in _deciding(named, key)]
        if not any(has_effect(values, key) for values in trials):
            decides, _ = what_rules_out(trials[0], key)
            (setting,) = as_overrides({decides: trials[0][decides]})
            left_out.append(f"{key} is left out of the space: it has no effect with {setting}")
        else:
            space[key] = distribution
    if not space:
        raise InputError(f"no key of {file} can be tuned: " + "; ".join(left_out))
    _check_protocol(file, space, config)
    _check_shards(file, space, config)
    _check_one_way(file, space, config)
    _check_ends(file, space, config, config_file, overrides)
    return space, left_out


def trial_overrides(values: Values, config: Values) -> list[str]:
    """Return the overrides of one trial; keys that its values leave without effect are set back.

    Args:
        values: Values of the trial.
        config: All values of the config that is tuned.

    >>> trial_overrides({"optim.lr": 1e-05, "model.fusion": "concat"}, {"model.gate": "scalar"})
    ['optim.lr=1e-05', 'model.fusion=concat', 'model.gate=null']
    """
    return as_overrides({**values, **set_back(config, values)})


def set_back(config: Values, changes: Values) -> dict[str, Any]:
    """Return the keys that have no effect in a config with some changes, at what they must be.

    Args:
        config: All values of the config.
        changes: Other values of some keys.

    >>> set_back({"model.gate": "scalar", "optim.lr": 0.1}, {"model.fusion": "concat"})
    {'model.gate': None}
    """
    whole = {**config, **changes}
    idle = {key: idle_value(key) for key in keys_without_effect(whole) if key in whole}
    return {key: value for key, value in idle.items() if whole[key] != value}


def as_overrides(values: Mapping[str, Any]) -> list[str]:
    """Write dotted keys and plain values as overrides of a config.

    >>> as_overrides({"run.folds": [1], "name": "a", "loss.diversity": None})
    ['run.folds=[1]', 'name=a', 'loss.diversity=null']
    """
    overrides = []
    for key, value in values.items():
        is_word = isinstance(value, str) and re.fullmatch(r"[A-Za-z][\w./-]*", value)
        is_word = is_word and read_yaml(value, key) == value  # not `null`, `true` ...
        overrides.append(f"{key}={value if is_word else json.dumps(value, ensure_ascii=False)}")
    return overrides


def _read_row(file: Path, key: str, row: Any) -> "BaseDistribution":
    where = f"{file}: {truncate(key)}"
    _check_key(where, key)
    if not isinstance(row, dict):
        raise InputError(
            f"{where} must be {{choices: [...]}} or {{low: .., high: ..}}, got {row!r}"
        )
    for option in map(str, row):
        if option not in OPTIONS:
            raise InputError(f"{where} has no {truncate(option)!r}; {nearest(option, OPTIONS)}")
    return _read_choices(where, row) if "choices" in row else _read_range(where, key, row)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise InputError(message)


def _read_choices(where: str, row: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import CategoricalDistribution

    choices, others = row["choices"], [option for option in row if option != "choices"]
    _require(not others, f"{where} has choices and {', '.join(others)}: give one of the two")
    is_list = isinstance(choices, list) and bool(choices)
    _require(is_list, f"{where}: choices must be a list, got {short_repr(choices)}")
    for value in choices:
        is_plain = isinstance(value, bool | int | float | str | None)
        _require(is_plain, f"{where}: a choice must be a word, a number or null, got {value!r}")
    is_unique = len({(type(value), value) for value in choices}) == len(choices)
    _require(is_unique, f"{where}: name each choice once, got {short_repr(choices)}")
    return CategoricalDistribution(choices)


def _read_range(where: str, key: str, row: Mapping[str, Any]) -> "BaseDistribution":
    from optuna.distributions import FloatDistribution, IntDistribution

    is_integer = _takes_integers(key)
    kinds, kind = (int, "an integer") if is_integer else (int | float, "a number")
    for option in ("low", "high", *(["step"] if row.get("step") is not None else [])):
        value = row.get(option, "nothing")
        is_number = isinstance(value, kinds) and not isinstance(value, bool)
        _require(is_number, f"{where}: {option} must be {kind}, got {short_repr(value)}")
    low, high, log, step = row["low"], row["high"], row.get("log", False), row.get("step")
    _require(isinstance(log, bool), f"{where}: log must be true or false, got {short_repr(log)}")
    # In this form NaN is refused, too
    _require(low < high, f"{where}: low must be below high, got {low} and {high}")
    fits_log = low > 0 and step is None
    _require(not log or fits_log, f"{where}: log needs a low above 0 and no step")
    if step is not None:
        n = (high - low) / step if step > 0 else 0
        is_whole = 1 <= n <= MAX_STEPS and abs(n - round(n)) < 1e-9 * n
        allowed = f"divide low to high into whole steps, {MAX_STEPS} at most"
        _require(is_whole, f"{where}: step must {allowed}, got {step} from {low} to {high}")
    if is_integer:
        return IntDistribution(low, high, log, step or 1)
    return FloatDistribution(low, high, log, step)


def _check_parts(file: Path, keys: Sequence[str]) -> None:
    """Refuse a key beside a part of it: the one that comes later would take the other's effect."""
    for i, key in enumerate(keys):
        if parts := [other for other in keys[i + 1 :] if overlap(key, other)]:
            raise InputError(
                f"{file}: {key} and {parts[0]} are one value: leave out one of the two"
            )


def _check_key(where: str, key: str) -> None:
    section = key.partition(".")[0]
    if section not in SECTIONS and section in Config.model_fields:
        raise InputError(
            f"{where} says what is trained on and where: only {', '.join(SECTIONS)} can be tuned"
        )
    if key not in config_keys():
        tunable = [name for name in config_keys() if name.startswith(SECTIONS)]
        same_section = [name for name in tunable if name.startswith(f"{section}.")]
        raise InputError(f"{where} is not a config key; {nearest(key, same_section or tunable)}")
    if key.startswith(FIXED):
        raise InputError(f"{where} cannot be tuned: give it on the command line")


def _takes_integers(key: str) -> bool:
    """Return whether the schema takes integers only for a key."""
    annotation: Any = Config
    for part in key.split("."):
        annotation = section_in(annotation).model_fields[part].annotation
    types = _types(annotation)
    return int in types and float not in types


def _types(annotation: Any) -> set[Any]:
    """Return the types of an annotation, out of its unions and Annotated."""
    parts = get_args(annotation)
    return set().union(*map(_types, parts)) if parts else {annotation}


def _deciding(space: Space, key: str) -> list[dict[str, Any]]:
    """Return the values that trials give to keys which decide whether another has an effect."""
    deciding = {deciding_key(key), FUSION, BRANCHES, *OF_SPEECH} - {key}
    varied = [name for name in space if name in deciding]
    choices = itertools.product(*(_ends(space[name]) for name in varied))
    return [dict(zip(varied, some, strict=True)) for some in choices]


def _ends(distribution: Any) -> Sequence[Any]:
    """Return the choices, or the two ends of a range."""
    is_range = hasattr(distribution, "low")
    return (distribution.low, distribution.high) if is_range else distribution.choices


def _check_protocol(file: Path, space: Space, config: Mapping[str, Any]) -> None:
    """Refuse trials of two protocols: `train.normalize: speaker` is one of its own."""
    key = "train.normalize"
    if key in space and "speaker" in (config[key], *_ends(space[key])):
        raise InputError(
            f"{file}: {key} cannot be tuned with speaker among its values, a protocol of its own: "
            f"leave it out of the space and give {key}=speaker on the command line, or not"
        )


def _check_shards(file: Path, space: Space, config: Mapping[str, Any]) -> None:
    """Refuse keys whose values cannot vary over the same shards."""
    if (shards := config["run.shards"]) is None:
        return
    images = config["train.images"]
    fixed = ("train.images", *(["features.", "model.image_size"] if images == "stored" else []))
    if wrong := [key for key in space if key.startswith(fixed)]:
        advice = ", or take shards of audio with train.images=computed" * (wrong != [fixed[0]])
        raise InputError(
            f"{file}: {', '.join(wrong)} cannot be tuned with run.shards={shards} and "
            f"train.images={images}: the shards fit one value. Leave it out of the space, tune "
            f"without run.shards{advice}"
        )


def _check_one_way(file: Path, space: Space, config: Values) -> None:
    """Refuse a space of which some trials would train a speech model in two ways."""
    both = {
        key: next((v for v in (_ends(space[key]) if key in space else [config[key]]) if v), None)
        for key in (LORA_RANK, UNFROZEN)
    }
    if None not in both.values():
        rank, layers = (f"{key}={value}" for key, value in both.items())
        raise InputError(
            f"{file}: trials would have {rank} and {layers}, which train a speech model in two "
            "ways: vary one of the two keys, with the other null in the config"
        )


def _check_ends(
    file: Path, space: Space, config: Values, config_file: str | Path, overrides: Sequence[str]
) -> None:
    """Load the config with each end and each choice."""
    for key, distribution in space.items():
        trials = _deciding(space, key)
        controller = next(some for some in trials if has_effect({**config, **some}, key))
        for value in _ends(distribution):
            try:
                trial = trial_overrides({**controller, key: value}, config)
                load_config(config_file, [*overrides, *trial])
            except InputError as error:
                raise InputError(f"{file}: {key}={json.dumps(value)} cannot be: {error}") from None
