"""MFCC against librosa, statistics by hand, openSMILE at one rate, and the store of both."""

import sys
from types import SimpleNamespace

import librosa
import numpy as np
import pytest
import soundfile

from baselines.waveform_features import RATE, WaveformFeatures, mfcc, mfcc_statistics
from config.baselines import choose_functionals
from system.errors import InputError, RunError
from tests.conftest import tone


def test_mfcc_are_those_of_librosa():
    waveform = tone(440.0, 1.3, 0)
    expected = librosa.feature.mfcc(
        y=waveform, sr=RATE, n_mfcc=20, n_fft=512, hop_length=256, n_mels=40, pad_mode="constant"
    )
    found = mfcc()(waveform)
    assert found.shape == (82, 20) and found.dtype == np.float32
    assert np.allclose(found, expected.T, atol=2e-3)


def test_statistics_of_mfcc_by_hand():
    frames = np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]])
    found = mfcc_statistics(frames)
    assert found.shape == (2 * 8 + 1,)
    assert found[:4] == pytest.approx([2, 2, np.sqrt(8 / 3), np.sqrt(2)])  # mean, deviation
    assert found[4:8] == pytest.approx([0.4, 1.0, 3.6, 3.4])  # 10th and 90th percentile
    assert found[8:12] == pytest.approx([2, 1.5, 0, 1.5])  # of the differences
    assert found[-1] == pytest.approx(3 * 256 / 16_000)  # s
    assert np.isfinite(mfcc_statistics(frames[:1])).all()  # a recording of one frame


@pytest.fixture
def sources(tmp_path):
    """Two recordings at 48 and 16 kHz, by their audio hashes."""
    from audio.reading import inspect_audio

    found = {}
    for rate in (48_000, 16_000):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, np.repeat(tone(300.0, 0.5, rate), rate // 16_000), rate)
        found[inspect_audio(path).hash] = path
    return found


def test_features_are_computed_once_at_one_rate_and_kept(tmp_path, sources, monkeypatch):
    store = WaveformFeatures(tmp_path / "store", "mfcc")
    assert store.build(sources, 2) == {}
    n_frames = {key: len(store[key]) for key in sources}
    assert set(n_frames.values()) == {1 + 8000 // 256}  # both were read at 16 kHz
    monkeypatch.setattr("baselines.waveform_features.read_audio", None)  # a second read would fail
    again = WaveformFeatures(tmp_path / "store", "mfcc")
    assert again.build(sources, 0) == {}
    assert all((again[key] == store[key]).all() for key in sources)


def test_changed_audio_is_reported_and_the_rest_is_kept(tmp_path, sources):
    first = next(iter(sources))
    soundfile.write(sources[first], tone(900.0, 0.5, 1), 16_000)
    store = WaveformFeatures(tmp_path / "store", "mfcc")
    assert list(store.build(sources, 0)) == [sources[first]]
    assert len(store[list(sources)[1]]) == 32


def test_a_corrupt_store_is_named(tmp_path, sources):
    store = WaveformFeatures(tmp_path / "store", "mfcc")
    store.build(sources, 0)
    (file,) = (tmp_path / "store").glob("*/features.safetensors")
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(RunError, match="features.safetensors"):
        WaveformFeatures(tmp_path / "store", "mfcc").build(sources, 0)


class StandIn:
    """Takes the place of opensmile.Smile: remembers the rate, returns 88 numbers."""

    rates: list[int] = []

    def __init__(self, *settings):
        assert settings == ("eGeMAPSv02", "functionals")

    def process_signal(self, waveform, rate):
        self.rates.append(rate)
        values = np.full((1, 88), np.nan if len(waveform) < 4000 else waveform.std())
        return SimpleNamespace(to_numpy=lambda: values)


def test_functionals_are_asked_for_at_one_rate_and_never_hold_nan(tmp_path, sources, monkeypatch):
    names = SimpleNamespace(
        FeatureLevel=SimpleNamespace(Functionals="functionals"),
        FeatureSet=SimpleNamespace(eGeMAPSv02="eGeMAPSv02"),
        Smile=StandIn,
    )
    monkeypatch.setitem(sys.modules, "opensmile", names)
    short = tmp_path / "short.wav"
    soundfile.write(short, tone(300.0, 0.2, 5), 16_000)
    from audio.reading import inspect_audio

    store = WaveformFeatures(tmp_path / "store", "egemaps")
    bad = store.build({**sources, inspect_audio(short).hash: short}, 2)
    assert set(StandIn.rates) == {RATE}
    assert all(store[key].shape == (88,) for key in sources)
    assert list(bad) == [short] and "functionals" in bad[short]


def test_functionals_of_opensmile_itself(tmp_path, sources):
    opensmile = pytest.importorskip("opensmile")
    store = WaveformFeatures(tmp_path / "store", "egemaps")
    store.build(sources, 0)
    key = list(sources)[1]
    smile = opensmile.Smile(opensmile.FeatureSet.eGeMAPSv02, opensmile.FeatureLevel.Functionals)
    expected = smile.process_file(str(sources[key])).to_numpy()[0]
    assert np.allclose(store[key], expected, rtol=1e-4, atol=1e-4)


def test_which_functionals_are_read_is_decided_once_and_said(monkeypatch, caplog):
    monkeypatch.setattr("config.baselines.is_installed", lambda package: False)
    monkeypatch.setattr("system.extras.is_installed", lambda package: False)
    assert choose_functionals("svm_functionals", "auto") == "mfcc"
    assert "pip install -r requirements-classic.txt" in caplog.text
    with pytest.raises(InputError, match="requirements-classic.txt"):
        choose_functionals("svm_functionals", "egemaps")
    with pytest.raises(InputError, match="not lstm"):
        choose_functionals("lstm", "mfcc")
    monkeypatch.setattr("config.baselines.is_installed", lambda package: True)
    assert choose_functionals("svm_functionals", "auto") == "egemaps"
    assert choose_functionals("svm_functionals", "mfcc") == "mfcc"
    assert choose_functionals("majority", "auto") is None
