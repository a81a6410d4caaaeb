"""Shards: webdataset reads them, nothing is lost, and what does not fit is named."""

import importlib.util
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from audio.reading import decode_audio, inspect_audio, read_audio, read_samples
from corpora.plan import Plan, make_plan
from scripts.write_shards import main, parse_shard
from storage import shard_writer, shards
from storage.shard_writer import Content, encode_audio, rows_of_shard, write_shard
from storage.shards import Shard, Shards, read_index
from system.errors import InputError, RunError
from training.session import open_store

webdataset = pytest.importorskip("webdataset")

TOTAL = 3


@pytest.fixture
def plan(tiny) -> Plan:
    return make_plan(tiny())


@pytest.fixture
def write(plan: Plan, tmp_path: Path) -> Callable[..., Path]:
    """Write all shards of the tiny corpus."""

    def write(form: str = "flac", total: int = TOTAL) -> Path:
        folder = tmp_path / form
        content = Content(form, plan.certificate, open_store(plan.config))
        for number in range(1, total + 1):
            shard = Shard(number, total)
            rows = rows_of_shard(plan.utterances, plan.hashes, shard)
            assert write_shard(folder, shard, rows, content, workers=2)
        return folder

    return write


def samples_of(folder: Path) -> list[list[dict]]:
    """Return the samples of each shard as webdataset alone reads them."""
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    return [list(webdataset.WebDataset(url, shardshuffle=False)) for url in urls]


@pytest.mark.parametrize("form", ["flac", "wav"])
def test_webdataset_reads_every_utterance_once_and_its_very_samples(plan, write, form):
    parts = samples_of(write(form))
    found = {}
    for sample in (sample for part in parts for sample in part):
        fields = {name for name in sample if not name.startswith("__")}
        assert fields == {form, "json"}
        facts = json.loads(sample["json"])
        assert facts["utterance"] not in found
        found[facts["utterance"]] = (sample["__key__"], sample[form], facts)
    assert found.keys() == {utterance.id for utterance in plan.utterances}
    for utterance in plan.utterances:
        key, content, facts = found[utterance.id]
        assert key == plan.hashes[utterance.audio]
        assert (facts["speaker"], facts["label"]) == (utterance.speaker, utterance.label)
        expected = read_audio(utterance.audio, 11_025)
        assert np.array_equal(decode_audio(content, 11_025, key), expected)


def test_a_speaker_is_in_one_shard_and_the_certificate_in_each(plan, write):
    folder = write()
    speakers = [{json.loads(s["json"])["speaker"] for s in part} for part in samples_of(folder)]
    assert sum(map(len, speakers)) == len(set.union(*speakers)) == 10
    assert all(len(names) in (3, 4) for names in speakers)
    for path in folder.glob("*.tar"):
        with tarfile.open(path) as tar:
            inside = tar.extractfile("__meta__/split_certificate.json")
            assert json.load(inside) == json.loads(json.dumps(plan.certificate))


def test_images_are_those_of_the_feature_store_to_the_bit(plan, write):
    held = Shards(write("images"))
    store = open_store(plan.config)
    store.build({plan.hashes[u.audio]: u.audio for u in plan.utterances}, workers=0)
    hashes = [plan.hashes[utterance.audio] for utterance in plan.utterances][::-1]
    images = held.images(hashes)
    for name in ("cqt", "mel"):
        rows = np.array([store.rows[key].start for key in hashes])
        read = images.images(name)
        expected = store.images(name)[rows]
        assert read.shape == expected.shape and read[np.arange(len(hashes))].dtype == np.float16
        assert read[np.arange(len(hashes))].tobytes() == expected.tobytes()
        assert read[3].tobytes() == expected[3].tobytes()
    [sample, *_] = samples_of(held.folder)[0]
    row = store.rows[sample["__key__"]].start
    decoded = np.load(io.BytesIO(sample["mel.npy"]))
    assert decoded.tobytes() == store.images("mel")[row : row + 1].tobytes()


def test_crops_are_rows_of_their_own(tiny, tmp_path):
    plan = make_plan(tiny("features.seconds=0.1"))
    store = open_store(plan.config)
    rows = rows_of_shard(plan.utterances, plan.hashes, Shard(1, 1))
    content = Content("images", plan.certificate, store)
    write_shard(tmp_path / "crops", Shard(1, 1), rows, content, workers=0)
    store.build({plan.hashes[u.audio]: u.audio for u in plan.utterances}, workers=0)
    hashes = [plan.hashes[utterance.audio] for utterance in plan.utterances]
    images = Shards(tmp_path / "crops").images(hashes)
    assert {len(rows) for rows in images.rows.values()} == {2, 3}
    for key in hashes:
        here, there = np.array(images.rows[key]), np.array(store.rows[key])
        for name in ("cqt", "mel"):
            assert images.images(name)[here].tobytes() == store.images(name)[there].tobytes()
    all_rows = list(range(images.images("cqt").shape[0]))
    for name, (mean, std) in images.statistics(all_rows).items():
        pixels = torch.from_numpy(images.images(name)[np.array(all_rows)]).double()
        assert torch.allclose(mean.double(), pixels.mean((0, 2, 3)), rtol=1e-6)
        assert torch.allclose(std.double(), pixels.std((0, 2, 3), correction=0), rtol=1e-5)


