"""The table of costs: parameters and FLOPs by hand, bytes kept for backward, ratios, the page."""

import json
import sys

import pytest
import torch
from torch import nn

from benchmarks import fusions
from scripts import write_tables
from tests.support.models import OF_IMAGES

TINY = fusions.Networks("test_maxvit", "mvitv2_micro", 32, 16, 4)
CQT, MEL, K, MLP = 128, 384, fusions.N_CLASSES, 16  # features of the two, classes, hidden units
PAGE = "FUSION_COMPARISON.md"
D = 384  # width of the fused vector: the wider branch


def size(name: str, networks: fusions.Networks = TINY) -> dict[str, int]:
    model = fusions.build(networks, fusions.FUSIONS[name])
    return fusions.size(model, fusions.images(networks, 1, "cpu"))


def linear(n_in: int, n_out: int) -> int:
    return n_in * n_out + n_out


def products(*shapes: tuple[int, int]) -> int:
    """FLOPs of vectors times matrices: a multiplication and an addition each."""
    return sum(2 * n_in * n_out for n_in, n_out in shapes)


CLASSIFY = (D, MLP), (MLP, K)
NORM = 2 * MLP  # weights and biases of the batch norm
PROJECT = (CQT, D), (MEL, D)
BY_HAND = {  # layers of the head; numbers of norms
    "concat": ([(CQT + MEL, MLP), (MLP, K)], NORM),
    "mean": ([*PROJECT, *CLASSIFY], NORM),
    "sum": ([*PROJECT, *CLASSIFY], NORM),
    "gmu": ([*PROJECT, (2 * D, D), *CLASSIFY], NORM),
    "gmu, scalar gate": ([*PROJECT, (2 * D, 1), *CLASSIFY], NORM),
    "gmu, gate on features": ([*PROJECT, (CQT + MEL, D), *CLASSIFY], NORM),
    "gmu_contrastive": ([*PROJECT, (2 * D, D), *CLASSIFY, *[(D, D), (D, 128)] * 2], NORM),
    "cqt_only": ([(CQT, MLP), (MLP, K)], NORM),
    "mel_only": ([(MEL, MLP), (MLP, K)], NORM),
}


def test_every_fusion_of_the_network_is_there():
    assert {settings["fusion"] for settings in fusions.FUSIONS.values()} == set(OF_IMAGES)


@pytest.mark.parametrize("name", BY_HAND)
def test_parameters_and_flops_of_the_head_are_those_worked_by_hand(name: str):
    layers, norms = BY_HAND[name]
    found = size(name)
    assert found["head_parameters"] == sum(linear(*layer) for layer in layers) + norms
    assert found["head_flops"] == products(*layers)
    model = fusions.build(TINY, fusions.FUSIONS[name])  # another one, of the same size
    assert found["parameters"] == sum(p.numel() for p in model.parameters())


def test_attention_is_counted_though_it_is_fused():
    """Tokens of both are embedded; each way there are four maps of D x D and two products."""
    found = size("cross_attention")
    n_cqt, n_mel = tokens_of(TINY)
    each = n_cqt * products((CQT, D)) + n_mel * products((MEL, D))  # embeddings
    for n_query, n_key in ((n_cqt, n_mel), (n_mel, n_cqt)):
        each += 2 * (n_query + n_key) * products((D, D))  # query and output, key and value
        each += 2 * 2 * n_query * n_key * D  # scores, and values by their weights
    gmu = products((D, D), (D, D), (2 * D, D), *CLASSIFY)
    assert found["head_flops"] == each + gmu
    attention = 2 * (linear(D, 3 * D) + linear(D, D)) + 2 * (CQT + MEL)  # and layer norms
    head = linear(CQT, D) + linear(MEL, D) + attention
    head += 2 * linear(D, D) + linear(2 * D, D) + sum(linear(*one) for one in CLASSIFY) + NORM
    assert found["head_parameters"] == head


def test_views_add_their_projection_heads_to_cross_attention():
    plain, both = size("cross_attention"), size("cross_attention_contrastive")
    views = [(D, D), (D, 128)] * 2
    added = both["head_parameters"] - plain["head_parameters"]
    assert added == sum(linear(*layer) for layer in views)
    assert both["head_flops"] - plain["head_flops"] == products(*views)


def tokens_of(networks: fusions.Networks) -> tuple[int, int]:
    model = fusions.build(networks, fusions.FUSIONS["cross_attention"]).eval()
    cqt, mel, _ = fusions.images(networks, 1, "cpu")
    with torch.no_grad():
        feat_cqt, feat_mel = model.features(cqt, mel)
    return feat_cqt.shape[1], feat_mel.shape[1]


def test_matched_heads_are_as_large_as_that_of_the_gmu():
    gmu = size("gmu")["head_parameters"]
    for name in ("concat", "mean", "sum"):
        matched = size(f"{name}, matched")["head_parameters"]
        plain = size(name)["head_parameters"]
        assert abs(matched - gmu) < 0.01 * gmu and matched > 1.5 * plain


