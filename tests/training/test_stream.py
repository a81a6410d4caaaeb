"""Training from shards: the same bytes as from files and the feature store, also when resumed."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from torch.utils.data import DataLoader

from config.schema import Config
from corpora.plan import make_plan, make_tuning_plan
from data import Batch
from experiments.lr_range import run_range_test
from experiments.tuning import Tuning, load_tuning, open_folder
from features import SpectrogramImages
from gates.analysis import analyze
from scripts.write_shards import main as write_shards
from storage.shards import Shards
from system.errors import InputError, RunError
from tests.support.runs import run_experiment, without_images
from tests.training.test_resume import FOLD, RESULTS, Run
from training.build import make_dataset, make_train_data, make_train_loader, make_waveforms
from training.dry_run import dry_run
from training.session import Fold, open_session, open_store
from training.stream import open_shards, waveform_statistics

pytest.importorskip("webdataset")

AUGMENTED = ["train.images=computed", "augment.speed=0.1", "augment.snr_db=[10,30]"]
CROPS = ["features.seconds=0.1", "augment.time_mask=0.3"]


@pytest.fixture(scope="module")
def shards(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Write shards of the tiny corpus, each kind once."""
    written: dict[tuple[str, ...], Path] = {}

    def write(form: str, *overrides: str, total: int = 3) -> Path:
        if (form, *overrides) not in written:
            folder = tmp_path_factory.mktemp(form)
            for i in range(1, total + 1):
                argv = ["--config", str(recipe), "--to", str(folder), "--shard", f"{i}/{total}"]
                assert write_shards([*argv, "--format", form, *overrides]) == 0
            written[form, *overrides] = folder
        return written[form, *overrides]

    return write


def results(run: Path) -> dict[str, bytes]:
    return {name: (run / FOLD / name).read_bytes() for name in RESULTS}


@pytest.mark.parametrize(
    ("form", "overrides"),
    [
        ("flac", ["train.images=computed"]),
        ("wav", [*AUGMENTED, *CROPS]),
        ("images", []),
        ("images", CROPS),
    ],
)
def test_scores_and_weights_are_those_of_the_memory_map(tiny, shards, tmp_path, form, overrides):
    """With shards the store holds no training images: one of its own shows that none is read."""
    expected = results(run_experiment(tiny(*overrides), []))
    written = shards(form, *[word for word in overrides if word.startswith("features")])
    own = [f"run.shards={written}", "name=streamed", f"run.store={tmp_path / 's'}"]
    config = tiny(*overrides, *own)
    assert results(run_experiment(config, [])) == expected
    assert len(open_store(config).rows) == 16  # dev and test


def test_a_killed_run_ends_in_the_bytes_of_one_from_files(recipe, shards, tmp_path):
    undisturbed = Run(recipe, tmp_path / "files", "gmu")
    assert undisturbed.until() == 0, undisturbed.log.read_text()
    run = Run(recipe, tmp_path / "shards", "gmu", f"run.shards={shards('flac')}")
    for place, n in (("a training step", 2), ("after writing a checkpoint", 2), ("evaluating", 1)):
        assert run.until(place, n) == -signal.SIGKILL, f"{place}: {run.log.read_text()}"
    assert "resuming after epoch 0, batch 2" in run.log.read_text()
    assert run.until() == 0, run.log.read_text()
    assert run.results() == undisturbed.results()


def fold_of(config: Config, rank: int = 0, world: int = 1) -> Fold:
    """Return the first fold, for one of some processes."""
    plan = make_plan(config)
    session = open_session(config, plan)
    share = SimpleNamespace(
        device=torch.device("cpu"), process_index=rank, num_processes=world, is_main_process=True
    )
    return replace(session, accelerator=share).fold(plan.splits[0], 0)


