"""Costs of stages are measured and added up right, and docs/SCALING.md says what was found."""

import json
import sys

import numpy as np
import pytest
import soundfile

from benchmarks import costs, loading, scaling, stages, store
from benchmarks.candidates import noise
from benchmarks.work import network_work
from system.files import read_json
from tests.support.paths import ROOT

PAIR = {"parameters": 1e8, "forward_flops": 1e11, "forward_bytes": 2e9, "step_bytes": 6e9}
CARD = costs.Card(bfloat16=1e14, bandwidth=1e12)
ONE, MANY = (costs.Setting("stored", "memory", None, n_gpus, costs.FAST) for n_gpus in (1, 64))


def stage(name, utterances, seconds, sd=0.0):
    return {"stage": name, "utterances": utterances, "seconds": seconds, "sd": sd}


@pytest.fixture
def measured():
    found = {
        "batch_size": 10,
        "utterance_seconds": 4.0,
        "image_bytes": 200_000,
        "bytes_a_second": {"flac": 15_000},
        "front_end_bytes": 1e8,
        "published pair": PAIR,
        "states": [{"bytes": 4e8, "copy_s": 0.1, "write_s": 0.5}],
        "stages": [
            stage("read FLAC", 1, 0.01, 0.003),
            stage("store read, cached", 20, 0.02, 0.004),
            stage(costs.DISK, 20, 0.2),
        ],
    }
    return costs.Measured(found)


def test_estimates_by_hand(measured):
    assert measured.seconds("store read, cached") == pytest.approx(0.001)
    assert measured.seconds("read FLAC", utterance=6.0) == pytest.approx(0.015)
    assert measured.batch_spread("read FLAC") == pytest.approx(0.003 * 10**0.5)
    assert measured.state() == pytest.approx((0.4, 2.0))  # 16 bytes a parameter, of 4e8
    flops, moved = measured.step(CARD)
    assert flops == pytest.approx(3e11 / 1e14)  # backward twice forward
    assert moved == pytest.approx((6e9 / 2 + 28 * 1e8 / 10) / 1e12)  # bfloat16; Adam, a batch of 10
    assert measured.forward(CARD) == pytest.approx((1e-3, 1e-3))
    assert measured.front_end(CARD) == pytest.approx(1e-4)


def test_gradients_are_averaged_in_rings():
    assert costs._averaging(1e9, 1, costs.SLOW) == 0
    assert costs._averaging(1e9, 8, costs.SLOW) == pytest.approx(2 * 7 / 8 * 1e9 / costs.NVLINK)
    between = 2 * 7 / 8 * 1e9 / costs.SLOW
    both = costs._averaging(1e9, 8, costs.SLOW) + between
    assert costs._averaging(1e9, 64, costs.SLOW) == pytest.approx(both)


