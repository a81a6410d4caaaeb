"""A training of M processes that N resume ends as one of M that was never stopped."""

from contextlib import suppress
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import assume, given
from hypothesis import strategies as st

from system.errors import RunError
from system.signals import Stop
from tests.support.processes import joined
from tests.training.test_exact_processes import train
from training.batches import TrainBatches
from training.checkpoints import Checkpoints
from training.compiling import batch_sizes

UNEVEN, EVEN = 19, 18  # utterances: 3 batches of 8, 6, 6 on two processes; 6 each on any number
CUTS = (2, 2)  # steps until each stop, of 3 an epoch: in the first epoch, then in the second


class StopAfter(Stop):
    """A request to end that comes after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        super().__init__()

    @property
    def requested(self) -> bool:
        self.left -= 1
        return self.left < 0

    @requested.setter
    def requested(self, value: bool) -> None:
        """Ignore what the constructor sets."""


def cut(folder: Path, rank: int, world: int, n: int, steps: int, **wishes: object) -> None:
    """Train for some steps; the state is saved behind them."""
    stop, synced = StopAfter(steps), world > 1
    with suppress(KeyboardInterrupt):
        train(folder, rank, world, synced, n, stop=stop, **wishes)
        raise AssertionError("it ran to the end")


def begin_on_two(rank: int, folder: Path) -> None:
    with joined(rank, 2, folder):
        torch.save(train(folder / "whole", rank, 2, n=UNEVEN), folder / f"whole{rank}.pt")
        cut(folder / "cut", rank, 2, UNEVEN, CUTS[0])


def resume_on_two(rank: int, folder: Path) -> None:
    """Resume twice: with the option, and without it what was saved with it."""
    with joined(rank, 2, folder):
        cut(folder / "cut", rank, 2, EVEN, CUTS[1], resume_with=2)
        torch.save(train(folder / "cut", rank, 2, n=EVEN), folder / f"resumed{rank}.pt")


def check_equal(found: dict, expected: dict) -> None:
    ours, whole = found["progress"], expected["progress"]
    assert len(ours["history"]) == len(whole["history"]) == 2
    for row, same in zip(ours["history"], whole["history"], strict=True):
        assert row == pytest.approx(same, rel=2e-3, abs=1e-4)
        assert row["dev_ua"] == same["dev_ua"] and row["dev_wa"] == same["dev_wa"]
    for key, weight in found["weights"].items():
        torch.testing.assert_close(weight, expected["weights"][key], rtol=1e-3, atol=1e-4)


def test_one_process_resumes_what_two_began(tmp_path: Path) -> None:
    mp.spawn(begin_on_two, (tmp_path,), nprocs=2)
    state = tmp_path / "cut"
    with pytest.raises(RunError, match="on 2 processes, this one is on 1.*--resume-with 1"):
        train(state, 0, 1, synced=False, n=UNEVEN)
    assert Checkpoints(state).processes() == 2  # a refusal changes nothing
    cut(state, 0, 1, UNEVEN, CUTS[1], resume_with=1)
    assert Checkpoints(state).processes() == 1
    found = train(state, 0, 1, synced=False, n=UNEVEN)
    check_equal(found, torch.load(tmp_path / "whole0.pt", weights_only=False))


def test_two_processes_resume_what_one_began(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 0, 1, synced=False, n=EVEN)
    cut(tmp_path / "cut", 0, 1, EVEN, CUTS[0])
    mp.spawn(resume_on_two, (tmp_path,), nprocs=2)
    for rank in range(2):
        check_equal(torch.load(tmp_path / f"resumed{rank}.pt", weights_only=False), whole)


@given(
    n=st.integers(2, 300),
    size=st.integers(2, 12),
    before=st.integers(1, 8),
    now=st.integers(1, 8),
    first=st.integers(0, 3),
    balanced=st.booleans(),
)
def test_the_batches_of_all_processes_stay(n, size, before, now, first, balanced) -> None:
    assume(size * before % now == 0 and size * before // now >= 2)
    targets = [int(i % 5 == 0) for i in range(n)] if balanced else None
    began = [TrainBatches(n, size, 1, rank, before, targets) for rank in range(before)]
    size = size * before // now
    resumed = [TrainBatches(n, size, 1, rank, now, targets) for rank in range(now)]
    assume(len(began[0]) == len(resumed[0]) > first)  # small n: refused, see `check_fold`
    for batches in began:
        batches.set_epoch(3, first)
    for batches in resumed:
        batches.set_epoch(3, first, before)
    assert {len(batch) for batch in resumed[0]} <= batch_sizes(resumed[0])  # all have graphs
    for old, new in zip(zip(*began, strict=True), zip(*resumed, strict=True), strict=True):
        whole = sorted(item for share in old for item in share)
        shared = sorted(item for share in new for item in share)
        assert set(shared) == set(whole) and len({len(share) for share in new}) == 1
        assert len(new[0]) >= min(2, len(old[0]))
        assert 0 <= len(shared) - len(whole) < now
        assert len(whole) % now or shared == whole