def test_flops_of_a_convolution_are_those_worked_by_hand():
    layer = nn.Conv2d(3, 5, kernel_size=3, bias=False)
    image = torch.zeros(1, 3, 8, 8)  # 6 x 6 places of 3 * 3 * 3 products for each of 5 kernels
    assert fusions.flops(lambda: layer(image)) == 2 * 6 * 6 * 27 * 5


def test_bytes_kept_for_backward_count_each_storage_once():
    layer, x = nn.Linear(10, 20, bias=False), torch.randn(8, 10)
    both = list(layer.parameters())

    def once():
        return torch.tanh(layer(x))  # keeps x and what tanh gives

    assert fusions.saved_bytes(once, both) == 4 * (80 + 160)
    twice = [*both, *(other := nn.Linear(10, 30, bias=False)).parameters()]
    # x serves both layers; the whole of it is kept by its half, too
    assert fusions.saved_bytes(lambda: (once(), other(x), x[:4] * both[0][0]), twice) == 4 * 240
    # parameters that nobody counts elsewhere are kept as well, where x has a gradient
    wanted = torch.randn(8, 10, requires_grad=True)
    assert fusions.saved_bytes(lambda: layer(wanted)) == 4 * (80 + 200)
    assert fusions.saved_bytes(lambda: torch.tanh(x)) == 0


def test_memory_is_the_sum_of_its_parts():
    torch.manual_seed(0)
    one = fusions.candidate(TINY, fusions.FUSIONS["gmu"], "cpu")
    batch = fusions.images(TINY, 4, "cpu")
    one.step(batch)
    parameters = list(one.model.parameters())
    n = sum(p.numel() for p in parameters)
    kept = fusions.saved_bytes(lambda: one.loss(batch), parameters)
    counters = 4 * len(parameters)  # Adam and RAdam count steps, a number for each parameter
    assert fusions.memory(one, batch, 0) == kept + 4 * 4 * n + counters  # w, gradient, two moments
    more = fusions.images(TINY, 8, "cpu")
    assert 1.9 < fusions.saved_bytes(lambda: one.loss(more), parameters) / kept < 2.1


def test_a_step_trains_every_part():
    torch.manual_seed(0)
    for name in ("gmu_contrastive", "cross_attention", "mel_only"):
        one = fusions.candidate(TINY, fusions.FUSIONS[name], "cpu")
        before = {part: [p.clone() for p in ps] for part, ps in one.model.parts().items()}
        one.step(fusions.images(TINY, 4, "cpu"))
        for part, parameters in one.model.parts().items():
            moved = [not torch.equal(*pair) for pair in zip(before[part], parameters, strict=True)]
            assert sum(moved) > 0.9 * len(moved), (name, part)


def test_steps_alternate_and_the_median_ratio_is_shown(monkeypatch, tmp_path, capsys):
    asked = []
    clock = {"gmu": 2.0, "concat": 3.0}
    monkeypatch.setattr(fusions, "FUSIONS", {name: fusions.FUSIONS[name] for name in clock})
    monkeypatch.setitem(fusions.BACKBONES, "small", TINY)

    def seconds(one: fusions.Candidate, batch: fusions.Images) -> float:
        asked.append(one.model.settings.fusion)
        return clock[asked[-1]] + len(asked)

    monkeypatch.setattr(fusions, "seconds", seconds)
    file = tmp_path / "costs.json"
    file.write_text('{"paper": 1}')
    words = ["fusions.py", "--steps", "3", "--device", "cpu", "--json", str(file)]
    monkeypatch.setattr(sys, "argv", words)
    fusions.main()
    assert asked == ["gmu"] * 6 + ["concat", "gmu"] * 3
    found = json.loads(file.read_text())
    assert found["paper"] == 1  # what was recorded of the others stays
    gmu, concat = found["small"]["rows"]
    assert gmu["step"] == (2 + 3) / (2 + 4) and gmu["step_range"] == [(2 + 1) / (2 + 2), 7 / 8]
    assert concat["step"] == (3 + 9) / (2 + 10)
    printed = capsys.readouterr().out
    head, _, *rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert [row.split("|")[1].strip() for row in rows] == ["gmu", "concat"]
    assert len({line.count("|") for line in (head, *rows)}) == 1
    assert "| 0.83 [0.75, 0.88] |" in rows[0] and "what is kept for backward" in printed
    layers, norms = BY_HAND["concat"]
    assert f"| {sum(linear(*one) for one in layers) + norms:,} |" in rows[1]


def test_the_page_shows_what_was_recorded():
    recorded = json.loads((write_tables.ROOT / "results/fusions.json").read_text())
    page = write_tables.costs()
    for name, found in recorded.items():
        assert f"--backbones {name} --steps {found['steps']}" in page
        names = {row["name"] for row in found["rows"]}
        assert fusions.FUSIONS.keys() == names
        for row in found["rows"]:
            assert f"| {row['name']} | {row['head_parameters']:,} |" in page
            if name == "small":
                now = size(row["name"], fusions.BACKBONES[name])
                assert {key: row[key] for key in now} == now, row["name"]
