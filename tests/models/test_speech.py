"""Speech models: states as by transformers, each recording as if alone, files refused in words."""

import json
import logging
import pickle
import re
import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import soxr
import torch
from safetensors.torch import load_file, save_file

transformers = pytest.importorskip("transformers")

from audio.opening import BadAudio  # noqa: E402
from audio.reading import read_audio  # noqa: E402
from models import speech_files, speech_states  # noqa: E402
from models.speech import SpeechBranch, load_speech_model  # noqa: E402
from models.speech_states import SpeechModel  # noqa: E402
from scripts.make_demo_corpus import Prosody, espeak  # noqa: E402
from system import extras  # noqa: E402
from system.errors import InputError, RunError  # noqa: E402
from tests.support.speech_models import KINDS, save_model  # noqa: E402

RATE = 16_000
PADDED = {"wav2vec2-layer", "hubert-layer", "wavlm-layer", "unispeech", "unispeech-sat"}
TEXTS = ("No.", "The weather is nice.", "I told you that this would happen again.", "Yes, today.")


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Models by kind."""
    root = tmp_path_factory.mktemp("speech")
    return {kind: save_model(root / kind, kind) for kind in KINDS}


@pytest.fixture(scope="session")
def files(tmp_path_factory) -> list[Path]:
    """Synthesised speech of unlike lengths, in files of 16 and of 44.1 kHz."""
    root = tmp_path_factory.mktemp("spoken")
    found = []
    for i, text in enumerate(TEXTS):
        spoken, rate = espeak(text, "gmw/en", Prosody(180, 100, 40 + 10 * i, 50, 0), i)
        for to in (RATE, 44_100):
            found.append(root / f"{i}-{to}.wav")
            soundfile.write(found[-1], soxr.resample(spoken, rate, to), to)
    return found


@pytest.fixture(scope="session")
def waveforms(files) -> list[np.ndarray]:
    """The files at 16 kHz."""
    return [read_audio(file, RATE) for file in files]


def plain_states(folder: Path, waveform: np.ndarray) -> torch.Tensor:
    """Return what transformers gives for a recording alone: (T, L, D)."""
    model = transformers.AutoModel.from_pretrained(folder).eval()
    extractor = transformers.AutoFeatureExtractor.from_pretrained(folder)
    inputs = extractor(waveform, sampling_rate=RATE, return_tensors="pt")
    if hasattr(model, "decoder"):
        states = model.get_encoder()(inputs["input_features"], output_hidden_states=True)
        n_frames = -(-len(waveform) // 320)  # 20 ms each, the last one begun
    else:
        states = model(inputs["input_values"], output_hidden_states=True)
        n_frames = states.last_hidden_state.shape[1]
    every = [*states.hidden_states[:-1], states.last_hidden_state]  # see `speech_states.py`
    return torch.stack([state[0] for state in every], 1)[:n_frames].detach()


@pytest.mark.parametrize("kind", KINDS)
def test_states_are_those_of_transformers_in_batches_of_unlike_lengths(folders, waveforms, kind):
    cut = [waveform[: 2 * RATE] for waveform in waveforms]  # what the small Whisper sees at once
    states, lengths = load_speech_model(str(folders[kind]))(cut)
    assert states.shape[:1] == lengths.shape == (len(cut),) and len(set(lengths.tolist())) > 2
    for waveform, of_one, n in zip(cut, states, lengths, strict=True):
        expected = plain_states(folders[kind], waveform)
        assert len(expected) == n and expected.std() > 0.1
        torch.testing.assert_close(of_one[:n], expected, rtol=1e-5, atol=1e-5)
        assert not of_one[n:].any()


def test_an_adapter_for_a_decoder_is_left_out(folders, tmp_path, waveforms):
    folder = save_model(tmp_path / "adapter", "wav2vec2-layer", add_adapter=True)
    assert "adapter.layers.0.conv.weight" in load_file(folder / "model.safetensors")
    states, lengths = load_speech_model(str(folder))(waveforms[:1])
    assert (
        states.shape[1]
        == lengths[0]
        == load_speech_model(str(folders["wav2vec2-layer"])).n_frames(len(waveforms[0]))
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_recording_has_the_states_and_means_that_it_has_alone(folders, waveforms, kind):
    model = load_speech_model(str(folders[kind]))
    states, lengths = model(waveforms)
    means = model.means(waveforms)
    assert means.shape == (len(waveforms), model.n_states, model.width) == (8, 3, 32)
    for i, waveform in enumerate(waveforms):
        alone, n = model([waveform])
        assert lengths[i] == n[0] == alone.shape[1]
        torch.testing.assert_close(states[i, : n[0]], alone[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(means[i], alone[0].mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "whisper"])
def test_only_models_whose_mask_hides_padding_share_a_batch(folders, waveforms, kind, monkeypatch):
    """Where they are not padded, padding would change a recording."""
    model = load_speech_model(str(folders[kind]))
    short, long = waveforms[0], waveforms[4]
    alone, n = model([short])
    sizes = batch_sizes(model, monkeypatch)
    model([short, long, short])
    assert sizes == ([3] if kind in PADDED else [2, 1])
    model.pads = True
    change = (model([short, long])[0][0, : n[0]] - alone[0]).abs().max()
    assert sizes[-1] == 2
    assert change < 1e-4 if kind in PADDED else change > 1e-3


def batch_sizes(model: SpeechModel, monkeypatch) -> list[int]:
    """Note how many pieces are in each batch."""
    sizes: list[int] = []
    inputs = model._inputs
    monkeypatch.setattr(model, "_inputs", lambda p: sizes.append(len(p)) or inputs(p))
    return sizes


def test_recordings_of_one_length_share_a_batch_of_any_model(folders, waveforms, monkeypatch):
    model = load_speech_model(str(folders["wav2vec2-group"]))
    sizes = batch_sizes(model, monkeypatch)
    cut = [waveform[:4800] for waveform in waveforms]
    states, _ = model(cut)
    assert sizes == [8]
    torch.testing.assert_close(states[3], model([cut[3]])[0][0], rtol=1e-5, atol=1e-5)


def test_what_is_in_a_model_at_once_is_bounded(folders, monkeypatch):
    monkeypatch.setattr(speech_states, "BATCH_SECONDS", 3)
    model = load_speech_model(str(folders["wavlm-layer"]))
    seen = []
    inputs = model._inputs

    def note(pieces):
        made = inputs(pieces)
        seen.append(tuple(made["input_values"].shape))
        return made

    monkeypatch.setattr(model, "_inputs", note)
    draw = np.random.default_rng(0)
    made = [draw.standard_normal(int(s * RATE)).astype(np.float32) for s in (1, 0.5, 4, 0.9, 1)]
    model.means(made)
    assert seen == [(3, RATE), (1, RATE), (1, 4 * RATE)]


def test_onednn_which_keeps_buffers_of_every_shape_is_left_out(folders, waveforms, monkeypatch):
    model = load_speech_model(str(folders["wav2vec2-group"]))
    flags = []
    model.network.register_forward_pre_hook(
        lambda *args: flags.append(torch.backends.mkldnn.enabled)
    )
    model.means(waveforms[:1])
    assert flags == [False] and torch.backends.mkldnn.enabled
    model.network.register_forward_pre_hook(lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(waveforms[:1])
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize("kind", ["wav2vec2-layer", "wav2vec2-group", "whisper"])
def test_long_recordings_are_cut_into_equal_pieces(folders, kind, monkeypatch):
    monkeypatch.setattr(SpeechModel, "piece_seconds", 2)
    model = load_speech_model(str(folders[kind]))
    assert model.piece_seconds == 2
    long = np.random.default_rng(0).standard_normal(5 * RATE).astype(np.float32)
    if kind != "whisper":
        long = (long - long.mean()) / long.std()  # so that pieces are normalized by the whole
        model.normalizes = False
    size = -(-len(long) // 3)
    pieces = [long[i : i + size] for i in range(0, len(long), size)]
    short = long[:RATE]
    states, lengths = model([long, short])
    expected, each = model(pieces)
    whole = torch.cat([of[:n] for of, n in zip(expected, each, strict=True)])
    assert lengths.tolist()[0] == len(whole) == sum(map(model.n_frames, map(len, pieces)))
    torch.testing.assert_close(states[0, : len(whole)], whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(model.means([short, long])[1], whole.mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["wavlm-layer", "wav2vec2-group", "whisper"])
@pytest.mark.parametrize("n", [2, 7, 64])  # 64: more than a short one has frames
def test_spans_are_those_of_adaptive_pooling(folders, kind, n, monkeypatch):
    monkeypatch.setattr(SpeechModel, "piece_seconds", 2)  # the longest has three pieces
    model = load_speech_model(str(folders[kind]))
    model.piece_seconds = 2
    draw = np.random.default_rng(0)
    made = [draw.standard_normal(int(s * RATE)).astype(np.float32) for s in (5, 0.5, 1.3)]
    states, lengths = model(made, [2, 0])
    found = model.spans(made, n, [2, 0])
    assert found.shape == (3, n, 2, 32)
    for i, t in enumerate(lengths.tolist()):
        series = states[i, :t].flatten(1).T  # (L D, T)
        expected = torch.nn.functional.adaptive_avg_pool1d(series, n).T.unflatten(1, (2, 32))
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(
            model.spans([made[i]], n, [2, 0])[0], found[i], atol=1e-4, rtol=1e-3
        )
    torch.testing.assert_close(
        model.spans(made, 1), model.means(made)[:, None], rtol=1e-4, atol=1e-4
    )


def test_a_long_recording_is_normalized_as_a_whole(folders, monkeypatch):
    monkeypatch.setattr(SpeechModel, "piece_seconds", 1)
    model = load_speech_model(str(folders["wav2vec2-layer"]))
    draw = np.random.default_rng(0)
    long = np.concatenate([0.01 * draw.standard_normal(RATE), draw.standard_normal(RATE) + 0.3])
    seen = []
    inputs = model._inputs
    monkeypatch.setattr(model, "_inputs", lambda p: seen.extend(p) or inputs(p))
    model([long.astype(np.float32)])
    quiet, loud = sorted(seen, key=np.std)
    assert np.concatenate([quiet, loud]).mean() == pytest.approx(0, abs=1e-5)
    assert np.concatenate([quiet, loud]).std() == pytest.approx(1, abs=1e-4)
    assert quiet.std() < 0.1 < loud.std()


def test_the_extractor_says_whether_waveforms_are_normalized(tmp_path, waveforms):
    offset = waveforms[2] + np.float32(0.1)
    found = []
    for flag in (True, False):
        folder = save_model(tmp_path / str(flag), "wavlm-layer", do_normalize=flag)
        model = load_speech_model(str(folder))
        assert model.normalizes is flag and model.settings["normalizes"] is flag
        found.append(model([offset])[0][0])
        torch.testing.assert_close(found[-1], plain_states(folder, offset), rtol=1e-5, atol=1e-5)
    assert (found[0] - found[1]).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("kind", "samples", "frames"),
    [("wavlm-layer", 400, 1), ("wavlm-layer", 719, 1), ("wavlm-layer", 720, 2)]
    + [("whisper", 1, 1), ("whisper", 320, 1), ("whisper", 321, 2), ("whisper", 32_000, 100)],
)
def test_frames_of_a_waveform(folders, kind, samples, frames):
    """400 samples are one frame of 25 ms, and each 320 more begin another."""
    model = load_speech_model(str(folders[kind]))
    waveform = np.random.default_rng(0).standard_normal(samples).astype(np.float32)
    assert model.n_frames(samples) == model([waveform])[1][0] == frames


def test_a_waveform_shorter_than_a_frame_is_refused(folders):
    model = load_speech_model(str(folders["hubert-group"]))
    with pytest.raises(BadAudio, match="too short: 24.9 ms, where the speech model .* needs 25"):
        model([np.ones(399, np.float32)])


def test_a_batch_of_nothing_is_refused(folders):
    model = load_speech_model(str(folders["wavlm-layer"]))
    for way in (model, model.means):
        with pytest.raises(ValueError, match="there are no waveforms"):
            way([])


def test_chosen_layers_are_those_of_all(folders, waveforms):
    model = load_speech_model(str(folders["wavlm-group"]))
    every, _ = model(waveforms[:2])
    some, _ = model(waveforms[:2], layers=[2, 0])
    torch.testing.assert_close(some, every[:, :, [2, 0]])
    for layers in ([3], [-1], [0, 0], []):
        with pytest.raises(InputError, match="from 0, the input of the first layer, to 2, each"):
            model(waveforms[:1], layers)


def test_the_model_is_frozen_and_training_drops_no_layer(folders, waveforms):
    model = load_speech_model(str(folders["wav2vec2-layer"]))
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    config = model.network.config
    assert config.layerdrop == 0 and not config.apply_spec_augment
    model.requires_grad_(True)
    model.means(waveforms[:2]).sum().backward()  # a fine-tuning may pass gradients through it
    assert all(p.grad is not None for p in model.network.encoder.layers.parameters())


# Files


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """What transformers logs, which the root of all loggers does not get."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("transformers").addHandler(handler)
    yield lines
    logging.getLogger("transformers").removeHandler(handler)


