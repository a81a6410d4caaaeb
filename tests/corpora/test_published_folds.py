"""Folds of published corpora: tables of the code, EmoBox's lists, splits of their own."""

import json
from pathlib import Path

import pytest
import soundfile

from config.loading import load_config
from config.schema import Config
from corpora.fold_names import Names
from corpora.partition import read_partition, shipped_tables
from corpora.plan import Plan, make_plan, plan_warnings
from corpora.readers import read_corpus
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.conftest import RECIPE
from tests.corpora.test_leakage import LABELS, NAMES, SECONDS, SPEAKERS
from tests.corpora.test_readers import touch
from tests.support.paths import ROOT


def write_audio(root: Path, names: list[str], seed: int = 1) -> Path:
    """Write speech-like audio, no two files alike."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, speech(seed + number, SECONDS), RATE)
    return root


def write_corpus(corpus: str, root: Path) -> Path:
    return write_audio(root, [name for who in SPEAKERS[corpus] for name in NAMES[corpus](who)])


def config_of(corpus: str, root: Path, protocol: dict, **more: object) -> Config:
    values = {"name": corpus, "root": str(root), "labels": LABELS[corpus]}
    values |= {"expect_published_counts": False, **more}
    run = {"device": "cpu", "workers": 0, "store": str(root / "nothing kept")}
    return Config(**RECIPE | {"corpus": values, "protocol": protocol, "run": run})


def plan_of(corpus: str, root: Path, protocol: dict, **more: object) -> Plan:
    return make_plan(config_of(corpus, root, protocol, **more))


@pytest.mark.parametrize("corpus", ["savee", "tess", "emovo", "nemo", "aesdd", "urdu"])
def test_a_corpus_has_a_config_of_its_own(corpus):
    config = load_config(ROOT / f"configs/{corpus}_finetune.yaml")
    assert config.corpus.name == corpus and config.corpus.labels == LABELS[corpus]
    folds = config.protocol.folds
    assert folds is None or folds in shipped_tables()


def test_tess_trains_on_one_woman_and_tests_the_other(tmp_path):
    root = write_corpus("tess", tmp_path)
    protocol = {"split": "given", "folds": "tess_speakers2", "dev": "random"}
    plan = plan_of("tess", root, protocol)
    assert [{u.speaker for u in split.test} for split in plan.splits] == [{"OAF"}, {"YAF"}]
    for split in plan.splits:
        assert {u.speaker for u in split.train} == {u.speaker for u in split.dev}
        assert not {u.speaker for u in split.train} & {u.speaker for u in split.test}
    assert "DEV-SHARES-SPEAKERS" in plan.certificate["protocol"]
    assert any("DEV-SHARES-SPEAKERS" in line for line in plan_warnings(plan))
    assert any("3 texts are in train and test" in line for line in plan_warnings(plan))


@pytest.mark.parametrize("split", ["leave-one-speaker-out", "speaker-k-fold"])
def test_tess_has_too_few_speakers_for_train_dev_and_test(tmp_path, split):
    root = write_corpus("tess", tmp_path)
    n_folds = {"n_folds": 3} if split == "speaker-k-fold" else {}
    with pytest.raises(InputError, match="at least 3 speakers, one per fold, but there are 2"):
        plan_of("tess", root, {"split": split, **n_folds})


EMOBOX = {  # corpus: (key, wav, label) as EmoBox's lists spell a file of each
    "savee": ("savee-JE-n23", "downloads/savee/JE_n23.wav", "JE_n23"),
    "tess": ("tess-OAF-lid-fear", "downloads/tess/OAF_lid_fear.wav", "OAF_lid_fear"),
    "emovo": ("emovo-gio-f2-b2", "downloads/emovo/f2/gio-f2-b2.wav", "gio-f2-b2"),
    "aesdd": ("aesdd-a03-3", "downloads/aesdd/anger/a03 (3).wav", "a03 (3)"),
    "urdu": ("urdu-SM20_F8_N012", "downloads/urdu/Neutral/SM20_F8_N012.wav", "SM20_F8_N012"),
    "esd": ("esd-0005-000001", "downloads/esd/0005/Neutral/0005_000001.wav", "0005_000001"),
}


@pytest.mark.parametrize("corpus", EMOBOX)
def test_the_spelling_of_emobox_is_found_in_the_corpus(tmp_path, corpus):
    key, wav, expected = EMOBOX[corpus]
    (one,) = read_corpus(corpus, touch(tmp_path / "corpus", "/".join(Path(wav).parts[2:])))
    assert one.id == expected
    row = {"key": key, "dataset": corpus, "wav": wav, "emo": "x"}
    lists = tmp_path / corpus / "fold_1"
    lists.mkdir(parents=True)
    for part in ("train", "test"):
        (lists / f"{corpus}_{part}_fold_1.jsonl").write_text(json.dumps(row) + "\n")
    entries = read_partition([lists.parent]).entries
    assert {Names([one], by_speaker=False).find(entry) for entry in entries} == {expected}


def emobox_lists(corpus: str, folder: Path, test: list[str], train: list[str]) -> Path:
    """Write EmoBox's lists of one fold of paths."""
    for part, names in (("train", train), ("test", test)):
        rows = [
            {"key": f"{corpus}-{Path(name).stem}", "dataset": corpus, "wav": f"downloads/{name}"}
            for name in names
        ]
        path = folder / "fold_1" / f"{corpus}_{part}_fold_1.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row | {"emo": "x"}) + "\n" for row in rows))
    return folder


def test_emobox_folds_of_whole_speakers_pass_and_others_are_refused(tmp_path):
    root = write_corpus("emovo", tmp_path / "emovo")
    names = [name for who in SPEAKERS["emovo"] for name in NAMES["emovo"](who)]
    apart = emobox_lists("emovo", tmp_path / "apart", names[:7], names[7:])
    protocol = {"split": "given", "folds": str(apart)}
    plan = plan_of("emovo", root, protocol)
    assert {u.speaker for u in plan.splits[0].test} == {"f1"}
    assert plan.certificate["given"]["made_by"] == "EmoBox"
    others = [name for name in names if name not in names[::4]]
    mixed = emobox_lists("emovo", tmp_path / "mixed", names[::4], others)
    with pytest.raises(InputError, match="speaker f1 is in train .* and in test"):
        plan_of("emovo", root, protocol | {"folds": str(mixed), "dev": "random"})
