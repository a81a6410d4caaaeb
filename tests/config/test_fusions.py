"""The table of fusions: one list of names, from which all others derive."""

import subprocess
import sys
from typing import get_args

import pytest

from config.fusions import (
    BRANCH_TITLES,
    FUSIONS,
    GATED,
    IMAGES,
    ONE_BRANCH,
    ONE_IMAGE,
    SOURCES,
    UNGATED,
)
from config.schema import ModelConfig
from tests.support.paths import ROOT


def test_the_schema_allows_the_fusions_of_the_table():
    assert get_args(ModelConfig.model_fields["fusion"].annotation) == tuple(FUSIONS)


def test_each_fusion_is_trained_by_one_entry():
    assert sorted([*GATED, *UNGATED]) == sorted(FUSIONS)
    assert GATED[:3] == ("gmu", "gmu_contrastive", "cross_attention")
    assert GATED[3:] == ("cross_attention_contrastive",)
    for name, fusion in FUSIONS.items():
        assert fusion.entry == ("train_gmu.py" if name in GATED else "train.py")
        assert (ROOT / fusion.entry).is_file()


def test_facts_agree_with_each_other():
    assert ONE_BRANCH == {f"{branch}_only": branch for branch in SOURCES}
    assert ONE_IMAGE == {"cqt_only": "cqt", "mel_only": "mel"}
    assert set(IMAGES) < set(SOURCES) == set(BRANCH_TITLES)
    for name, fusion in FUSIONS.items():
        assert fusion.branches == IMAGES if fusion.joins else name in ONE_BRANCH
        if fusion.gated:
            assert fusion.projects and fusion.widens is None
        if fusion.contrastive or fusion.reads_tokens:
            assert fusion.gated
        if fusion.widens is not None:
            assert fusion.widens in ModelConfig.model_fields


@pytest.mark.parametrize("module", ["config.fusions", "config.effects", "config.loading"])
def test_config_is_imported_without_torch(module):
    check = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT).returncode == 0
