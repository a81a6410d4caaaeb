"""Augmentation of images and waveforms: repeatable, bounded, off at zero."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audio.augment import (
    _change_level,
    _shift,
    augment_images,
    augment_waveform,
    draw_crop,
    draw_mix,
    mix_images,
)
from features import SpectrogramImages

STRONG = {"freq_mask": 0.5, "time_mask": 0.5, "time_shift": 0.5}


def made_images(channels=1):
    """Return two images whose values name their place, so that any change can be seen."""
    ramp = torch.arange(channels * 20 * 30, dtype=torch.float32).reshape(channels, 20, 30)
    return ramp - 700, -ramp - 1


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_the_same_key_gives_the_same_images():
    assert same(augment_images(made_images(), (1, 2, 3), **STRONG),
                augment_images(made_images(), (1, 2, 3), **STRONG))  # fmt: skip


@pytest.mark.parametrize("key", [(0, 2, 3), (1, 0, 3), (1, 2, 0)])
def test_another_seed_epoch_or_clip_gives_other_images(key):
    first = augment_images(made_images(), (1, 2, 3), **STRONG)
    assert not same(first, augment_images(made_images(), key, **STRONG))


def test_global_chance_has_no_part_in_it():
    torch.manual_seed(0)
    first = augment_images(made_images(), (1, 2, 3), **STRONG)
    torch.manual_seed(1)
    assert same(first, augment_images(made_images(), (1, 2, 3), **STRONG))


@given(key=st.tuples(*[st.integers(0, 99)] * 3))
@settings(max_examples=20, deadline=None)
def test_zero_settings_change_nothing(key):
    assert same(augment_images(made_images(), key), made_images())


def test_the_images_given_are_left_alone():
    images = made_images()
    for clip in range(5):
        augment_images(images, (0, 0, clip), freq_mask=0.5, time_mask=0.5)
        augment_images(images, (0, 0, clip), time_shift=0.5)
    assert same(images, made_images())


@given(key=st.tuples(*[st.integers(0, 999)] * 3), part=st.floats(0, 0.9))
@settings(max_examples=40, deadline=None)
def test_a_mask_is_one_band_within_its_bound_and_holds_the_mean(key, part):
    for axis, setting in ((-2, "freq_mask"), (-1, "time_mask")):
        images = made_images(channels=3)
        for before, after in zip(
            images, augment_images(images, key, **{setting: part}), strict=True
        ):
            other = -1 if axis == -2 else -2
            changed = (before != after).all(0).any(other).nonzero().flatten()
            mean = before.mean((-2, -1))
            if len(changed):
                band = after.narrow(axis, int(changed[0]), int(changed[-1] - changed[0]) + 1)
                torch.testing.assert_close(band, mean[:, None, None].expand_as(band))
                assert band.shape[axis] <= round(part * before.shape[axis])
                assert (before != after).any(0).sum() <= band[0].numel()  # and nothing beside it


def test_masks_reach_every_row_and_column():
    touched = torch.zeros(20, 30, dtype=torch.bool)
    for clip in range(200):
        changed = augment_images(made_images(), (0, 0, clip), freq_mask=0.2, time_mask=0.2)[0]
        touched |= (changed != made_images()[0])[0]
    assert touched.all()


def test_a_shift_moves_both_images_alike_and_fills_with_the_floor():
    seen = set()
    for clip in range(30):
        after = augment_images(made_images(), (0, 0, clip), time_shift=0.4)
        shifts = []
        for old, new in zip(made_images(), after, strict=True):
            n = next(n for n in range(-30, 31) if torch.equal(new, shifted(old, n)))
            shifts.append(n)
        assert shifts[0] == shifts[1] and abs(shifts[0]) <= 0.4 * 30
        seen.add(shifts[0])
    assert min(seen) < 0 < max(seen)  # both ways


def test_a_shift_fills_the_channels_of_slopes_with_no_slope():
    level = torch.arange(-12.0, 0).reshape(1, 3, 4)
    image = torch.cat([level, level + 6.5, -level])  # (level, delta, delta-delta)
    moved = {n: _shift(image, n) for n in (1, -2)}
    assert moved[1][:, :, 0].tolist() == [[-12.0] * 3, [0.0] * 3, [0.0] * 3]
    assert moved[-2][:, :, 2:].unique(dim=2).flatten(1).tolist() == [[-12] * 3, [0] * 3, [0] * 3]
    assert torch.equal(moved[1][:, :, 1:], image[:, :, :-1])
    assert torch.equal(moved[-2][:, :, :2], image[:, :, 2:])


def shifted(image, n):
    moved = torch.full_like(image, float(image.min()))
    for column in range(image.shape[-1]):
        if 0 <= column - n < image.shape[-1]:
            moved[..., column] = image[..., column - n]
    return moved


def raised(image, n):
    return shifted(image.mT, n).mT


def test_a_shift_in_frequency_moves_both_images_alike_and_fills_with_the_floor():
    seen = set()
    for clip in range(40):
        after = augment_images(made_images(), (0, 0, clip), freq_shift=0.3)
        rows = [
            next(n for n in range(-20, 21) if torch.equal(new, raised(old, n)))
            for old, new in zip(made_images(), after, strict=True)
        ]
        assert rows[0] == rows[1]
        seen.add(rows[0])
    assert min(seen) == -6 and max(seen) == 6  # 0.3 of 20 rows, both ways


def test_a_shift_in_frequency_fills_the_channels_of_slopes_with_no_slope():
    level = torch.arange(-12.0, 0).reshape(1, 3, 4)
    moved = _shift(torch.cat([level, level + 6.5, -level]), 1, -2)
    assert moved[:, 0].tolist() == [[-12.0] * 4, [0.0] * 4, [0.0] * 4]
    assert torch.equal(moved[:, 1:], torch.cat([level, level + 6.5, -level])[:, :-1])


@given(key=st.tuples(*[st.integers(0, 999)] * 3), freq_shift=st.sampled_from([0.0, 0.4]))
@settings(max_examples=30, deadline=None)
def test_other_draws_are_those_of_the_key_in_their_order_whatever_the_shift(key, freq_shift):
    """In plain lines: a shift in time, then for each image width and place of both masks."""
    rng = np.random.default_rng(key)
    columns = round(rng.uniform(-0.5, 0.5) * 30)
    found = augment_images(made_images(), key, **STRONG, freq_shift=freq_shift)
    rows = range(-8, 9) if freq_shift else [0]
    possible = []
    for image in made_images():
        masks = [(round(rng.uniform(0, 0.5) * size), rng.random()) for size in (20, 30)]
        possible.append({n: masked(raised(shifted(image, columns), n), masks) for n in rows})
    assert any(
        all(torch.allclose(new, maybe[n]) for new, maybe in zip(found, possible, strict=True))
        for n in rows
    )


def masked(image, masks):
    """Set a band of rows, then one of columns, to the mean at that time."""
    (height, low), (width, left) = masks
    image, row = image.clone(), int(low * (20 - height + 1))
    if height:
        image[:, row : row + height] = image.mean()
    column = int(left * (30 - width + 1))
    if width:
        image[..., column : column + width] = image.mean()
    return image


@pytest.mark.parametrize("semitones", [-7, 3, 12])
def test_a_shift_of_the_constant_q_image_is_a_change_of_pitch(semitones):
    """A row is a semitone here: a tone moved by rows is the image of a transposed tone.

    Relative to the maximum: a transform scaled as librosa's has 3 dB less an octave higher.
    """
    images = SpectrogramImages(RATE, 72, {"fmin": 65.4, "n_bins": 72}, top_db=30.0)
    low, high = (
        images(torch.from_numpy(tone(frequency, 2 * RATE))[None]).cqt[0]
        for frequency in (370.0, 370.0 * 2 ** (semitones / 12))
    )
    inner = slice(18, 54)  # columns far from both ends of the tone
    moved = _shift(low, semitones, -2)[..., inner]
    torch.testing.assert_close(moved, high[..., inner], rtol=0, atol=0.2)
    assert int(moved[0, :, 9].argmax()) == 30 + semitones  # 370 Hz is 30 semitones above fmin


def test_a_level_is_added_to_both_images_within_its_range_both_ways():
    levels = []
    for clip in range(30):
        after = augment_images(made_images(), (0, 0, clip), level_db=6.0, top_db=1e4)
        change = float(after[0][0, 0, 0] - made_images()[0][0, 0, 0])
        for old, new in zip(made_images(), after, strict=True):
            torch.testing.assert_close(new, old + change, rtol=0, atol=1e-3)
        levels.append(change)
    assert -6 <= min(levels) < -4 and 4 < max(levels) <= 6


def test_a_level_ends_at_the_floor_and_leaves_slopes():
    image = torch.tensor([[[-80.0, -75.0], [-3.0, 1.0]], [[0.5, -0.5], [2.0, 0.0]]])
    assert _change_level(image, -10.0, 80.0)[0].tolist() == [[-80, -80], [-13, -9]]
    assert _change_level(image, 10.0, 80.0)[0].tolist() == [[-70, -65], [7, 11]]
    assert torch.equal(_change_level(image, 10.0, 80.0)[1], image[1])


@pytest.mark.parametrize("channels", ["static", "delta"])
@pytest.mark.parametrize("level", [-12.0, 5.0])
def test_a_level_of_the_images_is_a_gain_of_the_waveform_above_the_floor(level, channels):
    """Compared with the front end, which hears the louder or softer recording."""
    images = SpectrogramImages(RATE, 64, top_db=200.0, reference="full_scale", channels=channels)
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal(RATE) / 9).float()[None]
    for plain, changed in zip(images(noise), images(noise * 10 ** (level / 20)), strict=True):
        found = _change_level(plain[0], level, 200.0)
        torch.testing.assert_close(found, changed[0], rtol=0, atol=1e-3)


def test_one_change_of_the_images_does_not_move_the_chance_of_another():
    only = augment_images(made_images(), (1, 2, 3), **STRONG, freq_shift=0.3)
    level = augment_images(made_images(), (1, 2, 3), level_db=6.0, top_db=1e4)
    change = float(level[0][0, 0, 0] - made_images()[0][0, 0, 0])
    both = augment_images(
        made_images(), (1, 2, 3), **STRONG, freq_shift=0.3, level_db=6.0, top_db=1e4
    )
    for old, new in zip(only, both, strict=True):
        torch.testing.assert_close(new, old + change, rtol=0, atol=1e-3)


# Waveforms


RATE = 16_000  # Hz
SOUND = {"gain_db": 12.0, "snr_db": [5.0, 20.0], "speed": 0.2, "pitch": 3.0}


def tone(frequency=440.0, n=RATE):
    return (0.3 * np.sin(2 * np.pi * frequency / RATE * np.arange(n))).astype(np.float32)


def pitch_of(waveform):
    spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
    return spectrum.argmax() * RATE / len(waveform)


def power(waveform):
    return float(np.mean(np.square(waveform, dtype=np.float64)))


def test_a_waveform_changes_by_its_key_alone():
    def change(*key):
        return augment_waveform(tone(), RATE, key, **SOUND)

    np.testing.assert_array_equal(change(1, 2, 3), change(1, 2, 3))
    others = [change(*key) for key in ((0, 2, 3), (1, 0, 3), (1, 2, 0))]
    assert not any(np.array_equal(change(1, 2, 3), other) for other in others)


def test_a_waveform_without_settings_is_left_as_it_is():
    np.testing.assert_array_equal(augment_waveform(tone(), RATE, (0, 0, 0)), tone())


@pytest.mark.parametrize("clip", range(6))
def test_speed_changes_length_and_pitch_alike(clip):
    changed = augment_waveform(tone(), RATE, (0, 0, clip), speed=0.2)
    factor = RATE / len(changed)
    assert 0.8 <= factor <= 1.2 and factor != 1
    assert pitch_of(changed) == pytest.approx(440 * factor, abs=1.5)


@pytest.mark.parametrize("clip", range(6))
def test_pitch_changes_within_its_semitones_and_the_length_stays(clip):
    changed = augment_waveform(tone(), RATE, (0, 0, clip), pitch=3.0)
    semitones = 12 * np.log2(pitch_of(changed) / 440)
    assert len(changed) == RATE and 0.05 < abs(semitones) <= 3.05
    assert power(changed[2000:-2000]) == pytest.approx(power(tone()), rel=0.35)


def test_gain_is_a_factor_within_its_range_both_ways():
    levels = []
    for clip in range(20):
        changed = augment_waveform(tone(), RATE, (0, 0, clip), gain_db=6.0)
        factor = changed[5] / tone()[5]
        np.testing.assert_allclose(changed, factor * tone(), rtol=1e-5)
        levels.append(20 * np.log10(factor))
    assert -6 <= min(levels) < -3 and 3 < max(levels) <= 6


@pytest.mark.parametrize("level", [1.0, 0.01])
@pytest.mark.parametrize("ratio", [0.0, 10.0, 30.0])
def test_noise_has_the_chosen_ratio_to_the_clip(level, ratio):
    clip = level * tone()
    noise = augment_waveform(clip, RATE, (0, 0, 1), snr_db=[ratio, ratio]) - clip
    assert 10 * np.log10(power(clip) / power(noise)) == pytest.approx(ratio, abs=0.2)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05  # white


def test_the_ratio_is_drawn_from_its_range():
    ratios = []
    for clip in range(30):
        noise = augment_waveform(tone(), RATE, (0, 0, clip), snr_db=[5.0, 25.0]) - tone()
        ratios.append(10 * np.log10(power(tone()) / power(noise)))
    assert 4.8 <= min(ratios) < 9 and 21 < max(ratios) <= 25.2


def test_one_change_does_not_move_the_chance_of_another():
    noisy = augment_waveform(tone(), RATE, (0, 0, 1), snr_db=[10.0, 10.0]) - tone()
    louder = augment_waveform(tone(), RATE, (0, 0, 1), gain_db=6.0)
    both = augment_waveform(tone(), RATE, (0, 0, 1), snr_db=[10.0, 10.0], gain_db=6.0)
    np.testing.assert_allclose(both, (tone() + noisy) * (louder[5] / tone()[5]), atol=1e-6)


@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_very_short_and_silent_clips_survive_every_change(n):
    for waveform in (tone(n=n), np.zeros(n, np.float32)):
        changed = augment_waveform(waveform, RATE, (0, 0, 5), **SOUND)
        assert len(changed) >= 1 and np.isfinite(changed).all() and changed.dtype == np.float32


def test_a_crop_is_a_stretch_of_the_clip_from_anywhere():
    clip = torch.arange(100.0)
    starts = [int(draw_crop(clip, 40, (0, 0, c))[0]) for c in range(200)]
    for c, start in enumerate(starts):
        torch.testing.assert_close(draw_crop(clip, 40, (0, 0, c)), clip[start : start + 40])
    assert min(starts) <= 3 and max(starts) >= 57  # 60 is the last that fits
    padded = draw_crop(clip, 130, (0, 0, 0))
    torch.testing.assert_close(padded, torch.cat([clip, torch.zeros(30)]))


# mixup


def test_a_mix_is_the_sum_of_two_images_in_their_parts():
    keys = [(0, 0, c) for c in range(4)]
    mix = draw_mix(keys, 0.4)
    batch = torch.arange(4 * 2 * 3 * 3, dtype=torch.float32).reshape(4, 2, 3, 3)
    mixed = mix_images(batch, mix)
    for b in range(4):
        share, other = float(mix.share[b]), (b - 1) % 4
        torch.testing.assert_close(mixed[b], share * batch[b] + (1 - share) * batch[other])
        assert int(mix.partner[b]) == other


def test_a_clips_part_follows_from_its_key_and_spreads_as_the_beta_distribution():
    keys = [(3, 1, c) for c in range(2000)]
    shares = draw_mix(keys, 0.4).share
    torch.testing.assert_close(draw_mix(keys[5:9], 0.4).share, shares[5:9])
    assert float(shares.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(shares.var()) == pytest.approx(1 / (4 * (2 * 0.4 + 1)), abs=0.01)
