"""Which clips meet in a batch: the same for the same (seed, epoch), on any number of processes."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np
from torch.utils.data import Sampler

Item = tuple[int, int]  # (epoch, index)
T = TypeVar("T")


class TrainBatches(Sampler):
    """Shuffled batches of near-equal size, the same for the same (seed, epoch).

    The clips of an epoch are dealt evenly over its batches, so that there is no short last batch
    to drop and none of one clip, which batch normalization cannot take. With several processes
    each has as many batches of the same sizes; up to `world - 1` clips are seen twice for it.

    Args:
        n: Clips in the split.
        batch_size: Largest number of clips a batch (one more where only that avoids a lone clip).
        seed: Of the order.
        rank: This process.
        world: Number of processes.
    """

    def __init__(self, n: int, batch_size: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.n, self.seed, self.rank, self.world = n, seed, rank, world
        self.epoch = self.first = 0
        self.n_own = -(-n // world)
        self.n_batches = max(1, min(-(-self.n_own // batch_size), self.n_own // 2))

    def set_epoch(self, epoch: int, first: int = 0) -> None:
        """Choose the order of the next pass, and how many of its batches have been seen."""
        self.epoch, self.first = epoch, first

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[list[Item]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.n)
        order = np.resize(order, self.n_own * self.world)  # repeats from the start to fill up
        for own in np.array_split(order[self.rank :: self.world], self.n_batches)[self.first :]:
            yield [(self.epoch, int(i)) for i in own]


class EvalBatches(Sampler):
    """Each item once, in order, dealt over the processes in as many batches on each.

    DDP synchronises buffers in every forward: a process with one more would wait for the others.
    """

    def __init__(self, n: int, batch_size: int, rank: int = 0, world: int = 1) -> None:
        n_batches = -(-n // (world * batch_size))
        self.batches = np.array_split(range(n)[rank::world], n_batches)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Item]]:
        for own in self.batches:
            yield [(0, int(i)) for i in own]


def in_windows(batches: Iterable[T], n: int) -> Iterator[list[T]]:
    """Yield batches n at a time; the last window may be shorter."""
    window: list[T] = []
    for batch in batches:
        window.append(batch)
        if len(window) == n:
            yield window
            window = []
    if window:
        yield window