NOISE = np.random.default_rng(0).uniform(-0.9, 0.9, (4000, 3)).astype(np.float32)
RECORDINGS = {  # name: channels, subtype, loudness, ending under `flac`
    "16 bits.wav": (1, "PCM_16", 1.0, "flac"),
    "24 bits.wav": (1, "PCM_24", 1.0, "flac"),
    "32 bits.wav": (1, "PCM_32", 1.0, "wav"),
    "float.wav": (1, "FLOAT", 1.0, "wav"),
    "loud float.wav": (1, "FLOAT", 30.0, "wav"),
    "stereo.flac": (2, "PCM_16", 1.0, "flac"),
    "three channels.wav": (3, "PCM_16", 1.0, "wav"),
    "vorbis.ogg": (1, "VORBIS", 1.0, "wav"),
    "mp3.mp3": (1, "MPEG_LAYER_III", 1.0, "wav"),
}


@pytest.mark.parametrize("wanted", ["flac", "wav"])
@pytest.mark.parametrize("name", RECORDINGS)
def test_no_sample_of_any_format_is_changed(tmp_path, name, wanted):
    channels, subtype, loudness, ending = RECORDINGS[name]
    path = tmp_path / name
    soundfile.write(path, loudness * NOISE[:, :channels], 16_000, subtype)
    recording = inspect_audio(path).hash
    samples, rate = read_samples(path, recording)
    found, content = encode_audio(samples, rate, wanted)
    assert (found, rate) == (ending if wanted == "flac" else "wav", 16_000)
    assert np.array_equal(decode_audio(content, rate, recording), samples)  # the same recording
    assert np.array_equal(decode_audio(content, 22_050), read_audio(path, 22_050))


def test_the_largest_samples_of_integers_stay_integers():
    edges = np.array([-1.0, 1 - 2**-15, 0.5, 0.0] * 500, np.float32)
    assert encode_audio(edges, 8000, "flac")[0] == "flac"
    assert encode_audio(np.append(edges, np.float32(1.0)), 8000, "flac")[0] == "wav"
    assert encode_audio(edges, 700_000, "flac")[0] == "wav"  # above what FLAC can name


def test_equal_recordings_are_samples_of_their_own(plan, tmp_path):
    one = plan.utterances[0]
    twin = replace(one, id="twin")
    rows = rows_of_shard([*plan.utterances, twin], plan.hashes, Shard(1, 1))
    key = plan.hashes[one.audio]
    assert [row.key for row in rows if row.hash == key] == [key, f"{key}-1"]
    content = Content("flac", plan.certificate, open_store(plan.config))
    write_shard(tmp_path / "twins", Shard(1, 1), rows, content, workers=0)
    [samples] = samples_of(tmp_path / "twins")
    assert len(samples) == len(plan.utterances) + 1


def test_assignment_is_stable_and_balanced(plan):
    def of(utterances, total):
        return [
            {row.utterance.id for row in rows_of_shard(utterances, plan.hashes, Shard(i, total))}
            for i in range(1, total + 1)
        ]

    assert of(plan.utterances, 4) == of(plan.utterances[::-1], 4)
    assert sorted(map(len, of(plan.utterances, 4))) == [8, 8, 12, 12]  # 10 speakers, 4 each
    with pytest.raises(InputError, match="--shard 2/11: .* 10 speakers: write at most 10"):
        rows_of_shard(plan.utterances, plan.hashes, Shard(2, 11))


def test_a_finished_shard_is_skipped_and_another_is_refused(plan, write):
    folder = write()
    shard = Shard(1, TOTAL)
    rows = rows_of_shard(plan.utterances, plan.hashes, shard)
    content = Content("flac", plan.certificate, open_store(plan.config))
    before = (folder / shard.file).stat().st_mtime_ns
    assert not write_shard(folder, shard, rows, content, workers=0)
    assert (folder / shard.file).stat().st_mtime_ns == before
    for changed, what in (
        (content._replace(format="wav"), "format"),
        (content._replace(certificate={**plan.certificate, "id": "other"}), "certificate"),
    ):
        with pytest.raises(InputError, match=rf"there with other content \({what}\).*--to"):
            write_shard(folder, shard, rows, changed, workers=0)
    with pytest.raises(InputError, match=r"there with other content \(rows\)"):
        write_shard(folder, shard, rows[1:], content, workers=0)
    with pytest.raises(InputError, match="of another number, e.g. shard-0000"):
        write_shard(folder, Shard(1, 2), rows, content, workers=0)


