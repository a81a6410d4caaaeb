"""What is odd in a corpus: each kind planted in a clean one is named, and nothing else is."""

import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import soxr

from config.loading import load_config
from corpora.findings import CHECK, Finding, without_places
from corpora.odd import find_odd
from corpora.odd_shortcuts import shortcuts
from corpora.splits import STAMP
from corpora.survey import Survey, survey_corpus
from reports.explore import write_exploration
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.support.corpora import CLASSES, MadeCorpus, clean_corpus
from tests.support.paths import ROOT
from tests.support.ratings import rate_corpus
from tests.support.votes import vote_on_corpus

RAVDESS = Path(os.environ.get("MAXMVIT_RAVDESS") or ROOT.parent / "shared" / "data" / "ravdess")
KEY = re.compile(r"\b\w+\.\w+(?:\.\w+)*=[\w-]+")


def explored(made: MadeCorpus) -> tuple[Survey, dict[str, Finding]]:
    survey = survey_corpus(made.config())
    return survey, {one.id: one for one in find_odd(survey, shortcuts(survey))}


@pytest.fixture
def made(tmp_path: Path) -> MadeCorpus:
    return clean_corpus(tmp_path)


@pytest.mark.parametrize("seed", [1, 2000, 30_000, 70_000])
def test_a_clean_corpus_names_nothing(tmp_path: Path, seed: int) -> None:
    assert explored(clean_corpus(tmp_path, seed))[1] == {}


def test_what_was_left_out_and_the_stamps_are_said(made: MadeCorpus) -> None:
    """18 sad utterances are left out, and shared speakers are stamped."""
    made.overrides = [
        "corpus.label_map={sad: null, angry: cross}",
        "protocol.split=random-utterance",
        "protocol.allow_speaker_overlap=true",
    ]
    survey, found = explored(made)
    assert {*found} == {"labels", "protocol"} and len(survey.utterances) == 54
    assert found["labels"].details == [
        "labels: angry is cross",
        "18 utterances are left out by their labels: sad (18)",
    ]
    assert found["protocol"].details == [STAMP]


# Each plant changes a clean corpus and returns the names of the utterances that are odd by it


def bad_file(made: MadeCorpus) -> list[str]:
    made.spoken["ann-sad-0"].samples = np.zeros(RATE)
    return []


def same_recording(made: MadeCorpus) -> list[str]:
    made.spoken["ann-sad-1"].samples = made.spoken["ann-sad-0"].samples
    return ["ann-sad-0", "ann-sad-1"]


def near_recording(made: MadeCorpus) -> list[str]:
    """Softer by 4 dB, and in another class of the same speaker."""
    made.spoken["ann-happy-1"].samples = 0.63 * made.spoken["ann-sad-0"].samples
    return ["ann-happy-1", "ann-sad-0"]


def upsampled(made: MadeCorpus) -> list[str]:
    """Two recordings that went through 6 kHz; 16 bits in between."""
    for name in ("bob-sad-0", "eve-happy-2"):
        narrow = soxr.resample(made.spoken[name].samples, RATE, 6000)
        made.spoken[name].samples = soxr.resample(np.round(32767 * narrow) / 32767, 6000, RATE)
    return ["bob-sad-0", "eve-happy-2"]


def all_upsampled(made: MadeCorpus) -> list[str]:
    for one in made.of():
        one.samples = soxr.resample(soxr.resample(one.samples, RATE, 8000), 8000, RATE)
    made.overrides = ["features.mel.fmax=3500"]  # the images follow, so nothing else is odd
    return list(made.spoken)


def other_rate(made: MadeCorpus) -> list[str]:
    for name in ("ann-sad-0", "dot-happy-1", "fay-angry-2"):
        made.spoken[name].samples = soxr.resample(made.spoken[name].samples, RATE, 22_050)
        made.spoken[name].rate = 22_050
    return ["ann-sad-0", "dot-happy-1", "fay-angry-2"]


def clip(made: MadeCorpus) -> list[str]:
    """Clipped at a third of its peak, and scaled down afterwards, so that no sample is full."""
    samples = made.spoken["cid-angry-0"].samples
    limit = np.abs(samples).max() / 3
    made.spoken["cid-angry-0"].samples = 0.8 * np.clip(samples, -limit, limit)
    return ["cid-angry-0"]


def beyond_full_scale(made: MadeCorpus) -> list[str]:
    one = made.spoken["cid-angry-0"]
    one.samples, one.subtype = 1.3 * one.samples / np.abs(one.samples).max(), "FLOAT"
    return ["cid-angry-0"]


