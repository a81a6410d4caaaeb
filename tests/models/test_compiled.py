"""Compiled backbones: which batches run by a graph, and that graphs compute as eager code does."""

import copy
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.backends.debugging import aot_eager

from models import compiled
from models.compiled import Graphs, compile_cost, forget_graphs
from system.compilers import CACHE_VARIABLE, compiler_problem, use_compile_cache
from system.errors import RunError
from tests.support.models import small_model

SIDES = (8, 32)  # of images, not of kernels
GRAPHS = Graphs(frozenset({4, 5}), eval_size=6)


class Small(nn.Module):
    """A convolution, a batch norm, dropout and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.drop(self.norm(self.conv(x)).relu()).mean((2, 3)))


class Talkative(nn.Module):
    """Cannot be one graph: it asks the values of a tensor."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum().item() > 0 else -x


def plain(backbone: nn.Module, images: Tensor) -> Tensor:
    return backbone(images)


@pytest.fixture
def made(monkeypatch) -> Iterator[list[int]]:
    """Sizes of the batches for which graphs were made; by torch's tracer without its compiler."""
    sizes: list[int] = []

    def backend(graph, inputs, **options):
        sizes.append(next(len(x) for x in inputs if x.ndim == 4 and x.shape[-1] in SIDES))
        return aot_eager(graph, inputs, **options)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    yield sizes
    forget_graphs()


def images(n: int) -> Tensor:
    return torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(n))


def test_batches_of_the_training_sizes_have_a_graph_each_and_others_none(made) -> None:
    network = Small().train()
    for n in (4, 5, 3, 4, 6, 5):
        GRAPHS.encode(plain, network, images(n)).sum().backward()
    assert made == [4, 5]
    with torch.no_grad():  # asked where values are not finite
        GRAPHS.encode(plain, network, images(4))
    assert made == [4, 5]
    with torch.no_grad():
        Graphs(frozenset({4}), 6, chunked=True).encode(plain, network, images(4))
    assert made == [4, 5, 4]


def test_evaluation_has_one_graph_to_which_smaller_batches_are_padded(made) -> None:
    network = Small().eval()
    with torch.inference_mode():
        for n in (6, 1, 5, 7):
            found = GRAPHS.encode(plain, network, images(n))
            torch.testing.assert_close(found, network(images(n)), rtol=0, atol=1e-6)
            assert len(found) == n
    assert made == [6]


def test_another_network_of_the_same_form_uses_the_same_graphs(made) -> None:
    one, other = Small().train(), Small().train()
    for network in (one, other, one):
        GRAPHS.encode(plain, network, images(4)).sum().backward()
    assert made == [4]
    torch.manual_seed(0)
    found = GRAPHS.encode(plain, other, images(4))
    torch.manual_seed(0)
    torch.testing.assert_close(found, other(images(4)), rtol=0, atol=1e-6)


def test_more_graphs_than_torch_makes_by_default_are_all_made(made) -> None:
    sizes = list(range(2, 14))  # torch would run eagerly after 8, without a word
    network, graphs = Small().train(), Graphs(frozenset(sizes), 1)
    for n in sizes:
        graphs.encode(plain, network, images(n)).sum().backward()
    assert made == sizes


def test_strides_that_say_the_same_need_no_further_graph(made) -> None:
    network = Small().train()
    for x in (images(4), images(4).to(memory_format=torch.channels_last), images(8)[4:]):
        GRAPHS.encode(plain, network, x).sum().backward()
    assert made == [4]


def test_a_compiled_network_has_the_same_names_and_its_copy_its_own_weights(made) -> None:
    network = small_model(cqt_backbone="test_vit", mel_backbone="test_vit")
    before = list(network.state_dict())
    network.graphs = GRAPHS
    cqt, mel = torch.randn(2, 4, 1, 32, 32)
    first = network.eval()(cqt, mel).logits
    assert list(network.state_dict()) == before
    changed = copy.deepcopy(network)
    with torch.no_grad():
        for parameter in changed.mel_branch.parameters():
            parameter.mul_(2)
    assert not torch.allclose(changed(cqt, mel).logits, first)
    torch.testing.assert_close(network(cqt, mel).logits, first, rtol=0, atol=0)


def test_what_cannot_be_one_graph_is_refused_in_words(monkeypatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    with pytest.raises(RunError, match=r"torch cannot compile .*train\.compile=false"):
        GRAPHS.encode(plain, Talkative().train(), images(4))
    forget_graphs()


def test_a_compiler_that_fails_is_told_in_words(monkeypatch) -> None:
    def broken(graph, inputs, **options):
        raise AssertionError("no such loop")

    monkeypatch.setattr(compiled, "BACKEND", broken)
    with pytest.raises(RunError, match=r"no such loop.*train\.compile=false"):
        GRAPHS.encode(plain, Small().train(), images(4))
    forget_graphs()


def test_an_error_of_the_network_stays_its_own(made) -> None:
    GRAPHS.encode(plain, Small().train(), images(4)).sum().backward()
    with pytest.raises(RuntimeError, match="expected input"):
        GRAPHS.encode(plain, Small().train(), torch.randn(3, 2, 8, 8))


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem("cpu") is not None, reason="no compiler")
@pytest.mark.parametrize("pair", [("test_vit", "test_vit"), ("test_maxvit", "mvitv2_micro")])
def test_compiled_and_eager_agree(pair, tmp_path, monkeypatch) -> None:
    """Outputs, gradients and running statistics, with dropped paths: both draw the same."""
    monkeypatch.setenv(CACHE_VARIABLE, "")
    use_compile_cache(tmp_path)
    settings = {"cqt_backbone": pair[0], "mel_backbone": pair[1], "drop_path_rate": 0.3}
    eager = small_model(**settings).train()
    network = copy.deepcopy(eager)
    network.graphs = GRAPHS
    cqt, mel = torch.randn(2, 4, 1, 32, 32)
    before = compile_cost()
    for model in (eager, network):
        torch.manual_seed(5)
        model.logits = model(cqt, mel).logits
        model.logits.square().sum().backward()
    assert compile_cost().since(before).compiled > 0
    torch.testing.assert_close(network.logits, eager.logits, rtol=1e-4, atol=1e-5)
    pairs = list(zip(network.parameters(), eager.parameters(), strict=True))
    largest = max(float(e.grad.abs().max()) for _, e in pairs)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-3, atol=1e-4 * largest)
    for ours, theirs in zip(network.buffers(), eager.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.inference_mode():
        found = network.eval()(cqt, mel).logits
        torch.testing.assert_close(found, eager.eval()(cqt, mel).logits, rtol=1e-4, atol=1e-5)
    before = compile_cost()
    forget_graphs()
    with torch.inference_mode():
        assert torch.equal(network(cqt, mel).logits, found)  # by graphs from the cache
    assert compile_cost().since(before)[1:] == (0, 2 if pair[0] != pair[1] else 1)
    forget_graphs()
