"""Near-identical recordings: found after what files go through, and nothing else is."""

import io
from itertools import combinations

import numpy as np
import pytest
import soundfile
import soxr
from scipy.signal import lfilter

from audio import fingerprint as room
from audio.fingerprint import Copy, bit_error, fingerprint, near_copies

RATE = 16_000
BLOCK = 160  # samples, 10 ms: formants stand still


def speech(seed: int, seconds: float = 2.0) -> np.ndarray:
    """Return pulses of moving pitch through three moving formants, like no other seed's: (T,)."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    knots = np.arange(0, seconds + 0.3, 0.12)

    def curve(low, high):
        return np.interp(time, knots, draw.uniform(low, high, len(knots)))

    cycles = np.cumsum(curve(90, 260)) / RATE
    source = np.diff(np.floor(cycles), prepend=0.0) + 0.02 * draw.standard_normal(len(time))
    total = np.zeros(len(time))
    for low, high in [(250, 900), (800, 2300), (2200, 3200)]:
        formant, state = curve(low, high), np.zeros(2)
        for start in range(0, len(time), BLOCK):
            turn = np.cos(2 * np.pi * formant[start] / RATE)
            part = slice(start, start + BLOCK)
            made, state = lfilter([0.03], [1, -1.94 * turn, 0.97**2], source[part], zi=state)
            total[part] += made
    total *= curve(0, 1)
    return (0.5 * total / np.abs(total).max()).astype(np.float32)


def add_noise(signal: np.ndarray, snr: float, seed: int = 0) -> np.ndarray:
    """Add white noise at a ratio in dB: (T,) -> (T,)."""
    noise = np.random.default_rng(seed).standard_normal(len(signal))
    level = np.sqrt(np.mean(signal**2)) * 10 ** (-snr / 20)
    return (signal + level * noise).astype(np.float32)


def mp3(signal):
    packed = io.BytesIO()
    soundfile.write(packed, signal, RATE, format="MP3")
    packed.seek(0)
    return soundfile.read(packed, dtype="float32")[0]


def middle(signal):
    return signal[len(signal) // 5 : -len(signal) // 5]


CHANGES = {
    "gain": lambda x: 0.1 * x,
    "clipped": lambda x: np.clip(4 * x, -0.5, 0.5),
    "polarity": lambda x: -x,
    "mp3": mp3,
    "noise": lambda x: add_noise(x, 20),
    "trimmed": lambda x: x[5000:],
    "padded": lambda x: np.concatenate([np.zeros(9001), x, np.zeros(3000)]).astype(np.float32),
    "middle": middle,
    "all at once": lambda x: add_noise(0.3 * mp3(middle(x)), 25),
}


def words_of(signal, rate=RATE):
    return fingerprint(np.asarray(signal, np.float32), rate)


@pytest.fixture(scope="module")
def voices():
    """Return {name: waveform} of 12 clips of 1.6 to 4 s."""
    return {f"clip {i:02d}": speech(i, 1.6 + 0.2 * i) for i in range(12)}


@pytest.fixture(scope="module")
def fingerprints(voices):
    return {name: words_of(signal) for name, signal in voices.items()}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_and_named_and_nothing_else(voices, fingerprints, change):
    copies = {f"{name}, again": words_of(CHANGES[change](x)) for name, x in voices.items()}
    found = near_copies(fingerprints | copies)
    assert [pair[:2] for pair in found] == [(name, f"{name}, again") for name in voices]
    assert all(0 <= pair.error <= room.MAX_ERROR for pair in found)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 48_000])
def test_another_sampling_rate_is_the_same_recording(voices, fingerprints, rate):
    for name, signal in voices.items():
        again = words_of(soxr.resample(signal, RATE, rate), rate)
        (found,) = near_copies({name: fingerprints[name], "again": again})
        assert found.error < 0.02


def test_louder_noise_differs_more(voices, fingerprints):
    for name, signal in voices.items():
        pairs = [
            near_copies({"a": fingerprints[name], "b": words_of(add_noise(signal, snr))})[0].error
            for snr in (40, 30, 20)
        ]
        assert pairs == sorted(pairs) and pairs[0] < pairs[2]


def test_level_and_polarity_change_no_word(fingerprints, voices):
    for name, signal in voices.items():
        assert np.array_equal(words_of(-signal / 8), fingerprints[name])


def test_unrelated_clips_are_far_from_the_limit(fingerprints):
    assert near_copies(fingerprints) == []
    errors = [
        bit_error(a, b, offset)
        for a, b in combinations(fingerprints.values(), 2)
        for offset in range(-20, 21, 4)
    ]
    assert min(errors) > room.MAX_ERROR + 0.05


def test_what_says_nothing_is_not_a_copy(voices):
    time = np.arange(2 * RATE) / RATE
    noise = np.random.default_rng(0)
    silent = {"empty": np.zeros(0), "one": np.ones(1), "none": np.zeros(2 * RATE)}
    for name, signal in silent.items():
        assert not words_of(signal).any(), name
    others = {
        "low tone": np.sin(2 * np.pi * 440 * time),
        "high tone": np.sin(2 * np.pi * 1200 * time),
        "one noise": noise.standard_normal(2 * RATE),
        "other noise": noise.standard_normal(2 * RATE),
        **{f"{name} twice": signal for name, signal in silent.items()},
        **silent,
    }
    assert near_copies({name: words_of(signal) for name, signal in others.items()}) == []
    short = voices["clip 03"][8000 : 8000 + round(0.8 * RATE)]
    assert near_copies({"a": words_of(short), "b": words_of(short)}) == []
    assert near_copies({}) == []
    assert near_copies({"alone": words_of(voices["clip 03"])}) == []


def test_silence_around_a_clip_has_no_words(fingerprints, voices):
    signal = voices["clip 05"]
    padded = np.concatenate([np.zeros(RATE), signal, np.zeros(RATE)]).astype(np.float32)
    words = words_of(padded)
    assert not words[:40].any() and not words[-40:].any()
    assert np.count_nonzero(words) <= len(fingerprints["clip 05"]) + 2 * room.FRAME // room.HOP


def test_a_word_a_hop_from_the_first_whole_frame_on():
    rest = room.FRAME + 3 * room.HOP
    noise = np.random.default_rng(0).standard_normal(rest)
    assert fingerprint(noise[: room.FRAME + room.HOP - 1].astype("f4"), 8000).shape == (0,)
    for n in range(1, 4):
        short = noise[: room.FRAME + n * room.HOP].astype("f4")
        assert fingerprint(short, 8000).shape == (n,)


def test_bits_are_what_the_paper_says():
    """Bit m of frame n: E(n, m) - E(n, m + 1) against frame n - 1; a plain sum for each."""
    signal = soxr.resample(speech(1, 1.2), RATE, 8000, quality="LQ").astype(np.float64)
    window = np.hanning(room.FRAME)
    starts = range(0, len(signal) - room.FRAME + 1, room.HOP)
    power = [np.abs(np.fft.rfft(window * signal[s : s + room.FRAME])) ** 2 for s in starts]
    edges = np.round(room.EDGES * room.FRAME / 8000).astype(int)
    pairs = list(zip(edges, edges[1:], strict=False))
    energy = np.array([[p[a:b].sum() for a, b in pairs] for p in power])  # (frames + 1, 33)
    assert energy.shape[1] == 33
    words = words_of(speech(1, 1.2))
    assert len(words) == len(energy) - 1
    wrong = 0
    for n in np.flatnonzero(words):
        for m in range(32):
            step = (energy[n + 1, m + 1] - energy[n + 1, m]) - (energy[n, m + 1] - energy[n, m])
            wrong += (step > 0) != bool(words[n] >> (31 - m) & 1)
    assert wrong <= 3  # float32 against float64 where both are nearly zero


def filled(*values):
    """Return words that fill up to the least number of frames that is compared."""
    return np.array([*values, *[7] * (room.MIN_FRAMES - len(values))], np.uint32)


def test_the_error_is_the_part_of_bits_that_differ():
    assert bit_error(filled(1, 2), filled(1, 2), 0) == 0
    assert bit_error(filled(1), filled(2), 0) == 2 / (32 * 40)
    assert bit_error(filled(1, 0xFFFFFFFF), filled(2, 0xFFFF), 0) == 18 / (32 * 40)
    longer = np.concatenate([np.full(9, 5, np.uint32), filled(1, 3)])
    assert bit_error(longer, filled(1, 3), 9) == bit_error(filled(1, 3), longer, -9) == 0
    assert bit_error(longer, filled(1, 3), 8) == 3 / (32 * 40)  # 5 1 3 7 meet 1 3 7 7


def test_silent_frames_compare_to_nothing_and_too_few_frames_to_no_one():
    assert bit_error(filled(0), filled(0), 0) == 1  # 39 frames left
    one_more = np.append(filled(0), np.uint32(7))
    assert bit_error(one_more, one_more, 0) == 0
    some = np.arange(1, 101, dtype=np.uint32)
    assert bit_error(some, some, 50) < 1  # half of the shorter one
    assert bit_error(some, some, 51) == 1
    assert bit_error(some, some, 200) == bit_error(some, some, -200) == 1


@pytest.mark.parametrize(("flipped", "found"), [(6, True), (8, False)])
def test_the_limit_is_a_fifth_of_the_bits(flipped, found):
    """Of 100 frames 10 are equal and propose the offset; of 90 so many of 32 bits differ."""
    words = np.random.default_rng(0).integers(1, 2**32, 100, dtype=np.uint32)
    other = words ^ np.uint32(2**flipped - 1)
    other[::10] = words[::10]
    pairs = near_copies({"a": words, "b": other})
    assert pairs == ([Copy("a", "b", 0.9 * flipped / 32)] if found else [])


def test_pairs_are_sorted_and_do_not_depend_on_the_order(fingerprints, voices):
    everyone = fingerprints | {
        "a": words_of(0.5 * voices["clip 07"]),
        "b": words_of(middle(voices["clip 07"])),
        "c": words_of(add_noise(voices["clip 02"], 30)),
    }
    found = near_copies(everyone)
    assert [pair[:2] for pair in found] == [
        ("clip 02", "c"), ("clip 07", "a"), ("clip 07", "b"), ("a", "b")
    ]  # fmt: skip
    backwards = near_copies(dict(reversed(everyone.items())))
    unordered = {frozenset(pair[:2]): pair.error for pair in found}
    assert {frozenset(pair[:2]): pair.error for pair in backwards} == unordered
    places = list(everyone)
    for first, second, _ in found:
        assert places.index(first) < places.index(second)


def test_the_best_offset_counts():
    """A clip that says its first half twice meets its double at two offsets."""
    half = speech(40, 1.2)
    twice = np.concatenate([half, add_noise(half, 15)])
    (found,) = near_copies({"half": words_of(half), "twice": words_of(twice)})
    assert found == Copy("half", "twice", found.error) and found.error < 0.02
    (found,) = near_copies({"twice": words_of(twice), "half": words_of(half)})
    assert found.error < 0.02


def test_every_pair_of_fifteen_equal_clips_is_found(fingerprints):
    many = {f"same {i:02d}": fingerprints["clip 04"] for i in range(15)}
    found = near_copies(fingerprints | many)
    assert len(found) == 15 * 16 // 2
    assert all(pair.error == 0 for pair in found)


def test_of_very_many_equal_clips_all_hang_together(fingerprints):
    """Not every pair is named then, but no clip is left out and none can be cut off."""
    many = {f"same {i:02d}": fingerprints["clip 04"] for i in range(60)}
    group = {"same 00"}
    pairs = near_copies(many)
    for _ in many:
        group |= {name for pair in pairs for name in pair[:2] if group & set(pair[:2])}
    assert group == set(many)
