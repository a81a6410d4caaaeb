"""The leakage check on real files: every reader, every protocol, each kind of leak planted."""

import csv
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile

from audio.fingerprint import Copy
from config.schema import Config
from corpora.certificate import certify, protocol_id
from corpora.leakage import group_recordings
from corpora.plan import Plan, make_plan, plan_warnings
from corpora.readers import CORPORA, Utterance
from corpora.splits import Split
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, add_noise, speech
from tests.conftest import RECIPE
from tests.corpora.test_readers import add_dialog

SECONDS = 1.3  # long enough for a fingerprint
LABELS = {"iemocap": "iemocap4-exc", "esd": "esd5", "ravdess": "ravdess8", "emodb": "emodb7"}
LABELS |= {"cremad": "cremad6", "manifest": "all", "savee": "savee7", "tess": "tess7"}
LABELS |= {"emovo": "emovo7", "nemo": "nemo6", "aesdd": "aesdd5", "urdu": "urdu4"}
LABELS |= {"meld": "meld7", "msppodcast": "msppodcast8", "folder": "all"}
OWN_SPLIT = ("meld", "msppodcast")  # with tests of their own
PROTOCOLS = {
    "leave-one-session-out": {},
    "leave-one-speaker-out": {},
    "speaker-k-fold": {"n_folds": 3},
    "random-utterance": {"n_folds": 3, "allow_speaker_overlap": True},
}
IN_SESSIONS = ("iemocap", "manifest", "folder")
LAYOUT = "{session}/{speaker}/{label}-*"
CASES = [
    (corpus, split)
    for corpus in CORPORA
    for split in PROTOCOLS
    if corpus not in OWN_SPLIT
    and (split != "leave-one-session-out" or corpus in IN_SESSIONS)
    and (corpus != "tess" or split == "random-utterance")  # two speakers
]
SPEAKERS = {
    "esd": ["0011", "0012", "0013", "0014", "0015", "0016"],
    "ravdess": ["01", "02", "03", "04", "05", "06"],
    "emodb": ["03", "08", "09", "10", "11", "13"],
    "cremad": ["1001", "1002", "1003", "1004", "1005", "1006"],
    "savee": ["DC", "JE", "JK", "KL"],
    "tess": ["OAF", "YAF"],
    "emovo": ["f1", "f2", "f3", "m1", "m2", "m3"],
    "nemo": ["EB0", "IC0", "KD0", "KS0", "MP0", "SM0"],
    "aesdd": ["1", "2", "3", "4", "5", "6"],
    "urdu": ["SF1", "SF2", "SF3", "SM1", "SM2", "SM3"],
}
NAMES: dict[str, Callable[[str], list[str]]] = {
    "esd": lambda who: [
        f"{who}/{label}/{who}_{350 * i + int(who):06d}.wav"
        for i, label in enumerate(["Neutral", "Angry", "Happy", "Sad", "Surprise"])
    ],
    "ravdess": lambda who: [f"Actor_{who}/03-01-0{i}-01-01-01-{who}.wav" for i in range(1, 9)],
    "emodb": lambda who: [f"wav/{who}a0{i}{letter}a.wav" for i, letter in enumerate("WLEAFTN", 1)],
    "cremad": lambda who: [
        f"AudioWAV/{who}_IEO_{label}_HI.wav" for label in ["ANG", "DIS", "FEA", "HAP", "NEU", "SAD"]
    ],
    "savee": lambda who: [
        f"AudioData/{who}/{code}01.wav" for code in ["a", "d", "f", "h", "n", "sa", "su"]
    ],
    "tess": lambda who: [
        f"{who}_{code}/{who}_{word}_{code}.wav"
        for word in ["back", "bar", "base"]
        for code in ["angry", "disgust", "fear", "happy", "neutral", "ps", "sad"]
    ],
    "emovo": lambda who: [
        f"{who}/{code}-{who}-b1.wav" for code in "dis gio neu pau rab sor tri".split()
    ],
    "nemo": lambda who: [
        f"samples/{who}_{label}_1.wav"
        for label in "anger fear happiness neutral sadness surprised".split()
    ],
    "aesdd": lambda who: [f"{code}/{code}01 ({who}).wav" for code in "adfhs"],
    "urdu": lambda who: [f"{code}/{who}_F1_{code}01.wav" for code in "AHNS"],
}


