"""No key of the schema is accepted and then has no effect: each is changed in a tiny experiment."""

import csv
import hashlib
import itertools
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import soundfile
import timm
import torch

import features
from config.loading import flatten, load_config
from config.messages import config_keys
from config.schema import Config
from corpora.plan import make_plan
from models import compiled, recompute
from models.losses import FusionLoss, LossTerms
from scripts.write_shards import main as write_shards
from storage.shards import Shards
from storage.tensors import save_tensors
from system.compilers import CACHE_VARIABLE
from system.devices import Device
from system.errors import InputError, RunError
from tests.audio.test_fingerprint import RATE, speech
from tests.corpora.test_msp_podcast import rows_of, write_table
from tests.support.runs import run_experiment
from tests.support.speech_models import save_model
from training import build
from training import evaluate as evaluation
from training import session as session_module
from training.checkpoints import Checkpoints

SMALL = ("corpus.subset=improvised", "train.epochs=1", "train.batch_size=4")
CONTRASTIVE = ("model.fusion=gmu_contrastive",)
CROSS = ("model.fusion=cross_attention",)
BOTH = ("model.fusion=cross_attention_contrastive",)
CONCAT = ("model.fusion=concat",)
COMPUTED = ("train.images=computed",)
GROUPS = ("protocol.split=speaker-k-fold", "protocol.n_folds=3")
MANIFEST = (
    "corpus.name=manifest",
    "corpus.root={tables}",
    "corpus.manifest={tables}/all.csv",
    "corpus.labels=all",
    "corpus.subset=all",
    "corpus.expect_published_counts=null",
    "protocol.split=leave-one-session-out",
)
FOLDER = (
    "corpus.name=folder",
    "corpus.root={folder}",
    "corpus.layout={{session}}/{{label}}-{{speaker}}-*.wav",
    *MANIFEST[3:],
)
TEXTS = (*MANIFEST, "corpus.manifest={tables}/texts.csv")
OUTSIDE = (*MANIFEST, "corpus.manifest={tables}/outside.csv", "corpus.absolute_paths=true")
PODCAST = (
    *("corpus.name=msppodcast", "corpus.root={podcast}", "corpus.labels=msppodcast8"),
    *("corpus.classes=[neutral, happy, angry, sad]", "corpus.subset=test1"),
    *("corpus.expect_published_counts=null", "protocol.split=given"),
)
COPIES = ("corpus.root={copies}", "protocol.near_identical=count")
VITS = ("model.cqt_backbone=test_vit", "model.mel_backbone=test_vit")  # quick to trace
GIVEN = ("protocol.split=given", "protocol.folds=iemocap_sessions5")
UNEQUAL = ("corpus.root={broken}", "corpus.on_bad_audio=skip")  # classes of unequal size
STARTED = ("model.cqt_from={origins}/origin", "model.mel_from={origins}/origin")
COSINE = ("optim.schedule=cosine",)
STUCK = ("train.epochs=3", "optim.lr=1e-6")  # dev UA does not move
PLATEAU = (*STUCK, "optim.schedule=plateau", "optim.plateau_patience=0", "optim.min_lr=0")

SPEECH = ("model.branches=[cqt, mel, speech]", "model.speech.model={speech_models}/wavlm")
LORA = (*SPEECH, "model.speech.lora_rank=2")
FILE = ("model.branches=[cqt, mel, file]", "model.vectors={vectors}/v.npz")

