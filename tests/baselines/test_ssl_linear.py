"""The linear layer on hidden states: its equation, which layer it weighs, runs beside fusions."""

from pathlib import Path

import numpy as np
import pytest
import torch

from baselines.fold import run_fold
from baselines.network import Recipe, Splits
from baselines.session import open_baseline
from baselines.ssl_linear import SslLinear, fit_ssl_linear
from config.baselines import load_baseline
from config.loading import load_config
from storage.run_folder import read_run
from system.errors import InputError
from tests.baselines.test_lstm import Item, items, labels
from tests.support.speech_models import save_model

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=30, batch_size=8, lr=0.05, weight_decay=0.0)


def states(some: list[Item]) -> np.ndarray:
    """Return 3 layers of 4 numbers, of which the last layer alone knows the class."""
    found = []
    for item in some:
        layers = np.random.default_rng(item.seed).normal(size=(3, 4))
        layers[2] = 3 * np.eye(4)[item.label] + layers[2] / 4
        found.append(layers)
    return np.stack(found).astype(np.float32)


def test_it_is_one_linear_layer_on_the_weighted_standardised_states() -> None:
    torch.manual_seed(0)
    mean, std, x = torch.randn(3, 4), torch.rand(3, 4) + 0.5, torch.randn(5, 3, 4)
    model = SslLinear(mean, std, 7)
    with torch.no_grad():
        model.speech.scores.copy_(torch.tensor([0.0, 1.0, -1.0]))
    weights = torch.tensor([0.0, 1.0, -1.0]).exp()
    weights = weights / weights.sum()
    summed = sum(weights[i] * ((x - mean) / std)[:, i] for i in range(3))
    expected = summed @ model.classifier.weight.T + model.classifier.bias
    torch.testing.assert_close(model(x), expected)


def test_the_layer_that_knows_the_class_gets_most_weight() -> None:
    splits, test = Splits(items(240, 0), items(30, 1000), labels, 3), items(30, 2000)
    fitted = fit_ssl_linear(states, splits, 0, CPU, RECIPE)
    assert fitted.predict(test).argmax(1).tolist() == labels(test)
    weights = fitted.tensors["speech.scores"].softmax(0)
    assert int(weights.argmax()) == 2 and len(fitted.history) == 30
    again = fit_ssl_linear(states, splits, 0, CPU, RECIPE)
    assert np.array_equal(again.predict(test), fitted.predict(test))


def test_it_runs_on_the_folds_of_the_fusion(recipe: Path, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "wavlm", "wavlm-layer")
    speech = ["model.branches=[cqt, mel, speech]", f"model.speech.model={folder}"]
    words = [f"run.root={tmp_path / 'runs'}", f"run.store={tmp_path / 'store'}", "run.folds=[1]"]
    child = tmp_path / "child_gmu.yaml"
    lines = [f"base: {recipe}", "name: child_gmu", "model:", "  branches: [cqt, mel, speech]"]
    child.write_text("\n".join([*lines, f"  speech: {{model: {folder}}}", ""]))
    assert load_config(child, words).model.reads == ("cqt", "mel", "speech")
    config = load_baseline(child, "ssl_linear", None, words)
    with open_baseline(config, []) as baseline:
        for fold in baseline.folds():
            run_fold(baseline, fold)
    run = read_run(tmp_path / "runs/child_ssl_linear")
    assert run.method == "ssl_linear" and run.folds[0].metrics.epochs > 1
    assert not list((tmp_path / "store").glob("*/cqt.f16"))  # it computes no images
    with pytest.raises(InputError, match="reads the speech model of the branch `speech`"):
        load_baseline(recipe, "ssl_linear", None, [*words, *speech[:0]])


@pytest.mark.parametrize(
    "override",
    [
        *("model.speech.lora_rank=2", "model.speech.unfrozen_layers=1", "model.speech.tokens=8"),
        *("model.speech.pooling=attention", "optim.optimizer.speech=adam", "model.vectors=v.npz"),
    ],
)
def test_what_trains_or_reads_a_speech_model_otherwise_is_refused(
    recipe: Path, override: str
) -> None:
    words = ["model.branches=[cqt, mel, speech]", "model.speech.model=wavlm"]
    key = override.partition("=")[0]
    with pytest.raises(InputError, match=f"{key} has no effect on the baseline ssl_linear"):
        load_baseline(recipe, "ssl_linear", None, [*words, override])


def test_the_fusion_of_the_file_may_tune_its_speech_model(recipe: Path) -> None:
    child = recipe.with_name("tuned.yaml")
    child.write_text(
        f"base: {recipe.name}\nname: tuned_cross_attention\n"
        "model: {fusion: cross_attention, branches: [cqt, mel, speech], "
        "speech: {model: wavlm, layers: [2], tokens: 4, lora_rank: 2}}\n"
    )
    speech = load_baseline(child, "ssl_linear", None, []).model.speech
    child.unlink()
    assert (speech.layers, speech.pooling, speech.precision) == ([2], "mean", "float16")
    assert speech.tokens is None and not speech.is_trained
