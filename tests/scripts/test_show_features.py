"""The image of the front end: two rows of three, and a bad file is named."""

import errno
import os
import runpy

import numpy as np
import pytest
import soundfile

from tests.support.paths import ROOT

SCRIPT = runpy.run_path(str(ROOT / "scripts" / "show_features.py"))


@pytest.fixture
def clip(tmp_path):
    path = tmp_path / "tone.wav"
    time = np.arange(22_050) / 44_100  # seconds
    soundfile.write(path, 0.5 * np.sin(2 * np.pi * 440 * time), 44_100)
    return path


def test_ours_stand_beside_librosas_with_their_difference(clip):
    panels = [a for a in SCRIPT["draw"](clip).axes if a.get_title()]
    assert [panel.get_title().split(",")[0] for panel in panels] == [
        *("CQT", "CQT", "ours - librosa"),
        *("Mel-STFT", "Mel-STFT", "ours - librosa"),
    ]
    for ours, librosa in (panels[0:2], panels[3:5]):
        image = ours.collections[0].get_array()
        loud = image > -30  # dB; far below a tone librosa's downsampling leaves traces
        difference = image - librosa.collections[0].get_array()
        assert loud.any() and np.abs(difference[loud]).mean() < 0.5
        row = image.mean(1).argmax()
        assert ours.collections[0].get_coordinates()[row, 0, 1] == pytest.approx(440, rel=0.06)


def test_a_bad_file_is_named_and_the_others_are_drawn(clip, tmp_path, capsys):
    bad = tmp_path / "bad.wav"
    bad.write_text("no audio")
    assert SCRIPT["main"]([str(bad), str(clip), "--out", str(tmp_path)]) == 2
    assert f"wrong input: {bad} cannot be read" in capsys.readouterr().err
    assert (tmp_path / "tone_features.png").stat().st_size > 10_000


def test_a_full_disk_is_reported_and_leaves_no_half_image(clip, tmp_path, monkeypatch, capsys):
    def full(handle):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("system.files.sync_folder", lambda folder: None)
    assert SCRIPT["main"]([str(clip), "--out", f"{tmp_path}/new"]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"failed: cannot write {tmp_path}/new/tone_features.png: No space left")
    assert os.listdir(tmp_path / "new") == []
