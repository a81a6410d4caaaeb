"""The entry tells the story: few lines, and few calls between it and the network."""

import sys
from pathlib import Path

import train_gmu
from model_gmu import MaxMViTGMU
from tests.support.paths import ROOT


def test_the_entry_reads_in_sixty_lines() -> None:
    assert (ROOT / "train_gmu.py").read_text().count("\n") <= 60


def test_five_calls_lead_from_the_entry_to_the_network(recipe: Path, tmp_path, monkeypatch) -> None:
    forward, stacks = MaxMViTGMU.forward, []

    def watched(model, cqt, mel):
        frame, names = sys._getframe(1), []
        while frame is not None and frame.f_code.co_name != "main":
            if Path(frame.f_code.co_filename).is_relative_to(ROOT) and "site-packages" not in (
                frame.f_code.co_filename
            ):
                names.append(frame.f_code.co_name)
            frame = frame.f_back
        stacks.append(["main", *reversed(names)])
        return forward(model, cqt, mel)

    monkeypatch.setattr(MaxMViTGMU, "forward", watched)
    words = [f"run.root={tmp_path / 'runs'}", "train.epochs=1"]
    assert train_gmu.main(["--config", str(recipe), *words]) == 0
    training = [stack for stack in stacks if "train_step" in stack]
    assert training[0] == ["main", "run_fold", "fit", "train_one_epoch", "train_step"]
