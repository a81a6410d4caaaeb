"""The range test finds a rate that is known to diverge, and reads the training clips only."""

import csv
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from audio import reading as audio
from evaluation.figures import COLOURS
from experiments.lr_range import draw_sweep, run_range_test
from experiments.usable_range import (
    BLOW_UP,
    MARGIN,
    Sweep,
    judge,
    mean_sweep,
    read_sweep,
    sweep,
)
from scripts.lr_range import main
from system.errors import InputError
from tests.support.paths import ROOT

STEEP = 8.0  # the largest curvature of the bowl
RATES = np.geomspace(1e-5, 1e2, 2000).tolist()


def bowl(optimizer: type[torch.optim.Optimizer] = torch.optim.SGD) -> Callable[[float], float]:
    """Return steps on 1 + (8 x^2 + y^2) / 2 with noisy slopes: SGD diverges above 2 / 8."""
    draw = torch.Generator().manual_seed(0)
    point = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
    curvature = torch.tensor([STEEP, 1.0])
    moves = optimizer([point], lr=1.0)

    def step(rate: float) -> float:
        moves.param_groups[0]["lr"] = rate
        loss = 1 + (curvature * point.detach() ** 2).sum() / 2
        point.grad = curvature * point.detach() + 0.01 * torch.randn(2, generator=draw)
        moves.step()
        return float(loss)

    return step


def test_a_bowl_diverges_at_two_over_its_curvature() -> None:
    seen = sweep(bowl(), RATES)
    found = read_sweep(seen)
    known = 2 / STEEP
    assert found.diverged_at is not None and known < found.diverged_at < 1.5 * known
    assert known / 10 < found.lowest_at < 1.1 * known and found.lowest == pytest.approx(1, abs=0.01)
    assert found.start == pytest.approx(1 + (STEEP + 9) / 2, rel=0.01)
    assert found.steepest_at < found.lowest_at
    assert found.band is not None and found.band[1] <= found.diverged_at / MARGIN
    assert judge(known / 10, seen, found)[0] == "usable"
    assert judge(2 * known, seen, found)[0] == "too high"
    assert "the test ended before it" in judge(2 * known, seen, found)[1]
    assert judge(1e-5, seen, found)[0] == "too low"


def test_the_average_is_that_of_all_losses_around() -> None:
    losses = [3.0, 1.0, 2.0, 5.0, 4.0]
    seen = sweep(lambda rate: losses[int(rate)], range(5))
    for n in range(5):
        weights = [0.9 ** abs(k - n) for k in range(5)]
        assert seen.smooth[n] == pytest.approx(np.average(losses, weights=weights))
    assert list(seen.losses) == losses and seen.diverged_at is None


def test_seeds_are_averaged_up_to_where_the_first_ends() -> None:
    rates = [1.0, 2.0, 3.0, 4.0]
    long, short = Sweep(rates, [4.0, 2.0, 1.0, 1.0], []), Sweep(rates[:2], [2.0, 6.0], [], 3.0)
    mean = mean_sweep([long, short])
    assert (
        list(mean.rates) == [1.0, 2.0]
        and list(mean.losses) == [3.0, 4.0]
        and mean.diverged_at == 3.0
    )
    assert mean.smooth == pytest.approx([(3 + 0.9 * 4) / 1.9, (4 + 0.9 * 3) / 1.9])
    assert mean_sweep([long, long]).losses == long.losses and mean_sweep([long]).diverged_at is None


@pytest.mark.parametrize("steps", [70, 100, 200, 400])
def test_what_larger_rates_win_is_not_said_of_smaller_ones(steps: int) -> None:
    rates = np.geomspace(1e-7, 1, steps)
    losses = np.select([rates < 1e-3, rates < 0.1], [1.5, 0.5], 3.0)
    seen = sweep(dict(zip(rates, losses, strict=True)).__getitem__, rates.tolist())
    found = read_sweep(seen)
    assert found.band is not None and 1e-3 <= found.band[0] < 2e-3
    verdict, words = judge(5e-4, seen, found)
    assert verdict == "too low" and "+0 % of the 1.5 at first" in words


def test_the_folder_of_a_run_is_left_alone(tiny, recipe, capsys) -> None:
    config = tiny("name=run_lr_range")
    folder = Path(config.run.root) / "run_lr_range"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("mine")
    assert main([str(recipe), f"run.root={config.run.root}", "name=run"]) == 2
    assert "is not a range test" in capsys.readouterr().err
    assert (folder / "config.yaml").read_text() == "mine"


