"""The benchmarks run, in a tiny form, name all candidates, and compute their ratios right."""

import json
import sys

import numpy as np
import pytest
import soundfile
import torch

from audio.reading import inspect_audio
from benchmarks import (
    candidates,
    fingerprint_recall,
    front_end,
    fusions,
    long_audio,
    long_recordings,
    loss_gradients,
    resilience,
    store,
    voiced,
)
from benchmarks import (
    train_step as train_step_benchmark,
)
from config.loading import load_config
from models.contrastive import nt_xent
from tests.support.models import write_small_fold
from training.engine import train_step

BARE = [front_end.RFFT, front_end.QUICKEST]
NAMES = {
    "cqt": ["ours", "librosa", "nnAudio CQT1992v2", *BARE],
    "mel": ["ours", "librosa", "nnAudio", "torchaudio", *BARE],
    "both": ["ours", "librosa", "nnAudio CQT1992v2, torchaudio", *BARE],
}


@pytest.fixture
def tiny(monkeypatch):
    small = {"ROUNDS": 1, "WARM_UP": 0, "PATIENCE": 0.0, "SECONDS": 1.0}
    small |= {"NN_AUDIO": ("CQT1992v2",), "SETTINGS": {"16 kHz": candidates.SETTINGS["16 kHz"]}}
    for name, value in small.items():
        monkeypatch.setattr(candidates, name, value)
    monkeypatch.setattr(front_end, "THREADS", (1,))
    monkeypatch.setattr(front_end, "LENGTHS", (0.5, 1.0))


def test_front_end_measures_every_candidate_and_writes_json(tiny, tmp_path, monkeypatch, capsys):
    path = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["front_end.py", "--json", str(path)])
    front_end.main()
    figures = json.loads(path.read_text())
    measured = figures["ms"]["16 kHz"]
    assert {transform: list(found) for transform, found in measured.items()} == NAMES
    assert all(by_threads["1"] > 0 for found in measured.values() for by_threads in found.values())
    assert list(figures["ms"][candidates.RESAMPLED]["cqt"]) == [
        *("ours", "soxr, then ours", "soxr, then librosa")
    ]
    rows = figures["by_length"]
    assert [(row["seconds"], row["threads"]) for row in rows] == [(0.5, 1), (1.0, 1)]
    assert all(row["CQT's first call, ms"] > row["cqt, ms"] for row in rows)
    assert figures["command"].endswith(f"--json {path}")
    assert 0 < figures["peak_mb"] < front_end.MEMORY_TARGET
    printed = capsys.readouterr().out
    assert all(f"| {name} |" in printed for names in NAMES.values() for name in names)
    assert figures["machine"] in printed


def test_summary_divides_the_right_way(tiny):
    ms = {"ours": 2.0, "librosa": 26.0, "nnAudio A": 50.0, "nnAudio B": 30.0}
    ms |= {front_end.RFFT: 4.0, front_end.QUICKEST: 0.5}
    found = {name: {1: value, 2: 10 * value} for name, value in ms.items()}
    found["ours"][2] = 10.0
    summary = front_end.summarize({"16 kHz": {"cqt": found, "mel": found, "both": found}}, 95.0)
    reached = {
        row["promise"]: (row.get("reached, threads: 1"), row.get("reached, threads: 2"))
        for row in summary
    }
    assert reached["CQT: times as fast as librosa"] == (13, 26)
    assert reached["CQT: times as fast as nnAudio's fastest"] == (15, 30)
    assert reached["both images: times the bare FFTs (torch.fft.rfft)"] == (0.5, 0.25)
    assert reached["Mel-STFT: times the bare FFTs (quickest form)"] == (4, 2)
    assert reached["MB above import for 16 recordings of 5 s"] == (95.0, None)


def test_calls_after_the_first_count(monkeypatch):
    clock = iter([0, 9, 10, 12, 20, 21, 30, 35, 40, 42])  # calls of 9, 2, 1, 5 and 2 s
    monkeypatch.setattr(candidates.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(candidates, "PATIENCE", 1e9)
    monkeypatch.setattr(candidates, "REPEATS", 5)
    assert candidates.in_a_row(lambda: None) == 2000  # ms


def test_store_stands_beside_librosa_and_an_epoch_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "ROUNDS", 1)
    files = [tmp_path / f"{i}.wav" for i in range(3)]
    for i, path in enumerate(files):
        soundfile.write(path, candidates.noise(1.0, 16_000)[0].numpy() / (1 + i), 16_000)
    rates = store.clips_per_second({inspect_audio(path).hash: path for path in files})
    assert len(rates) == 3 and all(rate > 0 for rate in rates.values())
    assert 0 < store.epoch_memory(20) < 500