def test_the_identity_is_that_of_the_files_not_of_their_place(folders, tmp_path):
    source = folders["wav2vec2-layer"]
    identity = load_speech_model(str(source)).identity
    copy = Path(shutil.copytree(source, tmp_path / "copy"))
    assert load_speech_model(str(copy)).identity == identity
    tensors = load_file(copy / "model.safetensors")
    tensors["encoder.layer_norm.bias"][0] += 1
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    assert load_speech_model(str(copy)).identity != identity
    for name in ("config.json", "preprocessor_config.json"):
        other = Path(shutil.copytree(source, tmp_path / name))
        settings = json.loads((other / name).read_text())
        (other / name).write_text(json.dumps({**settings, "more": 1}))
        assert load_speech_model(str(other)).identity != identity


def rewritten(folder: Path, to: Path, prefix: str = "", names=(), pickled: bool = False) -> Path:
    """Copy a model with other names of its tensors."""
    shutil.copytree(folder, to)
    tensors = load_file(to / "model.safetensors")
    for old, new in names:
        tensors = {name.replace(old, new): value for name, value in tensors.items()}
    tensors = {prefix + name: value for name, value in tensors.items()}
    (to / "model.safetensors").unlink()
    if pickled:
        torch.save(tensors, to / "pytorch_model.bin")
    else:
        save_file(tensors, to / "model.safetensors", metadata={"format": "pt"})
    return to


