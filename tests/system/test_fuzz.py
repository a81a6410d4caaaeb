"""Corrupt recipes, overrides, manifests and label files end in a value or in one message.

Valid files are corrupted at random (bytes flipped, pieces cut, doubled, swapped, odd words put in)
and read. A failure prints the case.
"""

import json
import os
import random
import shutil
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import soundfile

from config.loading import load_config
from config.schema import Config
from corpora.readers import read_corpus
from corpora.utterance import Utterance
from system.errors import InputError
from system.text import control_character
from tests.support.paths import ROOT

CONFIGS = ROOT / "configs"
LONGEST_MESSAGE = 10_000  # characters
WORDS = [
    *(
        "\0",
        "\x1b[2J",
        "\ufeff",
        "\u202e",
        "\u2028",
        "\r",
        "\r\n",
        "\n\n",
        "\t",
        "\\",
        '"',
        "'",
        '""',
    ),
    *("[", "]", "{", "}", ":", ": ", ",", "-", "- ", "#", "&a ", "*a", "!!python/name:os.system "),
    *(
        "!!binary ",
        "!!set ",
        "!!omap ",
        "!!timestamp ",
        "<<: ",
        "? ",
        "|\n",
        ">-\n",
        "---\n",
        "...",
    ),
    *(
        "%YAML 9.9\n",
        "null",
        "~",
        "true",
        ".nan",
        "-.inf",
        "1e999",
        "0x10",
        "0o7",
        "1_0",
        "12:30:45",
    ),
    *(
        "2001-01-01",
        "9" * 400,
        "-0",
        "1e-3",
        "../",
        "/etc/passwd",
        "C:\\",
        "~/",
        "a" * 300,
        "[" * 200,
    ),
    *('{"a":' * 200, "base: ", "base: fuzz.yaml\n", "base: .\n", "NaN", '"\\ud800"', "\\u0000"),
    *(
        "downloads/iemocap/",
        "start_time",
        "path",
        "wav",
        "speaker",
        "id",
        "key",
        "\t[",
        "٣",
        "é",
        "𝄞",
    ),
]
RAW = [word.encode("utf-8", "surrogatepass") for word in WORDS]
RAW += [b"\xff", b"\xc3", b"\xed\xa0\x80", b"\x80" * 9, b"\xff\xfe", b"\xf4\x90\x80\x80"]


def mutate(chance: random.Random, seeds: Sequence[bytes]) -> bytes:
    """Return one of some files, corrupted one to three times."""
    data = bytearray(chance.choice(seeds))
    for _ in range(chance.randint(1, 3)):
        kind = chance.randrange(6)
        a, b = sorted(chance.randint(0, len(data)) for _ in range(2))
        if kind == 0 and data:  # flip
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif kind == 1:  # odd word
            data[a:a] = chance.choice(RAW)
        elif kind == 2:  # cut out
            del data[a : min(b, a + 40)]
        elif kind == 3:  # cut short
            del data[b:]
        elif kind == 4:  # double
            data[a:a] = data[a : min(b, a + 200)]
        else:  # splice
            other = chance.choice(seeds)
            c = chance.randint(0, len(other))
            data[a : min(b, a + 60)] = other[c : c + 60]
    return bytes(data)


class Target:
    """A parser, valid files for it, and what must hold of a value."""

    def __init__(self, seeds: Sequence[bytes], read: Callable[[bytes], object], of: type) -> None:
        self.seeds, self.read, self.of = seeds, read, of

    def check(self, case: bytes) -> bool:
        """Read a case; return whether it gave a value."""
        try:
            found = self.read(case)
        except InputError as error:
            assert 0 < len(str(error)) < LONGEST_MESSAGE
            return False
        assert isinstance(found, self.of)
        return True


class Rewritten:
    """A file that is filled anew again and again; to open it each time would take most of all."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("wb", buffering=0)

    def write(self, content: bytes) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(content)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, [0.0], 8000)


def config_targets(folder: Path) -> dict[str, Target]:
    shutil.copytree(CONFIGS, folder)
    file, small = Rewritten(folder / "fuzz.yaml"), folder / "small.yaml"
    small.write_text(
        "name: a\ncorpus: {name: iemocap, root: c, labels: iemocap4}\n"
        "protocol: {split: speaker-k-fold}\nmodel: {fusion: gmu_contrastive}\n"
    )

    def read_file(case: bytes) -> Config:
        file.write(case)
        return load_config(file.path)

    def read_override(case: bytes) -> Config:
        texts = case.decode("utf-8", "surrogateescape").split(" ; ")
        return load_config(small, texts)

    overrides = ["optim.lr=1e-3", "run.folds=[1,2]", "name=b", "corpus.labels=[a, b]"]
    overrides += ["features.cqt.window=[kaiser, 14.0]", "loss.alpha=0.5 ; run.seeds=[3]"]
    overrides += ["augment.snr_db=[1, 2] ; train.images=computed", "model={fusion: concat}"]
    overrides += ["optim={schedule: cosine, warmup_epochs: 1}"]
    files = [path.read_bytes() for path in sorted(CONFIGS.glob("*.yaml"))]
    return {
        "recipe": Target([*files, small.read_bytes()], read_file, Config),
        "override": Target([text.encode() for text in overrides], read_override, Config),
    }


def manifest_targets(folder: Path) -> dict[str, Target]:
    root = folder / "root"
    touch(root, "a/1.wav", "a/2.flac", "b/1.WAV", "iemocap/Ses01F_impro01_F000.wav")
    touch(root, "downloads/emodb/wav/16b10Td.wav")
    csv_seeds = [
        "path,label,speaker\na/1.wav,joy,ann\nb/1.WAV,anger,bob\n",
        'path,label,speaker,session,text,gender,id\na/1.wav,joy,ann,s1,"oh, no",F,one\n'
        'a/2.flac,joy,bob,s2,"two ""lines""",male,two\n',
        "\ufeffwav,emo,spk,key\r\na/1.wav,joy,ann,k1\r\n",
    ]
    row = {"path": "a/1.wav", "label": "joy", "speaker": "ann"}
    full = row | {"session": 1, "text": "Oh", "gender": "F", "id": None}
    emobox = {"key": "emodb-1", "dataset": "emodb", "wav": "downloads/emodb/wav/16b10Td.wav"}
    emobox |= {"emo": "joy", "sample_rate": 16000, "length": 1.0, "channel": 1}
    session = {"key": "Ses01F_impro01_F000", "dataset": "iemocap", "emo": "neu", "spk": "x"}
    session |= {"wav": "iemocap/Ses01F_impro01_F000.wav"}
    rows = [[row], [full, row | {"path": "b/1.WAV"}], [emobox], [session, emobox]]
    jsonl_seeds = ["\n".join(map(json.dumps, some)) + "\n" for some in rows]

    def reader(suffix: str) -> Callable[[bytes], list[Utterance]]:
        file = Rewritten(folder / f"list.{suffix}")

        def read(case: bytes) -> list[Utterance]:
            file.write(case)
            found = read_corpus("manifest", root, file.path)
            for one in found:
                assert os.path.normpath(one.path).startswith(f"{root}{os.sep}")
                words = (one.id, one.label, one.speaker, one.session, one.text_id)
                assert not any(control_character(word) for word in words if word)
                assert one.id and one.label and one.speaker and one.gender in ("F", "M", None)
            return found

        return read

    return {
        "csv": Target([text.encode() for text in csv_seeds], reader("csv"), list),
        "jsonl": Target([text.encode() for text in jsonl_seeds], reader("jsonl"), list),
    }


