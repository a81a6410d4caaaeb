"""Which keys have an effect: the conditions name true keys and values; answers for each of them."""

from typing import Any, get_args

import pytest

from config.corpus_schema import MemberCorpus
from config.effects import (
    COUNTED,
    IDLE_IF_ALL_FROZEN,
    IDLE_IF_FROZEN,
    ONLY_WITH,
    OWN,
    PUBLISHED,
    deciding_key,
    has_effect,
    idle_value,
    keys_without_effect,
    usual_value,
    what_rules_out,
    with_branch_scales,
)
from config.image_keys import IDLE_WITHOUT_IMAGES, NORMALIZE
from config.loading import flatten
from config.schema import Config, FeaturesConfig, ModelConfig, RunConfig
from config.section import section_in
from config.training_schema import AugmentConfig, OptimConfig, TrainConfig
from corpora.labels import LABEL_SETS
from corpora.readers import CORPORA


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


def test_published_corpora_have_a_reader_and_those_that_are_counted_have_counts():
    names = get_args(MemberCorpus.model_fields["name"].annotation)
    assert set(PUBLISHED) == set(names) - set(OWN) == set(CORPORA) - set(OWN)
    with_counts = {name for name, sets in LABEL_SETS.items() if all(one.published for one in sets)}
    assert set(COUNTED) == with_counts


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


def test_what_is_idle_with_frozen_features_is_off_or_the_default():
    """So a config that says nothing of images and backbones is valid with either value."""
    sections = {"augment": AugmentConfig(), "optim": OptimConfig(), "train": TrainConfig()}
    defaults = flatten({name: part.model_dump() for name, part in sections.items()})
    defaults |= flatten({"run": RunConfig().model_dump()})
    defaults |= {"model.drop_path_rate": 0.0, "model.frozen": []}
    defaults |= {f"optim.backbone_lr_scale.{branch}": None for branch in ("cqt", "mel")}
    defaults |= {f"model.{branch}_weights": None for branch in ("cqt", "mel")}
    assert {key for key in defaults if key.startswith("augment.")} <= IDLE_IF_FROZEN.keys()
    for key, idle in IDLE_IF_FROZEN.items():
        assert defaults[key] == idle == idle_value(key)
        assert not has_effect({"train.features": "frozen", "model.fusion": "gmu"}, key)
        trained = {"train.features": "trained", "features.reference": "full_scale"}
        trained |= {"train.images": "computed", "model.fusion": "gmu"}
        assert has_effect(trained, key)
        assert what_rules_out({"train.features": "frozen"}, key) == ("train.features", ("trained",))


def test_two_keys_may_rule_out_a_third():
    both = {"model.fusion": "mel_only", "train.features": "frozen"}
    idle = keys_without_effect(both)
    assert len(set(idle)) == len(idle) and idle.count("optim.optimizer.cqt") == 1
    assert {"model.cqt_from", "optim.optimizer.mel", "augment.mixup"} <= set(idle)
    assert "model.mel_from" not in idle and "optim.optimizer.head" not in idle
    trained = {**both, "train.features": "trained"}
    assert what_rules_out(trained, "optim.optimizer.cqt")[0] == "model.fusion"


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


def test_keys_of_a_frozen_branch_are_ruled_out_and_of_all_those_of_branches():
    one = {"model.fusion": "gmu", "model.frozen": ["cqt"]}
    expected = {"optim.optimizer.cqt", "optim.backbone_lr_scale.cqt"}
    assert expected <= set(keys_without_effect(one))
    assert not set(IDLE_IF_ALL_FROZEN) & set(keys_without_effect(one))
    assert has_effect(one, "optim.optimizer.mel") and has_effect(one, "model.drop_path_rate")
    for values in ({**one, "model.frozen": ["mel", "cqt"]}, {**one, "model.fusion": "cqt_only"}):
        ruled_out = keys_without_effect(values)
        assert expected | set(IDLE_IF_ALL_FROZEN) <= set(ruled_out)
        for key in IDLE_IF_ALL_FROZEN:
            assert idle_value(key) == IDLE_IF_ALL_FROZEN[key]
            assert what_rules_out(values, key) == ("model.frozen", ("[]",))
    assert not keys_without_effect({"model.frozen": []})


