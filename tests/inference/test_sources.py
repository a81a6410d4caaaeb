"""Runs that read a speech model or vectors label new recordings as they were tested."""

import csv
import json
import shutil
import sys
import zlib
from dataclasses import dataclass, replace
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

import export
import predict
from audio.reading import read_audio
from audio.streaming import pcm_stream
from config.loading import load_config
from corpora.plan import make_plan
from features import SpectrogramImages
from inference import load
from inference.bundle_file import read_bundle
from inference.conditions import CONDITIONS, change
from inference.labelling import lines_of
from inference.output import Lines
from inference.robustness import measure_robustness
from inference.timeline import label_cuts, timeline
from inference.timeline_figure import timeline_png
from inference.timeline_files import read_timeline
from inference.windows import windows
from model_gmu import rebuild
from models.speech import Frames
from reports.publish import gather
from storage.model_card import read_card
from storage.run_folder import FoldResult, Run, read_run
from storage.tensors import save_tensors
from system.errors import InputError, RunError
from system.files import read_json, write_json
from tests.support.runs import run_experiment, without_images
from tests.support.speech_models import save_model
from web.answer import answer
from web.models import Models, usable_models
from web.render import answer_html

pytest.importorskip("transformers")
SPEECH_RATE = 8000  # Hz, half that of the images


@dataclass(frozen=True)
class World:
    """Where the inputs of the runs lie."""

    root: Path
    recipe: Path
    speech: Path
    vectors: Path

    def words(self, *branches: str) -> list[str]:
        named = f"[{', '.join(branches)}]"
        found = ["model.fusion=gmu", f"model.branches={named}"]
        found += [f"model.speech.model={self.speech}"] * ("speech" in branches)
        found += [f"model.vectors={self.vectors}"] * ("file" in branches)
        return found