def two_channels(made: MadeCorpus) -> list[str]:
    one = made.spoken["dot-neutral-0"]
    other = speech(3, len(one.samples) / RATE)[: len(one.samples)]
    one.samples = np.stack([one.samples, other - other.mean()], 1)
    return ["dot-neutral-0"]


def equal_channels(made: MadeCorpus) -> list[str]:
    one = made.spoken["dot-neutral-0"]
    one.samples = np.stack([one.samples, one.samples], 1)
    return ["dot-neutral-0"]


def softer(made: MadeCorpus) -> list[str]:
    made.spoken["eve-sad-0"].samples *= 10 ** (-45 / 20)
    return ["eve-sad-0"]


def longer(made: MadeCorpus) -> list[str]:
    made.spoken["bob-angry-1"].samples = speech(77, 9.0) - 0.05
    made.spoken["bob-angry-1"].samples -= made.spoken["bob-angry-1"].samples.mean()
    return ["bob-angry-1"]


def with_offset(made: MadeCorpus) -> list[str]:
    made.spoken["fay-sad-2"].samples += 0.02
    return ["fay-sad-2"]


def silence(made: MadeCorpus, one: str, before: float, after: float) -> None:
    samples = made.spoken[one].samples
    rng = np.random.default_rng(len(samples))
    floor = 1e-4 * rng.standard_normal(round((before + after) * RATE))
    cut = round(before * RATE)
    made.spoken[one].samples = np.concatenate([floor[:cut], samples, floor[cut:]])


def silent_ends(made: MadeCorpus) -> list[str]:
    for name in made.spoken:
        silence(made, name, 0.4, 0.5)
    return []


def nearly_all_silent(made: MadeCorpus) -> list[str]:
    silence(made, "ann-neutral-0", 4.0, 2.0)
    return ["ann-neutral-0"]


def high_images(made: MadeCorpus) -> list[str]:
    made.overrides = ["features.sample_rate=32000", "features.input_rate=16000"]
    return []


def quick_and_slow(made: MadeCorpus) -> list[str]:
    """Durations over a factor of eight, without an outlier."""
    rng = np.random.default_rng(5)
    for i, one in enumerate(made.of()):
        one.samples = speech(i, float(np.exp(rng.uniform(np.log(0.5), np.log(4.5)))))
        one.samples = one.samples - one.samples.mean()
        one.samples += 1e-3 * rng.standard_normal(len(one.samples))
    return []


def fewer_of_a_class(made: MadeCorpus) -> list[str]:
    for one in made.of("sad"):
        if one.name.endswith("2"):
            del made.spoken[one.name]
    made.overrides = ["protocol.n_folds=3"]
    return []


def speaker_of_one_class(made: MadeCorpus) -> list[str]:
    """Guy speaks sad alone, as often as the others speak."""
    for k in range(12):
        samples = speech(400 + k, 1.1 + 0.04 * k)
        samples = samples - samples.mean()
        text = f"text guy {k}"
        made.spoken[f"guy-{k}"] = replace(
            made.spoken["ann-sad-0"], name=f"guy-{k}", speaker="guy", text=text, samples=samples
        )
    return [f"guy-{k}" for k in range(12)]


def class_of_two(made: MadeCorpus) -> list[str]:
    for one in made.of("sad"):
        if one.speaker not in ("ann", "bob"):
            del made.spoken[one.name]
    return [one.name for one in made.of("sad")]


def talkative(made: MadeCorpus) -> list[str]:
    """Ann speaks four times as much as the others."""
    for k in range(36):
        samples = speech(600 + k, 1.1 + 0.013 * k)
        like = made.spoken[f"ann-{CLASSES[k % 4]}-0"]
        name = f"ann-more-{k}"
        made.spoken[name] = replace(
            like, name=name, text=f"text {name}", samples=samples - samples.mean()
        )
    return []


def telling_text(made: MadeCorpus) -> list[str]:
    """Everyone says a sentence of its own in each class."""
    for one in made.of():
        one.text = f"{one.label} words"
    return list(made.spoken)


def shared_text(made: MadeCorpus) -> list[str]:
    """Everyone says three sentences, in all classes."""
    for one in made.of():
        one.text = f"sentence {one.name[-1]}"
    return []


def telling_level(made: MadeCorpus) -> list[str]:
    for k, label in enumerate(CLASSES):
        for one in made.of(label):
            one.samples = one.samples / one.samples.std() * 10 ** ((-30 + 3 * k) / 20)
    return []


