"""Training with compiled backbones: which batches, what is refused, resume, processes, costs."""

import copy
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from accelerate import Accelerator
from torch._dynamo.backends.debugging import aot_eager

from gates import frozen
from gates.analysis import analyze
from models import compiled
from models.compiled import CompileFailed, Cost, Graphs, forget_graphs
from models.losses import FusionLoss
from storage.environment import read_environment
from storage.run_folder import read_run
from system.compilers import compiler_problem
from system.errors import InputError, RunError
from tests.support import kills
from tests.support.models import small_model
from tests.support.processes import joined
from tests.support.runs import run_experiment
from tests.training.test_engine import make_trainer
from tests.training.test_gradient_cache import assert_equal, batch_of, plain_backward, slopes
from tests.training.test_resume import RESULTS, Run
from training import engine, session
from training.batches import TrainBatches
from training.compiling import CompileCosts, training_graphs
from training.device_errors import explain_device_errors
from training.divergence import offending_parts
from training.dry_run import dry_run
from training.engine import loss_terms, train_step
from training.gradient_cache import cached_backward
from training.optim import Schedule, build_optimizers
from training.state import use_float32

PAIR = ("model.cqt_backbone=test_vit", "model.mel_backbone=test_vit")
COMPILED = (*PAIR, "train.compile=true", "train.epochs=1")
SIDE = 32
SLOW = 1500  # seconds at most, to compile on busy cores
VITS = {"cqt_backbone": "test_vit", "mel_backbone": "test_vit"}


@pytest.fixture
def made(monkeypatch) -> Iterator[list[int]]:
    """Sizes of the batches for which graphs were made, by torch's tracer without its compiler."""
    sizes: list[int] = []

    def backend(graph, inputs, **options):
        sizes.append(next(len(x) for x in inputs if x.ndim == 4 and x.shape[-1] == SIDE))
        return aot_eager(graph, inputs, **options)

    monkeypatch.setattr(compiled, "BACKEND", backend)
    yield sizes
    forget_graphs()


@pytest.mark.parametrize(
    ("n", "world", "wishes", "sizes"),
    [
        (33, 1, ["train.batch_size=16"], {11}),
        (31, 1, ["train.batch_size=16"], {15, 16}),
        (31, 2, ["train.batch_size=8"], {8}),
        (20, 1, ["train.batch_size=10", "train.backbone_batch=3"], {2, 3}),
    ],
)
def test_the_sizes_follow_from_split_and_config(tiny, n, world, wishes, sizes) -> None:
    batches = TrainBatches(n, int(wishes[0].split("=")[1]), seed=0, world=world)
    graphs = training_graphs(tiny(*wishes), batches, 7)
    assert graphs == Graphs(frozenset(sizes), 7, chunked=len(wishes) > 1)
    if len(wishes) == 1:
        assert {len(batch) for batch in batches} == sizes


@pytest.mark.parametrize(
    "wish", ["train.gradient_checkpointing=true", "train.sync_batch_norm=true"]
)
def test_what_cannot_be_compiled_is_refused(tiny, wish: str) -> None:
    with pytest.raises(InputError, match=rf"train.compile=true and {wish} exclude each other"):
        tiny("train.compile=true", wish)
    tiny(wish)


def test_a_cache_without_graphs_is_refused(tiny) -> None:
    with pytest.raises(InputError, match="has no effect with train.compile=false"):
        tiny("run.compile_cache=somewhere")
    config = tiny("train.compile=true", "run.store=a/b", "run.compile_cache=null")
    assert config.run.compile_folder == Path("a/compiled")


def test_the_cache_may_not_lie_in_the_run(tiny) -> None:
    config = tiny("train.compile=true", "name=x")
    config = tiny("train.compile=true", "name=x", f"run.compile_cache={config.run.root}/x/graphs")
    with pytest.raises(InputError, match="run.compile_cache=.* lies in the run folder"):
        run_experiment(config, [])


def test_a_machine_without_a_compiler_is_refused_before_audio_is_read(tiny, monkeypatch) -> None:
    monkeypatch.setattr(session, "compiler_problem", lambda device: f"no compiler for {device}")
    monkeypatch.setattr("training.experiment.make_plan", lambda *args, **options: pytest.fail())
    with pytest.raises(InputError, match=r"no compiler for cpu; or give train\.compile=false"):
        run_experiment(tiny("train.compile=true"), [])


def test_a_backward_pass_that_cannot_be_compiled_is_told_in_words(tiny) -> None:
    from torch._inductor.exc import CppCompileError

    with (
        pytest.raises(RunError, match=r"torch cannot compile .*train\.compile=false"),
        explain_device_errors(tiny(), torch.device("cpu")),
    ):
        raise CppCompileError(["g++", "x.cpp"], "no such loop")


