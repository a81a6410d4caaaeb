"""A segment is read as if its samples were a file of their own, in every format."""

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio.reading import BadAudio, inspect_audio, inspect_segments, read_audio
from audio.segment import Segment
from features import SpectrogramImages
from tests.conftest import tone

RATE = 16_000
FORMATS = [
    ("a.wav", {"subtype": "PCM_16"}),
    ("a.wav", {"subtype": "PCM_24"}),
    ("a.wav", {"subtype": "DOUBLE"}),
    ("a.wav", {"subtype": "ALAW"}),
    ("a.wav", {"subtype": "IMA_ADPCM"}),
    ("a.wav", {"subtype": "GSM610"}),
    ("a.wav", {"format": "RF64"}),
    ("a.flac", {"subtype": "PCM_16"}),
    ("a.aiff", {"subtype": "PCM_16"}),
    ("a.ogg", {"subtype": "VORBIS"}),
    ("a.opus", {"format": "OGG", "subtype": "OPUS"}),
    ("a.mp3", {"bitrate_mode": "CONSTANT"}),
    ("a.mp3", {"bitrate_mode": "VARIABLE", "compression_level": 0.5}),
]


def sweep(seconds: float, channels: int = 1, rate: int = RATE) -> np.ndarray:
    """Return a rising tone in noise, in which no two places are alike: (T, channels)."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(0).standard_normal((len(time), channels))
    return 0.4 * np.sin(2 * np.pi * (100 + 50 * time) * time)[:, None] + 0.05 * noise


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("name", "how"), FORMATS)
def test_a_segment_has_the_samples_of_its_place_in_every_format(tmp_path, name, how, channels):
    if how.get("subtype") == "GSM610" and channels == 2:
        pytest.skip("GSM 6.10 has one channel")
    path = tmp_path / name
    soundfile.write(path, sweep(7, channels), RATE, **how)
    whole = read_audio(path, RATE)
    for start, end in [(0.0, 1.25), (0.3, 0.35), (2.0, 5.0), (3.3333, 3.9), (6.5, None)]:
        first, stop = round(start * RATE), None if end is None else round(end * RATE)
        part = read_audio(Segment(path, start, end), RATE)
        np.testing.assert_array_equal(part, whole[first:stop])
        seconds = inspect_audio(Segment(path, start, end)).seconds
        assert seconds == pytest.approx(len(whole[first:stop]) / RATE)


def test_a_segment_across_blocks_is_complete(tmp_path, monkeypatch):
    monkeypatch.setattr("audio.reading.BLOCK", 1000)
    for name in ("a.wav", "a.mp3"):
        soundfile.write(tmp_path / name, sweep(2), RATE)
        part = read_audio(Segment(tmp_path / name, 0.5, 1.5), RATE)
        np.testing.assert_array_equal(part, read_audio(tmp_path / name, RATE)[8000:24_000])


@pytest.mark.parametrize("name", ["two.wav", "two.flac"])
def test_two_segments_equal_two_files(tmp_path, name):
    tones = [np.int16(32_767 * tone(pitch, 1.0, 0)) for pitch in (300, 1500)]
    soundfile.write(tmp_path / name, np.concatenate(tones), RATE)
    images = SpectrogramImages(
        sample_rate=RATE,
        image_size=32,
        cqt={"fmin": 200.0, "n_bins": 40, "bins_per_octave": 9, "hop_length": 256},
        mel={"n_fft": 512, "hop_length": 256, "n_mels": 32},
    )
    segments = [Segment(tmp_path / name, 0.0, 1.0), Segment(tmp_path / name, 1.0)]
    for i, segment in enumerate(segments):
        alone = tmp_path / f"{i}.wav"
        soundfile.write(alone, tones[i], RATE)
        one, other = inspect_audio(segment), inspect_audio(alone)
        assert (one.hash, one.seconds) == (other.hash, 1.0)
        np.testing.assert_array_equal(one.words, other.words)
        for rate in (8000, RATE, 44_100):  # resampled without a trace of the other tone
            np.testing.assert_array_equal(read_audio(segment, rate), read_audio(alone, rate))
        pairs = [images(torch.from_numpy(read_audio(s, RATE))[None]) for s in (segment, alone)]
        assert all(torch.equal(a, b) for a, b in zip(*pairs, strict=True))
    assert inspect_audio(segments[0]).hash != inspect_audio(segments[1]).hash


@pytest.mark.parametrize("name", ["a.wav", "a.mp3"])
@pytest.mark.parametrize(
    ("start", "end", "reason"),
    [
        (1.0, 2.5, "reaches beyond its file, which ends at 2 s"),
        (2.5, 3.0, "reaches beyond its file, which ends at 2 s"),
        (2.5, None, "reaches beyond its file, which ends at 2 s"),
        (2.0, None, "holds no samples"),
        (1.995, 2.005, "is too short: 5 ms"),
        (1.0, 2.011, "reaches beyond its file, which ends at 2 s"),
    ],
)
def test_a_segment_that_its_file_does_not_hold_is_refused(tmp_path, name, start, end, reason):
    soundfile.write(tmp_path / name, sweep(2), RATE)
    for work in (inspect_audio, lambda source: read_audio(source, RATE)):
        with pytest.raises(BadAudio, match=reason):
            work(Segment(tmp_path / name, start, end))


def test_an_end_rounded_by_less_than_10_ms_is_the_end_of_the_file(tmp_path):
    soundfile.write(tmp_path / "a.wav", sweep(2.003), RATE)
    assert len(read_audio(Segment(tmp_path / "a.wav", 1.0, 2.01), RATE)) == round(1.003 * RATE)


def test_the_rest_of_the_file_is_not_checked(tmp_path):
    samples = sweep(2)[:, 0]
    samples[20_000] = np.nan
    samples[:8000] = 0
    path = tmp_path / "a.wav"
    soundfile.write(path, samples, RATE, subtype="FLOAT")
    assert len(read_audio(Segment(path, 0.5, 1.0), RATE)) == 8000
    segments = [Segment(path, 0.5, 1.0), Segment(path, 0.0, 0.5), Segment(path, 1.0), path]
    good, *bad = inspect_segments(segments)
    assert good.seconds == 0.5
    assert [str(reason) for reason in bad] == [
        "holds no sound: every sample is 0",
        *["holds samples that are NaN or infinite"] * 2,
    ]


def test_a_segment_of_a_file_longer_than_an_hour_is_read(tmp_path):
    path = tmp_path / "long.flac"
    soundfile.write(path, sweep(3700, rate=1000), 1000)
    with pytest.raises(BadAudio, match="longer than 60 minutes"):
        read_audio(path, 1000)
    assert len(read_audio(Segment(path, 3650.0, 3652.5), 1000)) == 2500


def test_a_flac_whose_header_tells_of_more_samples_is_read_to_its_real_end(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, sweep(2), RATE)
    data = bytearray(path.read_bytes())
    whole = read_audio(path, RATE)
    data[21] |= 0x0F  # the highest bits of the number of samples
    path.write_bytes(data)
    np.testing.assert_array_equal(read_audio(Segment(path, 0.5, 1.5), RATE), whole[8000:24_000])
    for start in (1.5, 5.0):
        with pytest.raises(BadAudio, match=r"reaches beyond|cannot be read"):
            read_audio(Segment(path, start, 6.0), RATE)


def test_a_segment_names_file_and_times():
    assert str(Segment(Path("a/b.wav"), 0.1 + 0.2, 3.0)) == "a/b.wav (0.3 s to 3 s)"
    assert Segment(Path("a/b.wav"), 1.5).name == "b.wav (1.5 s to end)"
