"""Signs of collapse: measures by hand, alarms on made cases and none on a healthy one."""

import csv
import json
import logging
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from benchmarks import watching
from config.fusions import SOURCES
from evaluation.summary import summarize
from model_gmu import MaxMViTGMU
from models.contrastive import alignment, uniformity
from models.heads import build_head
from models.settings import ModelSettings
from system.files import read_json
from tests.support.models import small_model
from tests.support.runs import run_experiment
from tests.training.test_engine import Stub, batch, loaders, make_trainer
from training import build, collapse
from training.checkpoints import Checkpoints, Progress
from training.collapse import (
    POINT,
    CollapseMonitor,
    collapse_warnings,
    effective_rank,
    gate_measures,
)
from training.engine import fit, train_step

FOLD = "folds/fold-1_seed-0"
HEALTHY = {  # the worst of small networks that learned, see training/collapse.py
    "epoch": 3,
    "grad_cqt": 2.8e-3,
    "grad_mel": 3.2e-4,
    "gate_mean": 0.53,
    "gate_spread": 0.0055,
    "gate_saturated": 0.1,
    "rank_cqt": 22.0,
    "rank_mel": 5.3,
    "uniformity_cqt": -0.017,
    "uniformity_mel": -0.016,
}
BEFORE = HEALTHY | {"epoch": 2, "rank_cqt": 46.0, "rank_mel": 68.0}


# Measures


def test_gate_measures_by_hand() -> None:
    gate = np.array([[0.0, 0.5, 0.01], [1.0, 0.5, 0.03]])
    found = gate_measures(gate)
    assert found["gate_mean"] == pytest.approx(2.04 / 6)
    assert found["gate_spread"] == pytest.approx((0.5 + 0 + 0.01) / 3)
    assert found["gate_saturated"] == pytest.approx(3 / 6)


def test_a_gate_that_differs_over_units_alone_has_no_spread() -> None:
    assert gate_measures(np.tile([0.1, 0.9], (5, 1)))["gate_spread"] == 0


def test_gate_measures_of_three_sources_by_hand() -> None:
    shares = [[[1.0, 0.5], [0.0, 0.3], [0.0, 0.2]], [[0.6, 0.0], [0.3, 0.4], [0.1, 0.6]]]
    found = gate_measures(np.array(shares), ("cqt", "mel", "speech"))
    means = {b: found[f"gate_mean_{b}"] for b in ("cqt", "mel", "speech")}
    assert means == pytest.approx({"cqt": 2.1 / 4, "mel": 1.0 / 4, "speech": 0.9 / 4})
    assert sum(means.values()) == pytest.approx(1) and "gate_mean" not in found
    spreads = [0.2, 0.25, 0.15, 0.05, 0.05, 0.2]  # half the difference of two utterances
    assert found["gate_spread"] == pytest.approx(sum(spreads) / 6)
    assert found["gate_saturated"] == pytest.approx(1 / 4)  # without one source the others mix


@given(st.integers(0, 99))
@settings(max_examples=10)
def test_shares_of_two_sources_measure_as_their_gate_does(seed: int) -> None:
    gate = np.random.default_rng(seed).random((4, 3)) ** 9
    both = gate_measures(np.stack([gate, 1 - gate], 1))
    one = gate_measures(gate)
    assert both["gate_mean_cqt"] == pytest.approx(one["gate_mean"])
    for key in ("gate_spread", "gate_saturated"):
        assert both[key] == pytest.approx(one[key])


@pytest.mark.parametrize(
    ("embeddings", "rank"),
    [
        (torch.cat([torch.eye(4), -torch.eye(4)]), 4.0),  # as long in each of four directions
        (torch.outer(torch.arange(5.0), torch.ones(3)), 1.0),  # a line
        (7 + torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), 2.0),  # around another centre
        (torch.ones(6, 3), 0.0),  # a point
        (torch.zeros(6, 3), 0.0),
        (1 + 0.1 * POINT * torch.randn(6, 3), 0.0),  # as good as a point
    ],
)
def test_effective_rank_by_hand(embeddings, rank) -> None:
    assert effective_rank(embeddings) == pytest.approx(rank, abs=1e-3)


def test_effective_rank_of_two_unequal_directions() -> None:
    """Singular values 3 : 1: the entropy of (3/4, 1/4)."""
    z = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(z) == pytest.approx(math.exp(entropy), rel=1e-5)


@given(st.integers(2, 12), st.integers(1, 8), st.integers(0, 99))
@settings(max_examples=20)
def test_effective_rank_has_bounds_and_knows_no_order_scale_or_turn(n, width, seed) -> None:
    torch.manual_seed(seed)
    z = torch.randn(n, width).double()
    rank = effective_rank(z)
    assert 1 - 1e-6 <= rank <= min(n - 1, width) + 1e-6
    turn = torch.linalg.qr(torch.randn(width, width).double())[0]
    assert effective_rank(3 * z[torch.randperm(n)] @ turn) == pytest.approx(rank, rel=1e-6)