def telling_rate(made: MadeCorpus) -> list[str]:
    for one in made.of("happy"):
        one.samples, one.rate = soxr.resample(one.samples, RATE, 22_050), 22_050
    return [one.name for one in made.of("happy")]


def telling_silence(made: MadeCorpus) -> list[str]:
    for one in made.of("neutral"):
        one.samples = one.samples[round(0.2 * RATE) :]  # as long as before
        one.samples = one.samples - one.samples.mean()
        silence(made, one.name, 0.1, 0.1)
    return []


def lone(made: MadeCorpus) -> list[str]:
    for one in made.of():
        one.speaker = one.name
    return []


def leaking(made: MadeCorpus) -> list[str]:
    """The same recording by two speakers of different groups."""
    made.spoken["dot-sad-1"].samples = made.spoken["ann-sad-0"].samples
    return ["ann-sad-0", "dot-sad-1"]


def too_many_folds(made: MadeCorpus) -> list[str]:
    made.overrides = ["protocol.n_folds=9"]
    return []


PLANTS: list[tuple[Callable[[MadeCorpus], list[str]], set[str], str]] = [
    (bad_file, {"bad-audio"}, "1 recording cannot be used"),
    (same_recording, {"near-identical"}, "1 recording occurring more than once"),
    (near_recording, {"near-identical"}, "1 pair of near-identical"),
    (upsampled, {"narrow"}, r"2 recordings of 72 at 16 kHz with sound only up to (2\.9|3)"),
    (all_upsampled, {"narrow"}, r"All 72 recordings at 16 kHz with sound only up to (3\.[789]|4)"),
    (other_rate, {"mixed-rates"}, "69 at 16 kHz, 3 at 22"),
    (clip, {"clipped"}, "1 recording clipped"),
    (beyond_full_scale, {"clipped"}, "1 recording clipped"),
    (two_channels, {"channels"}, "1 recording whose channels differ"),
    (equal_channels, {"channels"}, "71 with 1 and 1 with 2"),
    (softer, {"quiet", "odd-level"}, "1 recording"),
    (longer, {"odd-duration"}, "1 recording much longer or shorter"),
    (with_offset, {"offset"}, "1 recording with a DC offset"),
    (silent_ends, {"silent-ends"}, "3[89] % of the audio is silence"),
    (nearly_all_silent, {"mostly-silent", "odd-duration"}, "1 recording"),
    (high_images, {"empty-rows"}, "The Mel image reaches to 16 kHz, half of .* end by 8 kHz"),
    (quick_and_slow, {"long-range"}, "Durations from 0.5. to 4.. s"),
    (fewer_of_a_class, {"class-sizes", "fold-sizes"}, "1.5 times as many .* as of sad"),
    (speaker_of_one_class, {"one-class-speakers", "class-sizes", "fold-sizes"}, "."),
    (class_of_two, {"few-speakers", "class-sizes", "missing-classes", "refused"}, "."),
    (talkative, {"speaker-sizes", "fold-sizes"}, "."),
    (telling_text, {"texts-of-one-class", "texts-in-both"}, r"text alone reaches UA 100\.0 %"),
    (shared_text, {"texts-in-both"}, "100 % of the tested utterances"),
    (telling_level, {"telling-level"}, r"Level alone tells classes apart: UA \d\d"),
    (telling_rate, {"mixed-rates", "telling-sampling-rate", "telling-cutoff"}, "."),
    (telling_silence, {"telling-silence-at-the-ends"}, "."),
    (lone, {"lone-speakers"}, "72 of 72 utterances"),
    (leaking, {"near-identical", "refused"}, "."),
    (too_many_folds, {"refused"}, "would stop"),
]


@pytest.mark.parametrize(
    ("plant", "expected", "title"), PLANTS, ids=lambda one: getattr(one, "__name__", "")
)
def test_what_is_planted_is_named_and_nothing_else(
    made: MadeCorpus, plant: Callable[[MadeCorpus], list[str]], expected: set[str], title: str
) -> None:
    names = plant(made)
    _, found = explored(made)
    assert found.keys() == expected, {k: v.title for k, v in found.items()}
    assert any(re.search(title, one.title) for one in found.values())
    named = {name for one in found.values() for name in one.utterances}
    assert named == set(names)
    for one in found.values():
        assert one.meaning.endswith(".") and one.remedy, one
        for override in KEY.findall(one.remedy):
            load_config(made.root / "made.yaml", [*made.overrides, override])