def test_a_signal_that_ends_the_compiler_too_stops_the_run(tiny, monkeypatch) -> None:
    """A scheduler signals every process of a job, and Ctrl-C all of a terminal."""

    def ended(state, windows):
        state.stop.requested = True
        raise CompileFailed("C++ compile error")

    config = tiny("train.epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "train_unseen", ended)
        with pytest.raises(KeyboardInterrupt):
            run_experiment(config, [])
    assert read_run(run_experiment(config, [])).folds


def test_cached_gradients_by_graphs_are_those_of_the_whole_batch(made) -> None:
    torch.manual_seed(0)
    model = small_model("gmu_contrastive", dropout=0.0, **VITS)
    once = make_trainer(copy.deepcopy(model), optimizer="sgd", criterion=FusionLoss())
    cached = make_trainer(model, optimizer="sgd", criterion=FusionLoss(), backbone_batch=3)
    cached.model.graphs = Graphs(frozenset({2, 3}), 3, chunked=True)
    plain_backward(once, batch_of())
    cached_backward(cached, batch_of(), loss_terms, 1)
    assert_equal(slopes(cached), slopes(once))
    assert sorted(made) == [2, 2, 3, 3]  # without gradients and with; both branches share them


def test_a_part_that_falls_back_to_float32_gets_a_graph_of_its_own(made) -> None:
    model = small_model(**VITS).train()
    eager = copy.deepcopy(model)
    model.graphs = Graphs(frozenset({10}), 10)
    batch = batch_of()
    found = []
    for parts, n_graphs in (((), 1), (("mel",), 2), ((), 2)):
        use_float32(model, parts)
        use_float32(eager, parts)
        with torch.autocast("cpu", torch.bfloat16):
            ours, theirs = (one.features(batch.cqt, batch.mel) for one in (model, eager))
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)
        found.append(ours[1])
        assert len(made) == n_graphs  # both branches share them
    assert torch.equal(found[0], found[2]) and not torch.equal(found[0], found[1])


def test_a_step_that_is_not_finite_is_undone_as_in_eager_code(made) -> None:
    torch.manual_seed(0)
    model = small_model(cqt_backbone="test_vit", mel_backbone="test_byobnet")
    state = make_trainer(model)
    state.model.graphs = Graphs(frozenset({10}), 10)
    train_step(state, [batch_of()])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    bad = batch_of()
    bad.mel[0] = float("nan")
    train_step(state, [bad])
    assert state.progress.bad_in_row == 1 and len(made) == 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    train_step(state, [batch_of()])
    assert len(made) == 2 and state.progress.bad_in_row == 0


def test_nothing_is_compiled_to_find_where_values_are_not_finite(made) -> None:
    model = small_model(**VITS).train()
    model.graphs = Graphs(frozenset({10}), 10)
    with torch.no_grad():
        next(model.mel_branch.parameters()).fill_(float("nan"))
    assert offending_parts(model, batch_of(), loss_is_finite=False) == ["mel"]
    assert not made


def test_training_evaluation_and_gates_use_the_same_graphs(tiny, made, caplog, monkeypatch) -> None:
    caplog.set_level(logging.INFO)
    eager = run_experiment(tiny(*PAIR, "train.epochs=1", "name=eager"), [])
    assert not made
    run = run_experiment(tiny(*COMPILED), [])
    assert sorted(made) == [8, 8]  # 24 utterances in 3 batches; dev and test in batches of 8
    ours, theirs = (read_run(folder).folds[0].test.probs for folder in (run, eager))
    assert abs(ours - theirs).max() < 1e-4
    made.clear()
    assert analyze(run, n_draws=1, progress=False).gates is not None
    assert made == []
    forget_graphs()
    analyze(run, ablate=False, progress=False)
    assert made == [8]
    monkeypatch.setattr(frozen, "compiler_problem", lambda device: "no compiler")
    made.clear()
    forget_graphs()
    analyze(run, ablate=False, progress=False)
    assert not made
    assert "evaluated eagerly, though the run was compiled: no compiler" in caplog.messages


def test_a_run_records_its_compiler_and_keeps_its_mode(tiny, made) -> None:
    run = run_experiment(tiny(*COMPILED), [])
    assert read_environment(run, None)["compiler"]
    with pytest.raises(InputError, match="train.compile"):
        run_experiment(tiny(*PAIR, "train.epochs=1"), [])


