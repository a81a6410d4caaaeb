"""Two states and the newest between epochs are kept; what is corrupt is found out and not used."""

from pathlib import Path

import pytest
import torch

from storage.tensors import copy_state
from system.errors import RunError
from training.checkpoints import Checkpoints, Place

PLACES = [Place(0, 0, 0), Place(0, 4, 0), Place(0, 8, 0), Place(1, 0, 1), Place(1, 4, 1)]


def state(place: Place) -> dict[str, object]:
    return {"place": list(place), "weights": torch.full((50,), float(sum(place)))}


@pytest.fixture
def kept(tmp_path: Path) -> Checkpoints:
    """States at all places, saved in their order, with the best weights of epoch 1."""
    checkpoints = Checkpoints(tmp_path)
    for place in PLACES:
        if place.best_epoch:
            checkpoints.save_best({"weights": torch.ones(3)}, place.best_epoch)
        checkpoints.save(copy_state(state(place)), place)
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(path.stem for path in checkpoints.folder.iterdir())


def test_without_a_state_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none").load() is None


def test_the_newest_is_loaded_and_two_are_kept(kept: Checkpoints) -> None:
    assert names(kept) == [
        "best-0001",
        "epoch-0001_batch-00000_best-0001",
        "epoch-0001_batch-00004_best-0001",
    ]
    found = kept.load()
    assert found is not None and found["place"] == [1, 4, 1]
    assert torch.equal(found["weights"], state(PLACES[-1])["weights"])  # type: ignore[arg-type]


def test_within_an_epoch_its_beginning_is_kept_as_well(kept: Checkpoints) -> None:
    for batch in (8, 12, 16):
        kept.save(copy_state(state(Place(1, batch, 1))), Place(1, batch, 1))
    assert names(kept) == [
        "best-0001",
        "epoch-0001_batch-00000_best-0001",
        "epoch-0001_batch-00012_best-0001",
        "epoch-0001_batch-00016_best-0001",
    ]
    assert (kept.load(between_epochs=True) or {})["place"] == [1, 0, 1]


def test_best_weights_that_no_state_needs_are_removed(kept: Checkpoints) -> None:
    for epoch in (2, 3):
        kept.save_best({"weights": torch.ones(3)}, epoch)
        kept.save(copy_state(state(Place(epoch, 0, epoch))), Place(epoch, 0, epoch))
    assert [name for name in names(kept) if name.startswith("best")] == ["best-0002", "best-0003"]


def damage(file: Path, how: str) -> None:
    content = file.read_bytes()
    if how == "empty":
        file.write_bytes(b"")
    elif how == "cut in the header":
        file.write_bytes(content[:20])
    elif how == "cut short":
        file.write_bytes(content[:-1])
    elif how == "a flipped bit":
        file.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif how == "longer":
        file.write_bytes(content + b"\0")
    elif how == "text":
        file.write_text("no state")
    elif how == "of another kind":
        from safetensors.torch import save_file

        save_file({"weights": torch.ones(3)}, file)


DAMAGES = [
    "empty",
    "cut in the header",
    "cut short",
    "a flipped bit",
    "longer",
    "text",
    "of another kind",
]


@pytest.mark.promise("checkpoint")
@pytest.mark.parametrize("how", DAMAGES)
def test_a_corrupt_newest_state_is_passed_over_and_removed(
    kept: Checkpoints, caplog, count, how: str
) -> None:
    newest = kept.folder / f"{PLACES[-1].name}.safetensors"
    damage(newest, how)
    assert (kept.load() or {})["place"] == [1, 0, 1]
    assert not newest.exists() and f"{newest} is corrupt and was removed" in caplog.text
    count("corrupt states found out")


@pytest.mark.promise("checkpoint")
@pytest.mark.parametrize("how", DAMAGES)
def test_where_all_are_corrupt_the_fix_is_printed_and_nothing_is_removed(
    kept: Checkpoints, count, how: str
) -> None:
    before = names(kept)
    for file in kept.folder.glob("epoch-*"):
        damage(file, how)
    with pytest.raises(RunError, match=f"corrupt.*remove {kept.folder.parent} and run the same"):
        kept.load()
    assert names(kept) == before
    count("corrupt states found out", 2)


@pytest.mark.promise("checkpoint")
def test_a_state_is_as_good_as_its_best_weights(kept: Checkpoints) -> None:
    kept.save_best({"weights": torch.ones(3)}, 2)
    kept.save(copy_state(state(Place(2, 0, 2))), Place(2, 0, 2))
    damage(kept.best(2), "cut short")
    assert (kept.load() or {})["place"] == [1, 4, 1]


def test_after_a_return_later_states_are_forgotten(kept: Checkpoints) -> None:
    kept.remove_after(Place(1, 0, 1))
    assert names(kept) == ["best-0001", "epoch-0001_batch-00000_best-0001"]


def test_all_is_removed_but_the_lock(kept: Checkpoints) -> None:
    (kept.folder / "lock").touch()
    kept.remove()
    assert names(kept) == ["lock"]
