"""The batches of an epoch: nothing lost, nothing by chance alone, classes as asked."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import Item
from training.batches import EPOCHS, TrainBatches, draw_balanced

sizes = st.integers(2, 200)
batch_sizes = st.integers(2, 20)
seeds = st.integers(0, 2**32 - 1)
classes = st.lists(st.integers(0, 6), min_size=2, max_size=150)


def clips_of(batches: TrainBatches) -> list[list[int]]:
    return [[index for _, index in batch] for batch in batches]


def drawn_of(batches: TrainBatches) -> list[Item]:
    return [item for batch in batches for item in batch]


@given(n=sizes, batch_size=batch_sizes, seed=seeds, epoch=st.integers(0, 99))
def test_peer_21_every_clip_once_and_no_batch_of_one(
    n: int, batch_size: int, seed: int, epoch: int
) -> None:
    batches = TrainBatches(n, batch_size, seed)
    batches.set_epoch(epoch)
    found = clips_of(batches)
    assert sorted(sum(found, [])) == list(range(n))
    assert all(2 <= len(batch) <= batch_size + 1 for batch in found)
    assert len(found) == len(batches)
    assert {e for batch in batches for e, _ in batch} == {epoch}


@given(n=sizes, batch_size=batch_sizes, seed=seeds, world=st.integers(2, 3))
def test_peer_21_several_processes_see_all_clips_in_batches_of_one_shape(
    n: int, batch_size: int, seed: int, world: int
) -> None:
    ranks = [clips_of(TrainBatches(n, batch_size, seed, rank, world)) for rank in range(world)]
    shapes = [[len(batch) for batch in rank] for rank in ranks]
    assert all(shape == shapes[0] for shape in shapes)
    assert max(shapes[0]) <= batch_size + 1
    seen = sorted(index for rank in ranks for batch in rank for index in batch)
    assert set(seen) == set(range(n)) and len(seen) < n + world
    if n >= 2 * world:
        assert min(shapes[0]) >= 2


@pytest.mark.parametrize("targets", [None, [0] * 40 + [1] * 10])
def test_order_is_the_same_for_a_seed_and_epoch_and_other_for_others(targets) -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = TrainBatches(50, 8, seed, targets=targets)
        batches.set_epoch(epoch)
        return clips_of(batches)

    assert order(1, 2) == order(1, 2)
    assert len({str(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_the_shuffled_order_is_numpys_permutation_of_seed_and_epoch() -> None:
    batches = TrainBatches(10, 4, 7)
    batches.set_epoch(3)
    expected = np.random.default_rng((7, 3)).permutation(10).tolist()
    assert drawn_of(batches) == [(3, i) for i in expected]


# Balanced


@given(targets=classes, batch_size=batch_sizes, seed=seeds, epoch=st.integers(0, 99))
def test_each_class_comes_equally_often_within_one(targets, batch_size, seed, epoch) -> None:
    n = len(targets)
    balanced, shuffled = (
        TrainBatches(n, batch_size, seed, targets=targets),
        TrainBatches(n, batch_size, seed),
    )
    balanced.set_epoch(epoch)
    found = [index for _, index in drawn_of(balanced)]
    shares = Counter(targets[i] for i in found)
    assert set(shares) == set(targets) and max(shares.values()) - min(shares.values()) <= 1
    assert [len(batch) for batch in balanced] == [len(batch) for batch in shuffled]
    times = Counter(found)
    for label in set(targets):  # within a class, too
        own = [times[i] for i in range(n) if targets[i] == label]
        assert max(own) - min(own) <= 1


def test_an_epoch_by_hand() -> None:
    """Nine utterances of classes with 6, 2 and 1: three draws each."""
    targets = [0, 0, 0, 0, 0, 0, 1, 1, 2]
    batches = TrainBatches(9, 9, 5, targets=targets)
    batches.set_epoch(4)
    times = Counter(index for _, index in drawn_of(batches))
    assert sorted(times[i] for i in range(6)) == [0, 0, 0, 1, 1, 1]
    assert sorted(times[i] for i in (6, 7)) == [1, 2] and times[8] == 3
    of_the_last = sorted(seed for seed, index in drawn_of(batches) if index == 8)
    assert of_the_last == [4, 4 + EPOCHS, 4 + 2 * EPOCHS]  # each copy is changed in its own way


def test_what_is_left_out_and_which_class_comes_once_more_are_drawn_anew() -> None:
    targets = np.array([0] * 12 + [1] * 4 + [2])  # 17 = 6 + 6 + 5
    rng = np.random.default_rng(0)
    epochs = [draw_balanced(targets, rng) % 17 for _ in range(600)]
    drawn = np.bincount(np.concatenate(epochs), minlength=17) / 600
    per_class = 17 / 3
    np.testing.assert_allclose(drawn[:12], per_class / 12, atol=0.08)
    np.testing.assert_allclose(drawn[12:16], per_class / 4, atol=0.08)
    assert drawn[16] == pytest.approx(per_class, abs=0.08)


@given(targets=classes, batch_size=batch_sizes, seed=seeds, world=st.integers(2, 3))
def test_several_processes_share_what_one_would_draw(targets, batch_size, seed, world) -> None:
    n = len(targets)
    whole = drawn_of(TrainBatches(n, batch_size, seed, targets=targets))
    shares = [
        drawn_of(TrainBatches(n, batch_size, seed, rank, world, targets)) for rank in range(world)
    ]
    assert len({len(share) for share in shares}) == 1
    dealt = [item for items in zip(*shares, strict=True) for item in items]
    assert dealt[:n] == whole and len(dealt) < n + world