def batches(fold: Fold, epoch: int = 0, first: int = 0) -> list[Batch]:
    loader = make_train_loader(fold, make_train_data(fold))
    loader.batch_sampler.set_epoch(epoch, first)
    return [batch.widened() for batch in loader]


def assert_equal(some: list[Batch], others: list[Batch]) -> None:
    assert len(some) == len(others) > 0
    for one, other in zip(some, others, strict=True):
        for name in ("utterance", "cqt", "mel", "targets"):
            assert torch.equal(getattr(one, name), getattr(other, name)), name


@pytest.mark.parametrize(("form", "overrides"), [("flac", AUGMENTED), ("images", CROPS[1:])])
def test_each_process_streams_its_share_from_any_place(tiny, shards, form, overrides):
    config = tiny(*overrides, "train.batch_size=4")
    streamed = config.model_copy(
        update={"run": config.run.model_copy(update={"shards": str(shards(form))})}
    )
    seen: list[int] = []
    for rank in range(2):
        here, there = fold_of(streamed, rank, 2), fold_of(config, rank, 2)
        assert_equal(batches(here, epoch=1), batches(there, epoch=1))
        assert_equal(batches(here, epoch=1, first=2), batches(here, epoch=1)[2:])
        seen += [i for batch in batches(here) for i in batch.utterance.tolist()]
    assert sorted(seen) == list(range(len(here.split.train)))


@pytest.mark.parametrize("form", ["wav", "images"])
def test_processes_that_load_data_share_the_shards(tiny, shards, form):
    images = "stored" if form == "images" else "computed"
    fold = fold_of(tiny(f"run.shards={shards(form)}", f"train.images={images}"))
    dataset = make_train_data(fold)
    sampler = [[(0, 0), (0, 5)], [(0, 3)], [(0, 1), (0, 2)], [(0, 7)]]
    dataset[(0, 0)]  # opens a shard before the processes are forked
    loader = DataLoader(
        dataset, batch_sampler=sampler, num_workers=2, collate_fn=lambda batch: batch
    )
    for items, batch in zip(sampler, loader, strict=True):
        for one, other in zip(batch, dataset.__getitems__(items), strict=True):
            assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("seconds", ["null", "0.1"])
def test_statistics_of_a_pass_are_those_of_the_store(tiny, shards, seconds):
    overrides = (f"features.seconds={seconds}", "train.images=computed")
    config = tiny(*overrides, f"run.shards={shards('flac')}")
    fold = fold_of(config)
    images = SpectrogramImages(**fold.session.store.settings)
    plain = make_waveforms(fold, augmented=False)
    found, bad = waveform_statistics(plain, images, torch.device("cpu"), workers=2)
    stored = fold_of(tiny(*overrides))
    rows = make_dataset(stored, stored.split.train, training=True).rows.tolist()
    expected = stored.session.store.statistics(rows)
    assert not bad
    for name in ("cqt", "mel"):
        for one, other in zip(found[name], expected[name], strict=True):
            assert torch.allclose(one, other, rtol=1e-6)


def test_utterances_whose_images_are_not_finite_are_named(tiny, shards, monkeypatch):
    fold = fold_of(tiny("train.images=computed", f"run.shards={shards('flac')}"))
    images = SpectrogramImages(**fold.session.store.settings)
    calls = iter(range(1000))
    forward = SpectrogramImages.forward

    def spoiled(self, waveform, lengths=None):
        cqt, mel = forward(self, waveform, lengths)
        return (cqt * float("nan"), mel) if next(calls) in (3, 8) else (cqt, mel)

    monkeypatch.setattr(SpectrogramImages, "forward", spoiled)
    plain = make_waveforms(fold, augmented=False)
    assert waveform_statistics(plain, images, torch.device("cpu"), workers=0)[1] == [3, 8]


