"""The fusions: their names and what is known of each without building it.

All lists of fusions derive from `FUSIONS`: the values of `model.fusion`, the keys that have an
effect with each, the entry that trains it. `models.heads.HEADS` maps the same names to classes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fusion:
    """Facts about one fusion.

    Attributes:
        branches: Branches that it reads, of `SOURCES`: fixed where there is one, else the default
            of `model.branches`, see `joins`.
        reads_tokens: Reads each branch's tokens (B, N, D) instead of pooled features (B, D).
        projects: Projects all branches to one width, `model.fusion_hidden_dim`.
        gated: A gate weighs the branches against each other.
        contrastive: Returns a view of each branch for the contrastive loss.
        widens: Setting that `model.match_parameters` enlarges, or None if it cannot match.
    """

    branches: tuple[str, ...] = ("cqt", "mel")
    reads_tokens: bool = False
    projects: bool = False
    gated: bool = False
    contrastive: bool = False
    widens: str | None = None

    @property
    def joins(self) -> bool:
        """Whether it joins two or more branches, which `model.branches` names."""
        return len(self.branches) > 1

    @property
    def entry(self) -> str:
        """Script that trains it."""
        return "train_gmu.py" if self.gated else "train.py"


FUSIONS = {
    "concat": Fusion(widens="mlp_hidden_dim"),
    "mean": Fusion(projects=True, widens="fusion_hidden_dim"),
    "sum": Fusion(projects=True, widens="fusion_hidden_dim"),
    "gmu": Fusion(projects=True, gated=True),
    "gmu_contrastive": Fusion(projects=True, gated=True, contrastive=True),
    "cross_attention": Fusion(projects=True, gated=True, reads_tokens=True),
    "cross_attention_contrastive": Fusion(
        projects=True, gated=True, reads_tokens=True, contrastive=True
    ),
    "cqt_only": Fusion(branches=("cqt",)),
    "mel_only": Fusion(branches=("mel",)),
    "speech_only": Fusion(branches=("speech",)),
    "file_only": Fusion(branches=("file",)),
}


def fusions_that(have: Callable[[Fusion], object]) -> tuple[str, ...]:
    """Return the names of the fusions for which a condition holds, in the table's order.

    >>> fusions_that(lambda fusion: fusion.reads_tokens)
    ('cross_attention', 'cross_attention_contrastive')
    """
    return tuple(name for name, fusion in FUSIONS.items() if have(fusion))


SOURCES = ("cqt", "mel", "speech", "file")  # what a fusion may join, in this order
IMAGES = ("cqt", "mel")  # those that are images
BRANCH_TITLES = {"cqt": "CQT", "mel": "Mel", "speech": "speech", "file": "file"}  # in messages
GATED = fusions_that(lambda fusion: fusion.gated)
UNGATED = fusions_that(lambda fusion: not fusion.gated)
ONE_BRANCH = {name: f.branches[0] for name, f in FUSIONS.items() if not f.joins}
ONE_IMAGE = {name: branch for name, branch in ONE_BRANCH.items() if branch in IMAGES}
FUSION, BRANCHES = "model.fusion", "model.branches"  # keys


def branches_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the branches that a config's fusion reads, in their order.

    Args:
        config: Dotted keys to values. Without a fusion it is one that joins; without
            `model.branches`, which earlier versions did not have, it joins both images.

    >>> branches_of({"model.fusion": "gmu", "model.branches": ["speech", "mel"]})
    ('mel', 'speech')
    >>> branches_of({"model.fusion": "cqt_only"})
    ('cqt',)
    """
    fusion = config.get(FUSION)
    if fusion in ONE_BRANCH:
        return (ONE_BRANCH[fusion],)
    named = config.get(BRANCHES) or ("cqt", "mel")
    return tuple(branch for branch in SOURCES if branch in named)


def share_column(source: str) -> str:
    """Return the column of a source's share of the gate."""
    return f"gate_{source}"