def corpus_targets(folder: Path) -> dict[str, Target]:
    name, session = "Ses01F_impro01", folder / "IEMOCAP/Session1"
    clips = [f"sentences/wav/{name}/{name}_F00{n}.wav" for n in range(3)]
    clips.append("sentences/wav/Ses01F_script01_1/Ses01F_script01_1_M000.wav")
    touch(session, *clips)
    for part in ("EmoEvaluation", "transcriptions"):
        (session / "dialog" / part).mkdir(parents=True)
    labels = Rewritten(session / f"dialog/EmoEvaluation/{name}.txt")
    words = Rewritten(session / "dialog/transcriptions/Ses01F_script01_1.txt")
    lines = [f"[{n}.0 - {n}.5]\t{name}_F00{n}\tneu\t[2.5, 2.0, 3.5]" for n in range(3)]
    seed = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\r\n\n" + "\n".join(lines)
    seed += "\nC-E2:\tNeutral;\t()\nA-M1:\tval 3;\tact 3;\n"
    spoken = "[1.0 - 1.5]\tSes01F_script01_1_M000\txxx\t[2.5, 2.0, 3.5]\n"
    said = f"{name}_F000 [0001.00-0002.00]: Oh, hello [LAUGHTER].\n"
    said += "Ses01F_script01_1_M000 [0001.00-0002.00]: Oh.\nM: Hm?\n"

    def read_labels(case: bytes) -> list[Utterance]:
        labels.write(case)
        words.write(said.encode())
        return read_corpus("iemocap", folder / "IEMOCAP")

    def read_words(case: bytes) -> list[Utterance]:
        labels.write(spoken.encode())
        words.write(case)
        return read_corpus("iemocap", folder / "IEMOCAP")

    crema = folder / "CREMA"
    touch(crema, "AudioWAV/1001_IEO_HAP_LO.wav")
    table = Rewritten(crema / "VideoDemographics.csv")
    people = "ActorID,Age,Sex\n1001,51,Male\n1002,21,Female\n"

    def read_people(case: bytes) -> list[Utterance]:
        table.write(case)
        return read_corpus("cremad", crema)

    return {
        "emoevaluation": Target([seed.encode(), spoken.encode()], read_labels, list),
        "transcription": Target([said.encode()], read_words, list),
        "demographics": Target([people.encode()], read_people, list),
    }


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Target]:
    root = tmp_path_factory.mktemp("fuzz")
    return {
        **config_targets(root / "configs"),
        **manifest_targets(root),
        **corpus_targets(root),
    }


def fuzz(target: Target, name: str, n: int, seed: int) -> None:
    """Read some corrupt files; what is neither value nor message fails with the case."""
    values = 0
    for i in range(n):
        case = mutate(random.Random(f"{name} {seed} {i}"), target.seeds)
        try:
            values += target.check(case)
        except Exception:
            pytest.fail(f"{name}, seed {seed}, case {i}: {case!r}\n{traceback.format_exc()}")
    print(f"{name}: {values} of {n} corrupt files are still read")
    assert values > n / 50, "the damage leaves too little to read"


SOME = {"recipe": 200, "override": 300, "csv": 500, "jsonl": 400, "emoevaluation": 400}
SOME |= {"transcription": 100, "demographics": 100}


@pytest.mark.parametrize("name", SOME)
def test_a_corrupt_file_ends_in_a_value_or_one_message(targets, name):
    target = targets[name]
    for seed in target.seeds:
        assert isinstance(target.read(seed), target.of)
    fuzz(target, name, SOME[name], seed=0)


@pytest.mark.slow
@pytest.mark.promise("fuzz")
@pytest.mark.parametrize("name", SOME)
def test_many_corrupt_files_end_in_a_value_or_one_message(targets, name, count):
    n = 51 * SOME[name]
    fuzz(targets[name], name, n, seed=1)
    count("fuzz cases", n)
