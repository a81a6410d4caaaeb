"""Sources beside the images: trained, resumed, tested and told like images."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from config.loading import load_stored_config
from config.schema import Config
from corpora.plan import make_plan
from features import SpectrogramImages
from inference import load
from models.speech import Frames, SpeechBranch
from storage.fold_folder import read_metrics
from storage.model_card import read_card
from storage.run_folder import read_run
from storage.source_facts import speech_facts
from storage.speech_store import SpeechStore
from system.errors import InputError
from system.signals import Stop
from tests.support.runs import run_experiment, without_images
from tests.support.speech_models import save_model
from training.beside import _open, beside, open_sources, statistics_of
from training.build import build_training, make_dataset
from training.dry_run import dry_run
from training.engine import train_step
from training.experiment import open_run
from training.fold import train_fold
from training.session import open_session
from training.timed_states import timed_states

Tiny = Callable[..., Config]


@pytest.fixture(scope="module")
def speech_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("transformers")
    return save_model(tmp_path_factory.mktemp("speech") / "wavlm", "wavlm-layer")


@pytest.fixture
def vectors(tiny: Tiny, tmp_path: Path) -> Path:
    """Vectors of 5 numbers for all utterances, by id; the first two by audio hash."""
    plan = make_plan(tiny())
    rng = np.random.default_rng(0)
    names = [u.id if i > 1 else plan.hashes[u.audio] for i, u in enumerate(plan.utterances)]
    np.savez(tmp_path / "v.npz", names=np.array(names), vectors=rng.normal(3, 2, (len(names), 5)))
    return tmp_path / "v.npz"


def all_four(speech_model: Path, vectors: Path) -> tuple[str, ...]:
    return (
        "model.branches=[file, cqt, speech, mel]",
        f"model.speech.model={speech_model}",
        f"model.vectors={vectors}",
    )


def test_four_sources_are_trained_tested_and_told(tiny: Tiny, speech_model, vectors) -> None:
    config = tiny(*all_four(speech_model, vectors), "model.fusion=gmu")
    run = read_run(run_experiment(config, []))
    fold = run.folds[0]
    assert fold.test.gate is None and fold.test.shares.shape == (len(fold.test.targets), 4)
    np.testing.assert_allclose(fold.test.shares.sum(1), 1, atol=1e-5)
    shares = read_metrics(fold.folder).gate_shares
    assert list(shares) == ["cqt", "mel", "speech", "file"]
    table = (run.folder / "summary.md").read_text()
    assert f"speech {np.mean(fold.test.shares[:, 2]):.3f}" in table
    card = read_card(fold.folder)
    assert card.settings().reads == ("cqt", "mel", "speech", "file")
    assert speech_facts(card, fold.folder).precision == "float16"
    assert card.sources["file"]["sha256"]


@pytest.mark.parametrize(
    ("fusion", "words"),
    [(fusion, ()) for fusion in ("concat", "mean", "gmu_contrastive", "cross_attention")]
    + [(fusion, ("model.speech.pooling=attention",)) for fusion in ("gmu", "cross_attention")]
    + [("cross_attention_contrastive", ("model.speech.tokens=5",))],
)
def test_gradients_reach_every_source(tiny: Tiny, speech_model, vectors, fusion, words) -> None:
    config = tiny(*all_four(speech_model, vectors), f"model.fusion={fusion}", *words)
    session = open_session(config, make_plan(config))
    state, loader, _ = build_training(next(session.folds()), {})
    model, seen = state.model, {}
    batch = next(iter(loader))
    if isinstance(batch.speech, Frames):
        assert words == ("model.speech.pooling=attention",)
    else:
        assert batch.speech.dim() == (4 if "model.speech.tokens=5" in words else 3)
    for name, parameter in model.named_parameters():
        parameter.register_hook(lambda grad, name=name: seen.update({name: grad.abs().sum()}))
    train_step(state, [batch])
    for part in ("cqt_branch", "mel_branch", "speech_branch.scores"):
        assert any(float(v) > 0 for name, v in seen.items() if name.startswith(part)), part


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.fusion=gmu",), "model.speech.tokens .* has no effect with model.fusion=gmu"),
        (("model.speech.pooling=attention",), "tokens=5 are means over spans .* set tokens to"),
        (("model.speech.tokens=1",), "model.speech.tokens .* 2"),
        (("model.branches=[cqt, mel]", "model.speech.model=null"), "model.speech.tokens .*branch"),
    ],
)
def test_tokens_that_nothing_reads_are_refused(tiny: Tiny, speech_model, words, message) -> None:
    speech = ("model.branches=[cqt, mel, speech]", f"model.speech.model={speech_model}")
    of_tokens = ("model.fusion=cross_attention", "model.speech.tokens=5")
    with pytest.raises(InputError, match=message):
        tiny(*speech, *of_tokens, *words)


def test_tokens_and_their_mean_have_the_same_statistics(tiny: Tiny, speech_model) -> None:
    words = ("model.branches=[cqt, mel, speech]", f"model.speech.model={speech_model}")
    found = []
    for more in ((), ("model.speech.tokens=3",)):
        config = tiny(*words, "model.fusion=cross_attention", *more)
        session = open_session(config, make_plan(config))
        network = build_training(next(session.folds()), {})[0].model
        found.append((network.speech_mean, network.speech_std))
    assert found[0][0].shape == found[1][0].shape == (3, 32)
    for own, other in zip(*found, strict=True):  # spans may share a frame
        torch.testing.assert_close(own, other, rtol=0.1, atol=0.03)


def test_two_sources_have_shares_by_name_where_one_is_no_image(tiny: Tiny, vectors) -> None:
    idle = ("model.mel_backbone=null", "optim.optimizer.mel=null")
    config = tiny("model.branches=[cqt, file]", f"model.vectors={vectors}", *idle)
    run = read_run(run_experiment(config, []))
    assert list(read_metrics(run.folds[0].folder).gate_shares) == ["cqt", "file"]
    assert run.folds[0].test.gate is None and run.folds[0].test.shares.shape[1] == 2
    history = (run.folds[0].folder / "history.csv").read_text().splitlines()[0]
    assert "gate_mean_cqt,gate_mean_file" in history


def test_an_interrupted_training_resumes_to_the_same_weights(tiny, speech_model, vectors) -> None:
    words = all_four(speech_model, vectors)
    whole = read_run(run_experiment(tiny("name=whole", *words), []))
    config, stop = tiny("name=stopped", *words), Stop()
    with pytest.raises(KeyboardInterrupt), open_run(config, [], stop=stop) as session:
        fold = next(session.folds())
        (fold.folder / "state").mkdir(parents=True)
        train_fold(fold, fold.folder, lambda progress: setattr(stop, "requested", True))
    again = read_run(run_experiment(config, []))
    files = [run.folds[0].folder / "model.safetensors" for run in (whole, again)]
    first, second = map(load_file, files)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_one_source_is_trained_alone(tiny: Tiny, speech_model, vectors) -> None:
    for fusion, words in (
        ("speech_only", (f"model.speech.model={speech_model}",)),
        ("file_only", (f"model.vectors={vectors}",)),
    ):
        branch = fusion.removesuffix("_only")
        config = tiny(f"name={fusion}", *without_images(branch), *words)
        run = read_run(run_experiment(config, []))
        assert run.folds[0].test.gate is None and run.folds[0].test.shares is None


@pytest.mark.parametrize("branches", [("speech",), ("file",), ("speech", "file")])
def test_where_no_image_is_read_none_is_made(
    tiny: Tiny, speech_model, vectors, branches, tmp_path, monkeypatch
) -> None:
    certificate = make_plan(tiny()).certificate["id"]

    def made(*args: object, **settings: object) -> None:
        raise AssertionError("a front end is made")

    monkeypatch.setattr(SpectrogramImages, "__init__", made)
    words = all_four(speech_model, vectors)[1:]
    own = [
        word for word, branch in zip(words, ("speech", "file"), strict=True) if branch in branches
    ]
    store = tmp_path / "empty"
    config = tiny(*without_images(*branches), *own, f"run.store={store}", "augment.mixup=0.2")
    said = dry_run(config)
    assert "Nothing was trained." in said and "images " not in said
    fold = read_run(run_experiment(config, [])).folds[0]
    assert (
        read_metrics(fold.folder).certificate == certificate
    )  # the recordings are checked all the same
    assert read_card(fold.folder).features.image_size == 224
    kept = {path.name.partition("-")[0] for path in store.iterdir() if path.is_dir()}
    assert kept == ({"speech"} if "speech" in branches else set())
    # one row an utterance, drawn or not
    session = open_session(config, make_plan(config))
    fold = next(session.folds())
    for data in (
        make_dataset(fold, fold.split.train, training=is_training) for is_training in (True, False)
    ):
        assert len(data) == len(fold.split.train)
        batch = data.__getitems__([(3, 2), (3, 0)])
        assert batch.utterance.tolist() == [2, 0] and not batch.cqt.numel() + batch.mel.numel()


def test_a_protocol_by_speaker_needs_no_images(tiny: Tiny, vectors) -> None:
    config = tiny(*without_images("file"), f"model.vectors={vectors}", "train.normalize=speaker")
    session = open_session(config, make_plan(config))
    assert session.speakers is None
    by_image = make_plan(tiny("train.normalize=speaker"))
    assert session.plan.certificate["id"] == by_image.certificate["id"]  # they may be compared


def changed(config: Config, values: dict[str, object]) -> Config:
    """Return a config with other values of keys, though reading it would refuse them."""
    for key, value in values.items():
        section, name = key.split(".")
        part = getattr(config, section).model_copy(update={name: value})
        config = config.model_copy(update={section: part})
    return config


@pytest.mark.parametrize(
    ("branches", "trained"),
    [(("file",), False), (("speech",), False), (("speech",), True), (("speech", "file"), False)],
)
def test_what_is_refused_without_images_would_change_nothing(
    tiny: Tiny, speech_model, vectors, branches, trained
) -> None:
    own = {"speech": f"model.speech.model={speech_model}", "file": f"model.vectors={vectors}"}
    words = [*without_images(*branches), *(own[branch] for branch in branches)]
    others = {"model.pretrained": True, "model.drop_path_rate": 0.5, "train.compile": True}
    others |= {"train.channels_last": False, "train.normalize": False}
    if trained:
        pytest.importorskip("peft")
        words.append("model.speech.lora_rank=2")
    else:
        others |= {"train.gradient_checkpointing": True, "optim.backbone_lr_scale": 0.1}
    outcomes = []
    for name, values in (("plain", {}), ("changed", others)):
        config = changed(tiny(f"name={name}", *words), values)
        folder = read_run(run_experiment(config, [])).folds[0].folder
        outcomes.append(
            [(folder / file).read_bytes() for file in ("history.csv", "predictions.csv")]
        )
        outcomes[-1].append(load_file(folder / "model.safetensors"))
    plain, other = outcomes
    assert plain[:2] == other[:2] and plain[2].keys() == other[2].keys()
    assert all(torch.equal(tensor, other[2][name]) for name, tensor in plain[2].items())


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_backbone_batch_bounds_the_frames_in_memory(
    tiny: Tiny, speech_model, pooling, monkeypatch
) -> None:
    """Of means, which take no memory, it changes nothing but the rounding."""
    words = (*without_images("speech"), f"model.speech.model={speech_model}", "model.dropout=0")
    config = tiny(*words, f"model.speech.pooling={pooling}", "optim.optimizer.head=sgd")
    rows, forward, weights = [], SpeechBranch.forward, []
    monkeypatch.setattr(
        SpeechBranch, "forward", lambda *args: rows.append(len(args[1])) or forward(*args)
    )
    for size in (None, 2):
        session = open_session(changed(config, {"train.backbone_batch": size}), make_plan(config))
        state, loader, _ = build_training(next(session.folds()), {})
        rows.clear()
        train_step(state, [next(iter(loader))])
        assert set(rows) == ({8} if size is None else {2})
        weights.append(state.model.state_dict())
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], atol=1e-6, rtol=1e-5)


def test_what_is_read_is_standardised_over_training(tiny: Tiny, speech_model, vectors) -> None:
    config = tiny(*all_four(speech_model, vectors), "model.fusion=concat")
    session = open_session(config, make_plan(config))
    fold = next(session.folds())
    train = fold.split.train
    read = beside(open_sources(config), fold.ids(train), fold.hashes(train))
    for branch, values in read.items():
        every = values(np.arange(len(train))).double()
        mean, std = statistics_of(values, len(train))
        torch.testing.assert_close(mean, every.mean(0).float(), atol=1e-5, rtol=1e-4)
        expected = every.std(0, unbiased=False).float()
        torch.testing.assert_close(std, expected, atol=1e-5, rtol=1e-3)
        model = build_training(fold, {}).state.model
        torch.testing.assert_close(getattr(model, f"{branch}_mean"), mean)


def test_means_are_read_from_memory_or_from_the_store(tiny, speech_model, vectors, monkeypatch):
    config = tiny(*all_four(speech_model, vectors), "model.fusion=concat")
    fold = next(open_session(config, make_plan(config)).folds())
    store, hashes = open_sources(config)["speech"], fold.hashes(fold.split.train)
    some = np.array([5, 0, 5, 2])
    expected = store.means([store.rows[hashes[i]].start for i in some])
    in_memory = fold.beside(fold.split.train)["speech"]
    monkeypatch.setattr("training.beside.IN_MEMORY", len(hashes) * store.record_bytes - 1)
    from_store = fold.beside(fold.split.train)["speech"]
    assert in_memory.means is not None and from_store.means is None
    for found in (in_memory(some), from_store(some)):
        np.testing.assert_array_equal(found.numpy(), expected)


@pytest.mark.parametrize("rank", [None, 2])
def test_states_are_computed_on_the_device_of_the_training(
    tiny: Tiny, speech_model, tmp_path, monkeypatch, rank
) -> None:
    words = ["model.branches=[cqt, mel, speech]", f"model.speech.model={speech_model}"]
    tune = [f"model.speech.lora_rank={rank}"] if rank else []
    config = tiny(*words, *tune, f"run.store={tmp_path / 'empty'}")
    elsewhere: Any = SimpleNamespace(device="cuda:3")
    session = open_session(config, make_plan(config))
    fold = next(replace(session, accelerator=elsewhere).folds())
    used, build = [], SpeechStore.build
    monkeypatch.setattr(
        SpeechStore,
        "build",
        lambda self, sources, workers, device: used.append(device) or build(self, sources, workers),
    )
    fold.session.with_states(fold.split.train)
    if rank:
        statistics_of(fold.beside(fold.split.train)["speech"], 2)
    with timed_states(fold, fold.split.train[:2]):
        pass
    assert used == ["cuda:3"] * (3 if rank else 2)


def test_a_dry_run_tries_all_sources(tiny: Tiny, speech_model, vectors) -> None:
    said = dry_run(tiny(*all_four(speech_model, vectors), "model.fusion=gmu"), overwrite=False)
    assert "Nothing was trained." in said


def test_an_utterance_without_a_vector_ends_the_run_before_it_trains(tiny: Tiny, tmp_path) -> None:
    config = tiny("model.branches=[cqt, mel, file]", f"model.vectors={tmp_path / 'v.npz'}")
    plan = make_plan(config)
    [last] = plan.wanted()[0].test[-1:]
    vectors = {u.id: np.ones(3) for u in plan.utterances if u is not last}
    np.savez(tmp_path / "v.npz", **vectors)
    said = f"has no vector for 1 of {len(plan.utterances)} utterances \\({last.id}\\)"
    with pytest.raises(InputError, match=said):
        run_experiment(config, [])
    assert not list(Path(config.run.root).glob("*/folds/*"))
    np.savez(tmp_path / "v.npz", **vectors, **{last.id: np.zeros(3)})
    _open.cache_clear()  # a new process
    assert read_run(run_experiment(config, [])).folds


def test_the_order_in_which_branches_are_named_makes_no_other_config(tiny: Tiny) -> None:
    def named(order: str) -> Config:
        return tiny(f"model.branches=[{order}]", "model.vectors=v.npz")

    assert named("file, mel, cqt") == named("cqt, mel, file")
    assert named("file, mel, cqt").model.branches == ["cqt", "mel", "file"]
    with pytest.raises(InputError, match="must name each once"):
        named("mel, cqt, mel")
    for few in ("", "file"):
        with pytest.raises(InputError, match="two or more; one alone is a model.fusion: cqt_only"):
            named(few)


def test_two_sources_are_the_network_of_before(tiny: Tiny) -> None:
    def weights(*words: str) -> dict[str, Tensor]:
        config = tiny(*words)
        session = open_session(config, make_plan(config))
        return build_training(next(session.folds()), {}).state.model.state_dict()

    default, named = weights(), weights("model.branches=[mel, cqt]")
    assert default.keys() == named.keys()
    assert all(torch.equal(default[name], named[name]) for name in default)


def test_runs_of_an_earlier_version_had_other_keys_of_images(tiny: Tiny, speech_model) -> None:
    words = (*without_images("speech"), f"model.speech.model={speech_model}")
    run = read_run(run_experiment(tiny(*words), []))
    stored = yaml.safe_load((run.folder / "config.yaml").read_text())
    stored["features"]["sample_rate"], stored["model"]["image_size"] = 16_000, 64
    stored["augment"]["freq_mask"] = 0.1
    (run.folder / "config.yaml").write_text(yaml.safe_dump(stored))
    file = run.folds[0].folder / "model.json"
    card = json.loads(file.read_text())
    card["features"] |= {"sample_rate": 16_000, "image_size": 64}
    card["model"] |= {"image_size": 64}
    file.write_text(json.dumps(card))
    assert load_stored_config(run.folder / "config.yaml").features.sample_rate == 44_100
    again = read_run(run.folder)
    sound = Path(again.audio_file(again.folds[0].test.utterances[0]))
    assert load(run.folder).predict(sound).emotion
