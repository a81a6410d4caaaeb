"""Counted work is what is counted by hand, and what other counters find."""

import pytest
import torch

from benchmarks import fusions, work
from features import SpectrogramImages


def test_bytes_are_those_read_and_written():
    a, b = torch.ones(2, 3), torch.ones(3, 4)
    assert work.traffic(lambda: a @ b) == 4 * (2 * 3 + 3 * 4 + 2 * 4)
    assert work.traffic(lambda: a.add_(1)) == 4 * (6 + 6)  # read and written in place
    assert work.traffic(lambda: a.half()) == 4 * 6 + 2 * 6
    assert work.traffic(lambda: a.T[0].view(2)) == 0


def test_networks_on_meta_tensors_have_the_work_of_real_ones():
    found, networks = work.network_work("small"), fusions.BACKBONES["small"]
    model = fusions.build(networks, fusions.FUSIONS["gmu"])
    size = fusions.size(model, fusions.images(networks, 1, "cpu"))
    assert found["parameters"] == size["parameters"]
    assert found["forward_flops"] == size["flops"]
    at_least = 4 * size["parameters"] / work.BATCH  # each weight is read once a batch
    assert at_least < found["forward_bytes"] < found["step_bytes"] < 4 * found["forward_bytes"]


def test_the_front_end_moves_more_for_longer_waveforms():
    front_end = SpectrogramImages(sample_rate=16_000, image_size=32)
    waveform = torch.randn(64_000)
    short, long = (work.front_end_bytes(front_end, waveform[:n]) for n in (16_000, 64_000))
    spectra = 4 * 2049 * (64_000 // 256)  # power of the Mel-STFT, written once at least
    assert long > spectra and long > 2 * short
    assert long == pytest.approx(work.front_end_bytes(front_end, waveform))
