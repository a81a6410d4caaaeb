"""Statistics of the rows of speakers' images, worked by hand and by plain numpy."""

import numpy as np
import pytest
import torch

from audio.row_norm import FLOOR, RowNorm, RowSums, SpeakerNorm


def image(*rows):
    """Return one image (1, 1, H, W) of float16."""
    return np.array(rows, np.float16)[None, None]


def test_two_speakers_worked_by_hand():
    sums = RowSums(2, (1, 2, 2))
    assert sums.add(0, [image([-10, -30], [-80, -80]), image([0, -4], [-6, -10])])
    assert sums.add(1, [image([-5, -5], [-1, -3]), image([-7, -9], [-2, -2])])
    assert sums.add(0, [image([-10, -30], [-80, -80]), image([-8, -12], [-6, -10])])
    norm = sums.norm()
    assert norm.cqt_mean[:, 0].tolist() == [[-20, -80], [-5, -2]]
    assert norm.cqt_std[:, 0].tolist() == [[10, 0], [0, 1]]
    assert norm.mel_mean[:, 0].tolist() == [[-6, -8], [-8, -2]]
    # of 0, -4, -8, -12: squares of 6, 2, 2, 6 are 80, a quarter of it is 20
    assert norm.mel_std[:, 0] == pytest.approx(np.sqrt([[20, 4], [1, 0]]))
    cqt, mel = norm.of(torch.tensor([1, 0]))(
        torch.tensor([[[[-5.0, -4], [-1, -3]]], [[[-10.0, -30], [-80, -79]]]]),
        torch.zeros(2, 1, 2, 2),
    )
    silent = 1 / FLOOR  # a level that a constant row of the speaker never had
    expected = [[[0, silent], [1 / 1.1, -1 / 1.1]], [[10 / 10.1, -10 / 10.1], [0, silent]]]
    assert cqt[:, 0] == pytest.approx(np.array(expected), rel=1e-6)
    assert mel[0, 0, 0].tolist() == pytest.approx([8 / 1.1] * 2)


def test_rows_are_those_of_numpy_over_all_columns_of_all_crops():
    draw = np.random.default_rng(0)
    crops = [3, 1, 2, 5]
    images = [
        [draw.normal(-40, 9, (n, 3, 4, 7)).astype(np.float16) for _ in range(2)] for n in crops
    ]
    speakers = [1, 0, 1, 2]
    sums = RowSums(3, (3, 4, 7))
    for speaker, pair in zip(speakers, images, strict=True):
        assert sums.add(speaker, pair)
    found = sums.norm()
    for v, name in enumerate(("cqt", "mel")):
        for speaker in range(3):
            own = [pair[v] for s, pair in zip(speakers, images, strict=True) if s == speaker]
            rows = np.concatenate(own).astype(float).transpose(1, 2, 0, 3).reshape(3, 4, -1)
            mean, std = (getattr(found, f"{name}_{what}")[speaker] for what in ("mean", "std"))
            np.testing.assert_allclose(mean, rows.mean(2), rtol=1e-6)
            np.testing.assert_allclose(std, rows.std(2), rtol=1e-6)


def test_images_that_are_not_finite_are_told_and_left_out():
    sums = RowSums(1, (1, 1, 2))
    fine = [image([-1, -3]), image([-2, -4])]
    assert sums.add(0, fine)
    for wrong in (np.nan, np.inf):
        assert not sums.add(0, [image([-1, -3]), image([-2, wrong])])
        assert not sums.add(0, [image([wrong, -3]), image([-2, -4])])
    assert sums.norm().cqt_mean.item() == -2 and sums.norm().mel_std.item() == 1


def test_a_split_finds_the_rows_of_its_speakers():
    rows = RowNorm(*(torch.arange(3.0)[:, None, None] + k for k in range(4)))
    norm = SpeakerNorm(rows, torch.tensor([2, 0, 0, 1]))
    found = norm.of(torch.tensor([3, 0]))
    assert [values.flatten().tolist() for values in found] == [[1, 2], [2, 3], [3, 4], [4, 5]]