def names_of(corpus: str, root: Path) -> list[str]:
    """Write the tables of a corpus and return the names of its audio files."""
    if corpus in SPEAKERS:
        return [name for who in SPEAKERS[corpus] for name in NAMES[corpus](who)]
    people = [(f"s{i}", f"p{i}{who}") for i in range(3) for who in "ab"]
    if corpus == "folder":
        return [f"{s}/{who}/{'xyyx'[n]}-{n}.wav" for s, who in people for n in range(4)]
    if corpus == "manifest":
        clips = [(f"{who}/{n}.wav", "xyyx"[n], who, s) for s, who in people for n in range(4)]
        write_table(root, [(*row, f"text {row[0][-5]}") for row in clips])
        return [row[0] for row in clips]
    labels = {"000": "neu", "001": "hap", "002": "ang", "003": "sad"}
    for session in range(1, 4):
        for sex in "FM":
            dialog = f"Ses0{session}{sex}_impro01"
            add_dialog(root, dialog, {f"{sex}{n}": x for n, x in labels.items()}, audio=False)
    return [
        f"Session{k}/sentences/wav/Ses0{k}{sex}_impro01/Ses0{k}{sex}_impro01_{sex}{n}.wav"
        for k in range(1, 4)
        for sex in "FM"
        for n in labels
    ]


def write_table(root: Path, rows: list[tuple[str, ...]]) -> None:
    root.mkdir(parents=True, exist_ok=True)
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "speaker", "session", "text"), *rows])


def read_table(root: Path) -> list[tuple[str, ...]]:
    with (root / "list.csv").open(newline="") as file:
        return [tuple(row) for row in csv.reader(file)][1:]


def plan_of(corpus: str, split: str, root: Path, near: str = "refuse", **more: object) -> Plan:
    """Plan a run on a corpus as an entry would."""
    values = {"name": corpus, "root": str(root), "labels": LABELS[corpus]}
    values |= {"expect_published_counts": False, **more}
    if corpus == "manifest":
        values["manifest"] = str(root / "list.csv")
    if corpus == "folder":
        values["layout"] = LAYOUT
    protocol = {"split": split, "near_identical": near, **PROTOCOLS[split]}
    run = {"device": "cpu", "workers": 0, "store": str(root / "nothing kept")}
    return make_plan(Config(**RECIPE | {"corpus": values, "protocol": protocol, "run": run}))


@pytest.fixture(scope="module")
def roots(tmp_path_factory) -> dict[str, Path]:
    """Every corpus as a small true tree of speech-like clips, no two alike."""
    folder = tmp_path_factory.mktemp("corpora")
    seed = 1000
    for corpus in LABELS.keys() - {*OWN_SPLIT}:
        for name in names_of(corpus, folder / corpus):
            path = folder / corpus / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, speech(seed := seed + 1, SECONDS), RATE)
    return {corpus: folder / corpus for corpus in CORPORA}


@pytest.fixture(scope="module")
def sound(roots) -> Callable[[str, str], Plan]:
    """Return the plan of a sound corpus, made once."""
    made: dict[tuple[str, str], Plan] = {}

    def find(corpus: str, split: str) -> Plan:
        if (corpus, split) not in made:
            made[corpus, split] = plan_of(corpus, split, roots[corpus])
        return made[corpus, split]

    return find


@pytest.fixture
def copy_of(roots, tmp_path) -> Callable[[str], Path]:
    """Copy a corpus, to plant a leak in it."""
    return lambda corpus: shutil.copytree(roots[corpus], tmp_path / corpus)


