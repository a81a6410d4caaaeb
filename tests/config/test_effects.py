"""Which keys have an effect: the conditions name true keys and values; answers for each of them."""

from typing import Any, get_args

import pytest

from config.effects import (
    BUILT_IN,
    ONLY_WITH,
    OWN,
    deciding_key,
    has_effect,
    keys_without_effect,
    usual_value,
    with_branch_scales,
)
from config.schema import Config, CorpusConfig
from config.section import section_in


def annotation_of(key: str) -> Any:
    model: Any = Config
    for name in key.split("."):
        annotation = section_in(model).model_fields[name].annotation
        model = annotation
    return annotation


@pytest.mark.parametrize("key", ONLY_WITH)
def test_a_condition_names_keys_and_values_of_the_schema(key):
    condition = ONLY_WITH[key]
    assert type(None) in get_args(annotation_of(key))  # null where it has no effect
    allowed = get_args(annotation_of(condition.controller))
    assert set(condition.values) < set(allowed)


def test_corpora_are_built_in_or_ones_own():
    names = get_args(CorpusConfig.model_fields["name"].annotation)
    assert set(BUILT_IN) == set(names) - set(OWN)


@pytest.mark.parametrize("key", ONLY_WITH)
def test_a_key_has_an_effect_with_the_values_of_its_condition_alone(key):
    controller, values, usual = ONLY_WITH[key]
    assert deciding_key(key) == controller and usual_value(key) == usual
    for value in get_args(annotation_of(controller)):
        assert has_effect({controller: value}, key) == (value in values)
        assert (key in keys_without_effect({controller: value})) == (value not in values)
    assert not has_effect({}, key)
    assert key not in keys_without_effect({})


def test_other_keys_always_have_an_effect():
    assert has_effect({}, "optim.lr") and deciding_key("optim.lr") is None
    assert usual_value("optim.lr") is None


def test_keys_without_effect_are_those_of_all_given_values():
    both = {"model.fusion": "concat", "optim.schedule": "constant", "optim.lr": 0.1}
    expected = {key for key in ONLY_WITH if deciding_key(key) in both and not has_effect(both, key)}
    assert set(keys_without_effect(both)) == expected
    assert {"loss.alpha", "model.gate", "optim.min_lr"} <= expected
    assert "model.match_parameters" not in expected and "protocol.n_folds" not in expected


def test_a_number_for_the_backbones_is_the_rate_of_each_that_there_is():
    scales = ("optim.backbone_lr_scale.cqt", "optim.backbone_lr_scale.mel")
    for fusion, rates in (
        ("gmu", (0.1, 0.1)),
        ("cqt_only", (0.1, None)),
        ("mel_only", (None, 0.1)),
    ):
        found = with_branch_scales({"model.fusion": fusion, "optim.backbone_lr_scale": 0.1})
        assert found == {"model.fusion": fusion, **dict(zip(scales, rates, strict=True))}
    each = {"model.fusion": "gmu", scales[0]: 0.5, scales[1]: 2.0}
    assert with_branch_scales(each) == each
    assert with_branch_scales({"baseline.kind": "majority"}) == {"baseline.kind": "majority"}