def test_the_same_shard_has_the_same_bytes(plan, write, tmp_path):
    first = write()
    again = tmp_path / "again"
    rows = rows_of_shard(plan.utterances, plan.hashes, Shard(2, TOTAL))
    content = Content("flac", plan.certificate, open_store(plan.config))
    write_shard(again, Shard(2, TOTAL), rows, content, workers=0)
    name = Shard(2, TOTAL).file
    assert (again / name).read_bytes() == (first / name).read_bytes()


def test_an_interrupted_or_failed_shard_leaves_no_file(plan, tmp_path, monkeypatch):
    rows = rows_of_shard(plan.utterances, plan.hashes, Shard(1, 1))
    content = Content("flac", plan.certificate, open_store(plan.config))
    wrong = [row._replace(hash="0" * 64) for row in rows[:12]]
    with pytest.raises(InputError, match="(?s)12 recordings cannot be used.*changed.*and 2 more"):
        write_shard(tmp_path / "new", Shard(1, 1), [*wrong, *rows[12:]], content, workers=0)
    assert list((tmp_path / "new").iterdir()) == []

    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shard_writer, "encode_audio", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_shard(tmp_path / "new", Shard(1, 1), rows, content, workers=0)
    assert list((tmp_path / "new").iterdir()) == []


def test_missing_and_mixed_shards_are_named(write, tmp_path):
    folder = write()
    (folder / Shard(2, TOTAL).file).unlink()
    with pytest.raises(InputError, match=r"1 of 3 shards are missing .*\(2\).*--shard 2/3"):
        Shards(folder)
    os.link(folder / Shard(1, TOTAL).file, folder / Shard(1, 2).file)
    with pytest.raises(InputError, match="holds shards of 2 and of 3: keep one set"):
        Shards(folder)
    for empty in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(InputError, match="no shards in run.shards=.*write_shards"):
            Shards(empty)


def test_shards_of_two_commands_are_refused(plan, write, tmp_path):
    folder = write()
    other = Content("wav", plan.certificate, open_store(plan.config))
    rows = rows_of_shard(plan.utterances, plan.hashes, Shard(3, TOTAL))
    (folder / Shard(3, TOTAL).file).unlink()
    write_shard(folder, Shard(3, TOTAL), rows, other, workers=0)
    with pytest.raises(InputError, match=r"different settings \(format: flac, wav\)"):
        Shards(folder)


def test_a_shard_that_is_cut_anywhere_is_refused(write):
    folder = write(total=1)
    path = folder / Shard(1, 1).file
    whole = path.read_bytes()
    sizes = {0, 1, 511, 512, 10_240, len(whole) // 2, len(whole) - 10_240, len(whole) - 20_480}
    for size in sizes:
        path.write_bytes(whole[:size])
        with pytest.raises(RunError, match="corrupt or cut short .*remove it, write it again"):
            Shards(folder)
    path.write_bytes(whole)
    assert Shards(folder).members


def test_a_shard_that_is_no_regular_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / Shard(1, 1).file)
    with pytest.raises(RunError, match="not a regular file"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    "text",
    ['{"index": [0, 10]}', '{"index": 3}', "[]", "3", "{", '{"index": [512, 99999999999]}', '"x"'],
)
def test_a_stranger_with_a_strange_end_is_refused(tmp_path, text):
    (tmp_path / Shard(1, 1).file).write_bytes(bytes(512) + text.encode().ljust(1024, b"\0"))
    with pytest.raises(RunError, match="corrupt or cut short"):
        Shards(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"members": {"a.flac": [512, 10**9, []]}}, "names places outside of it"),
        ({"members": {"a.flac": [-1, 5, []]}}, "names places outside of it"),
        ({"members": {"a.flac": "x"}}, "corrupt or cut short"),
        ({"version": 1}, "of version 1, where 2 is read"),
        ({"format": None, "protocol": ...}, "no protocol in its index"),
        ({"members": {"a.flac": [512, 5, [1]]}}, "another number of CRC32 than of images"),
        ({"format": "images", "record": [1, 1, 1]}, "another number of CRC32 than of images"),
        ({"format": "images", "record": [0]}, "corrupt or cut short"),
        ({"format": "images", "record": "x"}, "corrupt or cut short"),
        ({}, ""),
    ],
)
def test_a_strange_index_is_refused(write, changes, words):
    folder = write(total=1)
    path = folder / Shard(1, 1).file
    changed = {**read_index(path), "members": {"a.flac": [512, 5, []]}, **changes}
    index = json.dumps({key: value for key, value in changed.items() if value is not ...}).encode()
    end = json.dumps({"index": [512, len(index)]}).encode()
    path.write_bytes(bytes(512) + index.ljust(2048, b"\0") + end.ljust(1536, b"\0"))
    if not words:
        assert Shards(folder).members["a.flac"].offset == 512
        return
    with pytest.raises(RunError, match=words):
        Shards(folder)


