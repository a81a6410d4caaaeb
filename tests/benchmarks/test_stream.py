"""The benchmark of a stream measures what it streams, in a tiny form."""

import json
import mmap
import sys
from pathlib import Path

import pytest

from benchmarks import stream

pytest.importorskip("webdataset")


def test_a_stream_is_measured_pass_by_pass(recipe, tmp_path, monkeypatch, capsys):
    path = tmp_path / "stream.json"
    argv = ["stream.py", "--config", str(recipe), "--passes", "3", "--utterances", "9"]
    monkeypatch.setattr(sys, "argv", [*argv, "--json", str(path), "protocol.near_identical=count"])
    seen = []
    loader = stream.make_train_loader

    def watched(*args):
        made = loader(*args)
        to_images = made.to_images
        made.to_images = lambda waveforms: seen.append(waveforms) or to_images(waveforms)
        return made

    monkeypatch.setattr(stream, "make_train_loader", watched)
    stream.main()
    found = json.loads(path.read_text())
    assert (found["passes"], found["utterances"], len(found["MB by pass"])) == (3, 9, 3)
    assert found["MB at most"] == pytest.approx(max(found["MB by pass"]), abs=0.1)
    assert "pass 3: " in capsys.readouterr().out
    lengths = [tuple(waveforms.lengths.tolist()) for waveforms in seen]
    assert sum(map(len, lengths)) == 27
    assert len(set(lengths)) == len(lengths)  # another speed in each pass


def test_the_summary_tells_growth_from_noise():
    flat = [{"MB": 400.0 + i % 2, "s": i} for i in range(101)]
    growing = [{"MB": 400.0 + 0.15 * i, "s": i} for i in range(101)]
    name = "MB per pass after 21"
    level, slope = (stream.summary(rows, 36)[name] for rows in (flat, growing))
    assert abs(level) < 0.01 and slope == pytest.approx(0.15)
    found = stream.summary(growing, 36)
    assert found["MB after 21 passes"] == pytest.approx(403.0)
    assert found["MB at the end"] == pytest.approx(415.0)
    assert set(stream.summary(flat, 36)["MB at least, by tenths"]) == {400.0}
    assert found["MB at least, by tenths"][-1] == pytest.approx(413.6, abs=0.2)


def test_resident_memory_is_that_of_this_process():
    before = stream.resident_mb()
    held = mmap.mmap(-1, 50_000_000)  # never from memory that was freed before
    for i in range(0, len(held), mmap.PAGESIZE):
        held[i] = 1
    assert 40 < stream.resident_mb() - before < 60
    assert Path("/proc/self/statm").exists()