@pytest.mark.parametrize(
    "z", [torch.ones(1, 3), torch.tensor([[1.0], [math.inf]]), torch.full((3, 2), math.nan)]
)
def test_a_rank_that_cannot_be_said_is_nan(z) -> None:
    assert math.isnan(effective_rank(z))


# Alarms


def warnings_of(
    now: dict[str, float], before: tuple = (BEFORE,), n_classes: int = 4
) -> dict[str, str]:
    return {one["what"]: one["words"] for one in collapse_warnings([*before, now], n_classes)}


def test_a_healthy_history_raises_none() -> None:
    assert warnings_of(HEALTHY) == {} and warnings_of(BEFORE, ()) == {}


CASES = [
    ({"gate_saturated": 0.95}, "gate saturated", "95 % of its values are within 0.02"),
    ({"gate_spread": 0.0004}, "gate constant", "vary by 0.0004"),
    ({"grad_mel": 1e-5}, "gradients apart", "the CQT branch gets 280 times .* of the Mel's"),
    ({"grad_cqt": 2e-6}, "gradients apart", "the Mel branch gets 160 times .* of the CQT's"),
    ({"grad_cqt": 0.0}, "gradients apart", "the CQT branch gets no gradient"),
    ({"rank_cqt": 1.4}, "CQT embeddings collapse", "fill 1.4 directions, after 46.0 at best"),
    ({"rank_mel": 1.0}, "Mel embeddings collapse", "fill 1.0 directions, after 68.0 at best"),
    ({"uniformity_cqt": -1e-4}, "views collapse", "the CQT views of all dev utterances are"),
    ({"rank_speech": 0.0}, "speech embeddings collapse", "all dev embeddings are nearly identical"),
    ({"uniformity_file": 0.0}, "views collapse", "the file views of all dev utterances are"),
    ({"rank_mel": 0.0}, "Mel embeddings collapse", "all dev embeddings are nearly identical"),
]


@pytest.mark.parametrize(("change", "what", "words"), CASES)
def test_each_alarm_fires_on_its_case_alone(change, what, words) -> None:
    found = warnings_of(HEALTHY | change)
    assert list(found) == [what] and re.search(words, found[what])


@pytest.mark.parametrize(
    "change",
    [
        {"gate_saturated": 0.9},
        {"gate_spread": 5e-4},
        {"grad_cqt": 3.2e-4 / 99},
        {"rank_cqt": 1.5},  # half of the three directions that four classes need
        dict.fromkeys(HEALTHY.keys() - {"epoch"}, math.nan),  # an epoch without a good step
        {"rank_cqt": math.nan},
        {"uniformity_mel": -5e-4},
    ],
)
def test_none_fires_at_its_limit_or_on_what_is_not_known(change) -> None:
    assert warnings_of(HEALTHY | change) == {}


def test_columns_that_are_missing_give_no_alarm() -> None:
    for kept in ({}, {"grad_cqt": 1.0, "rank_cqt": 5.0}, {"grad_mel": 0.0}):
        assert warnings_of({"epoch": 1, **kept}, ()) == {}


def test_few_clips_that_fill_few_directions_from_the_start_are_not_a_fall() -> None:
    low = HEALTHY | {"rank_cqt": 1.9, "rank_mel": 1.9}
    assert warnings_of(low, (low,), n_classes=8) == {}


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_fall_to_one_direction_is_an_alarm_for_few_classes_too(n_classes: int) -> None:
    many, few = ({"epoch": e, "rank_cqt": r, "rank_mel": 9.0} for e, r in ((1, 40.0), (2, 1.1)))
    assert list(warnings_of(few, (many,), n_classes=n_classes)) == ["CQT embeddings collapse"]
    assert warnings_of(few | {"rank_cqt": 1.3}, (many,), n_classes=n_classes) == {}


def test_a_point_from_the_start_is_an_alarm() -> None:
    assert list(warnings_of({"epoch": 1, "rank_cqt": 0.0}, ())) == ["CQT embeddings collapse"]


# Watching


def test_gradients_are_root_mean_squares_of_each_branch() -> None:
    model = Stub()
    for i, p in enumerate(model.cqt.parameters()):
        p.grad = torch.full_like(p, 2.0 + i)
    found = CollapseMonitor(model).gradient_norms()
    n, m = model.cqt.weight.numel(), model.cqt.bias.numel()
    expected = math.sqrt((4 * n + 9 * m) / (n + m))
    assert found == {"grad_cqt": pytest.approx(expected), "grad_mel": 0.0}


