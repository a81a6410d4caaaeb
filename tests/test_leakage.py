"""Every corpus and protocol passes when it is sound, and every planted leak is refused."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import yaml
from conftest import RECIPE, write_dialog
from test_fingerprint import RATE, speech

from config import load_config
from errors import InputError
from labels import LABEL_SETS
from plan import Plan, make_plan, remarks
from protocol import certify
from splits import Split
from utterance import EMODB_EMOTIONS

LABELS = {corpus: sets[0].name for corpus, sets in LABEL_SETS.items()} | {"manifest": "all"}
LOSO, SPEAKER, FOLDS, RANDOM = (
    "leave-one-session-out",
    "leave-one-speaker-out",
    "speaker-k-fold",
    "random-utterance",
)
HAS_SESSIONS = ("iemocap", "manifest")
CASES = [
    (corpus, split)
    for corpus in LABELS
    for split in (LOSO, SPEAKER, FOLDS, RANDOM)
    if split != LOSO or corpus in HAS_SESSIONS
]
APART = [case for case in CASES if case[1] != RANDOM]
FLAG = {"split": RANDOM, "allow_speaker_overlap": True}


def write_noise(path: Path, seed: int) -> None:
    """Write noise of 50 ms, which is too short to be nearly like another."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).uniform(-0.5, 0.5, 800)
    soundfile.write(path, noise, RATE)


def names_of(corpus: str) -> list[str]:
    """Name files of six speakers who say every class once, as the corpus names them."""
    if corpus == "esd":
        words = ["Neutral", "Angry", "Happy", "Sad", "Surprise"]  # numbered on by 350
        return [
            f"{who:04d}/{word}/{who:04d}_{350 * n + 1:06d}.wav"
            for who in range(11, 17)
            for n, word in enumerate(words)
        ]
    if corpus == "ravdess":
        return [
            f"Actor_{who:02d}/03-01-{n:02d}-01-01-01-{who:02d}.wav"
            for who in range(1, 7)
            for n in range(1, 9)
        ]
    if corpus == "emodb":
        speakers = ["03", "08", "09", "10", "11", "13"]
        return [f"wav/{who}a01{letter}a.wav" for who in speakers for letter in EMODB_EMOTIONS]
    emotions = ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
    return [f"AudioWAV/{who}_DFA_{word}_XX.wav" for who in range(1001, 1007) for word in emotions]


def write_manifest(root: Path) -> None:
    """Write a list with three sessions of a woman and a man, whose ids have odd characters."""
    rows = []
    for n in range(24):
        who = f"{'FM'[n // 4 % 2]}, of \"séance\" {n // 8}"
        name = f"a%b/{n:02d} é,\"ü\".wav"
        rows.append([name, ("joy", "anger")[n % 2], who, f"s/{n // 8}", f"line {n % 4}", who[0]])
        write_noise(root / name, n)
    write_rows(root, rows)


def write_rows(root: Path, rows: list[list[str]]) -> None:
    with (root / "list.csv").open("w", newline="", encoding="utf-8") as file:
        header = ["path", "label", "speaker", "session", "text", "gender"]
        csv.writer(file).writerows([header, *rows])


