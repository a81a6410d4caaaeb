"""A speech model of which a part is trained: through training, resume and test."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from audio.reading import read_audio
from config.schema import Config
from corpora.plan import make_plan
from gates.analysis import analyze
from inference import load
from inference.bundle import export_bundle, find_source
from model_gmu import rebuild
from models.kept_states import KeptStates
from models.speech import load_speech_model
from models.speech_tuning import Waves
from storage.model_card import read_card
from storage.run_folder import read_run
from system.errors import InputError, RunError
from system.signals import Stop
from tests.support.processes import train_on
from tests.support.runs import run_experiment
from tests.support.speech_models import save_model
from training.beside import _open
from training.build import build_training, eval_loader
from training.dry_run import dry_run
from training.engine import train_step
from training.experiment import open_run
from training.fold import train_fold
from training.same_sources import keep_sources
from training.session import open_session
from training.warm_start import find_origins

Tiny = Callable[..., Config]
LORA = ("model.speech.lora_rank=2",)
TOP = ("model.speech.unfrozen_layers=1",)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("peft")
    return save_model(tmp_path_factory.mktemp("speech") / "wavlm", "wavlm-layer")


def with_speech(folder: Path, *words: str) -> tuple[str, ...]:
    return ("model.branches=[cqt, mel, speech]", f"model.speech.model={folder}", *words)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize(("words", "trained"), [(LORA, "lora_"), (TOP, "encoder.layers.1.")])
def test_what_is_named_is_trained_and_the_rest_stays(
    tiny: Tiny, folder: Path, words, trained: str, pooling: str
) -> None:
    config = tiny(*with_speech(folder, *words, f"model.speech.pooling={pooling}"))
    session = open_session(config, make_plan(config))
    state, loader, _ = build_training(next(session.folds()), {})
    batch = next(iter(loader))
    assert isinstance(batch.speech, Waves)
    before = {name: p.detach().clone() for name, p in state.model.speech_model.named_parameters()}
    for _ in range(3):  # the first matrix of an adapter has no gradient while the second is zero
        train_step(state, [batch])
    after = dict(state.model.speech_model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and moved == {name for name in before if trained in name}
    assert {f"speech_model.{name}" for name in moved} == {
        name for name in state.model.state_dict() if name.startswith("speech_model.")
    }


@pytest.mark.parametrize(
    "words", [("model.speech.lora_rank=2",), ("model.speech.unfrozen_layers=1",)]
)
@pytest.mark.parametrize("kind", ["whisper", "wav2vec2-group"])
def test_a_part_is_trained_in_bfloat16(tiny: Tiny, tmp_path: Path, kind: str, words) -> None:
    model = save_model(tmp_path / kind, kind)
    config = tiny(*with_speech(model, *words), "train.precision=bfloat16")
    session = open_session(config, make_plan(config))
    state, loader, _ = build_training(next(session.folds()), {})
    batch = next(iter(loader))
    before = [p.detach().clone() for p in state.model.speech_model.trained()]
    for _ in range(2):
        train_step(state, [batch])
    pairs = zip(before, state.model.speech_model.trained(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)
    reference = load_speech_model(str(model))
    with torch.autocast("cpu", torch.bfloat16):
        found = reference.means(batch.speech.alone()).float()
    exact = reference.means(batch.speech.alone())
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize("words", [LORA, TOP])
def test_an_interrupted_training_resumes_to_the_same_weights(tiny, folder, words) -> None:
    words = with_speech(folder, *words)
    whole = read_run(run_experiment(tiny("name=whole", *words), []))
    config, stop = tiny("name=stopped", *words), Stop()
    with pytest.raises(KeyboardInterrupt), open_run(config, [], stop=stop) as session:
        fold = next(session.folds())
        (fold.folder / "state").mkdir(parents=True)
        train_fold(fold, fold.folder, lambda progress: setattr(stop, "requested", True))
    again = read_run(run_experiment(config, []))
    first, second = (load_file(r.folds[0].folder / "model.safetensors") for r in (whole, again))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    history = (whole.folds[0].folder / "history.csv").read_text().splitlines()[0]
    assert "lr_speech" in history and "grad_speech" in history
    card = read_card(whole.folds[0].folder)
    assert card.sources["speech"]["model"] == load_speech_model(str(folder)).identity
    assert card.settings().trains_speech


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_states_are_computed_of_the_training_split_alone(
    tiny: Tiny, folder: Path, tmp_path: Path, pooling: str
) -> None:
    words = (*with_speech(folder, *LORA), f"model.speech.pooling={pooling}")
    config = tiny(*words, f"run.store={tmp_path / 'store'}", "features.seconds=0.15")  # crops
    session = open_session(config, make_plan(config))
    store, fold = session.sources["speech"], next(session.folds())
    read = {name: fold.beside(part)["speech"] for name, part in fold.split.parts()}
    assert all(len(vectors(np.array([1, 0])).lengths) == 2 for vectors in read.values())
    assert not store.rows
    model = build_training(fold, {}).state.model
    assert set(store.rows) == set(fold.hashes(fold.split.train)) != set(session.plan.hashes)
    heard = [read_audio(u.audio, 16_000) for u in fold.split.train]
    states = load_speech_model(str(folder)).means(heard)
    torch.testing.assert_close(model.speech_mean, states.mean(0), atol=2e-3, rtol=1e-3)
    deviation = states.std(0, unbiased=False)
    torch.testing.assert_close(model.speech_std, deviation, atol=2e-3, rtol=1e-2)


def test_of_two_processes_the_first_computes_states_for_both(
    recipe: Path, folder: Path, tmp_path: Path
) -> None:
    words = (*with_speech(folder, *LORA), f"run.store={tmp_path / 'store'}", "train.epochs=1")
    words += ("protocol.split=speaker-k-fold",)
    never = "import torch.distributed as dist, storage.speech_store as s\n"
    never += "build = s.SpeechStore.build\n"
    never += "s.SpeechStore.build = lambda own, some, *rest, **more: (\n"
    never += "    build(own, some, *rest, **more) if not some or dist.get_rank() == 0 else 1 / 0)"
    roots = [str(tmp_path)] * 2
    for output, status in train_on(recipe, tmp_path, roots, *words, patches=[never] * 2):
        assert status == 0, output
    [result] = read_run(tmp_path / "tiny").folds
    deviation = load_file(result.folder / "model.safetensors")["speech_std"]
    assert bool((deviation != 1).all())


def test_what_is_too_short_is_left_out_whichever_folds_are_trained(
    tiny: Tiny, folder: Path, corpus_root: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(corpus_root, tmp_path / "corpus")
    short = [sorted(root.glob(f"Session{k}/sentences/wav/*/*000.wav"))[0] for k in (1, 3)]
    for k, file in enumerate(short):  # the model needs 25 ms
        soundfile.write(file, np.random.default_rng(k).normal(0, 0.1, 320), 16_000)
    words = [f"corpus.root={root}", f"run.store={tmp_path / 'store'}", "corpus.on_bad_audio=skip"]
    ids = set()
    for own in ((), LORA, (*LORA, "run.folds=[3]")):
        config = tiny(*with_speech(folder, *own), *words)
        session = open_session(config, make_plan(config))
        assert set(session.plan.bad) == set(short)
        assert all("speech model" in reason for reason in session.plan.bad.values())
        ids.add(session.plan.certificate["id"])
    assert len(ids) == 1
    with pytest.raises(InputError, match="is too short: 20 ms, where the speech model"):
        config = tiny(*with_speech(folder, *LORA), *words[:-1])
        open_session(config, make_plan(config))


def test_states_that_are_not_finite_end_a_training_in_one_message(
    tiny: Tiny, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny(*with_speech(folder, *LORA), f"run.store={tmp_path / 'store'}")
    fold = next(open_session(config, make_plan(config)).folds())
    monkeypatch.setattr(
        KeptStates, "compute", lambda kept, some: [np.full((1, 3, 32), np.nan)] * len(some)
    )
    with pytest.raises(
        RunError, match=r"\.wav has hidden states that are NaN .*\. Leave it out, or"
    ):
        build_training(fold, {})


def test_adapters_start_from_a_run_with_the_model_as_it_was(tiny: Tiny, folder: Path) -> None:
    words = with_speech(folder)
    frozen = run_experiment(tiny("name=frozen", *words), [])
    config = tiny("name=tuned", *words, *LORA, f"model.from={frozen}")
    session = open_session(config, make_plan(config))
    fold = next(session.folds())
    model = build_training(fold, find_origins(fold)).state.model
    saved = load_file(read_run(frozen).folds[0].folder / "model.safetensors")
    own = model.state_dict()
    assert all(torch.equal(own[name], value) for name, value in saved.items())
    assert {name for name in own if name not in saved} == {
        name for name in own if name.startswith("speech_model.")
    }


def test_another_speech_model_is_no_start(tiny: Tiny, folder: Path, tmp_path: Path) -> None:
    frozen = run_experiment(tiny("name=frozen", *with_speech(folder)), [])
    other = save_model(tmp_path / "other", "wavlm-layer", do_normalize=False)
    config = tiny("name=other", *with_speech(other), f"model.from={frozen}")
    session = open_session(config, make_plan(config))
    with pytest.raises(InputError, match=r"beside the images:\n  speech.model: "):
        find_origins(next(session.folds()))
    card = read_run(frozen).folds[0].folder / "model.json"
    older = json.loads(card.read_text())
    assert older["sources"]["speech"].pop("precision") == "float16"  # as of an earlier version
    card.write_text(json.dumps(older))
    moved = save_model(tmp_path / "moved", "wavlm-layer")
    config = tiny("name=moved", *with_speech(moved), f"model.from={frozen}")
    find_origins(next(open_session(config, make_plan(config)).folds()))


def test_what_is_trained_needs_the_last_state(tiny: Tiny, folder: Path) -> None:
    config = tiny(*with_speech(folder, *TOP, "model.speech.layers=[0, 1]"))
    session = open_session(config, make_plan(config))
    with pytest.raises(InputError, match=r"layers=\[0, 1\]: .* the last hidden state, 2, among"):
        build_training(next(session.folds()), {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("model.speech.lora_rank=2", "model.speech.unfrozen_layers=1"), "in two ways"),
        (("model.speech.lora_rank=2", "augment.mixup=0.2"), "reads waveforms"),
        (("model.speech.lora_rank=2", "model.speech.lora_targets=[]"), "must name one or more"),
    ],
)
def test_keys_that_exclude_each_other_are_refused(tiny: Tiny, folder, words, message) -> None:
    with pytest.raises(InputError, match=message):
        tiny(*with_speech(folder, *words))


def test_a_dry_run_measures_what_is_trained(tiny: Tiny, folder: Path) -> None:
    assert "speech 0.0 M" in dry_run(tiny(*with_speech(folder, *LORA)))


def test_a_rebuilt_network_gives_the_predictions_of_the_run(tiny: Tiny, folder: Path) -> None:
    config = tiny(*with_speech(folder, *TOP))
    result = read_run(run_experiment(config, [])).folds[0]
    session = open_session(config, make_plan(config))
    fold = next(session.folds())
    speech_model = load_speech_model(str(folder))
    weights = load_file(result.folder / "model.safetensors")
    network = rebuild(read_card(result.folder).settings(), weights, speech_model)
    loader = eval_loader(fold, fold.split.test)
    with torch.no_grad():
        logits = [network(*batch.to(torch.device("cpu")).inputs).logits for batch in loader]
    probs = torch.cat(logits).softmax(1).numpy()
    assert [u.id for u in fold.split.test] == list(result.test.utterances)
    np.testing.assert_allclose(probs, result.test.probs, atol=1e-5)


@pytest.mark.parametrize(
    "words",
    [
        LORA,
        (*TOP, "model.speech.pooling=attention"),
        (*LORA, "model.fusion=cross_attention", "model.speech.tokens=4"),
    ],
)
def test_such_a_run_labels_recordings(tiny: Tiny, folder: Path, tmp_path: Path, words) -> None:
    config = tiny(*with_speech(folder, *words))
    run = run_experiment(config, [])
    result = read_run(run).folds[0]
    paths = {u.id: u.path for u in make_plan(config).utterances}
    some = list(result.test.utterances[:4])
    source = find_source(run, tmp_path / "bundle")
    export_bundle(source, tmp_path / "bundle")
    for place in (run, tmp_path / "bundle"):
        model = load(place, calibrated=False)
        found = model.predict([paths[name] for name in some])
        probs = [list(one.probs.values()) for one in found]
        np.testing.assert_allclose(probs, result.test.probs[:4], atol=2e-5)
        assert list(found[0].gate_shares) == ["cqt", "mel", "speech"]
    model.members[0].model.speech_model.trained()[-1].data.fill_(1.0)
    other = model.predict(paths[some[0]])
    assert other.probs != found[0].probs


@pytest.mark.parametrize("words", [LORA, TOP])
def test_members_share_the_speech_model_and_label_as_alone(tiny: Tiny, folder: Path, words) -> None:
    config = tiny(*with_speech(folder, *words), "run.folds=[1,2]")
    run = read_run(run_experiment(config, []))
    some = [u.path for u in make_plan(config).utterances[:3]]
    alone = [load(fold.folder, calibrated=False).predict(some) for fold in run.folds]
    model = load(run.folder, calibrated=False)
    own, other = (dict(m.model.speech_model.named_parameters()) for m in model.members)
    for name, parameter in own.items():
        is_shared = parameter.data_ptr() == other[name].data_ptr()
        assert is_shared != parameter.requires_grad, name
    for i, found in enumerate(model.predict(some)):
        members = [list(one[i].probs.values()) for one in alone]
        assert members[0] != members[1]
        np.testing.assert_allclose(list(found.probs.values()), np.mean(members, 0), atol=1e-6)


def test_the_gates_of_such_a_run_are_analyzed(tiny: Tiny, folder: Path) -> None:
    config = tiny(*with_speech(folder, *LORA))
    run = run_experiment(config, [])
    found = analyze(run, n_draws=1, progress=False)
    assert list(found.sources) == ["cqt", "mel", "speech"]


@pytest.mark.parametrize("words", [(), LORA])
def test_a_run_reads_one_speech_model(tiny: Tiny, folder: Path, tmp_path: Path, words) -> None:
    model = shutil.copytree(folder, tmp_path / "wavlm")
    config = tiny(*with_speech(model, *words))
    run_experiment(config, [])
    shutil.rmtree(model)
    save_model(model, "wavlm-layer", do_normalize=False)
    _open.cache_clear()  # a new process
    more = tiny(*with_speech(model, *words), "run.folds=[2]")
    with pytest.raises(InputError, match=r"model.speech.model=.* is not what .*fold-1_seed-0 has"):
        run_experiment(more, [])


@pytest.mark.parametrize("words", [(), LORA])
def test_a_run_goes_on_with_its_speech_model_from_elsewhere(tiny, folder, tmp_path, words) -> None:
    model, other = (shutil.copytree(folder, tmp_path / name) for name in ("wavlm", "other"))
    run_experiment(tiny(*with_speech(model, *words)), [])
    shutil.rmtree(model)
    _open.cache_clear()  # a new process
    run = read_run(run_experiment(tiny(*with_speech(other, *words), "run.folds=[1,2]"), []))
    assert len(run.folds) == 2
    assert str(load(run.folds[1].folder).members[0].speech.model.name) == str(other)


def test_a_begun_fold_goes_on_with_its_speech_model(tiny: Tiny, folder: Path, tmp_path) -> None:
    model = shutil.copytree(folder, tmp_path / "wavlm")
    config, stop = tiny(*with_speech(model, *LORA)), Stop()
    with open_run(config, [], stop=stop) as session:
        fold = next(session.folds())
        (fold.folder / "state").mkdir(parents=True)
        keep_sources(fold)
        with pytest.raises(KeyboardInterrupt):
            train_fold(fold, fold.folder, lambda progress: setattr(stop, "requested", True))
    shutil.rmtree(model)
    save_model(model, "wavlm-layer", do_normalize=False)
    _open.cache_clear()
    with pytest.raises(InputError, match=r"is not what .*fold-1_seed-0 has read"):
        run_experiment(config, [])


def test_what_was_trained_is_not_dropped_by_a_start(tiny: Tiny, folder: Path) -> None:
    tuned = run_experiment(tiny("name=lora", *with_speech(folder, *LORA)), [])
    for name, words in (("rank", ("model.speech.lora_rank=4",)), ("frozen", ())):
        config = tiny(f"name={name}", *with_speech(folder, *words), f"model.from={tuned}")
        session = open_session(config, make_plan(config))
        with pytest.raises(InputError, match=r"model.speech.lora_rank: 2 there"):
            find_origins(next(session.folds()))
    words = with_speech(folder, *LORA, "model.speech.pooling=attention")
    config = tiny("name=attention", *words, f"model.from={tuned}")
    with pytest.raises(InputError, match=r"model.speech.pooling: 'mean' there, 'attention' now"):
        find_origins(next(open_session(config, make_plan(config)).folds()))


def test_such_a_run_is_loaded_without_gradients(tiny: Tiny, folder: Path) -> None:
    run = run_experiment(tiny(*with_speech(folder, *LORA)), [])
    with torch.inference_mode():
        assert load(run).classes


def test_cards_that_contradict_themselves_are_refused(tiny: Tiny, folder: Path) -> None:
    run = read_run(run_experiment(tiny(*with_speech(folder, *LORA)), []))
    card = run.folds[0].folder / "model.json"
    good = json.loads(card.read_text())
    for change, words in (
        ({"speech_unfrozen_layers": 1}, "exclude each other"),
        ({"speech_layers": [1, 2]}, "speech_layers and model.speech_shape do not agree"),
        ({"speech_tokens": 4}, "speech_tokens has no effect with gmu"),
        ({"speech_layers": [2, 1, 0]}, r"sources.speech has layers \[0, 1, 2\]"),
    ):
        card.write_text(json.dumps({**good, "model": {**good["model"], **change}}))
        with pytest.raises(RunError, match=words):
            load(run.folder)