def test_a_changed_recording_in_a_shard_is_noticed(plan, write):
    held = Shards(write("wav"))
    key = plan.hashes[plan.utterances[5].audio]
    [member] = held.audio([key])
    content = bytearray(member.shard.read_bytes())
    content[member.offset + member.size // 2] ^= 1  # one bit of a sample
    member.shard.write_bytes(content)
    with pytest.raises(RunError, match=rf"{member.shard.name} is corrupt .*{key}.wav has changed"):
        held.read_audio(member, 16_000, key)


@pytest.mark.parametrize("branch", ["cqt", "mel"])
def test_a_changed_image_in_a_shard_is_noticed_when_it_is_read(tiny, tmp_path, branch):
    plan = make_plan(tiny("features.seconds=0.1"))
    rows = rows_of_shard(plan.utterances, plan.hashes, Shard(1, 1))
    content = Content("images", plan.certificate, open_store(plan.config))
    write_shard(tmp_path / "crops", Shard(1, 1), rows, content, workers=0)
    held = Shards(tmp_path / "crops")
    key = rows[4].hash
    member = held.members[f"{key}.{branch}.npy"]
    images = held.images([rows[3].hash, key])
    first, second, *_ = images.rows[key]
    before = images.images(branch)[np.arange(first)]
    n_bytes = 2 * int(np.prod(images.record))
    header = member.size - n_bytes * len(images.rows[key])
    assert 0 < header < n_bytes
    whole = member.shard.read_bytes()
    for place in (header, header + n_bytes - 1):  # the first and the last byte of its first image
        changed = bytearray(whole)
        changed[member.offset + place] ^= 1
        member.shard.write_bytes(changed)
        for ask in (first, np.array([0, first])):
            with pytest.raises(
                RunError,
                match=rf"{member.shard.name} is corrupt .*{key}.{branch}.npy has changed.*write it",
            ):
                images.images(branch)[ask]
        with pytest.raises(RunError, match="has changed"):
            images.statistics([first])
        assert images.images(branch)[np.arange(first)].tobytes() == before.tobytes()
        images.images(branch)[second]  # its other crops are whole
        other = "mel" if branch == "cqt" else "cqt"
        images.images(other)[first]


def test_a_shard_that_shrinks_while_it_is_read_is_named(plan, write):
    held = Shards(write())
    hashes = [plan.hashes[utterance.audio] for utterance in plan.utterances]
    for key, member in zip(hashes, held.audio(hashes), strict=True):
        os.truncate(member.shard, 512)
        with pytest.raises(RunError, match="it ends before"):
            held.read_audio(member, 16_000, key)


def test_recordings_in_no_shard_are_counted(plan, write):
    for held in (Shards(write()), Shards(write("images"))):
        ask = held.images if held.has_images else held.audio
        with pytest.raises(InputError, match="1 of 2 recordings are in no shard of .* abc"):
            ask([plan.hashes[plan.utterances[0].audio], "abc"])


def test_few_files_stay_open_and_another_process_opens_its_own(plan, write, monkeypatch):
    monkeypatch.setattr(shards, "KEPT_OPEN", 1)
    held = Shards(write())
    hashes = [plan.hashes[utterance.audio] for utterance in plan.utterances]
    members = held.audio(hashes)
    before = len(os.listdir("/proc/self/fd"))
    waveforms = [held.read_audio(m, 16_000, k) for m, k in zip(members, hashes, strict=True)]
    assert len({member.shard for member in members}) == TOTAL
    assert len(os.listdir("/proc/self/fd")) == before + 1
    other = pickle.loads(pickle.dumps(held))
    assert np.array_equal(other.read_audio(members[0], 16_000, hashes[0]), waveforms[0])


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/", "-1/3", "1/100000", "1/0"])
def test_a_wrong_shard_is_refused(text, recipe, tmp_path, capsys):
    with pytest.raises(InputError, match=r"--shard must be I/N with I in 1\.\.N"):
        parse_shard(text)
    assert main(["--config", str(recipe), "--to", str(tmp_path), f"--shard={text}"]) == 2
    assert "wrong input: --shard must be I/N" in capsys.readouterr().err


def test_webdataset_is_named_with_its_extra(recipe, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["--config", str(recipe), "--to", str(tmp_path)]) == 2
    assert "needs webdataset; it comes with the extra `stream`" in capsys.readouterr().err
