"""The average of the weights: its values, and that it is what dev selects and the fold keeps."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from storage.tensors import load_tensors
from tests.training.test_engine import Stub, loaders, made, make_trainer
from training.average import WeightAverage
from training.engine import fit


def test_it_is_the_recursion_of_its_derivation() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = WeightAverage(model, 0.8)
    expected = {k: v.double().numpy().copy() for k, v in model.state_dict().items()}
    for step in range(1, 61):
        model(torch.randn(5, 3))  # moves the running statistics
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter))
        average.update(step)
        d = min(0.8, step / (step + 9))  # 0.8 from step 36 on
        for name, weight in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * weight.double().numpy()
    found = average.averages()
    assert int(found.pop("1.num_batches_tracked")) == 60  # counters are copied
    for name, value in found.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_model_has_it_for_a_while_and_then_its_own_weights() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, 0.9)
    start = model.weight.detach().clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    average.update(1)  # d = 0.1
    own = model.weight.detach().clone()
    with pytest.raises(RuntimeError, match="in between"), average.in_model():
        assert torch.allclose(model.weight, start + 0.9)
        assert torch.equal(average.weights()["weight"], own)
        raise RuntimeError("in between")
    assert torch.equal(model.weight, own)


def test_dev_sees_it_and_the_best_weights_are_it(tmp_path: Path, monkeypatch) -> None:
    torch.manual_seed(0)
    state = make_trainer(Stub(), ema=0.5)
    seen = []
    evaluate = fit.__globals__["evaluate"]

    def watched(model, *args):
        seen.append({k: v.clone() for k, v in state.model.state_dict().items()})
        return evaluate(model, *args)

    monkeypatch.setitem(fit.__globals__, "evaluate", watched)
    train, dev = loaders()
    checkpoints = made(tmp_path)
    progress = fit(state, train, dev, 3, None, checkpoints)
    best = load_tensors(checkpoints.best(progress.best_epoch))
    for name, weight in best.items():
        assert torch.equal(weight, seen[progress.best_epoch - 1][name])
    own, averages = state.model.state_dict(), state.selected_weights()
    assert all(torch.equal(averages[name], seen[-1][name]) for name in own)
    assert any(not torch.equal(averages[name], own[name]) for name in own)