def test_a_dry_run_says_what_compiling_costs(tiny, made) -> None:
    said = dry_run(tiny(*COMPILED))
    line = next(line for line in said.splitlines() if line.startswith("compiling"))
    assert "from the cache" in line and "eager" in line
    assert sorted(made) == [8, 8]
    assert "compiling" not in dry_run(tiny(*PAIR, "train.epochs=1"))


@pytest.mark.parametrize(
    ("first", "compiled_step", "words"),
    [
        (Cost(240.0, 6, 0), 0.35, "240.0 s the first time, 9.0 s from the cache c; a step 0.350 s"),
        (Cost(240.0, 6, 0), 0.35, "it pays after 4800 and 180 steps, an epoch has 57"),
        (Cost(9.0, 0, 6), 0.35, "it pays after 180 steps, an epoch has 57"),
        (Cost(9.0, 0, 6), 0.40, "it does not pay here"),
    ],
)
def test_the_steps_after_which_it_pays(first: Cost, compiled_step: float, words: str) -> None:
    costs = CompileCosts(first, Cost(9.0, 0, 6), compiled_step, eager=0.40)
    assert words in costs.describe(Path("c"), 57)
    assert ("the first time" in costs.describe(Path("c"), 57)) is (first.compiled > 0)


def _train_in_two(rank: int, folder: str) -> None:
    with joined(rank, 2, Path(folder)):
        compiled.BACKEND = "aot_eager"
        gradients = []
        for graphs in (None, Graphs(frozenset({4}), 4)):
            torch.manual_seed(0)
            model = small_model(dropout=0.0, **VITS)
            model.graphs = graphs
            parts = model.parts()
            optimizers = build_optimizers(parts, dict.fromkeys(parts, "sgd"), 0.05)
            accelerator = Accelerator(cpu=True)
            wrapped = accelerator.prepare(model)
            Schedule(optimizers)
            torch.manual_seed(rank)
            cqt, mel = torch.randn(2, 4, 1, SIDE, SIDE)
            wrapped(cqt, mel).logits.square().mean().backward()
            gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
        torch.save(gradients, Path(folder, f"{rank}.pt"))


def test_two_processes_have_the_mean_gradient_of_eager_ones(tmp_path: Path) -> None:
    mp.spawn(_train_in_two, args=(str(tmp_path),), nprocs=2)
    (eager, ours), (_, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    for ours_one, others_one, eager_one in zip(ours, others, eager, strict=True):
        assert torch.equal(ours_one, others_one)
        torch.testing.assert_close(ours_one, eager_one, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem("cpu") is not None, reason="no compiler")
def test_jobs_that_compile_at_once_into_one_cache_do_not_disturb_each_other(
    recipe: Path, tmp_path: Path
) -> None:
    wishes = ["model.cqt_backbone=test_vit", "train.compile=true", "train.epochs=1"]
    cache = f"run.compile_cache={tmp_path / 'cache'}"
    runs = [Run(recipe, tmp_path / name, "concat", *wishes, cache) for name in ("one", "two")]
    processes = [kills.start(run.argv, run.log) for run in runs]
    for run, process in zip(runs, processes, strict=True):
        process.join(SLOW)
        assert process.exitcode == 0, run.log.read_text()
    one, two = (run.results() for run in runs)
    assert one == two
    again = Run(recipe, tmp_path / "again", "concat", *wishes, cache)
    assert again.until(seconds=SLOW) == 0 and again.results() == one
    assert "0 compiled and" in again.log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(compiler_problem("cpu") is not None, reason="no compiler")
def test_a_compiled_run_that_was_killed_ends_in_the_same_bytes(
    recipe: Path, tmp_path: Path
) -> None:
    """The whole run compiles into its own empty cache; the killed one starts with another."""
    wishes = ["model.cqt_backbone=test_vit", "train.compile=true", "model.drop_path_rate=0.2"]
    found = []
    for name, places in {
        "whole": [],
        "killed": [("a training step", 3), ("after writing a checkpoint", 2), ("the test pass", 1)],
    }.items():
        cache = f"run.compile_cache={tmp_path / 'cache' / name}"
        run = Run(recipe, tmp_path / name, "gmu", *wishes, cache)
        for place, n in places:
            assert run.until(place, n, seconds=SLOW) == -9, run.log.read_text()
        assert run.until(seconds=SLOW) == 0, run.log.read_text()
        found.append(run.results())
        shutil.rmtree(run.folder)
    for name in RESULTS:
        assert found[0][name] == found[1][name], name
    assert " compiled and 0 from the cache" in (tmp_path / "whole" / "log").read_text()
