"""Missing or unfit first weights are told before audio is indexed, by every command."""

import os
import shutil
import subprocess
import sys

import pytest
import timm
import torch
import yaml

from corpora import plan
from experiments.lr_range import run_range_test
from experiments.tuning import load_tuning
from models import weights
from system.errors import InputError, RunError
from system.placeholders import LFS_START
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from training.dry_run import dry_run

SPACE = {"optim.lr": {"choices": [1e-4, 1e-3]}}
COMMANDS = ("train", "dry run", "tuning", "range test")
HUB = ["model.fusion=mel_only", "model.cqt_backbone=null", "model.mel_backbone=mvitv2_base"]
HUB += ["model.pretrained=true"]


@pytest.fixture
def start(tiny, recipe, tmp_path, monkeypatch):
    """Start a command by its name; indexing audio fails the test."""

    def fail(*args):
        raise AssertionError("audio was indexed")

    monkeypatch.setattr(plan, "index_audio", fail)
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", True)

    def run(command, *wishes, space=SPACE):
        if command == "tuning":
            file = tmp_path / "space.yaml"
            file.write_text(yaml.safe_dump(space))
            places = [f"run.root={tmp_path}", "run.folds=[1]"]
            return load_tuning(str(recipe), str(file), [*places, *wishes], [])
        if command == "train":
            return run_experiment(tiny(*wishes), [])
        return (dry_run if command == "dry run" else run_range_test)(tiny(*wishes))

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_are_missing_are_told_before_audio_is_indexed(start, command):
    with pytest.raises(RunError, match="no pretrained weights for mvitv2_base .HF_HUB_OFFLINE"):
        start(command, *HUB)
    with pytest.raises(InputError, match="model.cqt_weights: there is no file nowhere.pth"):
        start(command, "model.cqt_weights=nowhere.pth")


@pytest.mark.parametrize("command", ["train", "dry run"])
def test_pointers_in_the_place_of_audio_are_told_before_weights_are_sought(
    start, command, corpus_root, tmp_path
):
    own = shutil.copytree(corpus_root, tmp_path / "own")
    clips = sorted(own.rglob("*.wav"))
    for clip in clips[:12]:
        clip.write_bytes(LFS_START + b"v1\noid sha256:0\nsize 72862\n")
    root = f"corpus.root={own}"
    with pytest.raises(
        InputError, match="12 audio files cannot be used:\n  12 files.*git lfs pull"
    ):
        start(command, root, *HUB)
    with pytest.raises(RunError, match="no pretrained weights"):
        start(command, root, "corpus.on_bad_audio=skip", *HUB)


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_that_do_not_fit_are_told_before_audio_is_indexed(start, command, tmp_path):
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "w.pth")
    with pytest.raises(InputError, match="w.pth does not hold the weights of mvitv2_micro"):
        start(command, f"model.mel_weights={tmp_path / 'w.pth'}")


@pytest.mark.parametrize("command", COMMANDS)
def test_weights_are_downloaded_before_audio_is_indexed(start, command, tmp_path, monkeypatch):
    def download(repository, name, revision):
        raise ConnectionError(f"downloading {repository}")

    monkeypatch.setattr(weights.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(weights.urllib.request, "urlopen", lambda *args, **kwargs: open(os.devnull))
    monkeypatch.setattr(weights.huggingface_hub, "hf_hub_download", download)
    with pytest.raises(RunError, match="downloading timm/mvitv2_base.fb_in1k"):
        start(command, *HUB)


def test_a_study_that_varies_the_backbone_leaves_the_check_to_its_trials(start):
    options = ["model.mel_weights=nowhere.pth", "model.mel_backbone=mvitv2_micro"]
    space = {"model.mel_backbone": {"choices": ["mvitv2_micro", "mvitv2_tiny"]}}
    assert start("tuning", *options, space=space).space.keys() == space.keys()


def test_the_check_itself_takes_less_than_a_second(tmp_path):
    """Imports apart, in a process that has built nothing yet."""
    code = (
        "import time; from config.loading import load_config; from training.experiment import *\n"
        "from system.errors import RunError\n"
        "config = load_config('configs/iemocap_gmu.yaml'); start = time.process_time()\n"
        "try: check_model(config)\n"
        "except RunError as error: print(time.process_time() - start, error)"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    seconds, words = done.stdout.split(" ", 1)
    assert words.startswith("no pretrained weights for maxvit_base_tf_224 (HF_HUB_OFFLINE is set")
    assert float(seconds) < 1