def test_fingerprint_recall_counts_copies_and_others(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fingerprint_recall, "PAIRS", 20)
    sounds = [(candidates.noise(2.0, 16_000)[0].numpy(), 16_000) for _ in range(2)]
    soundfile.write(tmp_path / "a.wav", *sounds[0])
    soundfile.write(tmp_path / "b.wav", -sounds[0][0][::-1], 16_000)
    found = fingerprint_recall.recall(sounds[:1], fingerprint_recall.CHANGES["MP3"])
    assert found == (1.0, 0)
    monkeypatch.setattr(sys, "argv", ["fingerprint_recall.py", str(tmp_path)])
    fingerprint_recall.main()
    printed = capsys.readouterr().out
    assert "| 3 % faster |" in printed and "0 pairs in the corpus itself" in printed


def test_resilience_compares_steps_that_do_the_same(monkeypatch, capsys):
    monkeypatch.setattr(resilience, "SIDE", 32)
    batch = resilience.make_batch(4)
    weights = []
    for step in (resilience.bare_step, lambda state, batch: train_step(state, [batch])):
        torch.manual_seed(0)
        state = resilience.make_state("test_maxvit", "mvitv2_micro")
        torch.manual_seed(1)
        step(state, batch)
        weights.append(state.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    monkeypatch.setattr(sys, "argv", ["resilience.py", "--batch", "4", "--rounds", "1"])
    resilience.main()
    printed = capsys.readouterr().out
    assert (
        "test_maxvit + mvitv2_micro, 32 pixels, 4 utterances" in printed
        and "a state has" in printed
    )


def test_long_audio_measures_both_steps(tmp_path, monkeypatch, capsys):
    small = {"sample_rate": 16_000, "input_rate": 16_000, "image_size": 32}
    monkeypatch.setattr(long_audio, "SETTINGS", small)
    found = long_audio.measure(0.05, tmp_path / "long.wav")
    assert soundfile.info(tmp_path / "long.wav").duration == pytest.approx(3)
    assert found["s to index"] > 0 and found["s to compute images"] > 0
    assert found["MB to compute images"] >= found["MB to index"] >= 0


def test_a_long_recording_is_measured(tmp_path, monkeypatch, capsys):
    fold = write_small_fold(tmp_path / "fold")
    found = long_recordings.measure(str(fold), 0.1, {"window": 1.0, "hop": 1.0})
    assert found["parts"] == 6 and found["minutes"] == 0.1
    assert found["real_time_factor"] == pytest.approx(found["seconds"] / 6) != 0
    assert found["MB"] >= found["MB after a minute"] > 0
    long_recordings.write_sound(tmp_path / "a.wav", 1.5)
    assert soundfile.info(tmp_path / "a.wav").duration == 90


def test_made_conversations_say_where_somebody_speaks(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", 0.1 * rng.standard_normal(16_000), 16_000)
    files = sorted(tmp_path.glob("*.wav"))
    spans = voiced.write_conversation(tmp_path / "made.wav", files, -60)
    sound, rate = soundfile.read(tmp_path / "made.wav")
    for start, end in spans:
        assert end - start == pytest.approx(1, abs=0.05)
        inside = sound[round(start * rate) : round(end * rate)]
        assert np.std(inside) == pytest.approx(0.1, rel=0.1)
        assert np.std(sound[round(start * rate) - 4000 : round(start * rate)]) < 0.002
    assert voiced.scores(spans, spans, len(sound) / rate) == (1.0, 1.0, 0)


def test_loss_gradients_are_those_of_single_backward_passes(monkeypatch, capsys):
    networks = fusions.Networks("test_maxvit", "mvitv2_micro", 32, 16, 4)
    monkeypatch.setitem(fusions.BACKBONES, "small", networks)
    found = loss_gradients.gradient_norms(3)
    torch.manual_seed(3)
    model = fusions.build(networks, {"fusion": "gmu_contrastive"}).train()
    batch = fusions.images(networks, 4, "cpu")
    output = model(batch.cqt, batch.mel)
    nt_xent(*output.views, 0.07).backward()
    parts = model.parts()
    plain = sum(float(p.grad.square().sum()) for p in [*parts["cqt"], *parts["mel"]])
    assert found["nt_xent"] == pytest.approx(plain**0.5, rel=1e-3)
    monkeypatch.setattr(sys, "argv", ["loss_gradients.py", "--draws", "1"])
    loss_gradients.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cross_entropy: 1.0 [1.0, 1.0] times cross-entropy's"
    assert [line.split(":")[0] for line in lines] == list(loss_gradients.TERMS)


def test_a_training_step_waits_for_the_device_once_in_all_steps_of_a_block(recipe):
    """The real networks, losses and optimizers; the wait is the transfer of all their losses."""
    config = load_config(
        recipe, ["model.fusion=gmu_contrastive", "train.ema=0.9", "train.clip_grad_norm=1.0"]
    )
    steps = train_step_benchmark.LOOK_EVERY
    figures = train_step_benchmark.measure(config, steps, rounds=1)
    assert figures["waits a step"] == 1 / steps <= 1 / 10
    assert figures["operations a step"] > 100 and figures["ours / bare"] > 0
