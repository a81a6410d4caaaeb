"""A stream has the samples of the whole file, and says where they cannot be used."""

import io
import itertools

import numpy as np
import pytest
import soundfile

from audio.opening import BadAudio
from audio.reading import read_audio
from audio.streaming import PCM_FORMATS, SoundStream, open_stream, pcm_stream


def joined(stream):
    return np.concatenate(list(stream.blocks()))


@pytest.mark.parametrize(("rate", "channels"), [(16_000, 1), (44_100, 2), (8000, 1)])
def test_blocks_joined_are_the_file_as_read_whole(tmp_path, monkeypatch, rate, channels):
    monkeypatch.setattr("audio.streaming.BLOCK", 3001 * channels)
    path = tmp_path / "a.wav"
    sound = np.random.default_rng(0).normal(0, 0.1, (2 * rate + 17, channels))
    soundfile.write(path, sound, rate, subtype="FLOAT")
    with open_stream(path, 16_000) as stream:
        found = joined(stream)
        assert stream.seconds == pytest.approx(len(sound) / rate)
    np.testing.assert_allclose(found, read_audio(path, 16_000), atol=1e-6)
    with open_stream(path) as stream:
        assert len(joined(stream)) == len(sound)


def test_a_file_longer_than_the_limit_of_whole_recordings_is_read(tmp_path, monkeypatch):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.random.default_rng(0).normal(0, 0.1, 16_000), 16_000)
    monkeypatch.setattr("audio.reading.MAX_MINUTES", 0.5 / 60)
    with pytest.raises(BadAudio, match="is longer than"):
        read_audio(path, 16_000)
    with open_stream(path, 16_000) as stream:
        assert len(joined(stream)) == 16_000


def test_flaws_have_times_and_become_zeros():
    sound = np.full((4000, 1), 0.25, np.float32)
    sound[1000] = np.nan
    sound[1010] = np.inf
    sound[3000:3002] = 5000
    stream = SoundStream(iter([sound[:1500], sound[1500:]]), 1000)
    found = joined(stream)
    assert (found[[1000, 1010, 3000, 3001]] == 0).all() and (found == 0).sum() == 4
    first, second = stream.flaws(0, 4)
    assert (first.start, first.end) == pytest.approx((1.0, 1.011))
    assert first.reason == "holds samples that are NaN or infinite"
    assert (second.start, second.end) == pytest.approx((3.0, 3.002))
    assert second.reason == "holds samples far above full scale"
    assert stream.flaws(1.005, 1.5) == stream.flaws(0.9, 1.005) == [first]  # a part of it is there
    assert stream.flaws(1.5, 2.5) == [] and stream.flaws(1.5, 4) == [second]
    assert stream.flaws(0, 4) == [second]  # what ended before 1.5 s is forgotten


def test_channels_that_cancel_are_a_flaw_where_they_do():
    noise = np.random.default_rng(0).normal(0, 0.1, 4000).astype(np.float32)
    good, bad = np.stack([noise, noise], 1), np.stack([noise, -noise], 1)
    stream = SoundStream(iter([good, bad, good]), 4000)
    joined(stream)
    (flaw,) = stream.flaws(0, 3)
    assert (flaw.start, flaw.end) == pytest.approx((1.0, 2.0))
    assert flaw.reason == "has channels that cancel"


class Pipe(io.BytesIO):
    """Hands out what a pipe would: pieces that end anywhere."""

    sizes = itertools.cycle([1, 7, 2, 1001])

    def read1(self, size=-1):
        return self.read(next(self.sizes))


@pytest.mark.parametrize("form", PCM_FORMATS)
def test_raw_samples_in_pieces_are_those_of_a_wav(tmp_path, form, caplog):
    sound = np.random.default_rng(0).integers(-(2**15), 2**15, 5000, np.int16)
    soundfile.write(tmp_path / "a.wav", sound, 16_000, subtype="PCM_16")
    expected = read_audio(tmp_path / "a.wav", 16_000)
    raw = sound.astype("<i2") if form == "s16le" else expected.astype("<f4")
    stream = pcm_stream(Pipe(raw.tobytes() + b"\1"), 16_000, form, 16_000)
    np.testing.assert_array_equal(joined(stream), expected)
    assert f"the last 1 bytes are no whole sample of {form}" in caplog.text