def test_one_gpu_trains_at_the_pace_of_its_step(measured):
    load, gpus = costs.stations(measured, ONE, CARD)
    step = 10 * (max(measured.step(CARD)) + 200_000 / costs.PCI)
    assert gpus.mean == pytest.approx(step) and load.servers == costs.WORKERS
    assert load.mean == pytest.approx(0.01) and load.places == 2 * costs.WORKERS
    assert gpus.together(step) == step  # nothing is averaged
    assert gpus.hold_every == -(-10 * 2.4 // step)


def test_what_is_short_becomes_the_bottleneck(measured):
    assert scaling._bottleneck(measured, ONE, costs.flow(measured, ONE)) == "step"
    slow = MANY._replace(network=1e9)
    assert scaling._bottleneck(measured, slow, costs.flow(measured, slow)) == "network"
    mount = MANY._replace(source="mount", mount=1e8)
    found = costs.flow(measured, mount)
    assert scaling._bottleneck(measured, mount, found) == found.bottleneck == "mount"
    assert found.per_second == pytest.approx(1e8 / 200_000, rel=0.02)
    computed = mount._replace(images="computed", mount=1e12)
    measured.rows["read FLAC"]["seconds"] = 1.0
    found = costs.flow(measured, computed)
    assert found.bottleneck == "workers"
    assert found.per_second == pytest.approx(64 * costs.WORKERS / 1.0, rel=0.1)


def test_durations_have_two_digits():
    hours = (0.0004, 0.004, 0.1, 0.52, 2.345, 12.3, 4800)
    shown = ["1.4 s", "14 s", "6 min", "31 min", "2.3 h", "12 h", "4,800 h"]
    assert [scaling._hours(each) for each in hours] == shown


@pytest.fixture
def small(monkeypatch):
    for name, value in {"ROUNDS": 1, "STEPS": 2, "STATES": (4,), "INDEXED": 100}.items():
        monkeypatch.setattr(stages, name, value)
    monkeypatch.setattr(stages, "network_work", lambda pair: network_work("small"))  # quicker
    monkeypatch.setattr(stages, "MEAN", 0.6)
    monkeypatch.setattr(stages, "SD", 0.1)
    for name, value in {"ROUNDS": 1, "PASSES": 1, "BATCH": 4, "PIPELINES": (("take", 1),)}.items():
        monkeypatch.setattr(loading, name, value)
    for name, value in {"SLEEPS": 10, "ASLEEP": (1,), "LOAD": (0.004, 0.002)}.items():
        monkeypatch.setattr(loading, name, value)


def test_stages_are_measured_and_tables_made_of_them(small, tmp_path, monkeypatch, capsys):
    for i in range(3):
        soundfile.write(tmp_path / f"{i}.wav", noise(5.0, 16_000)[0].numpy() / (i + 1), 16_000)
    words = [str(tmp_path), "--utterances", "32", "--json", str(tmp_path / "stages.json")]
    monkeypatch.setattr(sys, "argv", ["stages.py", *words])
    stages.main()
    found = json.loads((tmp_path / "stages.json").read_text())
    assert str(tmp_path) not in found["command"].split()[3] and found["audio"] == tmp_path.name
    assert {row["stage"] for row in found["stages"]} >= {"read FLAC", "both images", costs.DISK}
    assert all(row["seconds"] > 0 for row in found["stages"])
    assert found["image_bytes"] == 2 * 2 * 224 * 224
    assert found["utterance_seconds"] == pytest.approx(0.6, rel=0.01)
    assert found["bytes_a_second"]["wav"] == pytest.approx(32_000, rel=0.01)
    assert [row["workers"] for row in found["pipelines"]] == [1, 1]
    words = ["--stages", str(tmp_path / "stages.json"), "--json", str(tmp_path / "scaling.json")]
    monkeypatch.setattr(sys, "argv", ["scaling.py", *words])
    scaling.main()
    tables = json.loads((tmp_path / "scaling.json").read_text())["tables"]
    for table in tables.values():
        assert table["rows"] and {len(row) for row in table["rows"]} == {len(table["columns"])}
    assert "utterances/s a core, m" in capsys.readouterr().out


def test_names_of_recordings_take_what_python_says():
    found = store.index_costs(1000)
    assert found["file_bytes"] == pytest.approx(64 + 2 + 2 * 3 + 6, abs=1)  # digits of two rows
    held = sys.getsizeof("0" * 64) + sys.getsizeof(range(1))
    assert held < found["index_bytes"] < 3 * held
    assert found["index_s"] > 0 and found["dataset_s"] > 0 and found["dataset_bytes"] > 8


def test_there_must_be_recordings(tmp_path):
    with pytest.raises(SystemExit, match="no .wav or .flac files below"):
        stages.make_utterances(tmp_path, tmp_path, 2, 16_000)


def test_utterances_are_the_recordings_in_one_row(tmp_path):
    made = stages.make_utterances(None, tmp_path, 5, 16_000)
    joined = np.concatenate([soundfile.read(path, dtype="float32")[0] for path in made.flac])
    expected = noise(len(joined) / 16_000, 16_000)[0].numpy()
    assert np.abs(joined - expected).max() <= 1 / 2**15
    assert (np.diff(made.seconds) >= 0).all() and made.seconds.mean() == pytest.approx(stages.MEAN)


def test_the_record_is_made_of_the_stages_beside_it():
    found = read_json(ROOT / "results/stages.json")
    recorded = read_json(ROOT / "results/scaling.json")
    assert {key: found[key] for key in recorded["stages"]} == recorded["stages"]
    again = json.loads(json.dumps(scaling.arithmetic(found)))
    assert again == {name: recorded["tables"][name] for name in again}


def test_the_page_says_where_the_bottleneck_was_found():
    rows = read_json(ROOT / "results/scaling.json")["tables"]["flow"]["rows"]
    busiest = {(row[0], row[1], row[2]): row[-1] for row in rows}
    assert {where for (_, n_gpus, _), where in busiest.items() if n_gpus == 1} == {"step"}
    assert busiest["stored, memory", 64, "1,600"] == "step"
    assert busiest["stored, mount, 10 GB/s", 64, "1,600"] == "step"
    assert busiest["stored, memory", 64, "100"] == "network"
    assert busiest["stored, mount, 1 GB/s", 64, "1,600"] == "mount"
    per_second = {(row[0], row[1]): row[3] for row in rows}
    stored, computed = (f"{kind}, mount, 1 GB/s" for kind in ("stored", "computed"))
    assert per_second[computed, 64] > 1.5 * per_second[stored, 64]