def test_shards_of_another_run_are_refused(tiny, shards):
    held, images = f"run.shards={shards('flac')}", f"run.shards={shards('images')}"
    wrong = {
        "written for certificate .*other utterances, labels or splits": (
            held,
            "train.images=computed",
            "corpus.subset=improvised",
        ),
        "holds audio, which train.images=stored does not read: set train.images=computed": (held,),
        "holds images, which train.images=computed does not read: set train.images=stored": (
            images,
            "train.images=computed",
        ),
        "made with other settings of features": (images, "features.top_db=60"),
    }
    for message, overrides in wrong.items():
        config = tiny(*overrides)
        with pytest.raises(InputError, match=message):
            open_shards(config, make_plan(config), open_store(config))
        with pytest.raises(InputError, match=message):
            run_experiment(config, [])
        with pytest.raises(InputError, match=message):
            dry_run(config, overwrite=False)


def test_a_tuning_plan_takes_shards_of_its_protocol(tiny, shards):
    config = tiny("train.images=computed", f"run.shards={shards('flac')}", "run.folds=[2]")
    plan = make_tuning_plan(config)
    held = open_shards(config, plan, open_store(config))
    assert held.audio([plan.hashes[u.audio] for u in plan.splits[0].train])
    other = tiny(
        "train.images=computed",
        f"run.shards={shards('flac')}",
        "run.folds=[2]",
        "protocol.split=leave-one-speaker-out",
    )
    with pytest.raises(InputError, match="written for protocol "):
        open_shards(other, make_tuning_plan(other), open_store(other))


def test_a_missing_shard_stops_a_run_before_audio_is_indexed(tiny, shards, tmp_path, monkeypatch):
    for path in sorted(shards("flac").iterdir())[1:]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    monkeypatch.setattr("training.experiment.make_plan", lambda *args, **kwargs: pytest.fail())
    with pytest.raises(InputError, match=r"1 of 3 shards are missing .*--shard 1/3"):
        run_experiment(tiny("train.images=computed", f"run.shards={tmp_path}"), [])


@pytest.fixture
def unread(monkeypatch) -> None:
    """Let the test fail where a tuning or a range test indexes the corpus."""
    monkeypatch.setattr("corpora.plan.make_tuning_plan", lambda *args, **kwargs: pytest.fail())


@pytest.fixture
def load(recipe, tmp_path) -> Callable[..., Tuning]:
    """Load a tuning of the tiny config over one key."""

    def load(key: str, values: list, *overrides: str) -> Tuning:
        space = tmp_path / "space.yaml"
        space.write_text(yaml.safe_dump({key: {"choices": values}}))
        wishes = [f"run.root={tmp_path / 'runs'}", "run.folds=[1]", *overrides]
        return load_tuning(str(recipe), str(space), wishes, ["python", "tune.py"])

    return load


@pytest.mark.usefixtures("unread")
def test_shards_that_no_trial_can_read_stop_a_study_and_a_range_test_at_once(
    tiny, shards, load, tmp_path
):
    part = tmp_path / "part"
    part.mkdir()
    for path in sorted(shards("flac").iterdir())[1:]:
        shutil.copy(path, part)
    wrong = {
        "1 of 3 shards are missing .*--shard 1/3": (f"run.shards={part}", "train.images=computed"),
        "holds audio, .* set train.images=computed": (f"run.shards={shards('flac')}",),
        "holds images, .* set train.images=stored": (
            f"run.shards={shards('images')}",
            "train.images=computed",
        ),
    }
    for message, overrides in wrong.items():
        with pytest.raises(InputError, match=message):
            load("optim.lr", [1e-4, 1e-3], *overrides)
        with pytest.raises(InputError, match=message):
            run_range_test(tiny(*overrides), repeats=1)