@pytest.mark.parametrize(("corpus", "split"), CASES)
def test_a_sound_corpus_passes_and_its_certificate_says_what_was_checked(sound, corpus, split):
    plan = sound(corpus, split)
    certificate = plan.certificate
    dependent = split == "random-utterance"
    n_folds = PROTOCOLS[split].get("n_folds")
    assert certificate["protocol"] == protocol_id(plan.labels.name, split, None, "all", n_folds)
    assert len(certificate["id"]) == 10 and set(certificate["id"]) <= set("0123456789abcdef")
    assert certificate["utterances"] == len(plan.utterances) == len(set(plan.hashes.values()))
    assert certificate["speaker_dependent"] is dependent
    assert certificate["identical_recordings"]["recordings"] == 0
    assert certificate["near_identical"] == {
        "pairs": 0,
        "pairs_across_parts": {},
        "first_pairs": [],
    }
    for kind in ("tested exactly once", "recording", "near-identical"):
        assert certificate["checks"][kind].startswith("passed")
    for kind in ("speaker", "session"):
        words = "not checked" if dependent else "passed"
        if kind == "session" and not dependent and corpus not in IN_SESSIONS:
            words = "not applicable"
        assert certificate["checks"][kind].startswith(words)
    for fold, split_ in zip(certificate["folds"], plan.splits, strict=True):
        assert fold["fold"] == split_.fold and len(fold["assignment"]) == 64
        for name, part in split_.parts():
            assert fold[name]["utterances"] == len(part) == sum(fold[name]["classes"].values())
            assert fold[name]["speakers"] == sorted({one.speaker for one in part})
            assert len(fold[name]["recordings"]) == 64


def here(utterance: Utterance, old: Path, new: Path) -> Path:
    return new / utterance.path.relative_to(old)


def same_bytes(source: Path, target: Path) -> Path:
    return Path(shutil.copy(source, target))


def flac(source: Path, target: Path) -> Path:
    """Write the source's samples as the target's FLAC, which takes the WAV's place."""
    target.unlink()
    soundfile.write(target.with_suffix(".flac"), soundfile.read(source)[0], RATE)
    return target.with_suffix(".flac")


def stereo(source: Path, target: Path) -> Path:
    samples = soundfile.read(source)[0]
    soundfile.write(target, samples[:, None].repeat(2, axis=1), RATE)
    return target


def near(source: Path, target: Path) -> Path:
    samples = soundfile.read(source, dtype="float32")[0]
    soundfile.write(target, add_noise(0.5 * samples, 30), RATE)
    return target


def plant(plan: Plan, old: Path, new: Path, change: Callable, into: str = "train") -> list[str]:
    """Put a recording of fold 1's test part into another part too; return both ids."""
    first = plan.splits[0]
    source, target = first.test[0], dict(first.parts())[into][-1]
    written = change(here(source, old, new), here(target, old, new))
    if (new / "list.csv").exists():
        rows = [
            (str(written.relative_to(new)), *row[1:]) if row[0].startswith(target.id) else row
            for row in read_table(new)
        ]
        write_table(new, rows)
    return [source.id, target.id]


def together(plan: Plan, ids: list[str]) -> bool:
    """Whether both are in one part in every fold."""
    return all(
        len(set(ids) & {one.id for one in part}) in (0, 2)
        for split in plan.splits
        for _, part in split.parts()
    )


@pytest.mark.parametrize("change", [same_bytes, flac, stereo])
@pytest.mark.parametrize(("corpus", "split"), CASES)
def test_an_identical_recording_in_two_parts_is_refused(
    sound, roots, copy_of, corpus, split, change
):
    root = copy_of(corpus)
    ids = plant(sound(corpus, split), roots[corpus], root, change)
    if split == "random-utterance":
        plan = plan_of(corpus, split, root)
        assert together(plan, ids) and not together(sound(corpus, split), ids)
        assert plan.certificate["identical_recordings"]["utterances"] == 2
        return
    for choice in ("refuse", "count"):
        with pytest.raises(InputError) as error:
            plan_of(corpus, split, root, choice)
        assert "fold 1: recording " in str(error.value)
        assert f"is in train ({ids[1]}) and in test ({ids[0]})" in str(error.value)


