"""What is settled before training: bad audio, folds, and a certificate that is the clips' own."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from config.loading import load_config
from corpora.certificate import certify
from corpora.plan import Plan, make_plan, plan_warnings, without_bad_audio
from corpora.splits import Split
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.corpora.test_leakage import names_of, plan_of, read_table, write_table

SPLIT = "speaker-k-fold"


@pytest.fixture(scope="module")
def mine(tmp_path_factory) -> Path:
    """A manifest and its clips, short ones: 3 sessions x 2 speakers x 4 clips."""
    root = tmp_path_factory.mktemp("plan") / "mine"
    for seed, name in enumerate(names_of("manifest", root), start=5000):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(root / name, speech(seed, 0.3), RATE)
    return root


@pytest.fixture
def copy(mine, tmp_path) -> Path:
    return shutil.copytree(mine, tmp_path / "copy")


def plan(root: Path, **corpus: object) -> Plan:
    return plan_of("manifest", SPLIT, root, **corpus)


@pytest.fixture(scope="module")
def before(mine) -> Plan:
    return plan(mine)


def to_flac(root: Path) -> None:
    for path in root.glob("*/*.wav"):
        soundfile.write(path.with_suffix(".flac"), soundfile.read(path)[0], RATE)
        path.unlink()
    write_table(root, [(row[0].replace(".wav", ".flac"), *row[1:]) for row in read_table(root)])


def to_stereo(root: Path) -> None:
    for path in root.glob("*/*.wav"):
        soundfile.write(path, soundfile.read(path)[0][:, None].repeat(2, 1), RATE)


def to_float(root: Path) -> None:
    for path in root.glob("*/*.wav"):
        soundfile.write(path, soundfile.read(path)[0], RATE, subtype="FLOAT")


def backwards(root: Path) -> None:
    write_table(root, read_table(root)[::-1])


PACKINGS = [to_flac, to_stereo, to_float, backwards, lambda root: None]


@pytest.mark.parametrize("repack", PACKINGS)
def test_the_certificate_does_not_depend_on_files_and_places(before, copy, repack):
    repack(copy)
    after = plan(copy)
    assert after.certificate == before.certificate
    assert str(copy) not in str(after.certificate)


def change_sample(root: Path) -> None:
    samples, _ = soundfile.read(root / "p2b/3.wav", dtype="int16")
    samples[-1] += 1
    soundfile.write(root / "p2b/3.wav", samples, RATE)


def change_rate(root: Path) -> None:
    soundfile.write(root / "p2b/3.wav", soundfile.read(root / "p2b/3.wav")[0], RATE + 1)


def change_row(column: int, value: str) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        *rows, last = read_table(root)
        write_table(root, [*rows, (*last[:column], value, *last[column + 1 :])])

    return change


def add_clip(root: Path) -> None:
    soundfile.write(root / "p2b/4.wav", speech(1, 0.3), RATE)
    write_table(root, [*read_table(root), ("p2b/4.wav", "x", "p2b", "s2", "text 4")])


def rename_speaker(root: Path) -> None:
    rows = read_table(root)
    write_table(root, [(*r[:2], "p2z" if r[2] == "p2b" else r[2], *r[3:]) for r in rows])


def exchange_labels(root: Path) -> None:
    """Counts stay what they are in every part."""
    *rows, one, other = read_table(root)
    write_table(root, [*rows, (one[0], other[1], *one[2:]), (other[0], one[1], *other[2:])])


def exchange_recordings(root: Path) -> None:
    first, second = root / "p2b/2.wav", root / "p2b/3.wav"
    first.rename(root / "kept.wav")
    second.rename(first)
    (root / "kept.wav").rename(second)


CHANGES = {
    "two labels": exchange_labels,
    "two recordings": exchange_recordings,
    "a sample": change_sample,
    "the rate": change_rate,
    "a label": change_row(1, "y"),
    "a speaker": rename_speaker,
    "a clip's speaker": change_row(2, "p2a"),
    "one more clip": add_clip,
}


@pytest.mark.parametrize("change", CHANGES)
def test_the_certificate_depends_on_clips_labels_and_speakers(before, copy, change):
    CHANGES[change](copy)
    assert plan(copy).certificate["id"] != before.certificate["id"]


def test_the_certificate_does_not_depend_on_the_order_within_a_part(before):
    turned = [
        Split(split.fold, **{name: part[::-1] for name, part in split.parts()})
        for split in before.splits
    ]
    again = certify(turned, before.hashes, before.certificate["protocol"], False)
    assert again["id"] == before.certificate["id"]


def test_the_certificate_does_not_depend_on_workers(tiny):
    certificates = [make_plan(tiny(f"run.workers={n}")).certificate for n in (0, 3)]
    assert certificates[0] == certificates[1]


BROKEN = ["p0a/0.wav", "p1a/1.wav"]


def damage(root: Path, names=BROKEN) -> None:
    for name in names:  # equal bytes, so that their hashes are equal too
        (root / name).write_bytes(b"no audio")


def test_bad_audio_stops_and_every_file_is_named(copy):
    damage(copy)
    soundfile.write(copy / "p2a/2.wav", np.zeros(0), RATE)
    with pytest.raises(InputError) as error:
        plan(copy)
    lines = str(error.value).splitlines()
    assert lines[0] == "3 audio files cannot be used:"
    assert lines[1] == "  2 files, each of which cannot be read: Format not recognised:"
    assert lines[2:4] == [f"    {copy / name}" for name in BROKEN]
    assert lines[4] == f"  {copy / 'p2a/2.wav'} holds no samples"
    assert lines[5].startswith("Put intact files in their place, or set corpus.on_bad_audio=skip")


def test_bad_audio_is_left_out_where_the_config_says_so(before, copy):
    damage(copy)
    after = plan(copy, on_bad_audio="skip")
    assert sorted(after.bad) == [copy / name for name in BROKEN]
    assert len(after.utterances) == len(before.utterances) - 2 == after.certificate["utterances"]
    assert not {one.path for one in after.utterances} & set(after.bad)
    assert set(after.recordings) == {one.path for one in after.utterances} == set(after.hashes)
    assert sum(len(split.test) for split in after.splits) == len(after.utterances)
    assert after.certificate["id"] != before.certificate["id"]
    assert after.certificate["identical_recordings"]["recordings"] == 0
    removed = [row for row in read_table(copy) if row[0] not in BROKEN]
    write_table(copy, removed)
    assert plan(copy).certificate == after.certificate


def test_bad_audio_never_takes_a_class_away_unseen(copy):
    for row in read_table(copy):
        if row[1] == "x":
            (copy / row[0]).write_bytes(b"")
    with pytest.raises(InputError, match="no usable utterance of x is left: .* files are bad"):
        plan(copy, on_bad_audio="skip")


def test_more_can_be_left_out_later(before, copy):
    damage(copy, BROKEN[:1])
    first = plan(copy, on_bad_audio="skip")
    assert without_bad_audio(first, {}) is first
    second = without_bad_audio(first, {copy / BROKEN[1]: "fell over"})
    assert [*second.bad] == [copy / name for name in BROKEN]
    assert second.certificate["utterances"] == len(before.utterances) - 2
    assert set(second.recordings) == {one.path for one in second.utterances}
    damage(copy)
    assert plan(copy, on_bad_audio="skip").certificate == second.certificate
    with pytest.raises(InputError, match=r"1 audio files cannot be used(.|\n)*0\.wav fell over"):
        without_bad_audio(before, {before.utterances[0].path: "fell over"})


def test_a_speaker_of_bad_audio_alone_is_missed(copy):
    damage(copy, [f"p{i}{who}/{n}.wav" for i in (0, 1) for who in "ab" for n in range(4)])
    with pytest.raises(InputError, match="at least 3 speakers, .* there are 2: p2a, p2b"):
        plan(copy, on_bad_audio="skip")


def test_a_fold_that_does_not_exist_is_refused(tiny):
    with pytest.raises(InputError, match=r"fold must be in 1\.\.5, got 6"):
        make_plan(tiny("run.folds=[1,6]"))
    chosen = make_plan(tiny("run.folds=[5,2]"))
    assert [split.fold for split in chosen.wanted()] == [5, 2]
    every = make_plan(tiny("run.folds=null"))
    assert [split.fold for split in every.wanted()] == [1, 2, 3, 4, 5]
    assert every.certificate == chosen.certificate


def test_remarks_name_what_was_let_pass_in_the_wanted_folds(mine, copy, before):
    texts = [remark for remark in plan_warnings(before) if "texts are in train and test" in remark]
    assert texts == [
        f"fold {k}: 4 texts are in train and test, spoken in 8 test utterances" for k in (1, 2, 3)
    ]
    assert len(plan_warnings(before)) == 3
    dependent = plan_of("manifest", "random-utterance", mine)
    assert any("SPEAKER-DEPENDENT" in remark for remark in plan_warnings(dependent))
    shutil.copy(copy / "p0a/0.wav", copy / "p0a/1.wav")
    again = plan_warnings(plan(copy))
    assert "1 recordings occur more than once, under different classes" in again


def test_remarks_are_of_the_wanted_folds_in_their_order(before):
    numbers = (2, 10, 11)
    folds = [
        {**fold, "fold": k}
        for k, fold in zip((*numbers, 12), [*before.certificate["folds"]] * 2, strict=False)
    ]
    near = {"pairs_across_parts": {"10": 3, "11": 1, "12": 4, "2": 5}}
    some = replace(
        before,
        splits=[replace(one, fold=k) for k, one in zip(numbers, before.splits, strict=True)],
        certificate={**before.certificate, "folds": folds, "near_identical": near},
    )
    texts, pairs = plan_warnings(some)[:3], plan_warnings(some)[3:]
    assert [remark.split(":")[0] for remark in texts] == ["fold 2", "fold 10", "fold 11"]
    assert pairs == [
        f"fold {k}: {n} pairs of near-identical recordings in two parts"
        for k, n in [(2, 5), (10, 3), (11, 1)]
    ]


def test_text_groups_are_planned(recipe, mine):
    keys = ["corpus.name=manifest", f"corpus.root={mine}", f"corpus.manifest={mine / 'list.csv'}"]
    keys += ["corpus.labels=all", "corpus.expect_published_counts=null", "run.folds=null"]
    keys += ["protocol.split=speaker-k-fold", "protocol.n_folds=3"]
    keys += ["protocol.text_groups=2"]
    found = make_plan(load_config(recipe, keys))
    assert found.certificate["protocol"] == "manifest2/speaker-3-fold/dev-fold/all/2-text-groups"
    assert [split.fold for split in found.splits] == [1, 2, 3, 4, 5, 6]
    assert found.certificate["checks"]["text"].startswith("passed")
    assert plan_warnings(found) == []


def test_counts_that_differ_say_what_was_not_read(recipe, tmp_path):
    for name in ("Actor_01/03-01-05-01-01-01-01.wav", "Actor_02/03-01-05-01-01-01-02.mp3"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    keys = ["corpus.name=ravdess", f"corpus.root={tmp_path}", "corpus.labels=ravdess8"]
    keys += ["corpus.expect_published_counts=true", "run.folds=null"]
    keys += ["protocol.split=speaker-k-fold", "protocol.n_folds=3"]
    with pytest.raises(InputError, match="differ from the published") as error:
        make_plan(load_config(recipe, keys))
    assert "1 audio files below corpus.root were not read: Actor_02/ (1)" in str(error.value)