def test_places_of_this_machine_are_left_out(made: MadeCorpus) -> None:
    config = made.config()
    root = made.root
    said = {
        f"{root}/list.csv, line 3: no file {root}/a b.wav": "list.csv, line 3: no file a b.wav",
        f"nothing says who speaks in {root}, so": "nothing says who speaks in corpus.root, so",
        f"see {root}/store/bad_audio-made.csv": "see store/bad_audio-made.csv",
        f"{root}-2/a.wav and -3 and data/x": f"{root}-2/a.wav and -3 and data/x",
    }
    assert {text: without_places(text, config) for text in said} == said


def test_every_rule_is_planted() -> None:
    planted = {name for _, expected, _ in PLANTS for name in expected}
    text = "".join(path.read_text() for path in (ROOT / "corpora").glob("odd_*.py"))
    rules = set(re.findall(r'Finding\(\s+"([\w-]+)"', text))
    assert len(rules) > 20 and rules - planted == {"unread", "labels", "protocol"}


def test_audio_that_nobody_names_is_counted(made: MadeCorpus) -> None:
    soundfile.write(made.root / "more.wav", speech(1), RATE)
    _, found = explored(made)
    assert found.keys() == {"unread"} and "1 audio files below" in found["unread"].details[0]


def test_faults_come_first(made: MadeCorpus) -> None:
    silent_ends(made)
    clip(made)
    weights = [one.weight for one in explored(made)[1].values()]
    assert weights == ["check", "know"] and CHECK == "check"


def test_nothing_usable_is_refused(made: MadeCorpus) -> None:
    for one in made.of():
        one.samples = np.zeros(RATE)
    with pytest.raises(InputError, match="none of 72 audio files can be used"):
        survey_corpus(made.config())


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_ravdess_has_what_librosa_and_its_description_say(tmp_path: Path) -> None:
    """Its counts are published; silence by librosa, levels by NumPy, on every twelfth recording."""
    overrides = [f"corpus.root={RAVDESS}", f"run.store={tmp_path}", "run.workers=2"]
    survey = survey_corpus(load_config(ROOT / "configs/ravdess_small_concat.yaml", overrides))
    found = {one.id: one for one in find_odd(survey, shortcuts(survey))}
    assert found.keys() == {
        *("near-identical", "quiet", "class-sizes", "texts-in-both", "channels"),
        *("silent-ends", "telling-level"),
    }
    assert sorted(found["near-identical"].utterances) == [
        "03-01-03-01-02-01-07",
        "03-01-03-01-02-02-07",
    ]
    assert len(found["channels"].utterances) == 5 and len(found["quiet"].utterances) == 12
    assert found["silent-ends"].title.startswith("43 % of the audio")
    for i in range(0, len(survey.utterances), 12):
        samples, rate = soundfile.read(survey.utterances[i].path, always_2d=True)
        mono = samples.mean(1)
        frame, hop = round(2048 / 44_100 * rate), round(512 / 44_100 * rate)
        kept, _ = librosa.effects.trim(mono, top_db=40, frame_length=frame, hop_length=hop)
        silent = 1 - len(kept) / len(mono)
        assert survey.columns["silence"][i] == pytest.approx(silent, abs=1e-3)
        assert survey.columns["level"][i] == pytest.approx(20 * np.log10(mono.std()), abs=1e-2)


@pytest.mark.parametrize("task", ["dimensions", "distribution"])
def test_a_corpus_of_another_task_is_shown_by_parts(tiny, corpus_root, tmp_path, task) -> None:
    """Ratings by quarters of their scale, votes by the class with most; no cure is refused."""
    make = {"dimensions": rate_corpus, "distribution": vote_on_corpus}[task]
    labels = "all" if task == "dimensions" else "iemocap4-exc"
    root = make(corpus_root, tmp_path)
    survey = survey_corpus(tiny(f"task={task}", f"corpus.labels={labels}", f"corpus.root={root}"))
    found = find_odd(survey, shortcuts(survey))
    assert survey.class_counts.total() == len(survey.targets) == 40
    assert sum(u.label in survey.classes for split in survey.plan.splits for u in split.test) == 40
    if task == "dimensions":
        for one in survey.utterances:
            valence, arousal = ("high" if rating >= 3 else "low" for rating in one.target[:2])
            assert one.label == f"{valence} valence, {arousal} arousal"
    assert ("class-sizes" in {one.id for one in found}) == (task == "dimensions")
    assert not any("balanced" in one.remedy for one in found)  # refused with this task
    write_exploration(tmp_path, survey, [], found, [], audio=False)
    assert survey.classes[-1] in (tmp_path / "recordings.csv").read_text()