@pytest.fixture(scope="module")
def world(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> World:
    root = tmp_path_factory.mktemp("sources")
    speech = save_model(root / "wavlm", "wavlm-layer")
    extractor = read_json(speech / "preprocessor_config.json")
    write_json(speech / "preprocessor_config.json", extractor | {"sampling_rate": SPEECH_RATE})
    plan = make_plan(load_config(recipe, []))
    rng = np.random.default_rng(0)
    names = [plan.hashes[u.audio] if i % 2 else u.id for i, u in enumerate(plan.utterances)]
    np.savez(root / "v.npz", names=np.array(names), vectors=rng.normal(3, 2, (len(names), 5)))
    return World(root, recipe, speech, root / "v.npz")


def trained(world: World, name: str, *words: str) -> Run:
    config = load_config(world.recipe, [f"run.root={world.root}/runs", f"name={name}", *words])
    return read_run(run_experiment(config, []))


@pytest.fixture(scope="module")
def all_four(world: World) -> Run:
    """Two folds of all sources, crops of images, means of states."""
    words = ("features.seconds=0.15", "run.folds=[1,2]")
    return trained(world, "four", *world.words("cqt", "mel", "speech", "file"), *words)


@pytest.fixture(scope="module")
def beside(world: World) -> Run:
    """One fold of an image and frames of the states in float32."""
    idle = ("model.mel_backbone=null", "optim.optimizer.mel=null")
    kept = ("model.speech.pooling=attention", "model.speech.precision=float32")
    return trained(world, "beside", *world.words("cqt", "speech"), *idle, *kept)


@pytest.fixture(scope="module")
def of_tokens(world: World) -> Run:
    """One fold of cross-attention between an image and six tokens of the speech model."""
    idle = ("model.mel_backbone=null", "optim.optimizer.mel=null")
    words = ("model.fusion=cross_attention", "model.speech.tokens=6")
    return trained(world, "tokens", *world.words("cqt", "speech"), *idle, *words)


@pytest.fixture(scope="module")
def tuned(world: World) -> Run:
    """One fold of an image and a speech model in which adapters are trained."""
    pytest.importorskip("peft")
    idle = ("model.mel_backbone=null", "optim.optimizer.mel=null")
    words = (*world.words("cqt", "speech"), *idle, "model.speech.lora_rank=2")
    return trained(world, "tuned", *words)


@pytest.fixture(scope="module")
def alone(world: World) -> Run:
    """One fold of a speech model alone, two of its three states."""
    model = f"model.speech.model={world.speech}"
    layers = "model.speech.layers=[2, 0]"
    return trained(world, "alone", *without_images("speech"), model, layers)


@pytest.fixture(scope="module")
def own(world: World) -> Run:
    """One fold of vectors alone."""
    return trained(world, "own", *without_images("file"), f"model.vectors={world.vectors}")


def some_of(run: Run, fold: FoldResult, n: int = 6) -> list[Path]:
    return [Path(run.audio_file(name)) for name in fold.test.utterances[:n].tolist()]


@pytest.mark.parametrize("which", ["all_four", "beside", "of_tokens", "alone", "own"])
def test_a_fold_gives_the_probabilities_and_shares_of_predictions_csv(
    which: str, world: World, request: pytest.FixtureRequest
) -> None:
    run: Run = request.getfixturevalue(which)
    fold = run.folds[0]
    vectors = world.vectors if which in ("all_four", "own") else None
    model = load(fold.folder, calibrated=False, vectors=vectors)
    found = model.predict(some_of(run, fold))
    assert [one.problem for one in found] == [None] * 6
    probs = [list(one.probs.values()) for one in found]
    np.testing.assert_allclose(probs, fold.test.probs[:6], atol=2e-4)
    assert np.ptp(fold.test.probs, 0).max() > 1e-3  # they are not all alike
    assert [one.gate for one in found] == [None] * 6
    if fold.test.shares is None:
        assert [one.gate_shares for one in found] == [None] * 6
    else:
        shares = [list(one.gate_shares.values()) for one in found]
        np.testing.assert_allclose(shares, fold.test.shares[:6], atol=2e-4)
        assert tuple(found[0].gate_shares) == read_card(fold.folder).settings().reads


def test_a_label_is_a_plain_forward_pass_of_transformers_and_of_the_network(
    beside: Run, alone: Run
) -> None:
    """Frames in float32 beside an image; means of two states in float16 alone."""
    from transformers import AutoFeatureExtractor, AutoModel

    for run in (beside, alone):
        folder = run.folds[0].folder
        card, [file] = read_card(folder), some_of(run, run.folds[0], 1)
        source = card.sources["speech"]["name"]
        extractor, model = (
            AutoFeatureExtractor.from_pretrained(source),
            AutoModel.from_pretrained(source),
        )
        extracted = extractor(
            read_audio(file, SPEECH_RATE), sampling_rate=SPEECH_RATE, return_tensors="pt"
        )
        network = rebuild(card.settings(), load_file(folder / "model.safetensors"))
        waveform = torch.from_numpy(read_audio(file, 16_000))[None]
        pair = SpectrogramImages(**card.features.model_dump())(waveform)
        with torch.inference_mode():
            output = model.eval()(**extracted, output_hidden_states=True)
            every = [*output.hidden_states[:-1], output.last_hidden_state]
            if run is beside:
                frames = torch.stack(every, 2)  # (1, T, L, D)
                speech: Any = Frames(frames, torch.tensor([frames.shape[1]]))
            else:
                speech = torch.stack([every[2], every[0]], 2).mean(1).half().float()
            images = (image.half().float() for image in pair)
            expected = network(*images, speech, None)
        found = load(folder, calibrated=False).predict(file)
        probs = expected.logits[0].softmax(0).tolist()
        assert list(found.probs.values()) == pytest.approx(probs, abs=1e-4)
        if run is beside:
            share = float(expected.gate.mean())
            assert list(found.gate_shares.values()) == pytest.approx([share, 1 - share], abs=1e-4)


def test_a_run_is_the_mean_of_its_folds_and_computes_states_once(
    all_four: Run, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = some_of(all_four, all_four.folds[0], 3)
    each = [load(fold.folder, vectors=world.vectors).predict(files) for fold in all_four.folds]
    model = load(all_four.folder, vectors=world.vectors)
    first, second = model.members
    assert first.speech is second.speech and first.images is second.images
    seen = []
    compute = first.speech._kept.compute
    monkeypatch.setattr(
        first.speech._kept,
        "compute",
        lambda waveforms: seen.extend(waveforms) or compute(waveforms),
    )
    for i, together in enumerate(model.predict(files)):
        mean = np.mean([list(one[i].probs.values()) for one in each], axis=0)
        np.testing.assert_allclose(list(together.probs.values()), mean, atol=1e-5)
        shares = np.mean([list(one[i].gate_shares.values()) for one in each], axis=0)
        np.testing.assert_allclose(list(together.gate_shares.values()), shares, atol=1e-5)
    assert len(seen) == len(files)
    assert model.rates == [16_000, SPEECH_RATE]


def test_a_speech_model_alone_reads_no_image(alone: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SpectrogramImages, "forward", None)
    model = load(alone.folder)
    assert model.rates == [SPEECH_RATE] and model.sample_rate == SPEECH_RATE
    [file] = some_of(alone, alone.folds[0], 1)
    samples, rate = soundfile.read(file, dtype="float32")
    found = list(model.predict(samples, sample_rate=rate).probs.values())
    np.testing.assert_allclose(found, list(model.predict(file).probs.values()), atol=1e-4)


def test_what_the_speech_model_cannot_read_is_that_recordings_problem(
    alone: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(alone.folder)
    good = np.random.default_rng(0).normal(0, 0.1, 9000)
    short, other = model.predict([good[:200], good], sample_rate=16_000)
    assert "is too short: 12.5 ms, where the speech model" in short.problem and not short.probs
    assert other.problem is None and other.probs
    reader = model.members[0].speech
    compute = reader._kept.compute

    def huge(waveforms: Any) -> list[np.ndarray]:
        return [
            states * (1e9 if len(w) < 3000 else 1)
            for states, w in zip(compute(waveforms), waveforms, strict=True)
        ]

    monkeypatch.setattr(reader._kept, "compute", huge)
    far, other = model.predict([good[:4000], good], sample_rate=16_000)
    assert "float16 ends at 65504" in far.problem and other.problem is None


def test_parts_of_a_long_recording_are_labelled_as_files_of_their_own(
    beside: Run, of_tokens: Run, tuned: Run, alone: Run, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    samples = (rng.normal(0, 0.1, 16_000 * 5) * np.repeat([1, 0.3, 2, 0.1, 1], 16_000)).astype(
        np.float32
    )
    whole = tmp_path / "long.wav"
    soundfile.write(whole, samples, 16_000, subtype="FLOAT")
    for run in (beside, of_tokens, tuned, alone):
        model = load(run.folder)
        parts = list(timeline(model, whole, 2.0, 1.5))
        assert [(one.start, one.end) for one in parts] == [(0, 2), (1.5, 3.5), (3, 5)]
        for one in parts:
            file = tmp_path / "part.wav"
            cut = samples[round(one.start * 16_000) : round(one.end * 16_000)]
            soundfile.write(file, cut, 16_000, subtype="FLOAT")
            expected = model.predict(file)
            assert dict(one.probs) == pytest.approx(dict(expected.probs), abs=1e-6)
            assert one.gate_shares == pytest.approx(expected.gate_shares, abs=1e-6)


def test_another_or_a_missing_speech_model_is_one_message(
    alone: Run, world: World, tmp_path: Path
) -> None:
    other = save_model(tmp_path / "other", "hubert-layer")
    with pytest.raises(InputError, match="another speech model than the one at .*--speech-model"):
        load(alone.folder, speech_model=other)
    moved = shutil.copytree(world.speech, tmp_path / "moved")
    [file] = some_of(alone, alone.folds[0], 1)
    expected = load(alone.folder).predict(file)
    world.speech.rename(tmp_path / "away")
    try:
        ways = "predict.py --speech-model FOLDER .*, or load\\(path, speech_model=FOLDER"
        with pytest.raises(InputError, match=ways):
            load(alone.folder)
        assert load(alone.folder, speech_model=moved).predict(file) == expected
    finally:
        (tmp_path / "away").rename(world.speech)


def test_a_card_that_contradicts_itself_is_one_message(alone: Run, tmp_path: Path) -> None:
    fold = shutil.copytree(alone.folds[0].folder, tmp_path / alone.folds[0].folder.name)
    card = read_json(fold / "model.json")
    for other, words in (
        ({"layers": [0]}, "has 1 layers"),
        ({"model": "x"}, "sources.speech.model"),
        ({"precision": "float8"}, "sources.speech.precision"),
    ):
        sources = {"speech": card["sources"]["speech"] | other}
        write_json(fold / "model.json", card | {"sources": sources})
        with pytest.raises(RunError, match=words):
            load(fold)
    write_json(fold / "model.json", {k: v for k, v in card.items() if k != "sources"})
    with pytest.raises(RunError, match="sources.speech"):
        load(fold)


def test_vectors_are_found_by_hash_and_name_or_given(
    own: Run, world: World, tmp_path: Path
) -> None:
    model, fold = load(own.folder, vectors=world.vectors), own.folds[0]
    [file] = some_of(own, fold, 1)
    samples, rate = soundfile.read(file, dtype="float32")
    archive = np.load(world.vectors)
    plan = make_plan(load_config(world.recipe, []))
    [key] = {plan.hashes[u.audio] for u in plan.utterances if u.id == fold.test.utterances[0]}
    [place] = [i for i, n in enumerate(archive["names"]) if n in (key, fold.test.utterances[0])]
    vector = archive["vectors"][place]
    expected = model.predict(file)
    for names in ([key], [file.name], [file.stem], [str(file)]):
        np.savez(tmp_path / "v.npz", **{names[0].replace("/", "\u2215"): vector})
        if "/" in names[0]:  # no name of an array in an .npz
            np.savez(tmp_path / "v.npz", names=np.array(names), vectors=vector[None])
        again = load(own.folder, vectors=tmp_path / "v.npz").predict(file)
        assert again.probs == expected.probs
    alone = load(own.folder)
    assert alone.predict(file, vectors=vector).probs == expected.probs
    assert alone.predict([file], vectors=[vector])[0].probs == expected.probs
    np.savez(tmp_path / "v.npz", **{key: vector})
    by_hash = load(own.folder, vectors=tmp_path / "v.npz")
    assert by_hash.predict(samples, sample_rate=rate).probs == expected.probs
    bad, good = by_hash.predict([samples[::2], samples], sample_rate=rate)
    assert "has no vector in vectors=" in bad.problem and good.probs == expected.probs


def test_missing_and_wrong_vectors_are_one_message(
    own: Run, alone: Run, world: World, tmp_path
) -> None:
    [file] = some_of(own, own.folds[0], 1)
    model = load(own.folder)
    with pytest.raises(InputError, match="--vectors FILE or load\\(path, vectors=FILE\\)"):
        model.predict(file)
    with pytest.raises(InputError, match=r"must be \(1, 5\), .* got \(1, 4\)"):
        model.predict(file, vectors=np.ones(4))
    with pytest.raises(InputError, match="NaN"):
        model.predict(file, vectors=np.full(5, np.nan))
    np.savez(tmp_path / "v.npz", a=np.ones(4))
    with pytest.raises(InputError, match="vectors of 4 numbers, and .* reads 5"):
        load(own.folder, vectors=tmp_path / "v.npz")
    with pytest.raises(InputError, match="leave --window, --segments and --pcm out"):
        timeline(load(own.folder, vectors=world.vectors), file, 2.0)
    with pytest.raises(InputError, match="vectors= has no effect"):
        load(alone.folder).predict(file, vectors=np.ones(5))
    with pytest.raises(InputError, match="a file of vectors has no effect"):
        load(alone.folder, vectors=world.vectors)
    with pytest.raises(InputError, match="a speech model has no effect"):
        load(own.folder, speech_model=world.speech)


def test_predict_writes_the_shares(
    all_four: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    files = list(map(str, some_of(all_four, all_four.folds[0], 2)))
    expected = load(all_four.folder, vectors=world.vectors).predict(files)
    extra = tmp_path / "extra.wav"
    soundfile.write(extra, np.random.default_rng(0).normal(0, 0.1, 9000), 16_000)
    vectors = ["--vectors", str(world.vectors)]

    def said(*words: str, status: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["predict.py", str(all_four.folder), *words])
        assert predict.main() == status
        told = capsys.readouterr()
        assert (told.out == "") == (status == 2)
        return told.err if status == 2 else told.out

    columns = ["gate_cqt", "gate_mel", "gate_speech", "gate_file"]
    out = said(*files, str(extra), *vectors, "--format", "csv", status=1)
    rows = list(csv.DictReader(out.splitlines()))
    assert list(rows[0])[-7:] == ["gate", *columns, "problem", "unlike"]
    for row, one in zip(rows, expected, strict=False):
        assert [float(row[name]) for name in columns] == pytest.approx(
            list(one.gate_shares.values()), abs=1e-6
        )
        assert row["gate"] == "" and row["problem"] == ""
    assert "has no vector" in rows[2]["problem"] and rows[2]["gate_cqt"] == ""
    lines = said(*files, *vectors, "--format", "jsonl").splitlines()
    shares = json.loads(lines[0])["gate_shares"]
    assert shares == pytest.approx(dict(expected[0].gate_shares), abs=1e-6)
    head, *table = said(*files, *vectors).splitlines()
    assert head.split("\t")[-4:] == columns
    assert float(table[0].split("\t")[-1]) == pytest.approx(
        expected[0].gate_shares["file"], abs=1e-3
    )
    lines_of_csv = Lines("csv", all_four.classes, None, sources=columns)
    assert lines_of_csv.read(out.splitlines()[1:])[str(extra)] == [True]
    frame = load(all_four.folder, vectors=world.vectors).predict(files, as_frame=True)
    assert frame["gate_speech"][0] == pytest.approx(expected[0].gate_shares["speech"])
    assert "--vectors FILE" in said(files[0], status=2)


def test_a_bundle_labels_with_its_own_copy_of_the_speech_model(
    alone: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    assert export.main([str(alone.folder), "--to", str(plain)]) == 0
    assert "without an ONNX graph, which cannot hold the branch speech" in capsys.readouterr().out
    assert export.main([str(alone.folder), "--to", str(whole), "--with-speech-model"]) == 0
    assert {file.name for file in plain.iterdir()} == {
        *("bundle.json", "README.md", "split_certificate.json", "members")
    }
    sources = read_bundle(plain).sources
    assert sources.branches == ["speech"] and sources.vector_width is None
    card = (plain / "README.md").read_text()
    assert sources.speech.model in card and "hidden states of the speech model" in card
    assert "onnx" not in card.split("---")[1]
    files = some_of(alone, alone.folds[0], 3)
    expected = load(alone.folder).predict(files)
    assert load(plain).predict(files) == load(whole).predict(files) == expected
    moved = tmp_path / "away"
    world.speech.rename(moved)
    words = ["predict.py", "--verify"]
    try:
        assert load(whole).predict(files) == expected
        assert load(plain, speech_model=moved).predict(files) == expected
        with pytest.raises(InputError, match="--speech-model FOLDER"):
            load(plain)
        options = [str(plain), *map(str, files), "--speech-model", str(moved)]
        monkeypatch.setattr(sys, "argv", [*words, *options])
        assert predict.main() == 0
        assert "is that of training, 3 recordings labelled" in capsys.readouterr().out
    finally:
        moved.rename(world.speech)
    [weights] = plain.glob("members/*/model.safetensors")
    other = {name: value.clone() for name, value in load_file(weights).items()}
    other["speech_branch.scores"] += 1
    save_tensors(weights, other)
    monkeypatch.setattr(sys, "argv", [*words, str(plain), *map(str, files)])
    assert predict.main() == 1
    assert "is not the file that bundle.json names" in capsys.readouterr().err


def test_a_bundle_of_vectors_asks_for_them(
    own: Run, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bundle, files = tmp_path / "bundle", some_of(own, own.folds[0], 2)
    assert export.main([str(own.folder), "--to", str(bundle)]) == 0
    assert "--vectors FILE" in (bundle / "README.md").read_text()
    monkeypatch.setattr(sys, "argv", ["predict.py", "--verify", str(bundle), *map(str, files)])
    assert predict.main() == 2
    assert "reads a vector for each recording" in capsys.readouterr().err
    sys.argv += ["--vectors", str(world.vectors)]
    assert predict.main() == 0
    expected = load(own.folder, vectors=world.vectors).predict(files)
    assert load(bundle, vectors=world.vectors).predict(files) == expected


def test_what_a_bundle_cannot_hold_is_refused(alone: Run, own: Run, tmp_path: Path, capsys) -> None:
    for folder, option, words in (
        (alone.folder, "--audonnx", "the branch speech, which is in no ONNX graph"),
        (own.folder, "--with-speech-model", "reads none, leave it out"),
    ):
        assert export.main([str(folder), "--to", str(tmp_path / "bundle"), option]) == 2
        assert words in capsys.readouterr().err and not (tmp_path / "bundle").exists()


def test_robustness_changes_the_sound_once_for_images_and_speech(
    beside: Run, own: Run, tmp_path: Path
) -> None:
    folder = shutil.copytree(beside.folder, tmp_path / "run")
    run = read_run(folder)
    found = measure_robustness(run, progress=False)
    fold, model = run.folds[0], load(run.folds[0].folder, calibrated=False)
    clean = np.array(found.folds["fold 1 seed 0"].confusions["clean"]).sum((0, 1))
    assert clean.tolist() == np.bincount(fold.test.preds, minlength=4).tolist()
    for condition in (c for c in CONDITIONS if c.name in ("noise 0 dB", "speed 0.9")):
        counts = np.zeros((4, 4), int)
        for name, target in zip(fold.test.utterances.tolist(), fold.test.targets, strict=True):
            samples = read_audio(run.audio_file(name), 16_000)
            changed = change(samples, 16_000, condition, zlib.crc32(name.encode()))
            label = model.predict(changed, sample_rate=16_000).emotion
            counts[target, run.classes.index(label)] += 1
        there = np.array(found.folds["fold 1 seed 0"].confusions[condition.name])
        assert there.sum(0).tolist() == counts.tolist()
    with pytest.raises(InputError, match="do not change with the sound"):
        measure_robustness(own, progress=False)
    before = shutil.copytree(beside.folder, tmp_path / "before")
    with pytest.raises(InputError, match="do not change with the sound"):
        gather([before, own.folder], robustness=True)
    assert not (before / "robustness.json").exists()


def test_timelines_have_the_shares_of_each_part(
    beside: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, folder = tmp_path / "long.wav", tmp_path / "timelines"
    rng = np.random.default_rng(0)
    samples = np.where(np.arange(64_000) < 48_000, rng.normal(0, 0.1, 64_000), 0)
    soundfile.write(whole, samples, 16_000, subtype="FLOAT")
    words = ["--window", "1", "--hop", "1", "--timeline", str(folder)]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", str(beside.folder), "long.wav", *words])
    assert predict.main() == 0
    parts = read_json(folder / "long.wav.json")["parts"]
    expected = list(timeline(load(beside.folder), whole, 1.0, 1.0))
    for part, one in zip(parts, expected, strict=True):
        assert part["gate"] is None and part["problem"] == one.problem
        if one.problem is None:
            assert part["gate_shares"] == pytest.approx(dict(one.gate_shares), abs=1e-6)
    assert parts[-1]["problem"] == "silence" and parts[-1]["gate_shares"] is None
    png = (folder / "long.wav.png").read_bytes()
    drawn = read_timeline(folder / "long.wav.csv", lines_of(load(beside.folder), "csv", None, True))
    assert png == timeline_png(drawn) != timeline_png(replace(drawn, shares=1 - drawn.shares))


def test_live_sound_is_labelled_at_its_own_rate(alone: Run) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(0, 0.1, 66_150).astype("<f4")
    model = load(alone.folder)
    stream = pcm_stream(
        BufferedReader(BytesIO(samples.tobytes())), 22_050, "f32le", model.stream_rate
    )
    found = list(label_cuts(model, windows(stream, 1.0, 1.0), "-"))
    assert len(found) == 3
    for i, one in enumerate(found):
        part = samples[22_050 * i : 22_050 * (i + 1)]
        assert one.probs == pytest.approx(model.predict(part, sample_rate=22_050).probs, abs=1e-6)


def test_the_page_answers_with_a_speech_model_and_refuses_vectors(
    beside: Run, tuned: Run, alone: Run, own: Run, world: World, tmp_path: Path, caplog: Any
) -> None:
    runs = {"beside": beside, "tuned": tuned, "alone": alone, "own": own}
    found = usable_models({name: run.folder for name, run in runs.items()})
    assert list(found) == ["beside", "tuned", "alone"]
    assert "left out of the page: own" in caplog.text and "vector of each recording" in caplog.text
    moved = shutil.copytree(world.speech, tmp_path / "moved")
    models = Models(found, "cpu", str(moved))
    for run, name, said in (
        (beside, "beside", "The gate&#39;s shares: CQT "),
        (tuned, "tuned", "The gate&#39;s shares: CQT "),
        (alone, "alone", "This model reads the speech model alone: it has no gate."),
    ):
        [file] = some_of(run, run.folds[0], 1)
        model = models.named(name)
        assert Path(model.members[0].speech.model.name) == moved
        answered = answer(model, file, 60, lambda done, n: None)
        expected = model.predict(file)
        assert answered.prediction.probs == pytest.approx(expected.probs, abs=1e-6)
        page = answer_html(answered, model, name, file.name)
        assert said in page and ("this model does not read it" in page)
