"""What of a trained network another one takes, against cases worked by hand."""

import torch

from models.transfer import plan_transfer

HIDDEN = {"head.classify.0.weight": (4, 6), "head.classify.0.bias": (4,)}


def shapes(n_classes: int, **more: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a small network; more tensors by name, with `__` for dots."""
    last = {"head.classify.4.weight": (n_classes, 4), "head.classify.4.bias": (n_classes,)}
    named = {name.replace("__", "."): shape for name, shape in more.items()}
    return {"cqt_branch.w": (2, 2), "cqt_mean": (1,), **HIDDEN, **last, **named}


def test_equal_networks_take_all() -> None:
    found = plan_transfer(shapes(2), shapes(2), ["a", "b"], ["a", "b"])
    assert found.rows == ((0, 0), (1, 1)) and found.new == () and found.classes == ("a", "b")
    assert set(found.tensors) == {"cqt_branch.w", "cqt_mean", *HIDDEN}


def test_rows_follow_names_and_others_keep_their_own_values() -> None:
    found = plan_transfer(shapes(3), shapes(2), ["calm", "sad", "angry"], ["angry", "sad"])
    assert found.rows == ((1, 1), (2, 0))
    assert found.new == ("row calm of head.classify.4",)
    own = {name: torch.full(shape, -1.0) for name, shape in shapes(3).items()}
    theirs = {name: torch.full(shape, 7.0) for name, shape in shapes(2).items()}
    theirs["head.classify.4.bias"] = torch.tensor([10.0, 20.0])
    taken = found.apply(own, theirs)
    assert taken["head.classify.4.bias"].tolist() == [-1.0, 20.0, 10.0]
    assert taken["head.classify.4.weight"][:, 0].tolist() == [-1.0, 7.0, 7.0]
    assert own["head.classify.4.bias"].tolist() == [-1.0] * 3  # a copy
    assert taken["cqt_mean"].item() == 7.0


def test_no_class_in_common_starts_the_last_layer_anew() -> None:
    found = plan_transfer(shapes(2), shapes(2), ["a", "b"], ["c", "d"])
    assert found.rows == () and found.new == ("head.classify.4",)
    own = {name: torch.zeros(shape) for name, shape in shapes(2).items()}
    assert "head.classify.4.bias" not in found.apply(own, own)


def test_rows_on_another_hidden_layer_mean_nothing() -> None:
    """The first layer differs, so all of the classifier starts anew, though shapes fit."""
    theirs = shapes(2, head__classify__0__weight=(4, 5), head__classify__1__weight=(4,))
    own = shapes(2, head__classify__1__weight=(4,))
    found = plan_transfer(own, theirs, ["a", "b"], ["a", "b"])
    assert found.rows == ()
    assert found.new == ("head.classify.0", "head.classify.1", "head.classify.4")


def test_a_part_that_the_other_has_not_or_of_another_size_starts_anew() -> None:
    own = shapes(1, head__view__weight=(3, 3), head__gmu__gate__weight=(2, 4))
    theirs = shapes(1, head__gmu__gate__weight=(1, 4))
    found = plan_transfer(own, theirs, ["a"], ["a"])
    assert found.new == ("head.view", "head.gmu.gate")
    assert found.rows == ((0, 0),)