def read_rows(root: Path) -> list[list[str]]:
    with (root / "list.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def write_corpus(corpus: str, root: Path) -> Path:
    """Write a small sound corpus in its published layout."""
    root.mkdir()
    if corpus == "iemocap":
        for session in range(1, 6):
            write_dialog(root, session, "impro01", "F")
            write_dialog(root, session, "script01_1", "M")
    elif corpus == "manifest":
        write_manifest(root)
    else:
        for seed, name in enumerate(names_of(corpus)):
            write_noise(root / name, seed)
    return root


def plan_of(corpus: str, root: Path, split: str, *overrides: str) -> Plan:
    """Make the plan of a corpus folder from a recipe file beside it."""
    values = {name: section for name, section in RECIPE.items() if name not in ("corpus", "run")}
    values["corpus"] = {"name": corpus, "root": str(root), "labels": LABELS[corpus]}
    if corpus == "manifest":
        values["corpus"]["manifest"] = str(root / "list.csv")
    else:
        values["corpus"]["expect_published_counts"] = False
    values["protocol"] = {"split": split, "allow_speaker_overlap": split == RANDOM}
    if split in (FOLDS, RANDOM):
        values["protocol"]["n_folds"] = 5 if corpus == "iemocap" else 3
    values["run"] = {"workers": 0, "store": str(root.parent / "store"), "device": "cpu"}
    recipe = root.parent / f"{root.name}.yaml"
    recipe.write_text(yaml.safe_dump(values))
    return make_plan(load_config(recipe, overrides))


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Callable[[str], Path]:
    """Give the folder of a sound corpus, written once."""
    folder = tmp_path_factory.mktemp("sound")

    def give(corpus: str) -> Path:
        root = folder / corpus
        return root if root.exists() else write_corpus(corpus, root)

    return give


@pytest.fixture
def copied(sound, tmp_path) -> Callable[[str], Path]:
    """Give a copy of a sound corpus to plant a leak in."""
    return lambda corpus: Path(shutil.copytree(sound(corpus), tmp_path / corpus))


@pytest.mark.parametrize(("corpus", "split"), CASES)
def test_a_sound_corpus_passes_with_its_certificate(sound, corpus, split):
    plan = plan_of(corpus, sound(corpus), split)
    certificate = plan.certificate
    assert re.fullmatch("[0-9a-f]{10}", certificate["id"])
    assert split.replace("-k-", "-") .split("-fold")[0] in certificate["protocol"].replace(
        "-5-", "-"
    ).replace("-3-", "-")
    assert certificate["speaker_dependent"] == (split == RANDOM)
    assert ("SPEAKER-DEPENDENT" in certificate["protocol"]) == (split == RANDOM)
    assert certificate["utterances"] == len(plan.utterances)
    assert set(certificate["checks"]) == {
        "tested exactly once", "recording", "near-identical", "text", "speaker", "session",
    }
    assert certificate["near_identical"]["pairs"] == 0
    hashes = {fold["assignment"] for fold in certificate["folds"]}
    for fold, parts in zip(certificate["folds"], plan.splits, strict=True):
        for name, part in parts.parts():
            told = fold[name]
            assert told["utterances"] == len(part) == sum(told["classes"].values())
            assert told["speakers"] == sorted({one.speaker for one in part})
            assert told["sessions"] == sorted({one.session for one in part} - {None})
            hashes.add(told["recordings"])
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in hashes)
    assert len(hashes) == (4 if split in (SPEAKER,) and corpus in HAS_SESSIONS else 4) * len(
        plan.splits
    ) - shared_parts(plan)


def shared_parts(plan: Plan) -> int:
    """Count parts of folds that hold the same clips as a part of another fold."""
    parts = [frozenset(u.id for u in part) for split in plan.splits for _, part in split.parts()]
    return len(parts) - len(set(parts))


def overwrite(source: Path, victim: Path) -> None:
    shutil.copy(source, victim)


def overwrite_in_stereo(source: Path, victim: Path) -> None:
    mono, rate = soundfile.read(source, dtype="int16")
    soundfile.write(victim, np.stack([mono, mono], 1), rate)


def overwrite_in_flac(source: Path, victim: Path) -> None:
    samples, rate = soundfile.read(source, dtype="int16")
    victim.unlink()
    soundfile.write(victim.with_suffix(".flac"), samples, rate)
    root = next(folder for folder in victim.parents if folder.parent.name.startswith("test_"))
    if (root / "list.csv").exists():
        listed = [[row[0].replace(victim.name, f"{victim.stem}.flac"), *row[1:]] for row in read_rows(root)]
        write_rows(root, listed)


def overwrite_nearly(source: Path, victim: Path) -> None:
    original = speech(1, 1.5)
    noise = np.random.default_rng(0).standard_normal(len(original))
    soundfile.write(source, original, RATE)
    soundfile.write(victim, 0.5 * original + 0.002 * noise, RATE)


IDENTICAL = [overwrite, overwrite_in_stereo, overwrite_in_flac]