# key -> (overrides that give the key a meaning, new value): the outcome differs
CHANGES: dict[str, tuple[tuple[str, ...], str]] = {
    "name": ((), "other"),
    "corpus.manifest": (MANIFEST, "{tables}/some.csv"),
    "corpus.layout": (FOLDER, "{{session}}/*-{{speaker}}-{{label}}.wav"),
    "corpus.columns": (MANIFEST, "{{label: mood}}"),
    "corpus.label_map": (MANIFEST, "{{class0: class1, class2: null}}"),
    "corpus.labels": ((), "iemocap4"),
    "corpus.scale": ((*MANIFEST, "task=dimensions", "corpus.scale=[1,5]"), "[0,6]"),
    "corpus.classes": ((), "[neutral, rest=happy+angry+sad]"),
    "corpus.subset": ((), "scripted"),
    "corpus.unannotated_speakers": (PODCAST, "train"),
    "protocol.split": ((), "speaker-k-fold"),
    "protocol.folds": (GIVEN, "{tables}/folds.csv"),
    "protocol.dev": (GROUPS, "speakers"),
    "protocol.n_folds": (GROUPS, "4"),
    "protocol.text_groups": (TEXTS, "2"),
    "features.sample_rate": ((), "12000"),
    "features.cqt.fmin": ((), "150.0"),
    "features.cqt.n_bins": ((), "30"),
    "features.cqt.bins_per_octave": ((), "12"),
    "features.cqt.hop_length": ((), "512"),
    "features.cqt.window": ((), "hamming"),
    "features.cqt.filter_scale": ((), "0.5"),
    "features.input_rate": ((), "8000"),
    "features.seconds": ((), "0.1"),
    "features.mel.n_fft": ((), "1024"),
    "features.mel.hop_length": ((), "128"),
    "features.mel.n_mels": ((), "24"),
    "features.mel.fmin": ((), "50.0"),
    "features.mel.fmax": ((), "4000.0"),
    "features.mel.window": ((), "[kaiser, 14.0]"),
    "features.mel.win_length": ((), "256"),
    "features.top_db": ((), "30.0"),
    "features.reference": ((), "full_scale"),
    "features.channels": ((), "delta"),
    "augment.freq_mask": ((), "0.5"),
    "augment.time_mask": ((), "0.5"),
    "augment.time_shift": ((), "0.5"),
    "augment.freq_shift": ((), "0.5"),
    "augment.mixup": ((), "0.5"),
    "augment.level_db": (("features.reference=full_scale",), "6"),
    "augment.gain_db": ((*COMPUTED, "features.reference=full_scale"), "6"),
    "augment.snr_db": (COMPUTED, "[10, 20]"),
    "augment.speed": (COMPUTED, "0.1"),
    "augment.pitch": (COMPUTED, "2"),
    "train.images": ((), "computed"),
    "train.features": (STARTED, "frozen"),
    "train.normalize": ((), "false"),
    "model.fusion": ((), "gmu_contrastive"),
    "model.fusion_hidden_dim": ((), "8"),
    "model.gate_input": ((), "features"),
    "model.gate": ((), "scalar"),
    "model.projection": (BOTH, "shared"),
    "model.projection_dim": (CONTRASTIVE, "16"),
    "model.attention_heads": (CROSS, "8"),
    "model.speech.model": (SPEECH, "{speech_models}/hubert"),
    "model.speech.layers": (SPEECH, "[1]"),
    "model.speech.precision": (SPEECH, "float32"),
    "model.speech.pooling": (SPEECH, "attention"),
    "model.speech.tokens": ((*SPEECH, *CROSS), "4"),
    "model.speech.unfrozen_layers": (SPEECH, "1"),
    "model.speech.lora_rank": (SPEECH, "2"),
    "model.speech.lora_targets": (LORA, "[output_dense]"),
    "model.vectors": (FILE, "{vectors}/other.npz"),
    "model.match_parameters": (CONCAT, "true"),
    "model.cqt_backbone": ((), "test_vit"),
    "model.mel_backbone": ((), "test_vit"),
    "model.cqt_weights": ((), "{weights}/cqt.safetensors"),
    "model.mel_weights": ((), "{weights}/mel.safetensors"),
    "model.cqt_from": ((), "{origins}/origin"),
    "model.mel_from": ((), "{origins}/origin"),
    "model.from_seed": (("model.cqt_from={origins}/origin",), "1"),
    "model.from": ((), "{origins}/origin"),
    "model.frozen": (
        ("model.from={origins}/origin", "optim.optimizer.cqt=null"),
        "[cqt]",
    ),
    "model.image_size": ((), "64"),
    "model.mlp_hidden_dim": ((), "8"),
    "model.dropout": ((), "0.5"),
    "model.drop_path_rate": ((), "0.5"),
    "loss.label_smoothing": ((), "0.2"),
    "loss.focal_gamma": ((), "2"),
    "loss.class_weights": (UNEQUAL, "balanced"),
    "loss.alpha": (CONTRASTIVE, "1.0"),
    "loss.alpha_on": (BOTH, "features"),
    "loss.diversity": (CONTRASTIVE, "maximised"),
    "loss.temperature": (CONTRASTIVE, "0.5"),
    "loss.temperature_range": (CONTRASTIVE, "[0.01, 1.0]"),
    "loss.same_class": (CONTRASTIVE, "positives"),
    "loss.contrast": ((*CONTRASTIVE, *FILE), "cqt"),
    "loss.nt_xent": (CONTRASTIVE, "cross_modal"),
    "loss.nt_xent_weight": (CONTRASTIVE, "0.5"),
    "loss.nt_xent_warmup_epochs": ((*CONTRASTIVE, "train.epochs=2"), "1"),
    "optim.optimizer.cqt": ((), "sgd"),
    "optim.optimizer.speech": (LORA, "sgd"),
    "optim.optimizer.mel": ((), "adam"),
    "optim.optimizer.head": ((), "sgd"),
    "optim.lr": ((), "2e-3"),
    "optim.backbone_lr_scale": ((), "0.1"),
    "optim.backbone_lr_scale.cqt": ((), "0.1"),
    "optim.backbone_lr_scale.mel": ((), "0.1"),
    "optim.backbone_lr_scale.speech": (LORA, "0.1"),
    "optim.weight_decay": ((), "0.1"),
    "optim.schedule": ((), "cosine"),
    "optim.plateau_factor": (PLATEAU, "0.5"),
    "optim.plateau_patience": (PLATEAU, "1"),
    "optim.min_lr": (COSINE, "5e-4"),
    "optim.warmup_epochs": (COSINE, "0.5"),
    "train.epochs": ((), "2"),
    "train.batch_size": ((), "6"),
    "train.sampling": (UNEQUAL, "balanced"),
    "train.accumulate": ((), "2"),
    "train.backbone_batch": ((), "2"),
    "train.clip_grad_norm": ((), "0.1"),
    "train.patience": (STUCK, "1"),
    "train.precision": ((), "bfloat16"),
    "train.ema": ((), "0.9"),
    "run.folds": ((), "[2]"),
    "run.seeds": ((), "[1]"),
}
# key -> (overrides, new value, words of the refusal)
REFUSALS: dict[str, tuple[tuple[str, ...], str, str]] = {
    "corpus.name": ((), "esd", "no label set|no esd corpus"),
    "corpus.root": ((), "/nowhere", "no folder /nowhere"),
    "corpus.absolute_paths": (OUTSIDE, "false", "leads out of corpus.root"),
    "corpus.expect_published_counts": ((), "true", "counts differ from the published ones"),
    "corpus.on_bad_audio": (UNEQUAL, "error", "audio files cannot be used"),
    "protocol.allow_speaker_overlap": ((), "true", "has no effect on leave-one-session-out"),
    "protocol.near_identical": (COPIES, "refuse", "nearly the same recording"),
    "model.speech.revision": (SPEECH, "main", "is a folder"),
    "model.pretrained": ((), "true", "no pretrained weights for test_maxvit"),
}