def test_a_flat_valley_is_usable_up_to_where_a_fifth_is_lost() -> None:
    """One noisy lowest point in it says nothing of the rates behind."""
    rates = np.geomspace(1e-6, 1, 1201)
    losses = np.interp(np.log10(rates), [-6, -5, -4, -2, -1, 0], [2.0, 2.0, 1.0, 1.0, 2.0, 2.0])
    losses[(rates > 1e-4) & (rates < 1.1e-4)] = 0.99
    seen = sweep(dict(zip(rates, losses, strict=True)).__getitem__, rates.tolist())
    low, high = read_sweep(seen).band or (0, 0)
    assert math.log10(low) == pytest.approx(-4.95, abs=0.1)  # where a twentieth is won
    assert math.log10(high) == pytest.approx(-1.8, abs=0.1)  # a fifth of the way up


def test_a_sweep_ends_where_the_loss_is_not_a_number_or_blows_up() -> None:
    calls = []

    def step(rate: float) -> float:
        calls.append(rate)
        return math.nan if rate >= 20 else 1.0

    seen = sweep(step, range(1, 100))
    assert seen.diverged_at == 20 and calls[-1] == 20 and len(seen.losses) == len(seen.rates) == 19
    seen = sweep(lambda rate: 1.0 if rate < 30 else 100.0, range(1, 100))
    assert seen.diverged_at == 30 and seen.smooth[-1] > BLOW_UP * min(seen.smooth)
    with pytest.raises(InputError, match="not finite after 3 steps: give a lower rate"):
        read_sweep(sweep(lambda rate: 1.0 if rate < 4 else math.inf, range(1, 100)))


def test_a_loss_that_never_falls_has_no_usable_rate() -> None:
    seen = sweep(lambda rate: 1.0 + rate, np.geomspace(1e-6, 1, 100).tolist())
    found = read_sweep(seen)
    assert found.band is None
    kinds = [judge(rate, seen, found)[0] for rate in (1e-6, 1e-3, 1.0)]
    assert kinds == ["too low", "too high", "too high"]


def test_a_rate_behind_the_lowest_loss_is_too_high_even_if_nothing_blows_up() -> None:
    """As with Adam, whose loss rises to that of a guess and stays there."""
    rates = np.geomspace(1e-6, 1, 120)
    losses = np.interp(np.log10(rates), [-6, -4, -2.5, -1, 0], [1.4, 1.4, 0.7, 1.5, 1.5])
    seen = sweep(dict(zip(rates, losses, strict=True)).__getitem__, rates.tolist())
    found = read_sweep(seen)
    assert found.diverged_at is None and found.lowest_at == pytest.approx(10**-2.5, rel=0.1)
    kinds = [judge(rate, seen, found)[0] for rate in (1e-5, 1e-3, 0.02, 0.5)]
    assert kinds == ["too low", "usable", "too high", "too high"]


def test_a_usable_rate_keeps_away_from_the_one_that_diverges() -> None:
    rates = np.geomspace(1e-6, 1, 121)
    losses = {rate: 2 - (math.log10(rate) + 6) / 6 if rate < 0.3 else math.nan for rate in rates}
    seen = sweep(losses.__getitem__, rates.tolist())
    found = read_sweep(seen)
    assert found.diverged_at == min(rate for rate in rates if rate >= 0.3)
    assert found.lowest_at == max(rate for rate in rates if rate < 0.3)
    kinds = [judge(found.diverged_at / part, seen, found)[0] for part in (1.5, 2.9, 3.1, 10)]
    assert kinds == ["too high", "too high", "usable", "usable"]


def test_a_rate_that_was_not_tried_is_not_judged() -> None:
    rates = np.geomspace(1e-6, 1e-2, 100)
    losses = {rate: 2 - (math.log10(rate) + 6) / 4 for rate in rates}  # still falling at the end
    seen = sweep(losses.__getitem__, rates.tolist())
    found = read_sweep(seen)
    kinds = [judge(rate, seen, found) for rate in (1e-8, 5e-3, 0.02)]
    assert [kind for kind, _ in kinds] == ["not tested", "usable", "not tested"]
    assert "the test tried 1e-06 to 0.01: give --lowest or --highest" in kinds[2][1]


@pytest.mark.parametrize("seed", range(5))
def test_noise_behind_the_lowest_loss_makes_no_rate_too_high(seed: int) -> None:
    draw = np.random.default_rng(seed)
    rates = np.geomspace(1e-7, 1e-5, 100)
    losses = dict(zip(rates, 1.4 + 0.02 * draw.standard_normal(100), strict=True))
    seen = sweep(losses.__getitem__, rates.tolist())
    assert judge(9.9e-6, seen, read_sweep(seen))[0] == "too low"