OLD_NAMES = [("parametrizations.weight.original0", "weight_g")]
OLD_NAMES += [("parametrizations.weight.original1", "weight_v")]


@pytest.mark.parametrize(
    ("kind", "prefix", "pickled"),
    [("wav2vec2-layer", "wav2vec2.", True), ("wavlm-group", "wavlm.", False)]
    + [("hubert-layer", "", True), ("whisper", "model.", False), ("whisper", "model.", True)],
)
def test_published_layouts_load(folders, tmp_path, waveforms, kind, prefix, pickled):
    """With a task's prefix, the older names of weight norms, and as a pickle of tensors."""
    folder = rewritten(folders[kind], tmp_path / "other", prefix, OLD_NAMES, pickled)
    got, expected = (load_speech_model(str(f))(waveforms[:2])[0] for f in (folder, folders[kind]))
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_are_refused_by_name(folders, tmp_path, value):
    folder = shutil.copytree(folders["wavlm-layer"], tmp_path / "damaged")
    tensors = load_file(folder / "model.safetensors")
    tensors["encoder.layers.1.feed_forward.output_dense.weight"][3, 4] = value
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        InputError, match=r"weights are damaged: encoder\.layers\.1\..* has NaN or inf"
    ):
        load_speech_model(str(folder))


def test_split_weights_load(folders, tmp_path, waveforms):
    model = transformers.AutoModel.from_pretrained(folders["wavlm-layer"])
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    shutil.copy(folders["wavlm-layer"] / "preprocessor_config.json", tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    got, expected = (
        load_speech_model(str(f))(waveforms[:2])[0] for f in (tmp_path, folders["wavlm-layer"])
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)
    part = sorted(tmp_path.glob("model-*.safetensors"))[0]
    part.unlink()
    with pytest.raises(InputError, match=f"{part.name}, which .*index.json names, is not in"):
        load_speech_model(str(tmp_path))


def test_weights_in_half_precision_are_widened(folders, tmp_path):
    folder = Path(shutil.copytree(folders["whisper"], tmp_path / "half"))
    tensors = {k: v.half() for k, v in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, "dtype": "float16"}))
    model = load_speech_model(str(folder))
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("kind", ["wavlm-layer", "whisper"])
def test_an_extractor_that_a_processor_saved_is_read(folders, tmp_path, kind):
    folder = Path(shutil.copytree(folders[kind], tmp_path / "processor"))
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").unlink()
    settings |= {"do_normalize": False} if kind != "whisper" else {}
    (folder / "processor_config.json").write_text(json.dumps({"feature_extractor": settings}))
    model = load_speech_model(str(folder))
    assert model.sample_rate == RATE and not getattr(model, "normalizes", False)