TRAINED = {"model.speech.lora_rank": None, "model.speech.unfrozen_layers": 2}
FROZEN = {
    **{"model.speech.lora_rank": None, "model.speech.unfrozen_layers": None},
    "model.speech.pooling": "mean",
}
BATCH, SCALE = "train.backbone_batch", "optim.backbone_lr_scale"
OF_TRAINED = {BATCH, SCALE, "train.gradient_checkpointing"}


def test_keys_of_images_are_idle_at_their_defaults_where_none_is_read():
    sections = {"features": FeaturesConfig(), "model": ModelConfig(fusion="gmu")}
    sections |= {"augment": AugmentConfig(), "train": TrainConfig(), "run": RunConfig()}
    defaults = flatten({name: part.model_dump() for name, part in sections.items()})
    defaults |= {SCALE: OptimConfig().backbone_lr_scale}
    names = {key for key in defaults if key.partition(".")[0] in ("features", "augment")}
    assert names - {"augment.mixup"} < IDLE_WITHOUT_IMAGES.keys()  # which mixes vectors, too
    no_images = {"train.normalize": False}
    without = [
        {"model.fusion": "speech_only", "model.branches": None, **FROZEN, **no_images},
        {"model.fusion": "file_only", **no_images},
    ]
    without += [{"model.branches": ["speech", "file"], **FROZEN, **no_images}]
    without += [{"model.fusion": "gmu", **without[-1]}]
    some = [{}, {"model.fusion": "gmu"}, {"model.fusion": "cqt_only", "model.branches": None}]
    some += [{"model.fusion": "gmu", "model.branches": ["speech", "mel"], **FROZEN}]
    for key, idle in IDLE_WITHOUT_IMAGES.items():
        assert defaults[key] == idle == idle_value(key), key
        assert usual_value(key) == (ONLY_WITH[key].default if key in ONLY_WITH else idle)
        for values in without:
            assert key in keys_without_effect(values) and not has_effect(values, key)
        for values in some:
            assert key not in keys_without_effect(values)
            assert has_effect(values, key) == (key not in ONLY_WITH)
    key = "features.seconds"
    assert what_rules_out(without[0], key)[1][-2:] == ("cqt_only", "mel_only")
    assert what_rules_out(without[3], key) == ("model.branches", ("[..., cqt]", "[..., mel]"))
    # the key that decides in the end, not one that has no effect itself
    key = "augment.gain_db"
    assert what_rules_out({**without[1], "train.images": "stored"}, key)[0] == "model.fusion"


def test_a_protocol_by_speaker_has_a_name_of_its_own_without_images():
    for value in (True, "speaker"):
        assert has_effect({"model.fusion": "file_only", "train.normalize": value}, NORMALIZE)
    assert not has_effect({"model.fusion": "file_only", "train.normalize": False}, NORMALIZE)


@pytest.mark.parametrize("reads", [{"model.fusion": "speech_only"}, {"model.frozen": ["cqt"]}])
@pytest.mark.parametrize(
    ("speech", "used"),
    [
        ({}, OF_TRAINED),  # may be trained
        (FROZEN, set()),
        ({**FROZEN, "model.speech.pooling": None}, set()),  # which is the mean
        ({**FROZEN, "model.speech.pooling": "attention"}, {BATCH}),
        (TRAINED, OF_TRAINED),
        ({**FROZEN, "model.speech.lora_rank": 4}, OF_TRAINED),
    ],
)
def test_a_speech_model_uses_keys_of_backbones_where_a_part_is_trained(reads, speech, used):
    """Without an image, and beside an image whose branch is frozen."""
    joined = {"model.fusion": "gmu", "model.branches": ["cqt", "speech"]}
    values = {**joined, **reads, **speech}
    found = set(keys_without_effect(values))
    assert {key for key in OF_TRAINED if has_effect(values, key)} == used == OF_TRAINED - found
    assert "model.drop_path_rate" in found
    alone = {"model.fusion": "file_only", **speech}
    assert set(keys_without_effect(alone)) >= OF_TRAINED


def test_what_would_use_a_key_of_backbones_is_a_trained_speech_model():
    for values in ({"model.fusion": "speech_only"}, {"model.branches": ["speech", "file"]}):
        key, allowed = what_rules_out({**values, **FROZEN}, SCALE)
        assert key == "model.speech.lora_rank" and "unfrozen_layers" in allowed[0]
    assert what_rules_out({"model.fusion": "file_only"}, SCALE)[0] == "model.fusion"