def test_a_bad_batch_of_a_network_that_knows_all_by_heart_is_not_a_divergence() -> None:
    rates = np.geomspace(1e-6, 1, 120)
    losses = {rate: 2.0 if i < 40 else 0.002 for i, rate in enumerate(rates)}
    losses[rates[110]] = 0.15
    assert sweep(losses.__getitem__, rates.tolist()).diverged_at is None


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The audio files that are opened."""
    names: set[str] = set()
    for name in ("inspect_audio", "read_audio"):
        real = getattr(audio, name)

        def noted(path: Path, *args: object, real: Callable = real) -> object:
            names.add(Path(path).stem)
            return real(path, *args)

        for module in [m for m in sys.modules.values() if getattr(m, name, None) is real]:
            monkeypatch.setattr(module, name, noted)
    return names


def test_the_tiny_recipe_gets_an_answer_from_its_training_clips_alone(tiny, opened) -> None:
    config = tiny("run.folds=[1]", f"run.store={Path(tiny().run.root) / 'features'}")
    words = run_range_test(config, 1e-3, 1e-1, steps=21, repeats=2)
    assert {name[:5] for name in opened} == {"Ses03", "Ses04", "Ses05"}  # test 1, dev 2
    folder = Path(config.run.root) / "tiny_lr_range"
    about = json.loads((folder / "lr_range.json").read_text())
    assert words.startswith(f"optim.lr={config.optim.lr:g} is {about['verdict']} for tiny")
    assert "mean of 2 seeds" in words and about["seeds"] == [0, 1]
    with (folder / "lr_range.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    seeds = [[row for row in rows if row["seed"] == seed] for seed in "01"]
    assert float(rows[0]["rate"]) == pytest.approx(1e-3) and len(seeds[0]) <= 21
    columns = ("rate", "loss", "smoothed")
    sweeps = [Sweep(*([float(row[c]) for row in own] for c in columns)) for own in seeds]
    assert about["lowest"] == pytest.approx(min(mean_sweep(sweeps).smooth[10:]))
    assert (folder / "lr_range.png").read_bytes().startswith(b"\x89PNG")
    first = (folder / "lr_range.csv").read_text()
    run_range_test(config, 1e-3, 1e-1, steps=21, repeats=1)
    again = (folder / "lr_range.csv").read_text()
    assert len(again) < len(first) and first.startswith(again)  # the same seed, the same losses


@pytest.mark.parametrize(
    ("wish", "scales"), [("=0.1", (0.1, 0.1, 1.0)), ("={cqt: 0.5, mel: 2}", (0.5, 2.0, 1.0))]
)
def test_all_optimizers_keep_their_proportion(tiny, monkeypatch, wish, scales) -> None:
    seen: list[list[float]] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam, *args: object) -> object:
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *args)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    config = tiny(f"optim.backbone_lr_scale{wish}", "optim.optimizer.mel=adam", "optim.lr=0.5")
    run_range_test(config, 1e-6, 1e-4, steps=21, repeats=1)
    rates = np.geomspace(1e-6, 1e-4, 21)
    assert len(seen) == 3 * 21
    for i, rate in enumerate(rates):
        for part, scale in enumerate(scales):  # cqt, mel, head
            assert seen[3 * i + part] == pytest.approx([rate * scale] * 2)


@pytest.mark.parametrize(
    "words, named",
    [
        (["--lowest", "1", "--highest", "0.1"], "--lowest must be above 0 and below --highest"),
        (["--highest", "inf"], "--highest, which is at most 1e+06"),
        (["--steps", "69"], "--steps must be 70 to 100000 from 1e-07 to 1, 10 at least"),
        (["--steps", "20", "--lowest", "0.1"], "--steps must be 21 to 100000"),
        (["--steps", "1000000000000"], "--steps must be 70 to 100000"),
        (["--repeats", "0"], "--repeats 1 to 100"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_what_makes_no_test_is_refused(recipe, tmp_path, capsys, words, named) -> None:
    assert main([str(recipe), f"run.root={tmp_path}", *words]) == 2
    assert named in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_script_starts_the_entry() -> None:
    found = subprocess.run(
        [ROOT / "scripts/lr_range.sh", "--help"], capture_output=True, text=True, cwd="/"
    )
    assert found.returncode == 0 and "scripts/lr_range.sh" in found.stdout


def test_the_figure_shows_the_usable_band(tmp_path) -> None:
    from PIL import Image

    seen = sweep(bowl(), RATES)
    for name, band in (("with", (1e-3, 1e-1)), ("without", None)):
        draw_sweep(tmp_path / f"{name}.png", [seen], seen, {"optim.lr = 0.01": 0.01}, band)
    with_band, without = (
        np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        for name in ("with", "without")
    )
    green = 255 - 0.15 * (255 - np.array([int(COLOURS[2][i : i + 2], 16) for i in (1, 3, 5)]))
    shaded = [(np.abs(each - green) < 3).all(-1).mean() for each in (with_band, without)]
    assert shaded[0] > 0.1 and shaded[1] < 0.01
    shutil.rmtree(tmp_path)