def test_whisper_is_its_encoder_alone(folders):
    names = [name for name, _ in load_speech_model(str(folders["whisper"])).named_parameters()]
    assert not [name for name in names if "decoder" in name] and len(names) > 20


class Evil:
    """Runs code where it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path(self.path),))


def test_a_pickle_that_holds_code_is_refused_and_not_run(folders, tmp_path):
    folder = Path(shutil.copytree(folders["wavlm-group"], tmp_path / "evil"))
    (folder / "model.safetensors").unlink()
    evil = Evil()
    evil.path = str(tmp_path / "ran")
    torch.save({"a": evil}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="pytorch_model.bin cannot be read as tensors"):
        load_speech_model(str(folder))
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(evil))
    with pytest.raises(InputError, match="pytorch_model.bin cannot be read as tensors"):
        load_speech_model(str(folder))
    assert not (tmp_path / "ran").exists()


def test_safetensors_are_preferred_to_a_pickle(folders, tmp_path):
    folder = Path(shutil.copytree(folders["wavlm-group"], tmp_path / "both"))
    (folder / "pytorch_model.bin").write_bytes(b"not a pickle")
    same = load_speech_model(str(folder)).identity
    assert same == load_speech_model(str(folders["wavlm-group"])).identity


def test_code_in_a_folder_is_never_run(folders, tmp_path):
    folder = Path(shutil.copytree(folders["wavlm-group"], tmp_path / "code"))
    (folder / "modeling_evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass M: pass")
    settings = json.loads((folder / "config.json").read_text())
    settings["auto_map"] = {"AutoConfig": "modeling_evil.M", "AutoModel": "modeling_evil.M"}
    (folder / "config.json").write_text(json.dumps(settings))
    load_speech_model(str(folder))
    settings["model_type"] = "evil"
    (folder / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match="model_type is 'evil'. Allowed: wav2vec2, hubert"):
        load_speech_model(str(folder))
    assert not (tmp_path / "ran").exists()


ODD_SETTINGS = {
    "quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "attn_implementation": "someone/kernel",
    "_attn_implementation": "someone/kernel",
    "fusion_config": {"someone/kernel": True},
}


@pytest.mark.parametrize("key", ODD_SETTINGS)
def test_a_config_loads_no_other_files_or_code(folders, tmp_path, waveforms, key):
    folder = Path(shutil.copytree(folders["wav2vec2-layer"], tmp_path / "odd"))
    changed_config(folder, **{key: ODD_SETTINGS[key]})
    got, expected = (
        load_speech_model(str(f))(waveforms[:1])[0] for f in (folder, folders["wav2vec2-layer"])
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


def changed_config(folder: Path, name: str = "config.json", **settings) -> None:
    """Change settings of config.json, or of another file."""
    before = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({**before, **settings}))


def drop(folder: Path, name: str) -> None:
    """Remove a tensor from the weights."""
    tensors = load_file(folder / "model.safetensors")
    del tensors[name]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


WRONG = {
    "no config": (lambda f: (f / "config.json").unlink(), "there is no config.json in"),
    "torn config": (lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "list": (lambda f: (f / "config.json").write_text("[]"), "config.json holds no settings"),
    "text model": (lambda f: changed_config(f, model_type="bert"), "its model_type is 'bert'"),
    "no type": (lambda f: changed_config(f, model_type=None), "its model_type is None"),
    "w2v-bert": (
        lambda f: changed_config(f, model_type="wav2vec2-bert"),
        "its model_type is 'wav2vec2-bert'",
    ),
    "no weights": (
        lambda f: (f / "model.safetensors").unlink(),
        "neither model.safetensors nor pytorch_model.bin in",
    ),
    "torn weights": (
        lambda f: (f / "model.safetensors").write_bytes(b"torn"),
        "model.safetensors cannot be read as tensors",
    ),
    "missing tensor": (
        lambda f: drop(f, "encoder.layers.1.final_layer_norm.bias"),
        r"1 of its \d+ tensors are not in the weights, the first is encoder.layers.1.final",
    ),
    "fewer layers": (
        lambda f: changed_config(f, num_hidden_layers=3),
        r"\d+ of its \d+ tensors are not in the weights, the first is encoder.layers.2",
    ),
    "other shapes": (
        lambda f: changed_config(f, intermediate_size=40),
        r"intermediate_dense.bias has the shape \(48,\) in the weights, but \(40,\) by config.json",
    ),
    "odd config": (lambda f: changed_config(f, hidden_size="x"), "transformers cannot build it"),
    "no extractor": (
        lambda f: (f / "preprocessor_config.json").unlink(),
        "there is no preprocessor_config.json in .*holds the sampling rate.*save_pretrained",
    ),
    "torn extractor": (
        lambda f: (f / "preprocessor_config.json").write_text("{"),
        "preprocessor_config.json cannot be read",
    ),
    **{
        f"rate {rate}": (
            lambda f, rate=rate: changed_config(f, "preprocessor_config.json", sampling_rate=rate),
            f"has sampling_rate {re.escape(repr(rate))}, which must be in Hz, 1000 or more",
        )
        for rate in (0, -16000, "16k", 16000.5, None)
    },
    "adapter": (lambda f: (f / "adapter_config.json").write_text("{}"), "merge_and_unload"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_folder_that_is_no_such_model_is_refused_in_one_message(
    folders, tmp_path, what, capfd, logged
):
    folder = Path(shutil.copytree(folders["wavlm-group"], tmp_path / "wrong"))
    change, words = WRONG[what]
    change(folder)
    with pytest.raises(InputError, match=words) as caught:
        load_speech_model(str(folder))
    assert "name a folder that save_pretrained of transformers wrote" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "") and logged == []


def test_an_extractor_that_does_not_fit_whisper_is_refused(folders, tmp_path):
    folder = Path(shutil.copytree(folders["whisper"], tmp_path / "whisper"))
    transformers.WhisperFeatureExtractor(feature_size=128, chunk_length=2).save_pretrained(folder)
    with pytest.raises(InputError, match="makes 128 bands x 200 frames, where .* 80 x 200"):
        load_speech_model(str(folder))


def test_a_revision_of_a_folder_is_refused(folders):
    with pytest.raises(InputError, match="is a folder here, which has no revision 'main'"):
        load_speech_model(str(folders["whisper"]), "main")


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setattr(extras, "is_installed", lambda package: False)
    with pytest.raises(InputError, match="pip install -r requirements-speech.txt"):
        load_speech_model("microsoft/wavlm-base-plus")


# The hub and its cache


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache of the hub, and no network: a socket fails the test."""
    folder = tmp_path / "cache"
    folder.mkdir()
    monkeypatch.setattr(speech_files.huggingface_hub.constants, "HF_HUB_CACHE", str(folder))

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    monkeypatch.setattr(socket.socket, "connect", lambda *args: pytest.fail("it asks the network"))
    return folder