@pytest.fixture(scope="module")
def places(
    recipe: Path, corpus_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Folders that overrides name: manifests, a corpus with bad audio, weights, a finished run."""
    folder = tmp_path_factory.mktemp("places")
    names = ("tables", "folder", "broken", "copies", "weights", "origins", "podcast")
    names += ("speech_models", "vectors")
    places = {name: folder / name for name in names}
    for kind in ("wavlm", "hubert"):
        save_model(places["speech_models"] / kind, f"{kind}-layer")
    _write_vectors(places["vectors"], corpus_root)
    wishes = [*SMALL, f"run.root={places['origins']}", "name=origin", "run.seeds=[0,1]"]
    run_experiment(load_config(recipe, wishes), [])
    shutil.copytree(corpus_root, places["copies"])
    noise = np.random.default_rng(0).standard_normal(32_000) / 9
    for session, level in ((1, 1.0), (4, 0.5)):
        clip = next(places["copies"].rglob(f"Ses0{session}F_impro01_F000.wav"))
        soundfile.write(clip, level * noise, 16_000)
    shutil.copytree(corpus_root, places["broken"])
    for session in (3, 4):
        next(places["broken"].rglob(f"Ses0{session}F_impro01_F001.wav")).write_bytes(b"")
    _write_tables(places["tables"], corpus_root)
    _write_folder(places["folder"], corpus_root)
    _write_podcast(places["podcast"])
    torch.manual_seed(9)
    places["weights"].mkdir()
    for branch, name in (("cqt", "test_maxvit"), ("mel", "mvitv2_micro")):
        model = timm.create_model(name, num_classes=0, img_size=32)
        save_tensors(places["weights"] / f"{branch}.safetensors", model.state_dict())
    return places


def _write_vectors(folder: Path, corpus_root: Path) -> None:
    folder.mkdir()
    names, rng = [clip.stem for clip in corpus_root.rglob("*.wav")], np.random.default_rng(0)
    for file in ("v", "other"):
        np.savez(folder / file, names=np.array(names), vectors=rng.normal(size=(len(names), 3)))


def _write_tables(folder: Path, corpus_root: Path) -> None:
    shutil.copytree(corpus_root, folder)
    rows = [f"Ses0{k}_{sex},{k % 5}\n" for k in range(1, 6) for sex in "FM"]  # session 5 is first
    (folder / "folds.csv").write_text("".join(["speaker,fold\n", *rows]))
    clips = sorted(path.relative_to(folder) for path in folder.rglob("*F_impro01_F*.wav"))
    for table, of_session_3 in (("all", 4), ("some", 2), ("texts", 4), ("outside", 4)):
        with (folder / f"{table}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            ratings = ["valence", "arousal", "dominance"]
            writer.writerow(["path", "label", "speaker", "session", "text", "mood", *ratings])
            for clip in clips:
                session, number = clip.stem[4], int(clip.stem[-3:])
                if session != "3" or number < of_session_3:
                    text = f"text {(int(session) + number) % 2}" if table == "texts" else ""
                    path = folder / clip if table == "outside" else clip
                    rated = [1 + number, 5 - number, 3]
                    words = [path, f"class{number}", f"s{session}", session, text, number % 2]
                    writer.writerow([*words, *rated])


def _write_folder(folder: Path, corpus_root: Path) -> None:
    """Write names with a speaker between two words that may be the label."""
    clips = sorted(corpus_root.rglob("*.wav"))
    for session in "123":
        (folder / session).mkdir(parents=True)
        own = (clip for clip in clips if clip.stem[4] == session)
        for clip, name in zip(own, ("a-p-x", "b-p-y", "a-q-y", "b-q-x"), strict=False):
            name = name.replace("p", f"p{session}").replace("q", f"q{session}")
            shutil.copy(clip, folder / session / f"{name}.wav")


def _write_podcast(folder: Path) -> None:
    """Write a corpus as MSP-Podcast is published, one of its training speakers unknown."""
    rows = [row for row in rows_of() if row[-1] != "Test2" and row[1] in "NHAS"]
    for seed, name in enumerate(write_table(folder, rows), start=9000):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, speech(seed, 1.3), RATE)


class Runs:
    """Runs tiny experiments, each set of overrides once, and tells what came of them."""

    def __init__(self, recipe: Path, places: dict[str, Path], root: Path) -> None:
        self.recipe, self.places, self.root = recipe, places, root
        self.numbers = itertools.count()
        self.outcomes: dict[tuple[str, ...], dict[str, str]] = {}

    def config(self, *overrides: str) -> Config:
        named = [override.format(**self.places) for override in (*SMALL, *overrides)]
        return load_config(self.recipe, [f"run.root={self.root / str(next(self.numbers))}", *named])

    def outcome(self, *overrides: str) -> dict[str, str]:
        if overrides not in self.outcomes:
            run = run_experiment(self.config(*overrides), [])
            self.outcomes[overrides] = outcome_of(run)
            shutil.rmtree(run)  # some 100 MB each
        return self.outcomes[overrides]


@pytest.fixture(scope="module")
def runs(recipe: Path, places: dict[str, Path], tmp_path_factory) -> Runs:
    return Runs(recipe, places, tmp_path_factory.mktemp("every_key"))


def outcome_of(run: Path) -> dict[str, str]:
    """Digest all that a run found out; not the files that only repeat its config."""
    repeats = {"config.yaml", "environment.json", "model.json", "ledger.jsonl"}
    repeats |= {".lock", ".lock.opening", ".lock.summary", "lock"}  # who was at work
    return {
        str(path.relative_to(run.parent)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in run.rglob("*")
        if path.is_file() and path.name not in repeats and "tfevents" not in path.name
    }


@pytest.mark.parametrize("key", CHANGES)
def test_peer_19_key_changes_the_outcome(runs: Runs, key: str) -> None:
    base, value = CHANGES[key]
    before, after = runs.outcome(*base), runs.outcome(*base, f"{key}={value}")
    assert before != after


def test_speaker_normalization_is_a_third_way(runs: Runs) -> None:
    """Beside true and false it changes weights, not only the id of the protocol."""
    values = ("true", "false", "speaker")
    found = [runs.outcome(f"train.normalize={value}") for value in values]
    weights = "tiny/folds/fold-1_seed-0/model.safetensors"
    assert len({outcome[weights] for outcome in found}) == 3
    assert found[0] == runs.outcome()


@pytest.mark.parametrize(("fusion", "other"), [("cqt_only", "mel"), ("mel_only", "cqt")])
def test_a_key_of_a_branch_that_is_not_there_may_be_null_and_nothing_else(runs, fusion, other):
    null = [f"model.{other}_backbone=null", f"optim.optimizer.{other}=null"]
    with pytest.raises(InputError, match=f"model.{other}_backbone .*has no effect"):
        runs.config(f"model.fusion={fusion}")  # the recipe names it
    assert runs.outcome(f"model.fusion={fusion}", *null) != runs.outcome()


@pytest.mark.parametrize("key", REFUSALS)
def test_peer_19_key_is_refused_where_it_cannot_be(runs: Runs, key: str, monkeypatch) -> None:
    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setattr(urllib.request, "urlopen", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *args: None)
    base, value, words = REFUSALS[key]
    assert runs.outcome(*base)
    with pytest.raises((InputError, RunError), match=words):
        run_experiment(runs.config(*base, f"{key}={value}"), [])


def task_is_what_is_predicted(runs: Runs, monkeypatch) -> None:
    found = runs.outcome("task=dimensions", "corpus.labels=all")
    name = "tiny/folds/fold-1_seed-0/model.safetensors"
    assert found[name] != runs.outcome()[name]


def root_is_where_the_run_is(runs: Runs, monkeypatch) -> None:
    elsewhere = runs.root / "elsewhere"
    run = run_experiment(runs.config(f"run.root={elsewhere}"), [])
    assert run == elsewhere / "tiny" and outcome_of(run) == runs.outcome()


def store_is_where_the_images_are(runs: Runs, monkeypatch) -> None:
    elsewhere = runs.root / "images"
    run_experiment(runs.config(f"run.store={elsewhere}"), [])
    assert len(list(elsewhere.glob("*/cqt.f16"))) == 1


def silent_ends_are_left_out(runs: Runs, monkeypatch) -> None:
    before, asked = runs.outcome(), []
    half = lambda waveform, rate, db: asked.append(db) or waveform[: len(waveform) // 2]  # noqa: E731
    monkeypatch.setattr(features, "trim_silence", half)
    assert runs.outcome("features.trim_db=40") != before
    assert set(asked) == {40.0}


def shards_are_where_training_reads(runs: Runs, monkeypatch) -> None:
    folder = runs.root / "shards"
    argv = ["--config", str(runs.recipe), "--to", str(folder), "--format", "images", *SMALL]
    assert write_shards(argv) == 0
    before = runs.outcome()
    read = []
    images = Shards.images
    monkeypatch.setattr(Shards, "images", lambda *args: read.append(args) or images(*args))
    assert runs.outcome(f"run.shards={folder}") == before
    assert len(read) == 1  # the training split


def workers_load_and_build(runs: Runs, monkeypatch) -> None:
    asked = []
    build_loader = build.build_loader
    monkeypatch.setattr(
        build, "build_loader", lambda *args: asked.append(args[3]) or build_loader(*args)
    )
    build_images = session_module.FeatureStore.build
    monkeypatch.setattr(
        session_module.FeatureStore,
        "build",
        lambda *args: asked.append(args[2]) or build_images(*args),
    )
    run_experiment(runs.config("run.workers=3", f"run.root={runs.root / 'workers'}"), [])
    assert asked == [3] * 5  # the store; train, dev, dev again, test


def test_training_waveforms_have_the_rate_and_length_of_the_stored_crops(runs, monkeypatch) -> None:
    made = []
    dataset = build.WaveformDataset
    monkeypatch.setattr(build, "WaveformDataset", lambda *args: made.append(args) or dataset(*args))
    run_experiment(runs.config(*COMPUTED, "features.seconds=0.1", "features.input_rate=8000"), [])
    assert [args[3:5] for args in made] == [(8000, 800)]


def device_reaches_accelerate(runs: Runs, monkeypatch) -> None:
    asked = []
    accelerator = session_module.Accelerator(cpu=True)

    def make(**kwargs: object) -> object:
        asked.append((kwargs["cpu"], os.environ.get("ACCELERATE_TORCH_DEVICE")))
        return accelerator

    monkeypatch.setattr(session_module, "Accelerator", make)
    monkeypatch.setattr(session_module, "choose_device", lambda wanted: Device(wanted))
    monkeypatch.setattr(session_module, "choose_deterministic", lambda strict, device: None)
    monkeypatch.setattr(
        session_module, "describe_process", lambda device: {"device": "", "threads": 1}
    )
    monkeypatch.setattr(torch.cuda, "set_device", asked.append)
    monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", "")
    for device in ("cpu", "cuda:1"):
        session_module.make_accelerator(runs.config(f"run.device={device}"))
    assert asked == [(True, ""), "cuda:1", (False, "cuda:1")]


def evaluation_has_batches_of_its_own(runs: Runs, monkeypatch) -> None:
    sizes = []
    evaluate = evaluation._predict
    monkeypatch.setattr(
        evaluation,
        "_predict",
        lambda model, batch, task: sizes.append(len(batch.targets)) or evaluate(model, batch, task),
    )
    run_experiment(runs.config("train.eval_batch_size=1", f"run.root={runs.root / 'eval'}"), [])
    assert set(sizes) == {1}


def determinism_is_strict_or_warns(runs: Runs, monkeypatch) -> None:
    for value, mode in (("true", 2), ("false", 1)):
        session_module.make_accelerator(runs.config(f"train.deterministic={value}"))
        assert torch.get_deterministic_debug_mode() == mode


def channels_last_orders_the_kernels(runs: Runs, monkeypatch) -> None:
    for wanted in (True, False):
        config = runs.config(f"train.channels_last={str(wanted).lower()}")
        kernels = [p for p in build.build_model(config, 4, 1).parameters() if p.ndim == 4]
        ordered = [p.is_contiguous(memory_format=torch.channels_last) for p in kernels]
        assert all(ordered) if wanted else not all(ordered)


def blocks_are_computed_again_with_equal_results(runs: Runs, monkeypatch) -> None:
    again = []
    checkpoint = recompute.checkpoint
    monkeypatch.setattr(
        recompute,
        "checkpoint",
        lambda *args, **options: again.append(1) or checkpoint(*args, **options),
    )
    before = runs.outcome()
    assert not again
    assert runs.outcome("train.gradient_checkpointing=true") == before and again


def batch_norms_are_of_all_processes(runs: Runs, monkeypatch) -> None:
    synced = []
    sync = build.sync_batch_norms
    monkeypatch.setattr(build, "sync_batch_norms", lambda *args: synced.append(sync(*args)))
    before = runs.outcome()
    assert not synced
    assert runs.outcome("train.sync_batch_norm=true") == before  # alone
    assert synced[0] > 2


def minutes_pass_between_two_checkpoints(runs: Runs, monkeypatch) -> None:
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, *args: saved.append(args[1]) or save(self, *args)
    )
    for minutes, expected in (("null", [0]), ("15", [0]), ("1e-9", [0, 1, 2])):
        saved.clear()
        root = runs.root / f"minutes {minutes}"
        run_experiment(
            runs.config(
                f"train.checkpoint_minutes={minutes}", f"run.root={root}", "train.batch_size=6"
            ),
            [],
        )
        assert sorted({place.batch for place in saved}) == expected


def epochs_pass_between_two_checkpoints(runs: Runs, monkeypatch) -> None:
    saved = []
    save = Checkpoints.save
    monkeypatch.setattr(
        Checkpoints, "save", lambda self, *args: saved.append(args[1]) or save(self, *args)
    )
    for epochs, expected in (("1", [0, 1, 2, 3]), ("2", [0, 2, 3]), ("5", [0, 3])):
        saved.clear()
        root = f"run.root={runs.root / f'epochs {epochs}'}"
        run_experiment(runs.config(f"train.checkpoint_epochs={epochs}", "train.epochs=3", root), [])
        assert [place.epoch for place in saved] == expected


def bad_steps_are_borne(runs: Runs, monkeypatch) -> None:
    losses = iter([float("nan")] * 2 + [1.0] * 100)
    loss = FusionLoss.forward

    def spoiled(self: FusionLoss, *args: object) -> LossTerms:
        terms = loss(self, *args)
        return terms._replace(total=terms.total * next(losses))

    monkeypatch.setattr(FusionLoss, "forward", spoiled)
    root = f"run.root={runs.root / 'bad steps'}"
    with pytest.raises(RunError, match="cause is the learning rate"):
        run_experiment(runs.config("train.max_bad_steps=1", root), [])
    losses = iter([float("nan")] * 2 + [1.0] * 100)
    run_experiment(runs.config("train.max_bad_steps=2", root, "name=max_bad_steps"), [])


def both_backbones_are_compiled(runs: Runs, monkeypatch) -> None:
    graphs = []

    def backend(graph: torch.fx.GraphModule, inputs: list, **options: object) -> Callable:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(compiled, "BACKEND", backend)
    before, after = (
        {name: value for name, value in runs.outcome(*VITS, *wish).items() if "json" not in name}
        for wish in ((), ("train.compile=true",))
    )
    assert after == before  # the compiler changes nothing; metrics.json names it
    assert len(graphs) == 2  # of training and evaluation, the same for both of equal form


def graphs_are_kept_where_the_config_says(runs: Runs, monkeypatch) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, "")
    for wish in (f"run.compile_cache={runs.root / 'graphs'}", f"run.store={runs.root}/a/b"):
        session_module.make_accelerator(runs.config("train.compile=true", wish))
        kept = runs.root / ("graphs" if "cache" in wish else "a/compiled")
        assert os.environ[CACHE_VARIABLE] == str(kept)


def trackers_get_the_epochs(runs: Runs, monkeypatch) -> None:
    before = runs.outcome()  # of TensorBoard alone, whose files it leaves out
    for wanted, events, table in (("[]", 0, 0), ("[csv]", 0, 1), ("[tensorboard,csv]", 2, 1)):
        wishes = (f"run.root={runs.root / wanted}", f"run.trackers={wanted}")
        run = run_experiment(runs.config(*wishes), [])
        assert len(list(run.rglob("*tfevents*"))) == events
        assert len(list(run.glob("epochs.csv"))) == table
        found = outcome_of(run)
        assert {name: d for name, d in found.items() if "epochs" not in name} == before


def each_corpus_has_its_role(runs: Runs, monkeypatch) -> None:
    tested = []
    for roles in (("train", "test"), ("test", "train")):
        corpora = [
            f"{{name: iemocap, root: {runs.places[place]}, labels: iemocap4-exc, role: {role}, "
            f"expect_published_counts: false, subset: {subset}, on_bad_audio: skip}}"
            for place, subset, role in zip(
                ("broken", "copies"), ("improvised", "scripted"), roles, strict=True
            )
        ]
        wishes = ("protocol.split=cross-corpus", f"corpus=[{', '.join(corpora)}]")
        config = load_config(runs.recipe, [f"run.root={runs.root}", *wishes])
        tested.append({one.corpus for one in make_plan(config).splits[0].test})
    assert tested == [{"iemocap-2"}, {"iemocap"}]


def branches_are_what_is_joined(runs: Runs, monkeypatch) -> None:
    folder = f"{runs.root / 'joined'}"
    run = run_experiment(runs.config(*FILE, f"run.root={folder}"), [])
    header = (run / "folds/fold-1_seed-0/predictions.csv").read_text().splitlines()[0]
    assert header.endswith("gate_cqt,gate_mel,gate_file")
    assert runs.outcome(*FILE) != runs.outcome()


# keys that change how and where, and by design not what
OBSERVED: dict[str, Callable[[Runs, pytest.MonkeyPatch], None]] = {
    "task": task_is_what_is_predicted,
    "model.branches": branches_are_what_is_joined,
    "corpus.corpora": each_corpus_has_its_role,
    "run.root": root_is_where_the_run_is,
    "features.trim_db": silent_ends_are_left_out,
    "run.shards": shards_are_where_training_reads,
    "run.store": store_is_where_the_images_are,
    "run.workers": workers_load_and_build,
    "run.trackers": trackers_get_the_epochs,
    "run.device": device_reaches_accelerate,
    "run.compile_cache": graphs_are_kept_where_the_config_says,
    "train.compile": both_backbones_are_compiled,
    "train.eval_batch_size": evaluation_has_batches_of_its_own,
    "train.deterministic": determinism_is_strict_or_warns,
    "train.channels_last": channels_last_orders_the_kernels,
    "train.gradient_checkpointing": blocks_are_computed_again_with_equal_results,
    "train.sync_batch_norm": batch_norms_are_of_all_processes,
    "train.checkpoint_epochs": epochs_pass_between_two_checkpoints,
    "train.checkpoint_minutes": minutes_pass_between_two_checkpoints,
    "train.max_bad_steps": bad_steps_are_borne,
}


@pytest.mark.parametrize("key", OBSERVED)
def test_peer_19_key_changes_how_the_run_is_done(runs: Runs, monkeypatch, key: str) -> None:
    OBSERVED[key](runs, monkeypatch)


def test_peer_19_every_key_of_the_schema_is_tried(recipe: Path) -> None:
    leaves = set(flatten(load_config(recipe).model_dump()))
    tried = [*CHANGES, *REFUSALS, *OBSERVED]
    assert len(set(tried)) == len(tried) and set(tried) == set(config_keys()) > leaves