def test_a_frozen_branch_has_no_gradient_and_rings() -> None:
    model = Stub()
    model.mel.requires_grad_(False)
    trainer = make_trainer(model)
    norms = train_step(trainer, [batch(8)]).norms
    assert norms["grad_mel"] == 0 < norms["grad_cqt"]
    row = {"epoch": 1, **norms}
    assert list(warnings_of(row, ())) == ["gradients apart"]


@pytest.mark.parametrize("fusion", ["gmu_contrastive", "cross_attention", "mel_only"])
def test_watching_measures_what_the_head_gets_and_makes(fusion: str) -> None:
    torch.manual_seed(0)
    model = small_model(fusion, image_size=64, mlp_hidden_dim=16).eval()
    accelerator, images = Accelerator(cpu=True), torch.randn(2, 6, 1, 64, 64)
    signs = CollapseMonitor(model)
    with torch.inference_mode():
        model(*images)  # before: not seen
        with signs.recording():
            for part in zip(*(p.split(4) for p in images), strict=True):
                model(*part)
        model(*images)
        features, output = model.features(*images), model(*images)
    gate = None if output.gate is None else output.gate.numpy()
    found = signs.epoch_measures(gate, accelerator)
    expected = {} if gate is None else gate_measures(gate)
    for key, feature in zip(SOURCES, features, strict=False):
        if feature is not None:
            pooled = feature.mean(1) if feature.ndim == 3 else feature
            expected[f"rank_{key}"] = effective_rank(pooled)
    if output.views is not None:
        expected["alignment"] = float(alignment(*output.views))
        for key, view in zip(("cqt", "mel"), output.views, strict=True):
            expected[f"uniformity_{key}"] = float(uniformity(view))
    assert found == pytest.approx(expected, rel=1e-3, abs=1e-5)
    assert signs.epoch_measures(None, accelerator) == {}  # all is forgotten


class ThreeSources(nn.Module):
    """A head of three sources and nothing else; tokens of one image, vectors of the others."""

    def __init__(self) -> None:
        super().__init__()
        fusion = "cross_attention_contrastive"
        settings = ModelSettings(n_classes=4, fusion=fusion, mlp_hidden_dim=8)
        self.head = build_head({"mel": 6, "speech": 8, "file": 4}, settings)

    def parts(self) -> dict[str, list[nn.Parameter]]:
        return {"head": list(self.head.parameters())}


def test_watching_measures_each_of_three_sources() -> None:
    torch.manual_seed(0)
    model = ThreeSources().eval()
    mel, speech, file = torch.randn(6, 5, 6), torch.randn(6, 8), torch.randn(6, 4)
    signs = CollapseMonitor(model)
    with torch.inference_mode(), signs.recording():
        output = model.head(mel, speech, file)
    assert signs.gradient_norms() == {}
    found = signs.epoch_measures(output.gate.numpy(), Accelerator(cpu=True))
    shares = output.gate.mean((0, 2)).tolist()
    z_mel, z_speech, z_file = output.views
    pairs = [(z_mel, z_speech), (z_mel, z_file), (z_speech, z_file)]
    expected = gate_measures(output.gate.numpy(), model.head.branches)
    expected |= dict(
        zip(("gate_mean_mel", "gate_mean_speech", "gate_mean_file"), shares, strict=True)
    )
    expected["alignment"] = sum(float(alignment(a, b)) for a, b in pairs) / 3
    for name, z, embeddings in (
        ("mel", z_mel, mel.mean(1)),
        ("speech", z_speech, speech),
        ("file", z_file, file),
    ):
        expected[f"rank_{name}"] = effective_rank(embeddings)
        expected[f"uniformity_{name}"] = float(uniformity(z))
    assert found == pytest.approx(expected, rel=1e-4)


def test_of_more_crops_than_are_needed_evenly_spread_ones_are_taken(monkeypatch) -> None:
    """Clips are sorted by speaker: the first ones are of one voice, here with fewer directions."""
    monkeypatch.setattr(collapse, "MOST_CROPS", 8)
    one, other = torch.eye(16)[:8], torch.eye(16)[8:]
    signs, kept = (
        CollapseMonitor(Stub()),
        torch.cat([one[:1].expand(8, 16), one, other]),
    )  # (24, 16)
    signs._seen = {"cqt": list(kept.split(5))}
    taken = kept[[0, 3, 6, 9, 13, 16, 19, 23]]
    found = signs.epoch_measures(None, Accelerator(cpu=True))["rank_cqt"]
    assert found == pytest.approx(effective_rank(taken)) and found > 4


