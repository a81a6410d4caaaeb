"""Gates of three sources on their way: evaluation, files of a fold, TensorBoard, labels."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from data import Batch
from features import Images
from gates.branch_ablation import check_joins
from inference.predictor import FoldModel
from inference.recording import Inputs
from models.contrastive import consistency, diversity, nt_xent
from models.heads import FusionOutput, build_head
from models.losses import FusionLoss
from models.settings import ModelSettings
from system.errors import InputError
from training.engine import loss_terms
from training.evaluate import Predictions, evaluate
from training.fold import _table
from training.tensorboard import Tracker

BRANCHES = ("cqt", "mel", "speech")
SETTINGS = ModelSettings(n_classes=4, fusion="gmu_contrastive", mlp_hidden_dim=8)


class Three(nn.Module):
    """A network whose third source is seen beside the images: their product."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.head = build_head(dict.fromkeys(BRANCHES, 4), SETTINGS)

    def forward(self, cqt: Tensor, mel: Tensor) -> FusionOutput:
        output: FusionOutput = self.head(cqt, mel, cqt * mel)
        return output


def make_batch(n: int = 6) -> Batch:
    torch.manual_seed(1)
    return Batch(torch.tensor([0, 1, 1, 1, 2, 2])[:n], *torch.randn(2, n, 4), torch.arange(n) % 4)


def test_shares_of_an_utterance_are_the_mean_over_its_crops() -> None:
    model, batch = Three().eval(), make_batch()
    with torch.inference_mode():
        each = model(batch.cqt, batch.mel).gate.numpy()
    found = evaluate(model, [batch], Accelerator(cpu=True)).gate
    assert found.shape == (3, 3, 4)
    expected = [each[:1].mean(0), each[1:4].mean(0), each[4:].mean(0)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, rtol=1e-6)


@pytest.mark.parametrize("contrast", ["pairs", "speech"])
@pytest.mark.parametrize("alpha_on", ["views", "features"])
def test_a_step_compares_the_views_of_all_sources(contrast: str, alpha_on: str) -> None:
    model, batch = Three(), make_batch()
    output = model(batch.cqt, batch.mel)
    loss = FusionLoss(contrast=contrast, branches=BRANCHES, alpha_on=alpha_on)
    terms = loss_terms(loss, output, batch)
    places = [(0, 1), (0, 2), (1, 2)] if contrast == "pairs" else [(0, 2), (1, 2)]
    acted_on = output.views if alpha_on == "views" else output.pooled
    for found, term, some in (
        (terms.nt_xent, lambda a, b: nt_xent(a, b, 0.07), output.views),
        (terms.consistency, consistency, acted_on),
        (terms.diversity, diversity, acted_on),
    ):
        expected = sum(term(some[i], some[j]) for i, j in places) / len(places)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(("shape", "has_gate"), [((2, 8), True), ((2, 3, 8), False)])
def test_a_table_has_the_gate_of_two_sources_alone(shape: tuple[int, ...], has_gate: bool) -> None:
    gate, probs = np.full(shape, 0.25), np.eye(2)
    predictions = Predictions(np.array([0, 1]), probs, gate, 0.5, probs.argmax(1))
    utterances = [SimpleNamespace(id=name, speaker="s") for name in "ab"]
    table = _table(utterances, predictions)
    assert (table.gate is not None) == has_gate
    if has_gate:
        assert table.gate.tolist() == [0.25, 0.25]


def test_tensorboard_shows_the_shares_of_each_source(tmp_path: Path) -> None:
    shares = np.array([0.125, 0.25, 0.625])[None, :, None] * np.ones((5, 1, 8))
    row = {"epoch": 1.0, "loss": 0.5, **{f"gate_mean_{b}": 0.3 for b in BRANCHES}}
    Tracker(tmp_path, ("a", "b")).log_epoch([row], None, shares)
    events = EventAccumulator(str(tmp_path)).Reload()
    tags = [f"gate, share of {branch}" for branch in BRANCHES]
    assert sorted(events.Tags()["histograms"]) == sorted(tags)  # and no gate of CQT against Mel
    assert {f"health/gate_mean_{b}" for b in BRANCHES} <= set(events.Tags()["scalars"])
    for tag, share in zip(tags, (0.125, 0.25, 0.625), strict=True):
        (event,) = events.Histograms(tag)
        values = event.histogram_value
        assert (values.min, values.max, values.num) == (share, share, 5 * 8)


@pytest.mark.parametrize("branches", [BRANCHES, BRANCHES[:2], BRANCHES[1:]])
def test_labels_have_a_gate_of_cqt_against_mel_or_shares(branches: tuple[str, ...]) -> None:
    head = build_head(dict.fromkeys(branches, 4), SETTINGS).eval()
    model = FoldModel.__new__(FoldModel)
    model.scale, model.model, model.reads = None, SimpleNamespace(head=head), ("cqt", "mel")
    model.network = lambda cqt, mel: head(*(cqt, mel, cqt * mel)[: len(branches)])
    images = [Images(*torch.randn(2, n, 4)) for n in (1, 3)]
    probs, gate, shares = model.outputs([Inputs(pair) for pair in images])
    outputs = [model.network(*pair) for pair in images]
    expected = torch.stack([output.logits.softmax(1).mean(0) for output in outputs])
    torch.testing.assert_close(probs, expected)
    assert head.has_one_gate == (gate is not None) == (branches == ("cqt", "mel"))
    if gate is not None:
        assert shares is None
        torch.testing.assert_close(gate, torch.stack([output.gate.mean() for output in outputs]))
    elif len(branches) == 3:
        each = [output.gate.mean((0, 2)) for output in outputs]
        torch.testing.assert_close(shares, torch.stack(each))
    else:  # the gate is the share of the first
        first = torch.stack([output.gate.mean() for output in outputs])
        torch.testing.assert_close(shares, torch.stack([first, 1 - first], 1))


def test_the_analysis_of_gates_refuses_one_branch_alone() -> None:
    def run(**config: object) -> SimpleNamespace:
        named = {"model.fusion": "gmu", **config}
        return SimpleNamespace(is_baseline=False, folder="runs/x", config=named)

    for branches in (None, ["mel", "cqt"], ["cqt", "speech"], ["cqt", "mel", "speech", "file"]):
        check_joins(run(**{"model.branches": branches}))
    with pytest.raises(InputError, match="model.fusion=speech_only, which reads one branch"):
        check_joins(run(**{"model.fusion": "speech_only"}))
