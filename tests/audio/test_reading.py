"""Audio files become mono waveforms, or say why not."""

import hashlib

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given
from hypothesis import strategies as st

from audio import reading as audio
from audio.reading import BLOCK, MAX_PEAK, BadAudio, inspect_audio, read_audio


def tone(frequency, rate, seconds=0.5, amplitude=0.5):
    return amplitude * np.sin(2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate)


def peak(waveform, rate):
    """Return the frequency of the strongest FFT bin."""
    return np.abs(np.fft.rfft(waveform)).argmax() * rate / len(waveform)


def test_peer_10_stereo_is_averaged_over_channels_and_not_over_time(tmp_path):
    left, right = tone(400, 8000), np.full(4000, 0.25)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], 1), 8000, subtype="FLOAT")
    mono = read_audio(tmp_path / "a.wav", 8000)
    assert mono.shape == (4000,) and mono.dtype == np.float32
    np.testing.assert_allclose(mono, (left + right) / 2, atol=1e-6)


@pytest.mark.parametrize("rate", [8000, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_peer_10_resampling_runs_over_time_and_keeps_the_tone(tmp_path, rate, channels):
    samples = np.repeat(tone(1000, rate)[:, None], channels, 1)
    soundfile.write(tmp_path / "a.wav", samples, rate)
    mono = read_audio(tmp_path / "a.wav", 16_000)
    assert mono.shape == (8000,)
    assert peak(mono, 16_000) == pytest.approx(1000, abs=2)
    assert np.abs(mono[1000:-1000]).max() == pytest.approx(0.5, abs=0.01)


def test_resampling_lets_nothing_fold_down(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(6000, 16_000), 16_000)
    assert np.abs(read_audio(tmp_path / "a.wav", 8000)[200:-200]).max() < 1e-3


@pytest.mark.parametrize("name", ["a.wav", "a.flac"])
def test_wav_and_flac_hold_the_same_samples(tmp_path, name):
    samples = np.round(tone(300, 8000) * 32768) / 32768
    soundfile.write(tmp_path / name, samples, 8000, subtype="PCM_16")
    np.testing.assert_allclose(read_audio(tmp_path / name, 8000), samples, atol=1e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_peer_09_samples_that_are_not_numbers_are_refused(tmp_path, value):
    soundfile.write(tmp_path / "a.wav", np.array([0.1, value, 0.2]), 8000, subtype="FLOAT")
    with pytest.raises(BadAudio, match="NaN or infinite"):
        read_audio(tmp_path / "a.wav", 8000)


def test_peer_09_a_file_without_samples_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 8000)
    with pytest.raises(BadAudio, match="no samples"):
        read_audio(tmp_path / "a.wav", 8000)


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 192_000])
def test_peer_09_less_than_ten_milliseconds_are_refused(tmp_path, rate):
    shortest = rate // 100  # samples
    soundfile.write(tmp_path / "a.wav", tone(1000, rate)[: shortest - 1], rate)
    with pytest.raises(BadAudio, match="is too short: 9.* ms, where 10 ms are needed"):
        read_audio(tmp_path / "a.wav", 4000)
    soundfile.write(tmp_path / "a.wav", tone(1000, rate)[:shortest], rate)
    assert len(read_audio(tmp_path / "a.wav", 4000)) == 40


@pytest.mark.parametrize("name", ["text.wav", "headerless.raw", "missing"])
def test_peer_09_what_is_not_audio_is_refused_with_a_reason(tmp_path, name):
    (tmp_path / "text.wav").write_text("not audio")
    (tmp_path / "headerless.raw").write_bytes(bytes(100))
    with pytest.raises(BadAudio, match="cannot be read: .+"):
        read_audio(tmp_path / name, 8000)


def test_the_reason_does_not_repeat_the_path(tmp_path):
    (tmp_path / "text.wav").write_text("not audio")
    with pytest.raises(BadAudio) as error:
        read_audio(tmp_path / "text.wav", 8000)
    assert str(error.value) == "cannot be read: Format not recognised."


def test_a_file_cut_short_gives_no_more_than_it_holds(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(300, 8000), 8000, subtype="PCM_16")
    whole = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(whole[:2044])
    assert read_audio(tmp_path / "a.wav", 8000).shape == (1000,)


def test_a_recording_is_known_by_its_samples_and_rate(tmp_path):
    mono = np.round(tone(300, 8000) * 2**15) / 2**15  # exact in 16 bits
    mono[100:110] = 0
    soundfile.write(tmp_path / "a.wav", mono, 8000, subtype="PCM_16")
    soundfile.write(tmp_path / "a.flac", mono, 8000, subtype="PCM_24")
    soundfile.write(tmp_path / "stereo.wav", np.stack([mono, mono], 1), 8000, subtype="FLOAT")
    signs = np.where(mono == 0, -0.0, mono)
    soundfile.write(tmp_path / "signs.wav", np.stack([signs, signs], 1), 8000, subtype="FLOAT")
    first = inspect_audio(tmp_path / "a.wav")
    samples = b"8000 Hz" + mono.astype("<f4").tobytes()
    assert first.hash == hashlib.sha256(samples.replace(b"\0\0\0\x80", bytes(4))).hexdigest()
    for same in ("a.flac", "stereo.wav", "signs.wav"):
        assert inspect_audio(tmp_path / same).hash == first.hash
    soundfile.write(tmp_path / "rate.wav", mono, 16000, subtype="PCM_16")
    changed = mono.copy()
    changed[5] += 2**-15
    soundfile.write(tmp_path / "other.wav", changed, 8000, subtype="PCM_16")
    for other in ("rate.wav", "other.wav"):
        assert inspect_audio(tmp_path / other).hash != first.hash
    assert first.seconds == len(mono) / 8000


