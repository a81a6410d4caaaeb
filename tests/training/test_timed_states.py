"""A dry run counts the hidden states of a speech model, and keeps none of them."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from config.schema import Config
from corpora.plan import make_plan
from models.speech_tuning import TunedSpeech
from system.errors import InputError
from system.text import format_duration
from tests.support.speech_models import save_model
from training import timed_states
from training.dry_run import TIMED_STEPS, dry_run
from training.session import open_session
from training.timed_states import StateCosts

Tiny = Callable[..., Config]
HOURS = 1e6  # seconds that the states of the first batch seem to take


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return save_model(tmp_path_factory.mktemp("speech") / "wavlm", "wavlm-layer")


@pytest.fixture
def words(speech_model: Path, tmp_path: Path) -> list[str]:
    speech = ["model.branches=[cqt, mel, speech]", f"model.speech.model={speech_model}"]
    return [*speech, f"run.store={tmp_path / 'store'}", "run.folds=[1]"]


def slowly(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, HOURS])
    clock = SimpleNamespace(perf_counter=lambda: next(ticks))
    monkeypatch.setattr(timed_states, "time", clock)


def line(said: str, name: str) -> str:
    return next(one for one in said.splitlines() if one.startswith(name))


def test_what_is_missing_takes_its_share_of_audio() -> None:
    costs = StateCosts(0.5, 240.0, 30)
    assert costs.total == 120.0
    [said] = costs.describe()
    missing = "about 2 min for 30 recordings that run.store lacks"
    assert said == f"states       0.500 s for a second of audio, {missing}"
    assert StateCosts().describe() == [] and StateCosts().total == 0
    assert StateCosts(0.5).describe()[0].endswith("run.store has all")


def test_missing_states_are_counted_and_none_is_kept(
    tiny: Tiny, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(*words)
    plan = make_plan(config)
    seconds = [plan.recordings[u.audio].seconds for u in plan.utterances]
    first = [plan.recordings[u.audio].seconds for u in plan.splits[0].train[:8]]
    slowly(monkeypatch)
    said = dry_run(config)
    total = format_duration(HOURS * sum(seconds) / sum(first))
    assert f"about {total} for 40 recordings that run.store lacks" in line(said, "states")
    assert f"about {total} for 1 folds" in line(said, "all of it")
    assert not list(tmp_path.iterdir())
    open_session(config, plan)
    slowly(monkeypatch)
    said = dry_run(config)
    assert line(said, "states").endswith("of audio, run.store has all")
    assert " h for" not in line(said, "all of it")


def test_of_a_model_that_is_trained_each_step_counts_and_a_training_split_before(
    tiny: Tiny, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[bool] = []
    forward = TunedSpeech.forward

    def watched(self: TunedSpeech, waves):
        steps.append(self.training)
        return forward(self, waves)

    monkeypatch.setattr(TunedSpeech, "forward", watched)
    said = dry_run(tiny(*words, "model.speech.lora_rank=2"))
    assert " for 24 recordings that run.store lacks; a step computes" in line(said, "states")
    assert steps.count(True) >= TIMED_STEPS and False in steps


def test_a_recording_that_proves_bad_is_left_out_of_the_batch(
    tiny: Tiny, words: list[str], corpus_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(corpus_root, tmp_path / "corpus")
    config = tiny(*words, f"corpus.root={root}", "corpus.on_bad_audio=skip")
    short = make_plan(config).splits[0].train[1].path  # of 20 ms, where the model needs 25
    soundfile.write(short, np.random.default_rng(0).normal(0, 0.1, 320), 16_000)
    assert " s for 7 of them" in line(dry_run(config), "one step")
    with pytest.raises(InputError, match="is too short: 20 ms, where the speech model"):
        dry_run(tiny(*words, f"corpus.root={root}"))
