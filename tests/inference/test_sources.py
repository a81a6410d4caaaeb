"""Runs that read a speech model or vectors label new recordings as they were tested."""

import csv
import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import predict
from audio.reading import read_audio
from config.loading import load_config
from corpora.plan import make_plan
from features import SpectrogramImages
from inference import load
from inference.output import Lines
from inference.timeline import timeline
from model_gmu import rebuild
from models.speech import Frames
from storage.model_card import read_card
from storage.run_folder import FoldResult, Run, read_run
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.support.runs import run_experiment
from tests.support.speech_models import save_model

pytest.importorskip("transformers")
SPEECH_RATE = 8000  # Hz, half that of the images
NO_IMAGE = (
    *("model.cqt_backbone=null", "model.mel_backbone=null"),
    *("optim.optimizer.cqt=null", "optim.optimizer.mel=null"),
)


@dataclass(frozen=True)
class World:
    """Where the inputs of the runs lie."""

    root: Path
    recipe: Path
    speech: Path
    vectors: Path

    def words(self, *branches: str) -> list[str]:
        named = f"[{', '.join(branches)}]"
        found = ["model.fusion=gmu", f"model.branches={named}"]
        found += [f"model.speech.model={self.speech}"] * ("speech" in branches)
        found += [f"model.vectors={self.vectors}"] * ("file" in branches)
        return found


@pytest.fixture(scope="module")
def world(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("sources")
    speech = save_model(root / "wavlm", "wavlm-layer")
    extractor = read_json(speech / "preprocessor_config.json")
    write_json(speech / "preprocessor_config.json", extractor | {"sampling_rate": SPEECH_RATE})
    plan = make_plan(load_config(recipe, []))
    rng = np.random.default_rng(0)
    names = [plan.hashes[u.audio] if i % 2 else u.id for i, u in enumerate(plan.utterances)]
    np.savez(root / "v.npz", names=np.array(names), vectors=rng.normal(3, 2, (len(names), 5)))
    return World(root, recipe, speech, root / "v.npz")


def trained(world: World, name: str, *words: str) -> Run:
    config = load_config(world.recipe, [f"run.root={world.root}/runs", f"name={name}", *words])
    return read_run(run_experiment(config, []))


@pytest.fixture(scope="module")
def all_four(world: World) -> Run:
    """Two folds of all sources, crops of images, means of states."""
    words = ("features.seconds=0.15", "run.folds=[1,2]")
    return trained(world, "four", *world.words("cqt", "mel", "speech", "file"), *words)


@pytest.fixture(scope="module")
def beside(world: World) -> Run:
    """One fold of an image and frames of the states in float32."""
    idle = ("model.mel_backbone=null", "optim.optimizer.mel=null")
    kept = ("model.speech.pooling=attention", "model.speech.precision=float32")
    return trained(world, "beside", *world.words("cqt", "speech"), *idle, *kept)


@pytest.fixture(scope="module")
def alone(world: World) -> Run:
    """One fold of a speech model alone, two of its three states."""
    model = f"model.speech.model={world.speech}"
    layers = "model.speech.layers=[2, 0]"
    return trained(world, "alone", "model.fusion=speech_only", model, layers, *NO_IMAGE)


@pytest.fixture(scope="module")
def own(world: World) -> Run:
    """One fold of vectors alone."""
    words = ("model.fusion=file_only", f"model.vectors={world.vectors}")
    return trained(world, "own", *words, *NO_IMAGE)


def some_of(run: Run, fold: FoldResult, n: int = 6) -> list[Path]:
    return [Path(run.audio_file(name)) for name in fold.test.utterances[:n].tolist()]


@pytest.mark.parametrize("which", ["all_four", "beside", "alone", "own"])
def test_a_fold_gives_the_probabilities_and_shares_of_predictions_csv(
    which: str, world: World, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    fold = run.folds[0]
    vectors = world.vectors if which in ("all_four", "own") else None
    model = load(fold.folder, calibrated=False, vectors=vectors)
    found = model.predict(some_of(run, fold))
    assert [one.problem for one in found] == [None] * 6
    probs = [list(one.probs.values()) for one in found]
    np.testing.assert_allclose(probs, fold.test.probs[:6], atol=2e-4)
    assert np.ptp(fold.test.probs, 0).max() > 1e-3  # they are not all alike
    assert [one.gate for one in found] == [None] * 6
    if fold.test.shares is None:
        assert [one.gate_shares for one in found] == [None] * 6
    else:
        shares = [list(one.gate_shares.values()) for one in found]
        np.testing.assert_allclose(shares, fold.test.shares[:6], atol=2e-4)
        assert tuple(found[0].gate_shares) == read_card(fold.folder).settings().reads
