"""The benchmark of heads on hidden states trains both loops alike, in a tiny form."""

import pytest

from benchmarks import speech_heads


def test_both_loops_end_in_the_same_weights(tmp_path, monkeypatch) -> None:
    pytest.importorskip("transformers")
    monkeypatch.setattr(speech_heads, "LAYERS", 2)
    monkeypatch.setattr(speech_heads, "WIDTH", 48)
    rows = speech_heads.measure(tmp_path, epochs=2, speakers=6, takes=1)  # which compares weights
    assert [row["fusion"] for row in rows] == ["speech_only"] * 3 + ["gmu"] * 3
    for row in rows:
        assert row["ratio"] == pytest.approx(row["run"] / row["plain loop"]) and row["ratio"] > 0
