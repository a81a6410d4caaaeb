"""Each kind of audio file is used as it should sound, or refused by name with the reason."""

import json
import os
import shutil
import sys
import tempfile
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

import predict
from audio.reading import BadAudio, inspect_audio, read_audio
from corpora.plan import make_plan
from corpora.readers import read_corpus
from corpora.recordings import index_audio
from features import SpectrogramImages
from inference import load
from inference.emotion_model import EmotionModel
from storage.feature_store import FeatureStore
from system.errors import InputError, RunError
from tests.conftest import tone as noisy_tone
from tests.corpora.test_leakage import names_of
from tests.inference.test_predictor import FEATURES, fold  # noqa: F401  a fixture
from tests.support.battery import KINDS, PITCH, RATE, SITUATIONS, USED, Kind, page, tone, written
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from training import build

NOBODY = 65534  # a user without rights
PERMISSION = [kind for kind in KINDS if "permission" in kind.name]
REFUSED = [kind for kind in KINDS if kind.outcome != USED]
LISTED = [kind for kind in REFUSED if "a name" not in kind.name]  # a manifest may name
TRIED = "kinds of bad or odd audio tried"

bad_audio = pytest.mark.promise("bad_audio")
"".encode("utf-8-sig")  # nobody may not read Python's own modules: load what is needed before
LONG = "30 minutes"
each_kind = pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, id=kind.name, marks=pytest.mark.slow if kind.name == LONG else ())
        for kind in KINDS
    ],
)


@pytest.fixture(scope="module")
def model(fold) -> EmotionModel:  # noqa: F811
    return load(fold)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that everybody may look into: pytest closes its own to all others."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for path in Path(name).rglob("closed"):
            path.chmod(0o755)


@contextmanager
def without_rights() -> Iterator[None]:
    """Be nobody where we are root, to whom nothing is forbidden."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def check_tone(kind: Kind, waveform: np.ndarray) -> None:
    """Fit a sine of 440 Hz by least squares: level, length, and little else beside it."""
    assert len(waveform) / RATE == pytest.approx(kind.seconds, abs=kind.slack + 1.01 / RATE)
    middle = waveform[len(waveform) // 8 : -len(waveform) // 8][: 10 * RATE]
    turn = 2 * np.pi * PITCH * np.arange(len(middle)) / RATE
    basis = np.stack([np.sin(turn), np.cos(turn), np.ones(len(turn))], 1)
    (sine, cosine, _), *_ = np.linalg.lstsq(basis, middle, rcond=None)
    rest = middle - basis @ np.linalg.lstsq(basis, middle, rcond=None)[0]
    assert np.hypot(sine, cosine) == pytest.approx(kind.level, rel=0.05)
    assert rest.std() < 0.3 * kind.level


@bad_audio
@each_kind
def test_a_kind_is_used_or_refused_by_a_corpus_and_by_predict_alike(
    kind: Kind, folder: Path, model: EmotionModel, tmp_path: Path, count
) -> None:
    path = kind.make(folder)
    with without_rights():
        indexed, bad = index_audio([path], 0, folder / "store")
        label = model.predict(path)
    count(TRIED)
    if kind.outcome != USED:
        assert indexed == {} and kind.outcome in bad[path]
        assert label.problem is not None and kind.outcome in label.problem
        assert label.problem == bad[path] or "ffmpeg" in label.problem  # predict reads more
        return
    assert bad == {} and label.problem is None
    assert sum(label.probs.values()) == pytest.approx(1, abs=1e-5)
    check_tone(kind, read_audio(path, RATE))
    assert indexed[path].seconds == pytest.approx(kind.seconds, abs=kind.slack + 1e-6)
    store = FeatureStore(tmp_path / "store", SpectrogramImages(**FEATURES))
    assert store.build({indexed[path].hash: path}, 0) == {}
    images = np.asarray(store.images("mel"), np.float32)
    assert np.isfinite(images).all()
    assert abs(images[0, 0].mean(1).argmax() - loudest_row()) <= 1


def loudest_row() -> int:
    """Return the row of the Mel image in which the tone lies, by the definition of the bands."""
    bands = FEATURES["mel"]["n_mels"]
    mel = 15 + np.log(np.maximum(PITCH, 1000) / 1000) * 27 / np.log(6.4)
    mel = min(mel, PITCH * 3 / 200)
    top = 15 + np.log(RATE / 2 / 1000) * 27 / np.log(6.4)
    return round(mel / top * (bands + 1)) - 1


@bad_audio
def test_a_file_without_permission_can_be_tested_here(folder: Path) -> None:
    """The battery would prove nothing for somebody to whom all is allowed."""
    for i, kind in enumerate(PERMISSION):
        (folder / str(i)).mkdir(mode=0o755)
        path = kind.make(folder / str(i))
        with without_rights(), pytest.raises(PermissionError):
            path.read_bytes()


def bad_corpus(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Write a manifest of twelve good clips and one of every refused kind.

    Returns:
        What the config must say, and {path: words of the reason}.
    """
    rows, reasons = [], {}
    for i, kind in enumerate(LISTED):
        (folder / f"{i:02d}").mkdir(mode=0o755)
        path = kind.make(folder / f"{i:02d}")
        reasons[str(path)] = kind.outcome
        rows.append((path, "joy", "p0"))
    table = [
        {"path": str(path.relative_to(folder)), "label": label, "speaker": who, "id": str(n)}
        for n, (path, label, who) in enumerate(reversed(rows))
    ]
    return write_corpus(folder, [*table, *good_clips(folder)]), reasons


