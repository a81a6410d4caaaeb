"""Which utterances each step sees: the batches of an epoch and of an evaluation, as indices."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from data import Item

EPOCHS = 2**20  # more than a training has: copy k of an utterance is changed as in epoch + k * this


class TrainBatches(Sampler):
    """Shuffled batches of nearly equal size; (seed, epoch) decides what is drawn, and the order.

    An epoch is split evenly, so no short batch is dropped, and none is of a single utterance, which
    batch normalization cannot take. Every process gets as many batches of the same sizes; for that,
    up to `world - 1` utterances are repeated, or in each batch where others began the training.

    Args:
        n: Number of utterances in the split, and in an epoch.
        batch_size: Largest number per batch; one more where a batch of one would be left over.
        seed: Base seed of the order.
        rank: Rank of this process.
        world: Number of processes.
        targets: Class of each utterance, to draw each class equally often, see `draw_balanced`;
            None draws each utterance once.
    """

    def __init__(
        self,
        n: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
        targets: Sequence[int] | None = None,
    ) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.targets = None if targets is None else np.asarray(targets)
        self.epoch, self.first, self.divisor = 0, 0, world
        n_own = -(-n // world)
        self.n_batches = max(1, min(-(-n_own // batch_size), n_own // 2))

    def set_epoch(self, epoch: int, first: int = 0, divisor: int | None = None) -> None:
        """Choose order, batches to skip (on resume), and how many processes began the training."""
        self.epoch, self.first, self.divisor = epoch, first, divisor or self.world

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Item]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = (
            rng.permutation(self.n) if self.targets is None else draw_balanced(self.targets, rng)
        )
        order = np.resize(order, (-(-self.n // self.divisor), self.divisor))  # filled by repeats
        for batch in np.array_split(order, self.n_batches)[self.first :]:
            shares = np.resize(batch, (-(-batch.size // self.world), self.world))
            yield [self._item(int(drawn)) for drawn in shares[:, self.rank]]

    def _item(self, drawn: int) -> Item:
        copy, i = divmod(drawn, self.n)
        return self.epoch + copy * EPOCHS, i


def draw_balanced(targets: NDArray, rng: np.random.Generator) -> NDArray:
    """Draw as many utterances as there are, each class equally often or once more.

    A class's part is filled with its utterances in random order, again and again: those of a small
    class repeat, each as often as any other of the class or once more; of a large class some are
    left out. Which ones, and which classes come once more, is random.

    Args:
        targets: Class of each of n utterances.
        rng: Decides all of it.

    Shape:
        (n,) -> (n,) in random order: index + k * n for copy k of an utterance, the first being 0

    >>> drawn = draw_balanced(np.array([0, 0, 0, 1]), np.random.default_rng(0))
    >>> sorted(drawn.tolist())[-2:]  # the utterance of class 1, twice
    [3, 7]
    """
    n, classes = len(targets), np.unique(targets)
    least, rest = divmod(n, len(classes))
    sizes = least + (rng.permutation(len(classes)) < rest)
    parts = []
    for label, size in zip(classes, sizes, strict=True):
        own = rng.permutation(np.flatnonzero(targets == label))
        parts.append(np.resize(own, size) + np.arange(size) // len(own) * n)
    return rng.permutation(np.concatenate(parts))


class EvalBatches(Sampler):
    """Every item once, in order, with the same number of batches in every process.

    DDP synchronises buffers in every forward pass: a process with one batch more would hang.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        n_batches = -(-n // (world * batch_size))
        self.batches = np.array_split(range(n)[rank::world], n_batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        for own in self.batches:
            yield [(0, int(i)) for i in own]
