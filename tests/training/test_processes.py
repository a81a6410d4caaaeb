"""Several processes decide together: nodes that do not fit are refused, and no try hangs."""

import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from storage.run_folder import read_run
from system.errors import InputError, RunError
from tests.support.processes import train_on
from training import distributed
from training.distributed import check_alike, check_shared, from_first, gather, on_all_processes

WORLD = 2


def said(work: Callable[[], object]) -> object:
    """Return what some work returns, or the kind and words of its error."""
    try:
        return work()
    except (InputError, RunError) as error:
        return type(error).__name__, str(error)


def fail_on(rank: int, error: Exception) -> None:
    with on_all_processes():
        if dist.get_rank() == rank:
            raise error


def build_slowly(rank: int) -> str:
    """Take longer than a collective of the training would wait."""
    with on_all_processes():
        time.sleep(4 * rank)
    return "waited"


def wait_for_collective(rank: int) -> str:
    time.sleep(4 * rank)
    try:
        dist.barrier()
    except RuntimeError:
        return "timed out"
    return "waited"


def one_process(rank: int, folder: Path) -> None:
    """Write what this process of two hears."""
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "rendezvous"), WORLD)
    limit = timedelta(seconds=2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=WORLD, timeout=limit)
    distributed.VISIBLE_AFTER = 0.5
    calls: list[int] = []

    def load() -> dict:
        calls.append(rank)
        return {"weights": torch.arange(3.0), "rank": rank}

    def refuse() -> None:
        raise RunError("all states are corrupt")

    heard = {
        "slow": build_slowly(rank),
        "gathered": gather(rank * 10),
        "first": said(lambda: from_first(load)),
        "calls": calls,
        "first fails": said(lambda: from_first(refuse)),
        "input": said(lambda: fail_on(1, InputError("bad audio"))),
        "disk": said(lambda: fail_on(1, OSError("the disk is gone"))),
        "shared": said(lambda: check_shared(folder / "run")),
        "apart": said(lambda: check_shared(folder / f"node{rank}")),
        "alike": said(lambda: check_alike({"optim.lr": 1.0})),
        "unlike": said(lambda: check_alike({"optim.lr": 1.0 + rank, "torch": "2"})),
    }
    heard["collective"] = wait_for_collective(rank)  # last: it may break the connection
    torch.save(heard, folder / f"rank{rank}.pt")
    os._exit(0)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    folder = tmp_path_factory.mktemp("both")
    mp.spawn(one_process, (folder,), nprocs=WORLD)
    return folder, [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def test_a_process_that_builds_the_store_may_take_longer_than_a_collective_waits(both) -> None:
    _, heard = both
    assert [one["slow"] for one in heard] == ["waited", "waited"]
    assert heard[0]["collective"] == "timed out"  # what a barrier in its place would do


def test_the_first_process_reads_for_all(both) -> None:
    _, heard = both
    assert [one["calls"] for one in heard] == [[0], []]
    for one in heard:
        assert one["first"]["rank"] == 0
        assert torch.equal(one["first"]["weights"], torch.arange(3.0))
        assert one["gathered"] == [0, 10]


def test_an_error_of_one_process_is_that_of_all(both) -> None:
    _, heard = both
    for one in heard:
        assert one["first fails"] == ("RunError", "all states are corrupt")
        assert one["input"] == ("InputError", "bad audio")
        assert one["disk"] == ("RunError", "the disk is gone")


def test_processes_must_share_the_run_folder_and_be_alike(both) -> None:
    folder, heard = both
    for one in heard:
        assert one["shared"] is None and one["alike"] is None
        kind, words = one["apart"]
        assert kind == "InputError" and f"process 1 ({folder}/node1 on " in words
        assert f"does not see what process 0 wrote to {folder}/node0" in words
        kind, words = one["unlike"]
        assert kind == "InputError"
        assert "optim.lr is 1.0 on process 0 and 2.0 on process 1" in words
    assert not list(folder.rglob(".token.*"))


def test_a_single_process_asks_nobody(tmp_path: Path) -> None:
    assert gather(1) == [1] and from_first(lambda: 2) == 2
    check_shared(tmp_path / "run")
    check_alike({"x": 1})
    assert not (tmp_path / "run").exists()
    with pytest.raises(OSError, match="as it was"), on_all_processes():
        raise OSError("as it was")


@pytest.fixture
def nodes(recipe: Path, tmp_path: Path) -> Callable[..., list[tuple[str, int]]]:
    """Train on two machines in this test's folder, for an epoch."""

    def start(roots: Sequence[str], *overrides: str, patches: Sequence[str] = ()) -> list:
        return train_on(recipe, tmp_path, roots, "train.epochs=1", *overrides, patches=patches)

    return start


def ledger(run: Path) -> list[str]:
    file = run / "ledger.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def test_nodes_that_do_not_share_the_run_folder_are_refused_and_the_next_try_works(
    nodes, tmp_path: Path
) -> None:
    for output, status in nodes([str(tmp_path / "a"), str(tmp_path / "b")]):
        assert status == 2, output
        assert output.count("wrong input: the processes of one training must share the run") == 1
        assert "Traceback" not in output
    for root in ("a", "b"):
        run = tmp_path / root / "tiny"
        assert not ledger(run) and not (run / "folds").exists()
    shared = str(tmp_path / "a")
    for output, status in nodes([shared, shared], "protocol.split=speaker-k-fold"):
        assert status == 0, output
    (fold,) = read_run(tmp_path / "a" / "tiny").folds
    assert len(ledger(tmp_path / "a" / "tiny")) == 1
    (made,) = fold.metrics.made_with
    assert made["processes"] == 2 and made["global_batch"] == 16
    assert len(made["device"]) == len(made["threads"]) == 2
    assert len(fold.environment()["processes"]) == 2


def test_a_process_that_dies_before_the_test_leaves_no_line_and_no_hang(
    nodes, tmp_path: Path
) -> None:
    die = "import os, training.fold as f; f._test = lambda *args: os._exit(9)"
    roots, split = [str(tmp_path)] * 2, "protocol.split=speaker-k-fold"
    (output, status), (_, of_dead) = nodes(roots, split, patches=("", die))
    assert (status, of_dead) == (1, 9)
    assert "failed: another process of this training ended" in output
    assert "Traceback" not in output
    run = tmp_path / "tiny"
    assert not ledger(run) and not list(run.glob("folds/*/metrics.json"))
    for output, status in nodes(roots, split):  # resumes at the test
        assert status == 0, output
    assert len(ledger(run)) == 1


def test_processes_with_different_configs_are_refused_together(nodes, tmp_path: Path) -> None:
    other = "import sys, config.loading as c, train_gmu as t\n"
    other += "load = t.load_config\n"
    other += "t.load_config = lambda file, words: load(file, [*words, 'optim.lr=0.5'])"
    for output, status in nodes([str(tmp_path)] * 2, patches=("", other)):
        assert status == 2, output
        assert "optim.lr is 0.001 on process 0 and 0.5 on process 1" in output