def test_watching_ends_with_an_error_too() -> None:
    model = Stub()
    signs = CollapseMonitor(model)
    with pytest.raises(KeyError), signs.recording():
        raise KeyError
    model(*torch.randn(2, 3, 1, 4, 4))
    assert signs.epoch_measures(None, Accelerator(cpu=True)) == {}


def test_an_alarm_is_sounded_once_a_kind(tmp_path: Path, caplog) -> None:
    caplog.set_level(logging.WARNING)
    model = Stub()
    for p in model.mel.parameters():
        nn.init.zeros_(p)  # all clips at one point
    model.mel.requires_grad_(False)
    progress = fit(make_trainer(model), *loaders(), 3, None, Checkpoints(tmp_path))
    assert [(a["epoch"], a["what"]) for a in progress.collapse_warnings] == [
        (1, "gradients apart"),
        (1, "Mel embeddings collapse"),
    ]
    assert caplog.messages == [
        f"epoch 1, {a['what']}: {a['words']}" for a in progress.collapse_warnings
    ]
    assert [a["epochs"] for a in progress.collapse_warnings] == [[1, 2, 3], [1, 2, 3]]
    assert progress.training_issues().collapse_warnings == progress.collapse_warnings


def test_an_alarm_that_is_over_names_the_epochs_that_had_it() -> None:
    progress = Progress()
    for epoch, whats in ((1, "ab"), (2, "b"), (3, ""), (4, "b")):
        found = [{"epoch": epoch, "what": what, "words": ""} for what in whats]
        fresh = progress.record_warnings(found)
        assert [a["what"] for a in fresh] == (list("ab") if epoch == 1 else [])
    assert [(a["what"], a["epoch"], a["epochs"]) for a in progress.collapse_warnings] == [
        ("a", 1, [1]),
        ("b", 1, [1, 2, 4]),
    ]


# A whole run


def collapsed(model: MaxMViTGMU) -> MaxMViTGMU:
    """Give the gate a bias that no training of two epochs takes away."""
    nn.init.constant_(model.head.gmu.gate.bias, 30.0)
    return model


def test_a_gate_that_is_stuck_is_reported_wherever_a_run_is_read(
    tiny: Callable, monkeypatch
) -> None:
    make = build.build_model
    monkeypatch.setattr("training.build.build_model", lambda *args: collapsed(make(*args)))
    run = run_experiment(tiny(), [])
    alarmed = read_json(run / FOLD / "metrics.json")["training_issues"]["collapse_warnings"]
    assert {one["what"] for one in alarmed} == {
        "gate saturated",
        "gate constant",
        "gradients apart",
    }
    assert {one["epoch"] for one in alarmed} == {1}
    notes = (run / "summary.md").read_text()
    assert "seed 0: In epoch 1 and 1 later, up to 2, there was a sign of collapse, gate" in notes
    assert "100 % of its values are within 0.02 of 0 or 1" in notes
    assert "the Mel branch gets no gradient" in notes
    rows = list(csv.DictReader((run / FOLD / "history.csv").open()))
    assert [float(row["gate_saturated"]) for row in rows] == [1, 1]
    (file,) = (run / FOLD).glob("events.out.tfevents.*")
    events = EventAccumulator(str(file)).Reload()
    health = {tag for tag in events.Tags()["scalars"] if tag.startswith("health/")}
    columns = ("grad_cqt", "grad_mel", "gate_mean", "gate_spread", "gate_saturated")
    assert health == {f"health/{name}" for name in (*columns, "rank_cqt", "rank_mel")}
    logged = [event.value for event in events.Scalars("health/gate_mean")]
    assert logged == pytest.approx([float(row["gate_mean"]) for row in rows])


def test_a_run_of_before_alarms_were_known_is_summed_up(tiny: Callable) -> None:
    run = run_experiment(tiny("train.epochs=1"), [])
    metrics = read_json(run / FOLD / "metrics.json")
    assert (
        metrics["training_issues"].pop("collapse_warnings") == []
    )  # the tiny run is a healthy one
    (run / FOLD / "metrics.json").write_text(json.dumps(metrics))
    assert summarize(run).training_issues == {}


def test_the_cost_of_watching_is_measured_in_pairs(monkeypatch, capsys) -> None:
    asked, times = [], {"watched": 3.0, "plain": 2.0}
    monkeypatch.setattr(watching, "seconds", lambda what: asked.append(what) or times[what])
    assert watching.ratio("watched", "plain", 4) == (1.5, 1.5, 1.5)
    assert asked[2:6] == ["watched", "plain", "plain", "watched"]  # after a pair that warms up
    monkeypatch.undo()
    monkeypatch.setattr("sys.argv", ["watching.py", "--rounds", "2", "--dev", "1", "--batch", "2"])
    watching.main()
    said = capsys.readouterr().out
    assert "a watched step takes" in said and "a watched dev pass of 2 takes" in said