@pytest.mark.parametrize(("corpus", "split"), CASES)
def test_a_near_identical_recording_in_two_parts_is_refused(sound, roots, copy_of, corpus, split):
    root = copy_of(corpus)
    ids = plant(sound(corpus, split), roots[corpus], root, near)
    if split == "random-utterance":
        plan = plan_of(corpus, split, root)
        assert together(plan, ids) and not together(sound(corpus, split), ids)
        assert plan.certificate["near_identical"]["pairs"] == 1
        assert plan.certificate["near_identical"]["pairs_across_parts"] == {}
        assert not any("near-identical" in remark for remark in plan_warnings(plan))
        return
    with pytest.raises(InputError) as error:
        plan_of(corpus, split, root)
    for name, part in zip(ids, ["test", "train"], strict=True):
        assert f"{name} ({part})" in str(error.value)
    assert "fold 1: " in str(error.value) and "nearly the same" in str(error.value)
    assert "protocol.near_identical=count" in str(error.value)
    plan = plan_of(corpus, split, root, "count")
    counted = plan.certificate["near_identical"]
    assert counted["pairs"] == 1 and counted["pairs_across_parts"]["1"] == 1
    assert {*counted["first_pairs"][0][:2]} == {*ids} and 0 < counted["first_pairs"][0][2] < 0.2
    assert plan.certificate["checks"]["near-identical"].startswith("counted, not refused")
    assert "fold 1: 1 pairs of near-identical recordings in two parts" in plan_warnings(plan)


@pytest.mark.parametrize("corpus", IN_SESSIONS)
def test_partners_of_a_session_may_share_what_is_nearly_the_same(sound, roots, copy_of, corpus):
    root = copy_of(corpus)
    split = "leave-one-speaker-out"
    ids = plant(sound(corpus, split), roots[corpus], root, near, into="dev")
    plan = plan_of(corpus, split, root)
    checks = plan.certificate["checks"]
    assert checks["near-identical"] == "passed; dev and test may share some"
    assert {*plan.certificate["near_identical"]["first_pairs"][0][:2]} == {*ids}
    plant(sound(corpus, split), roots[corpus], root, same_bytes, into="dev")
    with pytest.raises(InputError, match=r"recording .* is in dev .* and in test"):
        plan_of(corpus, split, root)


def test_a_speaker_of_two_sessions_is_refused(copy_of):
    root = copy_of("manifest")
    rows = read_table(root)
    write_table(root, [(*row[:2], "p0a" if row[2] == "p1a" else row[2], *row[3:]) for row in rows])
    with pytest.raises(InputError) as error:
        plan_of("manifest", "leave-one-session-out", root)
    assert "fold 1: speaker p0a is in dev (p1a/3) and in test (p0a/3)" in str(error.value)
    assert "fold 2: speaker p0a is in train (p0a/3) and in test (p1a/3)" in str(error.value)
    assert "fold 3: speaker p0a is in train (p1a/3) and in dev (p0a/3)" in str(error.value)
    with pytest.raises(InputError, match="must be in one session"):
        plan_of("manifest", "leave-one-speaker-out", root)


def test_a_session_of_two_speaker_groups_is_refused(copy_of):
    root = copy_of("manifest")
    rows = read_table(root)
    write_table(root, [(*row[:3], "s0" if row[2] == "p1a" else row[3], row[4]) for row in rows])
    with pytest.raises(InputError) as error:
        plan_of("manifest", "speaker-k-fold", root)
    assert "fold 1: session s0 is in dev (p1a/3) and in test (p0b/3)" in str(error.value)
    assert plan_of("manifest", "random-utterance", root).certificate["utterances"] == len(rows)


def certify_again(
    plan: Plan, splits: list[Split], copies: list[Copy] | None = None, **more
) -> dict:
    certificate = plan.certificate
    flag = certificate["speaker_dependent"]
    return certify(splits, plan.hashes, certificate["protocol"], flag, copies or [], **more)


def moved(plan: Plan, into: str, planted: Utterance) -> list[Split]:
    first = plan.splits[0]
    parts = {name: part + (planted,) * (name == into) for name, part in first.parts()}
    return [Split(1, **parts), *plan.splits[1:]]


