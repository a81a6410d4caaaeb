"""Corrupt JSON, Parquet, Kaldi and audformat files end in utterances or in one message."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from corpora.readers import read_corpus
from system.errors import InputError
from tests.corpora import test_audformat_database, test_kaldi
from tests.corpora.test_audiofolder import metadata
from tests.corpora.test_readers import touch
from tests.corpora.test_tables import ROWS, write
from tests.system.test_fuzz import mutate

CASES = 60


def table(name: str) -> Callable[[Path], tuple[Path, Callable]]:
    def make(root: Path) -> tuple[Path, Callable]:
        touch(root, "1.wav", "2.wav", "3.flac")
        path = write(root, name, ROWS)
        return path, lambda: read_corpus("manifest", root, path)

    return make


def kaldi(name: str) -> Callable[[Path], tuple[Path, Callable]]:
    def make(root: Path) -> tuple[Path, Callable]:
        test_kaldi.directory(root)
        return root / name, lambda: read_corpus("folder", root, layout="kaldi")

    return make


def audformat(name: str, form: str) -> Callable[[Path], tuple[Path, Callable]]:
    def make(root: Path) -> tuple[Path, Callable]:
        test_audformat_database.save(test_audformat_database.segmented(), root, form)
        return root / name, lambda: read_corpus("folder", root, layout="audformat")

    return make


def audiofolder(root: Path) -> tuple[Path, Callable]:
    metadata(touch(root, "1.wav", "2.wav"), "1.wav", "2.wav", suffix="parquet")
    return root / "metadata.parquet", lambda: read_corpus("folder", root, layout="audiofolder")


MADE = {
    "json": table("list.json"),
    "parquet": table("list.parquet"),
    "audiofolder": audiofolder,
    **{name: kaldi(name) for name in ("wav.scp", "segments", "utt2spk", "spk2gender")},
    "header": audformat("db.yaml", "csv"),
    "csv": audformat("db.emotion.csv", "csv"),
    "audformat parquet": audformat("db.files.parquet", "parquet"),
    "misc table": audformat("db.people.csv", "csv"),
}


@pytest.mark.parametrize("name", MADE)
def test_a_corrupt_list_ends_in_utterances_or_one_message(tmp_path, name):
    path, read = MADE[name](tmp_path)
    sound = path.read_bytes()
    assert read()
    refused = 0
    for n in range(CASES):
        path.write_bytes(mutate(random.Random(f"{name} {n}"), [sound]))
        try:
            read()
        except InputError as error:
            assert str(error) and "Traceback" not in str(error)
            refused += 1
    assert refused > CASES / 4, "the damage is not noticed"
