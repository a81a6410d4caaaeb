"""Gradient checkpointing keeps less and changes nothing: outputs, gradients, batch norms."""

import pytest
import torch
from torch import nn

from model_gmu import MaxMViTGMU, check_settings
from models.backbones import create_backbone
from models.recompute import recompute_blocks
from models.settings import ModelSettings
from system.errors import InputError

SIDE = 64


def backbone(name: str) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone(name, SIDE, 1, False, None, "cqt", drop_path_rate=0.5)


def train_two_steps(model: nn.Module) -> tuple[list[torch.Tensor], dict[str, torch.Tensor], int]:
    """Return gradients, buffers, and the bytes that the last step kept for its backward pass."""
    torch.manual_seed(1)
    kept = 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += tensor.numel() * tensor.element_size()
        return tensor

    model.train()
    for _ in range(2):
        kept = 0
        images = torch.rand(4, 1, SIDE, SIDE)
        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            loss = model(images).square().sum()
        loss.backward()
    return [p.grad for p in model.parameters()], dict(model.named_buffers()), kept


@pytest.mark.parametrize(("name", "n_blocks"), [("test_maxvit", 4), ("mvitv2_micro", 5)])
def test_it_keeps_less_with_equal_gradients_and_statistics(name: str, n_blocks: int) -> None:
    plain, less = backbone(name), backbone(name)
    assert recompute_blocks(less) == n_blocks
    gradients, buffers, kept = train_two_steps(plain)
    again, counted, kept_less = train_two_steps(less)
    assert kept_less < 0.5 * kept
    for one, other in zip(gradients, again, strict=True):
        assert torch.equal(one, other)
    assert buffers.keys() == counted.keys()
    for key, buffer in buffers.items():
        assert torch.equal(buffer, counted[key]), key
    if name == "test_maxvit":
        trackers = [key for key in counted if key.endswith("num_batches_tracked")]
        assert trackers and all(counted[key] == 2 for key in trackers)


def test_random_numbers_of_mps_are_drawn_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.14.1 repeats them for the CPU and CUDA alone; a generator stands for those of MPS."""
    device = torch.Generator()

    class Dropping(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * torch.bernoulli(torch.full_like(x, 0.5), generator=device)

    def slopes(again: bool) -> torch.Tensor:
        torch.manual_seed(0)
        device.manual_seed(0)
        stage = nn.Module()
        stage.blocks = nn.Sequential(Dropping(64, 64), Dropping(64, 64))
        if again:
            assert recompute_blocks(stage) == 2
        stage.blocks(torch.rand(2, 64)).square().sum().backward()
        left = torch.bernoulli(torch.full((64,), 0.5), generator=device)
        return torch.cat([stage.blocks[0].weight.grad.flatten(), left])

    monkeypatch.setattr("models.recompute._is_on_mps", lambda block: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", device.get_state)
    monkeypatch.setattr(torch.mps, "set_rng_state", device.set_state)
    assert torch.equal(slopes(True), slopes(False))


def test_evaluation_computes_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = backbone("test_maxvit").eval()
    expected = model(images := torch.rand(2, 1, SIDE, SIDE))
    recompute_blocks(model)
    monkeypatch.setattr("models.recompute.checkpoint", None)
    assert torch.equal(model(images), expected)


def test_the_weights_keep_their_names() -> None:
    model = backbone("mvitv2_micro")
    before = list(model.state_dict())
    recompute_blocks(model)
    assert list(model.state_dict()) == before


def test_a_network_without_blocks_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from config.schema import ModelConfig

    values = {"fusion": "gmu", "cqt_backbone": "test_maxvit", "mel_backbone": "mvitv2_micro"}
    section = ModelConfig(**values, image_size=SIDE, pretrained=False)
    check_settings(section, gradient_checkpointing=True)
    monkeypatch.setattr("models.recompute.BLOCKS", "no such name")
    with pytest.raises(InputError, match="cqt_backbone='test_maxvit' has no blocks"):
        check_settings(section, gradient_checkpointing=True)


def test_both_branches_of_the_network_are_computed_again() -> None:
    names = {"cqt_backbone": "test_maxvit", "mel_backbone": "mvitv2_micro"}
    settings = ModelSettings(fusion="gmu", n_classes=4, image_size=SIDE, **names)
    network = MaxMViTGMU(settings)
    network.checkpoint_gradients()
    for branch in (network.cqt_branch, network.mel_branch):
        assert "forward" in vars(branch.stages[0].blocks[0])