def test_samples_far_beyond_full_scale_are_refused_and_loud_ones_are_not(tmp_path):
    path = tmp_path / "loud.wav"
    soundfile.write(path, tone(440, 16000) * 1e30, 16000, subtype="FLOAT")
    with pytest.raises(BadAudio, match="full scale is 1"):
        read_audio(path, 16000)
    soundfile.write(path, tone(440, 16000) * 10, 16000, subtype="FLOAT")
    assert np.abs(read_audio(path, 16000)).max() > 1


@pytest.mark.parametrize("extra", [-1, 0, 1])
def test_blocks_join_without_a_seam(tmp_path, extra):
    samples = np.round(0.3 * np.random.default_rng(0).standard_normal(2 * BLOCK + extra) * 2**15)
    soundfile.write(tmp_path / "a.wav", samples / 2**17, 44_100, subtype="FLOAT")
    np.testing.assert_array_equal(read_audio(tmp_path / "a.wav", 44_100), samples / 2**17)
    whole = soxr.resample((samples / 2**17).astype(np.float32), 44_100, 16_000)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", 16_000), whole, atol=1e-6)


STEPS = {"PCM_U8": 2**-7, "PCM_16": 2**-15, "PCM_24": 2**-23, "FLOAT": 0.0}  # of the samples
FLOAT32 = 2**-23  # largest error of a float32 near 1, and of the mean of a few


@pytest.mark.promise("properties")
def test_what_is_drawn_is_read(tmp_path, count) -> None:
    """A sine on some channels: length, range, and the mean over channels, whatever the packing."""
    path = tmp_path / "drawn.wav"

    @given(
        rate=st.integers(1000, 200_000),
        sample_rate=st.integers(4000, 100_000),
        seconds=st.floats(0.02, 0.4),
        levels=st.lists(st.floats(0.05, 1.0), min_size=1, max_size=8),
        place=st.floats(0.02, 0.4),
        subtype=st.sampled_from(list(STEPS)),
    )
    def check(rate, sample_rate, seconds, levels, place, subtype):
        pitch = place * min(rate, sample_rate)  # Hz
        n, level, step = round(rate * seconds), np.mean(levels), STEPS[subtype] + FLOAT32
        sine = np.sin(2 * np.pi * pitch * np.arange(n) / rate)
        soundfile.write(path, sine[:, None] * levels, rate, subtype=subtype)
        mono = read_audio(path, rate)
        assert mono.dtype == np.float32 and mono.shape == (n,)
        np.testing.assert_allclose(mono, level * sine, atol=step)
        assert inspect_audio(path).seconds == n / rate
        again = read_audio(path, sample_rate)
        assert abs(len(again) - n * sample_rate / rate) <= 1
        assert np.abs(again).max() <= 1.3 * level + step  # edges ring
        middle = np.arange(len(again))[len(again) // 4 : -len(again) // 4]
        if min(len(middle), n // 2) > 400 and place < 0.3:  # what the edges do not reach
            expected = level * np.sin(2 * np.pi * pitch * middle / sample_rate)
            np.testing.assert_allclose(again[middle], expected, atol=0.01 + step)
        count("audio files drawn")

    check()


@pytest.mark.promise("properties")
@pytest.mark.parametrize("packing", ["WAV", "FLAC", "AIFF"])
def test_corrupt_files_are_read_or_refused_and_nothing_else(tmp_path, packing, count) -> None:
    soundfile.write(tmp_path / "whole", tone(300, 8000, 0.1), 8000, format=packing)
    whole, path = (tmp_path / "whole").read_bytes(), tmp_path / "corrupt.wav"

    @given(data=st.binary(min_size=1, max_size=60), place=st.integers(0, 120), cut=st.booleans())
    def check(data, place, cut):
        path.write_bytes(whole[:place] + data + (b"" if cut else whole[place + len(data) :]))
        try:
            waveform = read_audio(path, 8000)
        except BadAudio as error:
            assert str(error)
        else:
            assert np.isfinite(waveform).all() and 0 < np.abs(waveform).max() <= MAX_PEAK
        count("corrupt audio files")

    check()


@pytest.mark.promise("bad_audio")
@pytest.mark.parametrize("replace", [False, True])
def test_a_file_that_changes_while_it_is_inspected(tmp_path, monkeypatch, replace):
    """Its old samples must never be indexed under the hash of its new bytes."""
    path, other = tmp_path / "a.wav", tmp_path / "b.wav"
    soundfile.write(path, np.sin(np.arange(8000) / 3), 8000)
    soundfile.write(other, np.sin(np.arange(8000) / 5), 8000)
    before, compute = audio.inspect_audio(path), audio.fingerprint.fingerprint

    def change_meanwhile(*args):
        if replace:
            other.replace(path)
        else:
            path.write_bytes(other.read_bytes())
        return compute(*args)

    with monkeypatch.context() as patch:
        patch.setattr(audio.fingerprint, "fingerprint", change_meanwhile)
        if replace:  # the handle keeps the old file, whose hash and samples belong together
            assert audio.inspect_audio(path)[:2] == before[:2]
        else:
            with pytest.raises(audio.BadAudio, match="changed while it was read"):
                audio.inspect_audio(path)
    assert audio.inspect_audio(path).file != before.file
