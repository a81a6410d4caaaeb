"""The small LSTM: its size, padding, determinism, and the epoch that dev chose."""

from dataclasses import dataclass

import numpy as np
import torch

from baselines.lstm import AttentionLSTM, fit_lstm, with_differences
from baselines.network import Splits

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Item:
    """Stands for an utterance: its class and its noise."""

    label: int
    seed: int


def sequences(items):
    """Return sequences whose mean says the class, of different lengths."""
    found = []
    for item in items:
        rng = np.random.default_rng(item.seed)
        frames = rng.normal(size=(8 + item.seed % 5, 4)).astype(np.float32)
        found.append(frames + np.eye(4, dtype=np.float32)[item.label])
    return found


def labels(items):
    return [item.label for item in items]


def items(n, first):
    return [Item(i % 3, first + i) for i in range(n)]


def test_it_has_47_thousand_weights():
    model = AttentionLSTM(torch.zeros(40), torch.ones(40), 8)
    assert sum(p.numel() for p in model.parameters()) == 4 * 88 * (40 + 88 + 2) + 89 + 88 * 8 + 8


def test_padding_changes_nothing():
    torch.manual_seed(0)
    model = AttentionLSTM(torch.zeros(4), torch.ones(4), 3).eval()
    frames = torch.randn(2, 9, 4)
    short = model(frames[:1, :5], torch.tensor([5]))
    frames[0, 5:] = 100.0
    both = model(frames, torch.tensor([5, 9]))
    assert torch.allclose(both[:1], short, atol=1e-6)


def test_differences_stand_beside_the_coefficients():
    mfcc = np.array([[1.0, 5.0], [4.0, 4.0]], dtype=np.float32)
    assert with_differences(mfcc).tolist() == [[1, 5, 0, 0], [4, 4, 3, -1]]


def test_the_best_epoch_of_dev_predicts_and_a_seed_gives_the_same_weights():
    train, dev, test = items(24, 0), items(12, 100), items(9, 200)
    arguments = (sequences, Splits(train, dev, labels, 3))
    first = fit_lstm(*arguments, 7, CPU, epochs=6)
    uas = [row["dev_ua"] for row in first.history]
    assert first.best_epoch == 1 + int(np.argmax(uas))  # of equals the first
    shorter = fit_lstm(*arguments, 7, CPU, epochs=first.best_epoch)
    assert all(torch.equal(first.tensors[k], shorter.tensors[k]) for k in first.tensors)
    assert (first.predict(test) == shorter.predict(test)).all()
    other = fit_lstm(*arguments, 8, CPU, epochs=1)
    assert not torch.equal(first.tensors["classifier.weight"], other.tensors["classifier.weight"])


def test_inputs_are_standardised_by_training_frames_alone():
    train, dev = items(6, 0), items(6, 100)
    fitted = fit_lstm(sequences, Splits(train, dev, labels, 3), 0, CPU, epochs=1)
    frames = np.concatenate(sequences(train))
    assert np.allclose(fitted.tensors["mean"], frames.mean(0), atol=1e-5)
    assert np.allclose(fitted.tensors["std"], frames.std(0), atol=1e-5)


def test_it_learns_what_a_mean_shows():
    splits = Splits(items(60, 0), items(30, 100), labels, 3)
    fitted = fit_lstm(sequences, splits, 0, CPU, epochs=30)
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"] / 2
    assert fitted.choice["dev_ua"] > 0.7
