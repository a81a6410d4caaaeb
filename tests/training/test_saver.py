"""States are written beside training, spaced to a tenth of the time; no error of it is lost."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from storage.tensors import load_state, load_tensors
from system.background import Background
from system.errors import RunError
from system.signals import Stop
from tests.training.test_divergence import _times
from tests.training.test_engine import loaders, made, make_trainer
from training import checkpoints as checkpoints_module
from training import engine, saver
from training.checkpoints import Checkpoints, Place
from training.engine import fit
from training.saver import CheckpointSaver, Spacing
from training.state import TrainingState


class Training:
    """Weights that move, and where they are; its saver writes to a folder."""

    def __init__(self, folder: Path, spacing: Spacing, precision: str = "no") -> None:
        self.weights, self.place = torch.zeros(3), Place(0, 0, 0)
        self.checkpoints, self.stop = Checkpoints(folder), Stop()
        accelerator = Accelerator(cpu=True)
        if precision != "no":
            accelerator = SimpleNamespace(
                is_main_process=True, num_processes=1, mixed_precision=precision
            )
        self.saver = CheckpointSaver(
            self.checkpoints, spacing, self.stop, accelerator, self.snapshot
        )

    def snapshot(self) -> tuple[dict[str, object], Place]:
        return {"weights": self.weights, "place": list(self.place)}, self.place

    def at(self, epoch: int, batch: int = 0, best: int = 0) -> None:
        self.place = Place(epoch, batch, best)
        self.weights.fill_(10 * epoch + batch)

    def saved(self) -> list[tuple[int, int]]:
        """Return epoch and batch of all states on the disk, the newest first."""
        return [place[:2] for place in self.checkpoints._places()]


class Gate:
    """Holds back what a thread writes until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        write = checkpoints_module.write_state

        def held(*args: object) -> None:
            self.reached.set()
            assert self.open.wait(60)
            write(*args)

        monkeypatch.setattr(checkpoints_module, "write_state", held)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    gate = Gate(monkeypatch)
    yield gate
    gate.open.set()


def test_what_moves_during_a_write_is_not_in_the_file(tmp_path: Path, gate: Gate) -> None:
    training = Training(tmp_path, Spacing(1))
    training.at(1)
    training.saver.end_epoch()
    assert gate.reached.wait(60) and training.saved() == []
    training.weights.fill_(-1.0)  # training goes on
    gate.open.set()
    training.saver.finish()
    state = load_state(tmp_path / f"{training.place.name}.safetensors")
    assert state["weights"].tolist() == [10.0] * 3


def test_a_request_to_end_waits_for_the_write(tmp_path: Path, gate: Gate) -> None:
    training = Training(tmp_path, Spacing(1))
    training.at(1)
    training.saver.end_epoch()
    assert gate.reached.wait(60)
    training.stop.requested = True
    threading.Timer(0.2, gate.open.set).start()
    with pytest.raises(KeyboardInterrupt):
        training.saver.maybe_save()
    assert training.saved() == [(1, 0)]


def test_the_next_save_waits_so_that_there_is_one_copy(tmp_path: Path, gate: Gate) -> None:
    training = Training(tmp_path, Spacing(1))
    for epoch in (1, 2):
        training.at(epoch)
        threading.Timer(0.2, gate.open.set).start()
        training.saver.end_epoch()
    assert (1, 0) in training.saved()
    training.saver.finish()
    assert training.saved() == [(2, 0), (1, 0)]


def test_an_error_of_the_thread_is_raised_once_by_the_next_look(tmp_path: Path) -> None:
    training = Training(tmp_path / "gone", Spacing(1))
    training.at(1)
    training.saver.end_epoch()
    deadline = time.monotonic() + 60
    with pytest.raises(RunError, match="the folder .*gone is gone"):
        while time.monotonic() < deadline:
            training.saver.maybe_save()
    training.saver.maybe_save()


def test_an_error_of_the_thread_is_raised_at_the_end_of_training(tmp_path: Path) -> None:
    training = Training(tmp_path / "gone", Spacing(1))
    training.at(1)
    with pytest.raises(RunError, match="the folder .*gone is gone"), training.saver:
        training.saver.end_epoch()


def test_another_error_is_not_replaced_and_waits_for_the_write(tmp_path: Path, caplog) -> None:
    training = Training(tmp_path / "gone", Spacing(1))
    training.at(1)
    with pytest.raises(ZeroDivisionError), training.saver:
        training.saver.end_epoch()
        raise ZeroDivisionError
    assert "gone is gone" in caplog.text


def test_work_starts_when_the_work_before_has_ended() -> None:
    background, order = Background(), []
    background.start(lambda: (time.sleep(0.1), order.append(1)))
    background.start(lambda: order.append(2))
    background.wait()
    assert order == [1, 2]


def test_states_of_asked_epochs_and_the_last_are_saved(tmp_path: Path) -> None:
    written = []
    training = Training(tmp_path, Spacing(4))
    save = training.checkpoints.save
    training.checkpoints.save = lambda state, place: (
        written.append(place[:2]),
        save(state, place),
    )
    for epoch in range(1, 6):
        training.at(epoch)
        training.saver.end_epoch()
    training.saver.finish()
    assert written == [(4, 0), (5, 0)]


