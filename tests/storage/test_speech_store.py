"""The speech store: what a model gives, kept once; killed, corrupt and odd builds."""

import json
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import nn

from audio.reading import inspect_audio, read_audio
from audio.segment import Segment
from models.speech import SpeechBranch, load_speech_model
from models.speech_states import SpeechModel
from storage import row_store
from storage import speech_store as store_module
from storage.source_facts import KnownModel, SpeechFacts
from storage.speech_store import SpeechStore
from system.errors import InputError, RunError
from system.locks import lock
from training.beside import source_facts
from training.session import choose_tf32

RATE = 8000
FRAME = 80  # samples


class Network(nn.Module):
    """Three hidden states of width 4: mean, mean square, least and most of each frame, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(num_hidden_layers=2, hidden_size=4)
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, waveforms: torch.Tensor, output_hidden_states: bool) -> Any:
        frames = waveforms.unfold(1, FRAME, FRAME)  # (b, T, FRAME)
        parts = (frames.mean(2), frames.square().mean(2), frames.amin(2), frames.amax(2))
        states = torch.stack(parts, 2)  # (b, T, 4)
        first, second, third = (factor * states for factor in self.scale)
        return SimpleNamespace(hidden_states=[first, second, None], last_hidden_state=third)


class Model(SpeechModel):
    """A speech model that needs no package, and whose states are known."""

    min_samples = FRAME

    def __init__(self, identity: str = "a") -> None:
        files: Any = SimpleNamespace(name="small", identity=lambda: identity)
        super().__init__(files, Network(), RATE)
        self.eval().requires_grad_(False)

    def n_frames(self, n_samples: int) -> int:
        return n_samples // FRAME

    def _inputs(self, pieces) -> dict[str, torch.Tensor]:
        longest = max(map(len, pieces))
        padded = [np.pad(piece, (0, longest - len(piece)), constant_values=9) for piece in pieces]
        return {"waveforms": torch.from_numpy(np.stack(padded))}


def read_counter(monkeypatch) -> list[Path]:
    """Note every file that is read for its states."""
    read: list[Path] = []
    monkeypatch.setattr(
        store_module,
        "read_audio",
        lambda path, *which: read.append(path) or read_audio(path, *which),
    )
    return read


def expected_frames(waveform: np.ndarray) -> np.ndarray:
    """Compute the hidden states of the model: (T, 3, 4)."""
    frames = waveform[: len(waveform) // FRAME * FRAME].reshape(-1, FRAME)
    states = np.stack([frames.mean(1), (frames**2).mean(1), frames.min(1), frames.max(1)], 1)
    return np.stack([states, 2 * states, 3 * states], 1)


@pytest.fixture
def clips(tmp_path) -> dict[str, Path]:
    """{audio hash: file} of nine recordings of unlike lengths."""
    found = {}
    for i in range(9):
        path = tmp_path / "audio" / f"clip{i}.wav"
        path.parent.mkdir(exist_ok=True)
        noise = np.random.default_rng(i).standard_normal(1000 + 500 * (i % 5))
        soundfile.write(path, 0.1 * noise, RATE)
        found[inspect_audio(path).hash] = path
    return found


@pytest.fixture
def make_store(tmp_path) -> Callable[..., SpeechStore]:
    def make(pooling="mean", folder="store", model=None, **options) -> SpeechStore:
        return SpeechStore(tmp_path / folder, model or Model(), pooling, **options)

    return make


def check(store: SpeechStore, clips: dict[str, Path], layers=(0, 1, 2), rtol=1e-3) -> None:
    """Compare a whole store with states that are computed by hand."""
    assert store.rows.keys() == clips.keys()
    for key, path in clips.items():
        expected = expected_frames(read_audio(path, RATE))[:, list(layers)]
        if store.tokens:
            edges = [i * len(expected) / store.tokens for i in range(store.tokens + 1)]
            spans = zip(edges, edges[1:], strict=False)
            means = [expected[math.floor(a) : math.ceil(b)].mean(0) for a, b in spans]
            got, expected = store.means([store.rows[key].start])[0], np.stack(means)
        elif store.pooling == "mean":
            assert len(store.rows[key]) == 1
            got, expected = store.means([store.rows[key].start])[0], expected.mean(0)
        else:
            got = store.frames(store.rows[key])
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_store_holds_the_states_of_each_recording(make_store, clips, pooling, workers):
    store = make_store(pooling)
    assert store.build(clips, workers) == {}
    check(store, clips)
    check(make_store(pooling), clips)  # read by another process
    (name,) = [file.name for file in store.folder.glob("*.f16")]
    assert name == {"mean": "means.f16", "attention": "frames.f16"}[pooling]


@pytest.mark.parametrize("tokens", [2, 5])
def test_a_store_of_tokens_holds_the_means_of_spans(make_store, clips, tokens):
    store = make_store(tokens=tokens)
    assert store.build(clips, 2) == {}
    check(store, clips)
    rows = [store.rows[key].start for key in clips]
    assert store.means(rows[::-1]).shape == (9, tokens, 3, 4)
    np.testing.assert_array_equal(store.means(rows[::-1])[0], store.means(rows)[-1])
    assert store.recording_bytes == tokens * 3 * 4 * 2
    folders = {make_store(tokens=n).folder for n in (None, tokens, tokens + 1)}
    assert len(folders) == 3 and make_store().folder == make_store(tokens=None).folder


def test_means_come_in_the_order_asked_for(make_store, clips):
    store = make_store()
    store.build(clips, 0)
    rows = [store.rows[key].start for key in clips]
    got = store.means(rows[::-1] + rows[:1])
    assert got.shape == (10, 3, 4) and got.dtype == np.float16
    np.testing.assert_array_equal(got[0], store.means([rows[-1]])[0])
    np.testing.assert_array_equal(got[-1], store.means([rows[0]])[0])


def test_frames_are_mapped_and_not_read(make_store, clips):
    store = make_store("attention")
    store.build(clips, 0)
    frames = store.frames(store.rows[next(iter(clips))])
    assert isinstance(frames, np.memmap) and not frames.flags.writeable
    with pytest.raises(ValueError, match="a store with pooling=attention keeps no means"):
        store.means([0])


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_layers_are_chosen_in_order(make_store, clips, pooling):
    store = make_store(pooling, layers=[2, 0])
    assert store.build(clips, 0) == {} and store.layers == [2, 0] and store.record == (2, 4)
    check(store, clips, (2, 0))
    with pytest.raises(InputError, match="to 2, each once"):
        make_store(layers=[3])


def test_segments_of_a_file_are_recordings(make_store, clips, tmp_path):
    path = list(clips.values())[4]  # 3000 samples
    segment = Segment(path, 0.1, 0.3)
    key = inspect_audio(segment).hash
    store = make_store("attention")
    assert store.build({key: segment}, 0) == {}
    np.testing.assert_allclose(
        store.frames(store.rows[key]),
        expected_frames(read_audio(path, RATE)[800:2400]),
        rtol=1e-3,
        atol=1e-4,
    )


def test_the_key_is_all_that_decides_a_record(make_store, tmp_path, monkeypatch):
    other_rate, longer = Model(), Model()
    other_rate.sample_rate, longer.piece_seconds = 16_000, 30
    stores = [
        make_store(),
        make_store(model=Model("b")),
        make_store(model=other_rate),
        make_store(model=longer),
        make_store("attention"),
        make_store(layers=[0, 1]),
        make_store(layers=[1, 0]),
        make_store(precision="float32"),
    ]
    monkeypatch.setattr(store_module, "VERSION", -1)
    stores.append(make_store())
    assert len({store.folder for store in stores}) == len(stores)
    same = make_store(model=Model(), layers=[0, 1, 2])
    assert same.folder == stores[-1].folder and same.folder.name.startswith("speech-")


# Long, bad and odd recordings


def test_a_bad_recording_is_reported_and_stops_no_other(make_store, clips, tmp_path):
    reasons = {tmp_path / "text.wav": "cannot be read", tmp_path / "gone.wav": "cannot be read"}
    (tmp_path / "text.wav").write_text("no sound")
    short = tmp_path / "short.wav"
    soundfile.write(short, np.linspace(-0.1, 0.1, 90), RATE)
    reasons[short] = "is too short"
    sources = {path.name: path for path in reasons} | {inspect_audio(short).hash: short}
    del sources["short.wav"]
    model = Model()
    model.min_samples = 100
    store = make_store(model=model)
    found = store.build(sources | clips, 2)
    assert found.keys() == reasons.keys() and store.rows.keys() == clips.keys()
    for path, reason in reasons.items():
        assert reason in found[path]
    check(store, clips)


def test_a_file_that_changed_since_it_was_indexed_is_not_stored(make_store, clips):
    path = next(iter(clips.values()))
    samples, _ = soundfile.read(path)
    soundfile.write(path, samples[::-1], RATE)
    store = make_store()
    assert store.build(clips, 0) == {path: "has changed since it was indexed"}


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("precision", ["float16", "float32"])
def test_states_that_are_no_numbers_are_refused(make_store, clips, value, pooling, precision):
    model = Model()
    model.network.scale[1] = value
    store = make_store(pooling, model=model, precision=precision)
    found = store.build(clips, 0)
    assert found.keys() == set(clips.values()) and store.rows == {}
    assert set(found.values()) == {"has hidden states that are NaN or infinite, state 1 the first"}


def test_one_recording_with_nan_stops_no_other(make_store, clips, monkeypatch):
    key, path = list(clips.items())[3]
    length = len(read_audio(path, RATE))
    inputs = Model._inputs

    def spoiled(self, pieces):
        made = inputs(self, pieces)
        for i, piece in enumerate(pieces):
            if len(piece) == length:
                made["waveforms"][i, 0] = torch.nan
        return made

    monkeypatch.setattr(Model, "_inputs", spoiled)
    store = make_store()
    found = store.build(clips, 0)
    assert path in found and len(found) == 2  # two of the nine have that length
    others = {k: p for k, p in clips.items() if p not in found}
    check(store, others)


def test_states_beyond_float16_are_refused_and_kept_in_float32(make_store, clips, tmp_path):
    model = Model()
    model.network.scale[2] = 3e5
    with pytest.raises(RunError, match=r"state 2 of .* small reaches .*float16 ends at 65504") as e:
        make_store(model=model).build(clips, 0)
    assert "precision float32, or leave that layer out" in str(e.value)
    assert make_store(model=model, layers=[0, 1]).build(clips, 0) == {}
    wide = make_store(model=model, precision="float32")
    assert wide.build(clips, 0) == {} and wide.folder.joinpath("means.f32").is_file()
    rows = [wide.rows[key].start for key in clips]
    assert wide.means(rows).dtype == np.float32 and wide.means(rows)[:, 2].max() > 65_504
    expected = expected_frames(read_audio(next(iter(clips.values())), RATE)).mean(0)
    np.testing.assert_allclose(wide.means(rows)[0, 2], 1e5 * expected[2], rtol=1e-4)


def test_the_largest_float16_is_kept(make_store, clips):
    model = Model()
    key, path = next(iter(clips.items()))
    most = np.abs(expected_frames(read_audio(path, RATE)).mean(0)[0]).max()
    model.network.scale.fill_(65_000 / float(most))
    store = make_store(model=model)
    assert store.build({key: path}, 0) == {}
    assert np.isfinite(store.means([0])).all() and np.abs(store.means([0])).max() > 64_000


# Interrupted, concurrent and corrupt builds

PLACES = {
    "reading": (store_module, "read_audio"),
    "computing": (store_module.SpeechStore, "_states"),
    "before the records": (row_store.RowStore, "_write_records"),
    "in the records": (row_store, "write_all"),
    "before the index": (row_store, "append"),
    "after the index": (row_store.RowStore, "_take"),
}


def build_and_die(store: SpeechStore, clips: dict[str, Path], place: str, n: int) -> None:
    """Build a store in this process, which is killed at the n-th pass of a place."""
    owner, name = PLACES[place]
    work, passes = getattr(owner, name), iter(range(n))

    def counted(*args: Any) -> Any:
        if next(passes, None) is None:
            if place == "in the records":
                args[0].write(bytes(args[1])[:7])
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args)

    setattr(owner, name, counted)
    row_store.COMMIT_EVERY = 2
    torch.set_num_threads(1)
    store.build(clips, 0)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("n", [0, 2, 4])
def test_a_build_that_is_killed_is_resumed(make_store, clips, monkeypatch, pooling, place, n):
    torch.set_num_threads(1)  # threads of torch would be missing in the child
    make = multiprocessing.get_context("fork").Process
    child = make(target=build_and_die, args=(make_store(pooling), clips, place, n))
    child.start()
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    again = make_store(pooling)
    kept = set(again.rows)
    read = read_counter(monkeypatch)
    assert again.build(clips, 0) == {}
    assert set(read) == {path for key, path in clips.items() if key not in kept}
    check(again, clips)


def test_records_that_no_line_names_are_written_over(make_store, clips):
    """A build that was killed before it wrote the index leaves them."""
    store = make_store("attention")
    items = list(clips.items())
    store.build(dict(items[:-1]), 0)
    (file,) = store.folder.glob("*.f16")
    with file.open("ab") as opened:
        opened.write(b"x" * 10_000)
    again = make_store("attention")
    assert again.build(clips, 0) == {}
    check(again, clips)
    n_rows = max(place.stop for place in again.rows.values())
    assert file.stat().st_size == n_rows * 3 * 4 * 2


def test_a_second_builder_waits_and_repeats_nothing(make_store, clips, monkeypatch):
    first, second = make_store(), make_store()
    first.build(dict(list(clips.items())[:3]), 0)
    read = read_counter(monkeypatch)
    waiting = threading.Thread(target=second.build, args=(clips, 0))
    with lock(first.folder / "lock", "test"):
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and read == []
    waiting.join(30)
    assert sorted(read) == sorted(list(clips.values())[3:])
    check(second, clips)
    assert first.build(clips, 0) == {} and len(read) == 6
    check(first, clips)


def test_nothing_is_opened_where_nothing_is_missing(make_store, clips):
    make_store().build(clips, 0)
    for path in clips.values():
        path.unlink()
    store = make_store()
    assert store.build(clips, 0) == {} and len(store.rows) == 9


def test_the_model_is_on_the_device_while_it_computes_and_only_then(make_store, clips, tmp_path):
    class Moved(Model):
        place, used = "cpu", []

        def to(self, device):  # there may be no other device here
            self.place = device
            return self

        def means(self, *args):
            self.used.append(self.place)
            return super().means(*args)

    (tmp_path / "broken.wav").write_text("no audio")
    model = Moved()
    store = make_store(model=model)
    assert list(store.build({**clips, "0": tmp_path / "broken.wav"}, 0, "cuda:1")) == [
        tmp_path / "broken.wav"
    ]
    assert set(model.used) == {"cuda:1"} and model.place == "cpu"
    model.means = None  # nothing is missing
    assert store.build(clips, 0, "cuda:0") == {} and model.place == "cpu"
    failing = Moved()
    failing.network.scale.data[:] = 1e9
    with pytest.raises(RunError, match="float16 ends at"):
        make_store(folder="other", model=failing).build(clips, 0, "cuda:1")
    assert failing.place == "cpu"


def test_states_are_computed_without_tf32(make_store, clips):
    class Reads(Model):
        seen = set()

        def means(self, *args):
            tf32 = torch.backends.cudnn.allow_tf32
            self.seen.add((torch.get_float32_matmul_precision(), tf32))
            return super().means(*args)

    try:
        choose_tf32(True)
        make_store(model=(model := Reads())).build(clips, 0)
        assert model.seen == {("highest", False)}
        after = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
        assert after == ("high", True)
    finally:
        choose_tf32(False)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_a_data_file_cut_short_heals(make_store, clips, pooling):
    store = make_store(pooling)
    store.build(clips, 0)
    (file,) = store.folder.glob("*.f16")
    os.truncate(file, file.stat().st_size // 2 + 3)
    again = make_store(pooling)
    assert 0 < len(again.rows) < 9
    assert again.build(clips, 0) == {}
    check(again, clips)


def test_means_that_were_damaged_on_the_disk_are_refused(make_store, clips):
    store = make_store()
    store.build(clips, 0)
    starts = [store.rows[key].start for key in clips]
    [file] = store.folder.glob("means*")
    data = np.memmap(file, dtype=np.float16, mode="r+").reshape(-1, *store.record)
    data[starts[3], 1, 2] = np.nan
    data.flush()
    again = make_store()
    assert np.isfinite(again.means(starts[:3])).all()
    with pytest.raises(RunError, match="hidden states in .* are corrupt.*another folder as run.st"):
        again.means(starts)


def test_a_store_moved_by_hand_is_refused(make_store, clips):
    store = make_store()
    store.build(clips, 0)
    other = make_store(model=Model("b"))
    store.folder.rename(other.folder)
    with pytest.raises(RunError, match="rows were made with other settings"):
        make_store(model=Model("b"))


def test_a_full_disk_is_one_message_and_keeps_what_is_finished(make_store, clips, monkeypatch):
    store = make_store()
    store.build(dict(list(clips.items())[:4]), 0)

    def full(opened, data) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(row_store, "write_all", full)
        with pytest.raises(RunError, match="means.f16 .*No space left"):
            make_store().build(clips, 0)
    again = make_store()
    assert len(again.rows) == 4 and again.build(clips, 0) == {}
    check(again, clips)


@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_what_is_in_memory_does_not_grow_with_the_corpus(make_store, clips, pooling, monkeypatch):
    """Waveforms of one chunk, and records up to a number of bytes."""
    monkeypatch.setattr(row_store, "COMMIT_EVERY", 3)
    monkeypatch.setattr(store_module, "COMMIT_ROW_BYTES", 100)
    monkeypatch.setattr("models.speech_states.BATCH_SECONDS", 0.1)  # a recording each
    written = []
    append = SpeechStore._append
    monkeypatch.setattr(
        SpeechStore, "_append", lambda self, new: written.append(len(new)) or append(self, new)
    )
    store = make_store(pooling)
    store.build(clips, 0)
    assert written == {"mean": [3, 3, 3], "attention": [1] * 9}[pooling]  # a row has 24 bytes
    check(store, clips)


# A model of transformers


def test_a_model_of_transformers_and_its_branch(tmp_path, clips):
    pytest.importorskip("transformers")
    from tests.support.speech_models import save_model

    model = load_speech_model(str(save_model(tmp_path / "model", "wavlm-group")))
    waveforms = [read_audio(path, model.sample_rate, None) for path in clips.values()]
    means, attention = (SpeechStore(tmp_path / "store", model, p) for p in ("mean", "attention"))
    assert means.build(clips, 0) == attention.build(clips, 2) == {}
    kept = torch.from_numpy(means.means([means.rows[key].start for key in clips]))
    torch.testing.assert_close(kept.float(), model.means(waveforms), rtol=2e-3, atol=2e-3)
    frames = [torch.from_numpy(np.array(attention.frames(attention.rows[key]))) for key in clips]
    lengths = torch.tensor([len(of_one) for of_one in frames])
    assert lengths.tolist() == [model.n_frames(len(waveform)) for waveform in waveforms]
    padded = nn.utils.rnn.pad_sequence(frames, batch_first=True)
    pooled = SpeechBranch(model.n_states, model.width, "mean")(kept)
    attended = SpeechBranch(model.n_states, model.width, "attention")(padded, lengths)
    torch.testing.assert_close(pooled, attended, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", ["wavlm-group", "data2vec-audio", "whisper"])
def test_what_a_card_says_of_a_model_finds_its_store(tmp_path: Path, kind: str) -> None:
    pytest.importorskip("transformers")
    from tests.support.speech_models import save_model

    store = SpeechStore(tmp_path, load_speech_model(str(save_model(tmp_path / kind, kind))))
    facts = json.loads(json.dumps(source_facts({"speech": store})["speech"]))
    known: Any = KnownModel(SpeechFacts.model_validate(facts), store.model.width)
    again = SpeechStore(tmp_path, known)
    assert (again.folder, again.record) == (store.folder, store.record)
    assert json.loads(json.dumps(source_facts({"speech": again})["speech"])) == facts
