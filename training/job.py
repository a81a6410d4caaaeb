"""What one training needs to know: the fold, the seed, and what surrounds them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from config.schema import Config
from corpora.readers import Utterance
from corpora.splits import Split
from storage.fold_folder import fold_name


@dataclass(frozen=True)
class FoldJob:
    """What one training needs to know."""

    config: Config
    classes: Sequence[str]
    split: Split
    seed: int
    hashes: Mapping[Path, str]
    certificate: Mapping[str, Any]
    environment: Mapping[str, Any]  # see `describe_environment`

    @property
    def name(self) -> str:
        """Name of the fold's folder."""
        return fold_name(self.split.fold, self.seed)

    @property
    def chance(self) -> int:
        """The seed of everything random in this fold."""
        parts = np.random.SeedSequence((self.seed, self.split.fold))
        return int(parts.generate_state(1)[0])

    def names(self, utterances: Sequence[Utterance]) -> list[str]:
        """Return what clips are called."""
        return [u.id for u in utterances]

    def targets(self, utterances: Sequence[Utterance]) -> list[int]:
        """Return class indices."""
        return [list(self.classes).index(u.label) for u in utterances]