@pytest.mark.parametrize("asked", [False, True])
def test_unasked_saves_take_a_tenth_of_the_time_at_most(monkeypatch, tmp_path, asked) -> None:
    """A clock by hand: an epoch takes 4 s and a save 3 s, so one comes after 30 s or more."""
    clock = [0.0]
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    training = Training(tmp_path, Spacing(1 if asked else None))
    epochs = []

    def write(state: object, place: Place) -> None:
        clock[0] += 3.0
        epochs.append(place.epoch)

    training.checkpoints.save = write
    for epoch in range(1, 41):
        clock[0] += 4.0
        training.at(epoch)
        training.saver.end_epoch()
        training.saver._writing.wait()
    # From the start of a save 3 s of writing and 7 epochs make 31 s
    assert epochs == (list(range(1, 41)) if asked else [1, 8, 15, 22, 29, 36])
    assert asked or 3.0 * len(epochs) <= 0.11 * clock[0]


def test_within_an_epoch_unasked_states_come_after_15_minutes_or_ten_writes(
    monkeypatch, tmp_path
) -> None:
    clock = [0.0]
    monkeypatch.setattr(saver, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    training, minutes, cost = Training(tmp_path, Spacing(1000)), [], 0.0

    def write(state: object, place: Place) -> None:
        clock[0] += cost
        minutes.append(round(clock[0] / 60))

    training.checkpoints.save = write
    for batch in range(1, 100):
        clock[0] += 60.0
        cost = 120.0
        training.at(0, batch)
        training.saver.maybe_save()
        training.saver._writing.wait()
    # 15 minutes, then 20 after each start: writes end 2 minutes after it
    assert minutes == [17, 37, 57, 77, 97]


def test_best_weights_are_written_with_the_next_state_and_before_it(tmp_path: Path) -> None:
    training = Training(tmp_path, Spacing(3))
    for epoch in (1, 2, 3):
        training.at(epoch, best=2 if epoch > 1 else 1)
        if epoch < 3:
            training.saver.keep_best({"w": torch.full((2,), float(epoch))}, epoch)
        training.saver.end_epoch()
        if epoch == 2:
            assert not list(tmp_path.iterdir())
    training.saver.finish()
    assert [file.name for file in tmp_path.glob("best-*")] == ["best-0002.safetensors"]
    assert load_tensors(training.checkpoints.best(2))["w"].tolist() == [2.0, 2.0]


def test_best_weights_survive_a_last_state_that_cannot_be_saved(tmp_path: Path) -> None:
    training = Training(tmp_path, Spacing(3))
    training.saver.snapshot = lambda: None  # weights are not finite
    training.saver.keep_best({"w": torch.ones(2)}, 1)
    training.saver.finish()
    assert load_tensors(training.checkpoints.best(1))["w"].tolist() == [1.0, 1.0]


def test_under_bfloat16_a_state_within_an_epoch_follows_the_one_of_its_start(
    tmp_path: Path,
) -> None:
    for precision, expected in (("no", [(3, 2)]), ("bf16", [(3, 2), (3, 0)])):
        folder = tmp_path / precision
        folder.mkdir()
        training = Training(folder, Spacing(10), precision)
        training.at(3)
        training.saver.end_epoch()
        training.at(3, batch=2)
        training.stop.requested = True
        with pytest.raises(KeyboardInterrupt):
            training.saver.maybe_save()
        assert training.saved() == expected


@pytest.mark.parametrize("stopped", [False, True])
def test_a_return_leads_to_the_last_epoch_however_seldom_states_are_saved(
    monkeypatch, tmp_path: Path, stopped: bool
) -> None:
    """Of four epochs the fourth goes wrong in bfloat16; it may be stopped in its middle first."""

    def trainer() -> TrainingState:
        return make_trainer(precision="bf16", max_bad_steps=0, seed=4)

    def spoil(state: TrainingState) -> None:
        terms = engine.loss_terms

        def spoiled(*args: object) -> object:
            bad = state.progress.epoch == 3 and state.progress.batch >= 2
            bad = bad and not state.progress.float32
            return _times(terms(*args), float("nan") if bad else 1.0)

        patch.setattr(engine, "loss_terms", spoiled)

    ends = {}
    for every in (1, 100):
        folder, state = made(tmp_path / str(every)), trainer()
        with monkeypatch.context() as patch:
            spoil(state)
            if stopped and every == 100:
                step = engine.train_step

                def train_step(state: TrainingState, *args: object, step=step) -> object:
                    done = step(state, *args)
                    place = state.progress.epoch, state.progress.batch
                    state.stop.requested = place == (3, 0)
                    return done

                patch.setattr(engine, "train_step", train_step)
                with pytest.raises(KeyboardInterrupt):
                    fit(state, *loaders(), 4, None, folder, Spacing(every))
                patch.setattr(engine, "train_step", step)
                assert (3, 1) in [place[:2] for place in folder._places()]
                state = trainer()
                patch.undo()
                spoil(state)
            ends[every] = fit(state, *loaders(), 4, None, folder, Spacing(every)), state
    (often, one), (seldom, other) = ends[1], ends[100]
    assert often.float32_fallbacks[0]["back_to_epoch"] == 3
    assert often == seldom
    for ours, theirs in zip(one.trained, other.trained, strict=True):
        assert torch.equal(ours, theirs)