def into_cache(cache: Path, folder: Path, name: str, branch: str = "main") -> Path:
    """Put a model into a cache, as the hub's client lays it down."""
    commit = "0123456789abcdef0123456789abcdef01234567"
    place = cache / f"models--{name.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / branch).write_text(commit)
    return Path(shutil.copytree(folder, place / "snapshots" / commit))


@pytest.mark.parametrize("offline", [True, False])
def test_a_model_that_is_not_in_the_cache_fails_at_once(cache, monkeypatch, offline):
    monkeypatch.setattr(speech_files.huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    why = "HF_HUB_OFFLINE is set" if offline else "the hub does not answer: .*no network"
    with pytest.raises(RunError, match=f"neither a folder here nor in the hub's cache .{why}") as e:
        load_speech_model("microsoft/wavlm-base-plus")
    assert "name a folder that holds it" in str(e.value) and "machine with a network" in str(
        e.value
    )
    assert str(cache) in str(e.value) and "\n" not in str(e.value)


def test_a_model_in_the_cache_needs_no_network(cache, folders, waveforms):
    into_cache(cache, folders["wavlm-layer"], "microsoft/wavlm-tiny")
    model = load_speech_model("microsoft/wavlm-tiny")
    expected = load_speech_model(str(folders["wavlm-layer"]))
    assert model.identity == expected.identity
    torch.testing.assert_close(model.means(waveforms), expected.means(waveforms))


def test_torn_weights_in_the_cache_name_all_that_is_to_be_removed(cache, folders):
    """The hub's client links snapshots to blobs: removing a link alone would change nothing."""
    folder = into_cache(cache, folders["wavlm-layer"], "microsoft/wavlm-tiny")
    blob = cache / "models--microsoft--wavlm-tiny" / "blobs" / "0123"
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    assert load_speech_model("microsoft/wavlm-tiny").n_states == 3
    blob.write_bytes(b"torn")
    with pytest.raises(InputError, match="cannot be read as tensors.*downloads it anew") as caught:
        load_speech_model("microsoft/wavlm-tiny")
    assert f"remove {cache / 'models--microsoft--wavlm-tiny'} and" in str(caught.value)


def test_a_revision_in_the_cache_is_found_and_another_is_not(cache, folders):
    into_cache(cache, folders["wavlm-layer"], "microsoft/wavlm-tiny", "v1")
    assert load_speech_model("microsoft/wavlm-tiny", "v1").n_states == 3
    with pytest.raises(RunError, match="the speech model microsoft/wavlm-tiny is neither"):
        load_speech_model("microsoft/wavlm-tiny")


def test_a_part_of_a_model_in_the_cache_does_not_count(cache, folders):
    folder = into_cache(cache, folders["wavlm-layer"], "microsoft/wavlm-tiny")
    (folder / "model.safetensors").unlink()
    with pytest.raises(RunError, match="the speech model microsoft/wavlm-tiny is neither"):
        load_speech_model("microsoft/wavlm-tiny")


@pytest.mark.parametrize("kind", ["safetensors", "bin", "split"])
def test_only_what_is_read_is_downloaded(cache, folders, monkeypatch, tmp_path, kind):
    """One commit of config, extractor and weights; a stand-in for the hub's client copies them."""
    remote = Path(shutil.copytree(folders["wavlm-layer"], tmp_path / "remote"))
    (remote / "code.py").write_text("")
    if kind == "bin":
        torch.save(load_file(remote / "model.safetensors"), remote / "pytorch_model.bin")
        (remote / "model.safetensors").unlink()
    if kind == "split":
        (remote / "model.safetensors").unlink()
        model = transformers.AutoModel.from_pretrained(folders["wavlm-layer"])
        model.save_pretrained(remote, max_shard_size="20KB")
    asked = []

    def download(name, file, revision=None):
        asked.append((file, revision))
        if not (remote / file).exists():
            raise speech_files.EntryNotFoundError(f"no {file}")
        place = cache / "snapshots" / "c0ffee"
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(remote / file, place)
        return str(place / file)

    monkeypatch.setattr(speech_files.huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(speech_files, "why_unreachable", lambda address: None)
    monkeypatch.setattr(speech_files.huggingface_hub, "hf_hub_download", download)
    model = load_speech_model("microsoft/wavlm-tiny", "v2")
    assert model.n_states == 3
    assert asked[0] == ("config.json", "v2") and {r for _, r in asked[1:]} == {"c0ffee"}
    assert "code.py" not in [file for file, _ in asked]


def test_a_refusal_of_the_hub_is_one_message(cache, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("401 Client Error.\nRepository Not Found")

    monkeypatch.setattr(speech_files, "why_unreachable", lambda address: None)
    monkeypatch.setattr(speech_files.huggingface_hub, "hf_hub_download", refuse)
    with pytest.raises(RunError, match=r"nor in the hub's cache \(401 Client Error.\)"):
        load_speech_model("microsoft/wavlm-tiny")


def test_an_empty_name_is_not_the_folder_of_the_process():
    with pytest.raises(InputError, match="the name of the speech model is empty"):
        load_speech_model("")


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/model", "a/b/c", "C:\\model", "a b"])
def test_what_is_neither_a_folder_nor_a_name_is_refused(cache, name):
    with pytest.raises(InputError, match="there is no such folder, and it cannot be a name on"):
        load_speech_model(name)


def test_emotion2vec_is_refused_with_the_reason(tmp_path):
    folder = tmp_path / "emotion2vec_base"
    folder.mkdir()
    (folder / "config.yaml").write_text("model: Emotion2vec")
    with pytest.raises(InputError, match="published for FunASR; transformers has no layout"):
        load_speech_model(str(folder))


# The branch


def test_equal_weights_at_first_are_the_mean_of_the_layers():
    states = torch.randn(4, 3, 8)
    branch = SpeechBranch(3, 8, "mean")
    torch.testing.assert_close(branch(states), states.mean(1))
    assert branch.layer_weights() == pytest.approx([1 / 3] * 3) and branch.num_features == 8


def test_the_weighted_sum_by_hand():
    branch = SpeechBranch(2, 1, "mean")
    branch.scores.data = torch.tensor([1.0, 3.0]).log()  # a quarter and three quarters
    assert branch.layer_weights() == pytest.approx([0.25, 0.75])
    assert branch(torch.tensor([[[4.0], [8.0]]])).item() == pytest.approx(7.0)


def test_tokens_are_summed_over_layers_alone():
    branch = SpeechBranch(2, 1, "mean", tokens=3)
    branch.scores.data = torch.tensor([1.0, 3.0]).log()  # a quarter and three quarters
    spans = torch.tensor([[[[4.0], [8.0]], [[0.0], [4.0]], [[-4.0], [0.0]]]])  # (1, 3, 2, 1)
    assert branch(spans).squeeze().tolist() == pytest.approx([7.0, 3.0, -1.0])
    with pytest.raises(ValueError, match=r"\(1, 2, 2, 1\); expected \(B, 3, 2, 1\)"):
        branch(spans[:, :2])


def test_a_weighted_sum_of_means_is_the_mean_of_the_weighted_frames():
    frames, lengths = torch.randn(3, 7, 4, 8), torch.tensor([7, 3, 5])
    mean, attention = SpeechBranch(4, 8, "mean"), SpeechBranch(4, 8, "attention")
    mean.scores.data = attention.scores.data = torch.randn(4)
    means = torch.stack([f[:n].mean(0) for f, n in zip(frames, lengths, strict=True)])
    torch.testing.assert_close(mean(means), attention(frames, lengths))  # its query starts at 0


def test_attention_pooling_against_plain_sums():
    frames, lengths = torch.randn(3, 7, 4, 8), torch.tensor([7, 3, 5])
    branch = SpeechBranch(4, 8, "attention")
    branch.scores.data, branch.query.data = torch.randn(4), 3 * torch.randn(8)
    weights = torch.tensor(branch.layer_weights())
    for of_one, n, got in zip(frames, lengths, branch(frames, lengths), strict=True):
        summed = sum(w * of_one[:n, layer] for layer, w in enumerate(weights))  # (n, D)
        score = [float(frame @ branch.query.detach()) / 8**0.5 for frame in summed]
        attention = np.exp(score) / np.exp(score).sum()
        expected = sum(a * frame for a, frame in zip(attention, summed, strict=True))
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("garbage", [1e6, -1e6, float("nan"), float("inf")])
def test_garbage_in_the_padding_changes_neither_vector_nor_gradient(garbage):
    frames, lengths = torch.randn(3, 7, 4, 8), torch.tensor([7, 3, 5])
    branch = SpeechBranch(4, 8, "attention")
    branch.query.data = torch.randn(8)

    def run(filled):
        branch.zero_grad()
        vectors = branch(filled, lengths)
        vectors.square().sum().backward()
        return vectors, branch.scores.grad.clone(), branch.query.grad.clone()

    clean = run(frames)
    for i, n in enumerate(lengths):
        frames[i, n:] = garbage
    longer = torch.cat([frames, torch.full((3, 2, 4, 8), garbage)], 1)
    for got in (run(frames), run(longer)):
        for value, expected in zip(got, clean, strict=True):
            torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_weights_are_learned_from_stored_float16(pooling):
    branch = SpeechBranch(3, 8, pooling)
    states = torch.randn(2, 3, 8).half() if pooling == "mean" else torch.randn(2, 5, 3, 8).half()
    vectors = branch(states, torch.tensor([5, 2]))
    assert vectors.dtype == torch.float32 and vectors.shape == (2, 8)
    vectors.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in branch.parameters())


def test_states_of_the_other_pooling_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 3, 8\); expected \(B, T, 3, 8\)"):
        SpeechBranch(3, 8, "attention")(torch.zeros(2, 3, 8), torch.tensor([3, 3]))
    with pytest.raises(ValueError, match=r"\(2, 4, 8\); expected \(B, 3, 8\)"):
        SpeechBranch(3, 8, "mean")(torch.zeros(2, 4, 8))
    with pytest.raises(ValueError, match="needs the lengths"):
        SpeechBranch(3, 8, "attention")(torch.zeros(2, 5, 3, 8))