@pytest.mark.parametrize(
    ("form", "key", "values"),
    [
        ("images", "features.top_db", [60, 80]),
        ("images", "model.image_size", [64, 96]),
        ("images", "train.images", ["stored", "computed"]),
        ("flac", "train.images", ["stored", "computed"]),
    ],
)
def test_a_space_over_what_the_shards_fix_is_refused(shards, load, form, key, values):
    images = "stored" if form == "images" else "computed"
    overrides = f"run.shards={shards(form)}", f"train.images={images}"
    with pytest.raises(
        InputError, match=rf"yaml: {key} cannot be tuned with run.shards=.*Leave it out"
    ):
        load(key, values, *overrides)
    load(key, values, overrides[1])  # without shards


def test_features_are_tuned_over_shards_of_audio(shards, load):
    overrides = f"run.shards={shards('flac')}", "train.images=computed"
    assert load("features.top_db", [60, 80], *overrides).space.keys() == {"features.top_db"}


def test_shards_of_another_protocol_begin_no_study(shards, load):
    overrides = f"run.shards={shards('flac')}", "train.images=computed"
    tuning = load("optim.lr", [1e-4, 1e-3], *overrides, "protocol.split=leave-one-speaker-out")
    with pytest.raises(InputError, match="written for protocol "):
        open_folder(tuning)
    assert not tuning.folder.exists()


def test_no_shards_are_written_for_a_config_that_reads_no_image(recipe, tmp_path, capsys):
    argv = ["--config", str(recipe), "--to", str(tmp_path / "shards"), "model.vectors=v.npz"]
    assert write_shards([*argv, *without_images("file")]) == 2
    assert "reads no image, and so no shards" in capsys.readouterr().err
    assert not (tmp_path / "shards").exists()


def test_shards_in_the_run_folder_are_refused(tiny, tmp_path):
    inside = f"run.shards={tmp_path / 'runs' / 'tiny' / 'shards'}"
    with pytest.raises(InputError, match="run.shards=.* lies in the run folder .*--overwrite"):
        run_experiment(tiny("train.images=computed", inside), [])


@pytest.mark.parametrize(("form", "images"), [("images", "stored"), ("flac", "computed")])
def test_gates_are_analysed_without_the_shards(tiny, shards, tmp_path, form, images):
    """The branch ablation needs the means of training images, which only the shards held."""
    copy = tmp_path / "shards"
    shutil.copytree(shards(form), copy)
    places = [f"run.shards={copy}", f"run.store={tmp_path / 'store'}", f"train.images={images}"]
    config = tiny(*places, "model.fusion=gmu", "train.epochs=1", "run.folds=[1]")
    run = run_experiment(config, [])
    assert len(open_store(config).rows) == 16
    shutil.rmtree(copy)
    found = analyze(run, n_draws=1, progress=False)
    plain = tiny("name=plain", "model.fusion=gmu", "train.epochs=1", "run.folds=[1]", places[2])
    expected = analyze(run_experiment(plain, []), n_draws=1, progress=False)
    assert found.branch_ablation is not None
    assert found.branch_ablation == expected.branch_ablation
    assert found.gates == expected.gates
    assert len(open_store(config).rows) == 40


def test_a_changed_recording_stops_a_run_with_the_name_of_its_shard(tiny, shards, tmp_path):
    for path in shards("wav").iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = tiny("train.images=computed", "train.normalize=false", f"run.shards={tmp_path}")
    plan = make_plan(config)
    [member] = Shards(tmp_path).audio([plan.hashes[plan.splits[0].train[0].audio]])
    content = bytearray(member.shard.read_bytes())
    content[member.offset + 1000] ^= 255
    member.shard.write_bytes(content)
    with pytest.raises(RunError, match=rf"{member.shard.name} is corrupt .*remove it, write it"):
        run_experiment(config, [])


def test_a_dry_run_counts_only_images_that_the_store_will_hold(tiny, shards, tmp_path):
    for form, images in (("flac", "computed"), ("images", "stored")):
        where = [f"run.shards={shards(form)}", f"run.store={tmp_path / form}"]
        assert "Nothing was trained" in dry_run(tiny(*where, f"train.images={images}"), False)
