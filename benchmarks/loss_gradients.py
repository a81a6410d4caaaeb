"""How strong each term of the contrastive loss is at the start, as a gradient on both backbones.

python -m benchmarks.loss_gradients             # a minute
python -m benchmarks.loss_gradients --draws 50

Small networks with random weights, noise as images, the default loss; other data and weights give
other figures.
"""

import argparse
import statistics

import torch

from benchmarks.fusions import BACKBONES, FUSIONS, build, images
from models.losses import FusionLoss
from system.cli import run_entry

TERMS = ("cross_entropy", "nt_xent", "consistency", "diversity")


def gradient_norms(seed: int) -> dict[str, float]:
    """Return the norm of each unweighted term's gradient on all parameters of both backbones."""
    torch.manual_seed(seed)
    networks = BACKBONES["small"]
    model = build(networks, FUSIONS["gmu_contrastive"]).train()
    batch = images(networks, networks.batch, "cpu")
    output = model(batch.cqt, batch.mel)
    terms = FusionLoss()(output.logits, batch.targets, output.views)
    parts = model.parts()
    backbones = [*parts["cqt"], *parts["mel"]]
    norms = {}
    for name in TERMS:
        slopes = torch.autograd.grad(
            getattr(terms, name), backbones, retain_graph=True, allow_unused=True
        )
        norms[name] = float(torch.nn.utils.get_total_norm([s for s in slopes if s is not None]))
    return norms


def main() -> None:
    """Print each term's gradient as a multiple of cross-entropy's."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=20, help="of weights and images")
    found = [gradient_norms(seed) for seed in range(parser.parse_args().draws)]
    for name in TERMS:
        ratios = sorted(norms[name] / norms["cross_entropy"] for norms in found)
        middle, low, high = statistics.median(ratios), ratios[0], ratios[-1]
        print(f"{name}: {middle:.1f} [{low:.1f}, {high:.1f}] times cross-entropy's")


if __name__ == "__main__":
    run_entry(main)
