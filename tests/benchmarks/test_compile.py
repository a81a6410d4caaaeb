"""The benchmark of compiling: one measurement in a tiny form, and its arithmetic by hand."""

import pytest

from benchmarks import compile as benchmark
from models import compiled
from models.compiled import forget_graphs

VITS = ["model.cqt_backbone=test_vit", "model.mel_backbone=test_vit", "train.compile=true"]


def test_a_measurement_has_both_kinds_of_steps(tiny, monkeypatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    found = benchmark.measure(tiny(*VITS, "train.batch_size=4"), rounds=1)
    forget_graphs()
    assert all(seconds > 0 for seconds in found["seconds of a step"].values())
    assert found["seconds of compiling"] > 0


def test_steps_after_which_compiling_pays(tiny, monkeypatch) -> None:
    about = {"device": "cpu", "machine": {}, "compiler": "g++"}
    told: list[list[str]] = []

    def child(words: list[str]) -> dict:
        told.append(words)
        is_cold = len(told) == 1
        return about | {
            "seconds of compiling": 240.0 if is_cold else 9.0,
            "graphs compiled": 6 if is_cold else 0,
            "seconds of a step": {"eager": 0.4, "compiled": 0.35},
        }

    monkeypatch.setattr(benchmark, "_child", child)
    found = benchmark.compare(["--config", "x.yaml"], tiny(*VITS), rounds=7)
    assert found["pays after steps"] == pytest.approx({"cold": 4800, "warm": 180}, abs=1)
    assert found["eager / compiled"] == pytest.approx(0.4 / 0.35)
    assert found["graphs"] == {"compiled cold": 6, "warm": 0}
    caches = [next(word for word in words if "compile_cache" in word) for words in told]
    assert caches[0] == caches[1] and told[1][-1] == "7"