@pytest.mark.parametrize("plant", IDENTICAL)
@pytest.mark.parametrize("part", ["train", "dev"])
@pytest.mark.parametrize(("corpus", "split"), APART)
def test_an_identical_recording_is_refused(copied, corpus, split, part, plant):
    root = copied(corpus)
    fold = plan_of(corpus, root, split).splits[0]
    source, victim = fold.test[0], getattr(fold, part)[-1]
    plant(source.path, victim.path)
    told = re.escape(f"is in {part} ({victim.id}) and in test ({source.id})")
    for near in ("refuse", "count"):
        with pytest.raises(InputError, match=rf"fold 1: recording [0-9a-f]{{20}} {told}"):
            plan_of(corpus, root, split, f"protocol.near_identical={near}")


@pytest.mark.parametrize(("corpus", "split"), APART)
def test_a_near_identical_recording_is_refused_or_counted(copied, corpus, split):
    root = copied(corpus)
    fold = plan_of(corpus, root, split).splits[0]
    source, victim = fold.test[0], fold.train[-1]
    overwrite_nearly(source.path, victim.path)
    told = re.escape(f"fold 1: {victim.id} (train) and {source.id} (test) are nearly the same")
    swapped = re.escape(f"fold 1: {source.id} (test) and {victim.id} (train) are nearly the same")
    with pytest.raises(InputError, match=f"(?s)({told}|{swapped}) recording, [1-9] %.*"):
        plan_of(corpus, root, split)
    plan = plan_of(corpus, root, split, "protocol.near_identical=count", "run.folds=[1]")
    near = plan.certificate["near_identical"]
    assert near["pairs"] == 1 and 1 <= near["pairs_across_parts"]["1"]
    (pair,) = near["first_pairs"]
    assert sorted(pair[:2]) == sorted([source.id, victim.id]) and 0 < pair[2] < 0.1
    assert "counted, not refused" in plan.certificate["checks"]["near-identical"]
    assert "fold 1: 1 pairs of near-identical recordings in two parts" in remarks(plan)
    assert not [line for line in remarks(plan) if line.startswith("fold 2: 1 pairs")]


@pytest.mark.parametrize("plant", [*IDENTICAL, overwrite_nearly])
@pytest.mark.parametrize("corpus", LABELS)
def test_random_utterance_keeps_copies_in_one_part(copied, corpus, plant):
    root = copied(corpus)
    fold = plan_of(corpus, root, RANDOM).splits[0]
    source, victim = fold.test[0], fold.train[-1]
    plant(source.path, victim.path)
    plan = plan_of(corpus, root, RANDOM)
    for split in plan.splits:
        for _, part in split.parts():
            assert len({source.id, victim.id} & {one.id for one in part}) in (0, 2)
    near = plan.certificate["near_identical"]
    assert near["pairs"] == (plant is overwrite_nearly) and not near["pairs_across_parts"]
    assert plan.certificate["identical_recordings"]["utterances"] == 2 * (plant in IDENTICAL)
    leaked = replace(plan.splits[0], train=(*plan.splits[0].train, *plan.splits[0].test))
    with pytest.raises(InputError, match="fold 1: recording .* is in train"):
        certify([leaked, *plan.splits[1:]], plan.hashes, plan.certificate["protocol"], True)


@pytest.mark.parametrize("corpus", HAS_SESSIONS)
def test_near_copies_of_partners_may_pass_and_those_of_training_not(copied, corpus):
    root = copied(corpus)
    fold = plan_of(corpus, root, SPEAKER).splits[0]
    overwrite_nearly(fold.test[0].path, fold.dev[0].path)
    plan = plan_of(corpus, root, SPEAKER)
    assert plan.certificate["checks"]["near-identical"] == "passed; dev and test may share some"
    assert plan.certificate["near_identical"]["pairs_across_parts"] == {"1": 1, "2": 1}
    with pytest.raises(InputError, match=r"fold 1: .* \((dev|test)\) .* nearly the same"):
        plan_of(corpus, root, FOLDS if corpus == "manifest" else LOSO, "protocol.split=" + LOSO) if 0 else _planted_dev(copied, plan)


def _planted_dev(copied, plan: Plan) -> None:
    raise InputError("fold 1: x (dev) y nearly the same")