def good_clips(folder: Path) -> list[dict[str, str]]:
    """Write twelve good clips of three speakers and two classes; return their rows."""
    for i in range(12):
        soundfile.write(folder / f"good{i}.wav", noisy_tone(300 + 50 * i, 0.3, i), RATE)
    labels = ["joy", "anger"]
    return [
        {"path": f"good{i}.wav", "label": labels[i // 3 % 2], "speaker": f"p{i % 3}"}
        for i in range(12)
    ]


def write_corpus(folder: Path, rows: list[dict[str, str]]) -> list[str]:
    """Write a manifest and return what the config must say of it."""
    (folder / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    keys = ["corpus.name=manifest", f"corpus.root={folder}", "corpus.labels=all"]
    keys += [f"corpus.manifest={folder / 'list.jsonl'}", "corpus.expect_published_counts=null"]
    keys += [f"run.store={folder / 'store'}"]
    keys += ["protocol.split=speaker-k-fold", "protocol.n_folds=3", "run.folds=[1]"]
    return keys


@bad_audio
@pytest.mark.parametrize("workers", [0, 2])
def test_all_bad_files_of_a_corpus_are_named_in_one_go(tiny, folder, workers, count) -> None:
    keys, reasons = bad_corpus(folder)
    config = tiny(*keys, f"run.workers={workers}")
    with without_rights(), pytest.raises(InputError) as error:
        make_plan(config)
    first, *listed, last = str(error.value).split("\n")
    assert first == f"{len(reasons)} audio files cannot be used:"
    named, reason = {}, ""
    for line in listed:
        if " files, each of which " in line:
            reason = line.split(" files, each of which ")[1]
        elif line.startswith("    "):
            named[line.strip()] = reason
        else:
            path = next(path for path in reasons if line.startswith(f"  {path} "))
            named[path] = line
    assert named.keys() == reasons.keys() and len(named) > 40
    for path, words in reasons.items():
        assert words.rstrip(": ") in named[path] or "or alike" in named[path]
    assert last.startswith("Put intact files in their place, or set corpus.on_bad_audio=skip")
    count("bad files named in one go", len(reasons))


@bad_audio
def test_all_bad_files_of_a_corpus_can_be_left_out(tiny, folder) -> None:
    keys, reasons = bad_corpus(folder)
    config = tiny(*keys, "corpus.on_bad_audio=skip")
    with without_rights():
        plan = make_plan(config)
    assert sorted(map(str, plan.bad)) == sorted(reasons)
    assert sorted(one.path.name for one in plan.utterances) == sorted(
        f"good{i}.wav" for i in range(12)
    )


@bad_audio
def test_predict_labels_the_good_and_names_all_the_bad(
    fold,  # noqa: F811
    folder,
    monkeypatch,
    capsys,
) -> None:
    bad_corpus(folder)
    files = sorted(folder.glob("*/*.wav")) + sorted(folder.glob("good*.wav"))
    monkeypatch.setattr(sys, "argv", ["predict.py", str(fold), *map(str, files)])
    assert predict.main() == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()[1:]
    n_bad = sum("not labelled: " in line for line in lines)
    assert len(lines) == len(files) and n_bad > 30
    assert f"{n_bad} of {len(files)} files are not usable audio: see above" in said.err


# What cannot be written into a table of kinds


@bad_audio
def test_the_same_file_in_two_rows_is_one_recording(tiny, folder) -> None:
    rows = good_clips(folder)
    keys = write_corpus(folder, [*rows, rows[0] | {"id": "again"}])
    certificate = make_plan(tiny(*keys)).certificate
    assert certificate["utterances"] == 13
    assert certificate["identical_recordings"]["recordings"] == 1
    write_corpus(folder, [*rows, rows[0]])
    with pytest.raises(InputError, match="line 13: id 'good0' was given in line 1"):
        make_plan(tiny(*keys))


@bad_audio
@pytest.mark.parametrize(
    ("names", "refused"), [(("a.wav", "A.wav"), False), (("a.wav", "a.WAV"), True)]
)
def test_names_that_differ_in_case_are_two_files(tiny, folder, names, refused) -> None:
    rows = good_clips(folder)
    for i, name in enumerate(names):
        soundfile.write(folder / name, noisy_tone(2000 + 500 * i, 0.3, 90 + i), RATE)
        rows.append({"path": name, "label": "joy", "speaker": "p0"})
    keys = write_corpus(folder, rows)
    if refused:
        with pytest.raises(InputError, match="line 14: id 'a' was given in line 13"):
            make_plan(tiny(*keys))
        return
    plan = make_plan(tiny(*keys))
    assert {one.path.name for one in plan.utterances} > set(names)
    assert plan.certificate["identical_recordings"]["recordings"] == 0


@bad_audio
@pytest.mark.parametrize(
    ("corpus", "closed"),
    [
        ("ravdess", "Actor_03"),
        ("esd", "0013/Angry"),
        ("iemocap", "Session2/dialog/EmoEvaluation"),
    ],
)
def test_a_folder_without_permission_is_never_passed_over(folder, corpus, closed) -> None:
    for name in names_of(corpus, folder):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    whole = len(read_corpus(corpus, folder))
    (folder / closed).chmod(0o311)  # what is in it can be opened, but not listed
    try:
        with without_rights(), pytest.raises(InputError, match=f"{closed}: Permission denied"):
            read_corpus(corpus, folder)
    finally:
        (folder / closed).chmod(0o755)
    assert len(read_corpus(corpus, folder)) == whole


@bad_audio
def test_iemocap_audio_without_permission_is_named_with_the_rest(tiny, corpus_root, folder) -> None:
    shutil.copytree(corpus_root, folder / "IEMOCAP")
    dialog = folder / "IEMOCAP/Session2/sentences/wav/Ses02F_impro01"
    (folder / "IEMOCAP/Session3/sentences/wav/Ses03F_impro01/Ses03F_impro01_F001.wav").unlink()
    config = tiny(f"corpus.root={folder / 'IEMOCAP'}", f"run.store={folder / 'store'}")
    dialog.rename(dialog.with_name("closed"))
    dialog.symlink_to("closed")
    dialog.with_name("closed").chmod(0)
    with without_rights(), pytest.raises(InputError, match="^5 audio files cannot be use") as error:
        make_plan(config)
    assert "4 files, each of which cannot be read: Permission denied" in str(error.value)
    assert str(error.value).count(f"{dialog}/") == 4
    assert "Ses03F_impro01_F001.wav cannot be read: No such file or directory" in str(error.value)


def watch_epochs(monkeypatch: pytest.MonkeyPatch, n_clips: int, act: Callable[[], None]) -> None:
    """Do something after each clip was read once for training."""
    read: list[Path] = []

    def counted(path: Path, *which: Any) -> np.ndarray:
        if len(read) == n_clips:
            act()
        read.append(path)
        return read_audio(path, *which)

    monkeypatch.setattr(build, "read_audio", counted)


@bad_audio
def test_a_file_that_changes_in_training_stops_a_run_that_reads_it_again(
    tiny, corpus_root, tmp_path, monkeypatch, count
) -> None:
    root = shutil.copytree(corpus_root, tmp_path / "IEMOCAP")
    path = next(root.rglob("Ses03F_impro01_F002.wav"))
    before = path.read_bytes()
    config = tiny(f"corpus.root={root}", "train.images=computed")
    with monkeypatch.context() as patch:
        act = partial(soundfile.write, path, noisy_tone(999, 0.3, 0), RATE)
        watch_epochs(patch, n_clips=24, act=act)
        with pytest.raises(RunError, match=f"{path.name} has changed since it was indexed"):
            run_experiment(config, [])
    with pytest.raises(InputError, match="the corpus or its splits changed since"):
        run_experiment(config, [])
    path.write_bytes(before)
    assert (run_experiment(config, []) / "summary.json").exists()
    count("files that changed in between")


@bad_audio
@pytest.mark.parametrize("work", [inspect_audio, partial(read_audio, sample_rate=RATE)])
def test_only_files_are_opened(folder: Path, work: Callable) -> None:
    kinds = [kind for kind in KINDS if ", not a file" in kind.outcome]
    assert len(kinds) == 4
    for i, kind in enumerate(kinds):
        (folder / str(i)).mkdir()
        with pytest.raises(BadAudio, match=kind.outcome):
            work(kind.make(folder / str(i)))


@pytest.mark.promise("bounds")
@pytest.mark.parametrize(
    "name", ["FLAC that tells of 2^36 samples", "1024 channels", "8 x 192 kHz"]
)
@pytest.mark.parametrize(
    ("work", "limit"), [(lambda path: read_audio(path, 8000), 9e6), (inspect_audio, 33e6)]
)
def test_memory_is_taken_for_a_block_and_not_for_a_file(folder, name, work, limit, count) -> None:
    """As whole arrays the three are of 256 GB, 33 MB and 61 MB; the fingerprint itself takes 30."""
    rich = Kind("8 x 192 kHz", lambda to: written(to, tone(192_000, 10, 8), rate=192_000))
    kind = next(kind for kind in (*KINDS, rich) if kind.name == name)
    path = kind.make(folder)
    tracemalloc.start()
    try:
        work(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limit  # bytes: a few blocks of 1 MB, and the result
    count("files read in bounded memory")


def test_the_page_shows_what_the_tests_prove() -> None:
    for _, _, where in SITUATIONS:
        file, name = where.split("::")
        assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), where
    assert len({kind.name for kind in KINDS}) == len(KINDS) >= 60
    shown = (ROOT / "docs/AUDIO.md").read_text(encoding="utf-8")
    assert shown == page(), "write it anew: python -m tests.support.battery"
