"""Gradient caching: the gradients of a large batch, computed a few utterances at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from config.loading import load_config
from data import Batch
from models.losses import FusionLoss
from system.errors import InputError
from tests.support.models import small_model
from tests.training.test_engine import make_trainer
from training.engine import loss_terms, train_step
from training.gradient_cache import cached_backward
from training.state import TrainingState

N, SIDE = 10, 32
WITHOUT_NORMS = {"cqt_backbone": "test_vit", "mel_backbone": "test_vit"}  # layer norms alone


def batch_of(n: int = N) -> Batch:
    draw = torch.Generator().manual_seed(3)
    cqt, mel = torch.randn(2, n, 1, SIDE, SIDE, generator=draw)
    return Batch(torch.arange(n), cqt, mel, torch.arange(n) % 4)


def training(backbone_batch: int | None, **settings: object) -> TrainingState:
    torch.manual_seed(0)
    settings = {"fusion": "gmu_contrastive", "dropout": 0.0, **WITHOUT_NORMS, **settings}
    model, loss = small_model(**settings), FusionLoss(temperature_range=[0.01, 1.0])
    return make_trainer(model, optimizer="sgd", criterion=loss, backbone_batch=backbone_batch)


def slopes(state: TrainingState) -> dict[str, Tensor]:
    named = [*state.model.named_parameters(), *state.criterion.named_parameters()]
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def plain_backward(state: TrainingState, batch: Batch) -> None:
    loss_terms(state.criterion, state.model(batch.cqt, batch.mel), batch).total.backward()


def assert_equal(ours: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert ours.keys() == expected.keys() and len(ours) > 20
    largest = max(float(slope.abs().max()) for slope in expected.values())
    for name, slope in expected.items():
        torch.testing.assert_close(
            ours[name], slope, rtol=1e-4, atol=1e-6 * largest, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("fusion", ["gmu_contrastive", "cross_attention_contrastive", "cqt_only"])
def test_gradients_are_those_of_the_whole_batch(fusion: str) -> None:
    other = {"mel_backbone": None} if fusion == "cqt_only" else {}
    once, cached = training(None, fusion=fusion, **other), training(3, fusion=fusion, **other)
    plain_backward(once, batch_of())
    terms = cached_backward(cached, batch_of(), loss_terms, 1)
    assert_equal(slopes(cached), slopes(once))
    expected = loss_terms(once.criterion, once.model(batch_of().cqt, batch_of().mel), batch_of())
    torch.testing.assert_close(terms.total, expected.total, rtol=1e-5, atol=0)


def test_chunks_alone_have_other_gradients() -> None:
    """The test above can fail: negatives and the head's batch norm make a batch a whole."""
    once, apart = training(None), training(None)
    plain_backward(once, batch_of())
    for half in (slice(0, 5), slice(5, 10)):
        part = Batch(*(None if value is None else value[half] for value in batch_of()))
        plain_backward(apart, part)
    found, expected = slopes(apart), slopes(once)
    off = max(float((found[n] / 2 - expected[n]).norm() / expected[n].norm()) for n in expected)
    assert off > 0.1


def freeze_norms(state: TrainingState) -> None:
    for module in [*state.model.cqt_branch.modules(), *state.model.mel_branch.modules()]:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()


def test_frozen_batch_norms_leave_the_gradients_equal() -> None:
    named = {"cqt_backbone": "test_maxvit"}
    once, cached = training(None, **named), training(3, **named)
    for state in (once, cached):
        freeze_norms(state)
    plain_backward(once, batch_of())
    cached_backward(cached, batch_of(), loss_terms, 1)
    assert_equal(slopes(cached), slopes(once))


def test_batch_norms_see_chunks_count_them_once_and_draws_repeat() -> None:
    """By definition: the whole graph at once, of features that were computed chunk by chunk."""
    named = {"cqt_backbone": "test_maxvit", "dropout": 0.3, "drop_path_rate": 0.5}
    once, cached = training(None, **named), training(4, **named)
    batch = batch_of()
    for state in (once, cached):
        state.model.train()
        torch.manual_seed(5)
    seeds = torch.randint(2**62, (3,)).tolist()
    parts = []
    for seed, cqt, mel in zip(
        seeds, batch.cqt.tensor_split(3), batch.mel.tensor_split(3), strict=True
    ):
        torch.manual_seed(seed)
        parts.append(once.model.features(cqt, mel))
    output = once.model.fuse(tuple(torch.cat(branch) for branch in zip(*parts, strict=True)))
    loss_terms(once.criterion, output, batch).total.backward()
    torch.manual_seed(5)
    cached_backward(cached, batch, loss_terms, 1)
    assert_equal(slopes(cached), slopes(once))
    for ours, expected in zip(cached.model.buffers(), once.model.buffers(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-7)


def test_accumulated_steps_move_the_weights_alike() -> None:
    once, cached = training(None), training(3)
    first, second = batch_of(), batch_of()._replace(cqt=batch_of().mel, mel=batch_of().cqt)
    for state in (once, cached):
        train_step(state, [first, second])
    for ours, expected in zip(cached.trained, once.trained, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6)


def test_a_bad_step_moves_nothing() -> None:
    state = training(3, cqt_backbone="test_maxvit")
    train_step(state, [batch_of()])
    before = [value.clone() for value in state.model.state_dict().values()]
    bad = batch_of()
    bad.cqt[N - 1] = float("nan")  # in the last chunk alone
    assert train_step(state, [bad]).losses == []
    assert all(map(torch.equal, state.model.state_dict().values(), before))
    assert state.progress.bad_steps == 1 and state.progress.incidents[0]["parts"] == ["data"]
    assert train_step(state, [batch_of()]).losses


def test_the_graph_of_a_chunk_alone_is_kept() -> None:
    """Counts what autograd keeps for the backward pass, at most, of images' first layers."""

    def most_kept(backward: Callable[[TrainingState], object], backbone_batch: int | None) -> int:
        state, kept = training(backbone_batch), []
        layer = state.model.cqt_branch.patch_embed

        def note(module: nn.Module, images: tuple[Tensor], output: Tensor) -> None:
            if output.requires_grad:
                kept.append(len(output))

        layer.register_forward_hook(note)
        backward(state)
        return max(kept)

    assert most_kept(lambda state: plain_backward(state, batch_of()), None) == N
    assert most_kept(lambda s: cached_backward(s, batch_of(), loss_terms, 1), 3) == 3


def test_a_part_as_large_as_the_batch_is_refused(recipe) -> None:
    words = "train.backbone_batch=16 must be less than train.batch_size=16"
    with pytest.raises(InputError, match=words):
        load_config(recipe, ["train.batch_size=16", "train.backbone_batch=16"])


@pytest.mark.parametrize(("n", "chunk", "sizes"), [(5, 2, [3, 2]), (3, 2, [3]), (8, 2, [2] * 4)])
def test_no_chunk_has_one_utterance_which_batch_norms_cannot_take(monkeypatch, n, chunk, sizes):
    state, seen = training(chunk), []
    features = type(state.model).features
    monkeypatch.setattr(
        type(state.model),
        "features",
        lambda self, cqt, mel: seen.append(len(cqt)) or features(self, cqt, mel),
    )
    cached_backward(state, batch_of(n), loss_terms, 1)
    assert seen == sizes * 2  # both passes