@pytest.mark.parametrize("into", ["train", "dev"])
@pytest.mark.parametrize(("corpus", "split"), CASES)
def test_folds_that_no_split_would_make_are_refused(sound, corpus, split, into):
    """The gate trusts no one: folds from elsewhere are held to the same."""
    plan = sound(corpus, split)
    tested = plan.splits[0].test[0]
    name = re.escape(tested.id)
    with pytest.raises(InputError, match=f"fold 1: recording .* is in {into} .{name}. and in"):
        certify_again(plan, moved(plan, into, tested))
    with pytest.raises(InputError, match=f"utterance {name} is tested 2 times"):
        certify_again(plan, [*plan.splits, replace(plan.splits[0], fold=len(plan.splits) + 1)])
    with pytest.raises(InputError, match=f"utterance {name} is tested 0 times"):
        certify_again(plan, plan.splits[1:])
    if split == "random-utterance":
        return
    other = replace(tested, id="planted", path=dict(plan.splits[0].parts())[into][0].path)
    with pytest.raises(InputError) as error:
        certify_again(plan, moved(plan, into, other))
    assert f"fold 1: speaker {tested.speaker} is in {into} (planted)" in str(error.value)
    if tested.session and not (into == "dev" and split == "leave-one-speaker-out"):
        assert f"fold 1: session {tested.session} is in {into} (planted)" in str(error.value)


@pytest.mark.parametrize("parts", [("train", "dev"), ("train", "test"), ("dev", "test")])
def test_near_copies_are_refused_between_any_two_parts(sound, parts):
    for split in ("leave-one-session-out", "speaker-k-fold", "random-utterance"):
        plan = sound("manifest", split)
        one, other = (dict(plan.splits[0].parts())[name][0] for name in parts)
        pair = Copy(plan.hashes[one.path], plan.hashes[other.path], 0.126)
        with pytest.raises(InputError) as error:
            certify_again(plan, plan.splits, [pair])
        assert (
            f"fold 1: {one.id} ({parts[0]}) and {other.id} ({parts[1]}) are nearly the same "
            "recording, 13 % of the fingerprint bits differ"
        ) in str(error.value)
        counted = certify_again(plan, plan.splits, [pair], refuse_near=False)["near_identical"]
        assert counted["first_pairs"] == [[one.id, other.id, 0.126]]
        backwards = Copy(pair.second, pair.first, pair.error)
        with pytest.raises(InputError, match=f"{other.id} .{parts[1]}. and {one.id} .{parts[0]}. "):
            certify_again(plan, plan.splits, [backwards])


@pytest.mark.parametrize("parts", [("dev", "test"), ("test", "dev")])
def test_partners_pass_whichever_is_named_first(sound, parts):
    plan = sound("iemocap", "leave-one-speaker-out")
    one, other = (dict(plan.splits[0].parts())[name][0] for name in parts)
    pair = Copy(plan.hashes[one.path], plan.hashes[other.path], 0.1)
    assert certify_again(plan, plan.splits, [pair])["near_identical"]["pairs"] == 1


def test_only_the_first_leaks_of_each_kind_are_listed(sound):
    plan = sound("iemocap", "speaker-k-fold")
    first = plan.splits[0]
    pairs = [
        Copy(plan.hashes[one.path], plan.hashes[other.path], 0.1)
        for one, other in zip(first.train, first.test, strict=False)
    ]
    assert len(pairs) == 8
    with pytest.raises(InputError) as error:
        certify_again(plan, [replace(first, dev=first.dev + first.test), *plan.splits[1:]], pairs)
    text = str(error.value)
    assert text.count("is in dev") == 5 + 2 + 1  # recordings, speakers, a session
    assert text.count("are nearly the same") == 5
    assert "... and 3 more of this kind" in text  # 8 recordings in test and dev
    assert "... and 27 more of this kind" in text  # 8 pairs, 2 ways in fold 1, 2 other folds each


def test_all_that_hangs_together_gets_one_name():
    hashes = {Path(name): name for name in "edcbafg"}
    copies = [Copy("e", "d", 0.1), Copy("c", "b", 0.1), Copy("d", "c", 0.1), Copy("f", "g", 0.1)]
    names = {path.name: name for path, name in group_recordings(hashes, copies).items()}
    assert names == dict.fromkeys("bcde", "b") | {"a": "a", "f": "f", "g": "f"}
    assert group_recordings(hashes, copies[::-1]) == group_recordings(hashes, copies)
    assert group_recordings(hashes, []) == hashes
