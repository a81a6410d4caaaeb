"""Corpora as they lie on disk: other folders, cases, parts, copies and links, for each reader."""

import shutil
from pathlib import Path

import pytest

from corpora.audio_files import SUFFIXES, unread_audio
from corpora.readers import read_corpus
from corpora.utterance import Utterance
from system.errors import InputError
from tests.corpora.test_readers import RAVDESS, add_dialog, touch

SPEAKERS = {  # corpus: two speakers
    "ravdess": ("01", "02"),
    "esd": ("0011", "0012"),
    "emodb": ("03", "08"),
    "cremad": ("1001", "1002"),
    "savee": ("DC", "JE"),
    "tess": ("OAF", "YAF"),
    "emovo": ("f1", "m1"),
    "nemo": ("EB0", "KS0"),
    "aesdd": ("1", "2"),
    "urdu": ("SF1", "SM1"),
}
NAMES = {  # corpus: published path of a speaker's file
    "ravdess": "Actor_{0}/03-01-05-01-01-01-{0}.wav",
    "esd": "{0}/Angry/{0}_000351.wav",
    "emodb": "wav/{0}a01Wa.wav",
    "cremad": "AudioWAV/{0}_DFA_ANG_XX.wav",
    "savee": "AudioData/{0}/a01.wav",
    "tess": "{0}_angry/{0}_back_angry.wav",
    "emovo": "{0}/rab-{0}-b1.wav",
    "nemo": "samples/{0}_anger_1.wav",
    "aesdd": "anger/a01 ({0}).wav",
    "urdu": "Angry/{0}_F1_A01.wav",
}
FLAT = [corpus for corpus in NAMES if corpus not in ("esd", "savee")]  # names alone tell all
each = pytest.mark.parametrize("corpus", SPEAKERS)


def name(corpus: str, speaker: int) -> str:
    return NAMES[corpus].format(SPEAKERS[corpus][speaker])


def put(corpus: str, root: Path) -> Path:
    return touch(root, name(corpus, 0), name(corpus, 1))


def read(corpus: str, root: Path) -> list[Utterance]:
    found = read_corpus(corpus, root)
    assert {one.label for one in found} <= {"angry", "anger", "Angry", "ANG"}
    return found


def speakers(corpus: str, root: Path) -> tuple[str, ...]:
    return tuple(one.speaker for one in read(corpus, root))


@each
@pytest.mark.parametrize("inside", ["", "data/", "a/b/c/"])
def test_however_deep_it_lies(tmp_path, corpus, inside):
    put(corpus, tmp_path / inside)
    assert speakers(corpus, tmp_path) == SPEAKERS[corpus]


@each
def test_names_in_another_case(tmp_path, corpus):
    for speaker in (0, 1):
        published = Path(name(corpus, speaker))
        touch(tmp_path, f"{str(published.parent).lower()}/{published.stem}.WAV")
    assert speakers(corpus, tmp_path) == SPEAKERS[corpus]


@each
def test_a_folder_in_a_folder_of_its_name(tmp_path, corpus):
    published = Path(name(corpus, 0))
    touch(tmp_path, str(published.parent / published.parent.name / published.name))
    touch(tmp_path, name(corpus, 1))
    assert speakers(corpus, tmp_path) == SPEAKERS[corpus]


@pytest.mark.parametrize("corpus", FLAT)
def test_all_files_flat_in_one_folder(tmp_path, corpus):
    touch(tmp_path, *(Path(name(corpus, speaker)).name for speaker in (0, 1)))
    assert speakers(corpus, tmp_path) == SPEAKERS[corpus]


def test_flat_files_of_savee_name_the_speaker(tmp_path):
    touch(tmp_path, "ALL/DC_a01.wav", "ALL/JE_a01.WAV")  # as copies on Kaggle do
    assert speakers("savee", tmp_path) == ("DC", "JE")
    touch(tmp_path, "ALL/a02.wav")
    with pytest.raises(InputError, match="1 of 3 audio files .* not named as in savee: ALL/a02"):
        read_corpus("savee", tmp_path)


def test_flat_files_of_esd_have_no_label(tmp_path):
    touch(tmp_path, "0011_000351.wav", "0012/0012_000351.wav", "0013/angry/0013_000351.wav")
    with pytest.raises(InputError, match="2 of 3 files of esd lie in no folder of an emotion"):
        read_corpus("esd", tmp_path)


@each
def test_parts_in_two_folders_are_one_corpus(tmp_path, corpus):
    touch(tmp_path / "first", name(corpus, 0))
    touch(tmp_path / "second half", name(corpus, 1))
    assert speakers(corpus, tmp_path) == SPEAKERS[corpus]


@each
def test_a_copy_inside_is_not_read_and_told(tmp_path, corpus):
    put(corpus, put(corpus, tmp_path) / "again")
    found = read(corpus, tmp_path)
    assert [one.speaker for one in found] == [*SPEAKERS[corpus]]
    assert not any("again" in str(one.path) for one in found)
    unread = unread_audio(tmp_path, [one.path for one in found])
    assert unread.files == tuple(f"again/{name(corpus, speaker)}" for speaker in (0, 1))


@each
def test_copies_beside_each_other_are_not_chosen_between(tmp_path, corpus):
    put(corpus, tmp_path / "one")
    touch(tmp_path / "two", name(corpus, 1))
    said = (
        f"holds {corpus} more than once: .*one and .*two have 1 names in common .2 and 1 in all.. "
        "Set corpus.root to the folder to read"
    )
    with pytest.raises(InputError, match=said):
        read_corpus(corpus, tmp_path)


@each
def test_a_linked_folder_is_read_and_cycles_end(tmp_path, corpus):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    touch(root, name(corpus, 0))
    folder = Path(name(corpus, 1)).parent
    touch(elsewhere, Path(name(corpus, 1)).name)
    linked = root / "second" / folder
    linked.parent.mkdir(parents=True)
    linked.symlink_to(elsewhere)
    (elsewhere / "up").symlink_to(root)
    (root / "itself").symlink_to(".")
    (root / "loop").symlink_to("loop")
    found = read(corpus, root)
    assert [one.speaker for one in found] == [*SPEAKERS[corpus]]
    assert found[1].path.parent == linked
    assert unread_audio(root, [one.path for one in found]).files == ()


@each
def test_the_same_folder_under_a_second_name_is_no_copy(tmp_path, corpus):
    put(corpus, tmp_path / "release")
    (tmp_path / "a link").symlink_to("release")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/favourite.wav").symlink_to(tmp_path / "release" / name(corpus, 0))
    found = read(corpus, tmp_path)
    assert all(one.path.is_relative_to(tmp_path / "release") for one in found)
    assert unread_audio(tmp_path, [one.path for one in found]).files == ()


@each
def test_audio_that_was_not_read_is_counted_and_named(tmp_path, corpus):
    put(corpus, tmp_path)
    touch(tmp_path, f"{name(corpus, 0)[:-4]}.mp3", "notes/take1.wav", "notes/take2.M4A")
    touch(tmp_path, "notes/._take1.wav", ".trash/a.wav", "notes/a.txt", "AudioMP3/x.mp3")
    found = read(corpus, tmp_path)
    unread = unread_audio(tmp_path, [one.path for one in found])
    compressed = f"{name(corpus, 0)[:-4]}.mp3"
    assert sorted(unread.files) == sorted(
        [compressed, "AudioMP3/x.mp3", "notes/take1.wav", "notes/take2.M4A"]
    )
    (line,) = unread.words()
    assert line.startswith("4 audio files below corpus.root were not read: notes/ (2), ")
    assert compressed in line and "notes/take1.wav" in line


@each
def test_files_of_another_format_alone_are_said(tmp_path, corpus):
    touch(tmp_path, f"{name(corpus, 0)[:-4]}.mp3")
    with pytest.raises(InputError, match=r"\.mp3 are named so, but only WAV and FLAC .* convert"):
        read_corpus(corpus, tmp_path)


@each
def test_a_closed_folder_elsewhere_is_told(tmp_path, corpus, monkeypatch):
    put(corpus, tmp_path)
    closed = tmp_path / "lost+found"
    closed.mkdir()
    _close(monkeypatch, closed)
    found = read(corpus, tmp_path)
    (line,) = unread_audio(tmp_path, [one.path for one in found]).words()
    assert line == "1 folders below corpus.root cannot be listed: lost+found"


def _close(monkeypatch: pytest.MonkeyPatch, closed: Path) -> None:
    """Refuse to list a folder, as for users without its permission."""
    import corpora.audio_files as module

    scandir = module.os.scandir

    def refusing(folder: Path):
        if Path(folder) == closed:
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(module.os, "scandir", refusing)


def test_ravdess_songs_and_the_sound_of_videos_are_told(tmp_path):
    touch(tmp_path, "Actor_01/03-01-05-01-01-01-01.wav")
    touch(tmp_path, "Actor_02/01-01-05-01-01-01-02.wav", "Actor_02/03-02-05-01-01-01-02.wav")
    found = read("ravdess", tmp_path)
    unread = unread_audio(tmp_path, [one.path for one in found])
    assert [one.speaker for one in found] == ["01"] and len(unread.files) == 2
    assert unread.words()[0].startswith(
        "2 audio files below corpus.root were not read: Actor_02/ (2)"
    )


def test_an_esd_part_folder_that_is_a_link_is_read(tmp_path):
    touch(tmp_path / "esd", "0011/Angry/train/0011_000351.wav", "0011/Sad/test/0011_001051.wav")
    touch(tmp_path / "store", "0012_000351.wav")
    (tmp_path / "esd/0012/Angry").mkdir(parents=True)
    (tmp_path / "esd/0012/Angry/train").symlink_to(tmp_path / "store")
    found = read_corpus("esd", tmp_path / "esd")
    assert [(one.speaker, one.label) for one in found] == [
        ("0011", "Angry"),
        ("0011", "Sad"),
        ("0012", "Angry"),
    ]


def test_crema_d_finds_its_table_where_it_lies(tmp_path):
    touch(tmp_path, "CREMA-D/sound/1001_DFA_ANG_XX.wav")
    (tmp_path / "CREMA-D/VideoDemographics.csv").write_text("ActorID,Sex\n1001,Male\n")
    (found,) = read("cremad", tmp_path)
    assert found.gender == "M"


def iemocap(root: Path, *sessions: int) -> Path:
    for k in sessions:
        add_dialog(root, f"Ses0{k}F_impro01", {"F000": "neu", "M000": "sad"})
    return root


WAV = "Session1/sentences/wav/Ses01F_impro01/Ses01F_impro01_F000.wav"


def ids(found: list[Utterance]) -> list[str]:
    return [one.id for one in found]


def test_iemocap_in_two_folders_is_one_corpus(tmp_path):
    iemocap(tmp_path / "first", 1, 2)
    iemocap(tmp_path / "second", 3)
    found = read_corpus("iemocap", tmp_path)
    assert {one.session for one in found} == {"Session1", "Session2", "Session3"}
    assert len(found) == 6 and all(one.path.is_file() for one in found)


def test_iemocap_beside_a_copy_is_refused_and_one_inside_is_told(tmp_path):
    iemocap(tmp_path / "one", 1, 2)
    iemocap(tmp_path / "one/old", 1)
    found = read_corpus("iemocap", tmp_path)
    assert len(found) == 4 and not any("old" in one.path.parts for one in found)
    assert len(unread_audio(tmp_path, [one.path for one in found]).files) == 2
    iemocap(tmp_path / "two", 2)
    with pytest.raises(InputError, match="iemocap more than once: .*one and .*two have 1 names"):
        read_corpus("iemocap", tmp_path)


@pytest.mark.parametrize("place", ["Session1/sentences/wav/{}.WAV", "flat/{}.wav", "{}.flac"])
def test_iemocap_audio_in_one_other_place_is_found(tmp_path, place):
    iemocap(tmp_path, 1)
    moved = tmp_path / place.format("Ses01F_impro01_F000")
    moved.parent.mkdir(exist_ok=True)
    (tmp_path / WAV).rename(moved)
    found = read_corpus("iemocap", tmp_path)
    assert found[0].path == moved and found[1].path.is_file()
    (tmp_path / WAV).touch()
    assert read_corpus("iemocap", tmp_path)[0].path == tmp_path / WAV


def test_iemocap_audio_in_two_other_places_is_not_chosen_between(tmp_path):
    iemocap(tmp_path, 1)
    for folder in ("a", "b"):
        touch(tmp_path, f"{folder}/Ses01F_impro01_F000.wav")
    (tmp_path / WAV).unlink()
    with pytest.raises(InputError, match="Ses01F_impro01_F000 is in 2 places, none of them publ"):
        read_corpus("iemocap", tmp_path)


def test_iemocap_without_audio_says_what_is_there(tmp_path):
    iemocap(tmp_path, 1)
    for path in tmp_path.rglob("*.wav"):
        path.rename(path.with_suffix(".mp3"))
    with pytest.raises(InputError, match="none of 2 labelled .*other audio: .*F000.mp3") as error:
        read_corpus("iemocap", tmp_path)
    assert "npack" not in str(error.value)


def test_iemocap_sessions_in_lower_case(tmp_path):
    (iemocap(tmp_path, 1) / "Session1").rename(tmp_path / "session1")
    assert all(one.path.is_file() for one in read_corpus("iemocap", tmp_path))


@pytest.mark.parametrize("copy", ["Ses01F_impro01 copy.txt", "Ses01F_impro01 (1).txt"])
def test_a_copied_label_file_is_named_and_no_audio(tmp_path, copy):
    labels = add_dialog(tmp_path, "Ses01F_impro01", {"F000": "neu", "M000": "sad"})
    shutil.copy(labels, labels.with_name(copy))
    with pytest.raises(InputError) as error:
        read_corpus("iemocap", tmp_path)
    said = str(error.value)
    assert said.startswith("iemocap: 2 ids occur more than once: Ses01F_impro01_F000")
    assert f"so {copy} is a copy: move it out of the folder" in said
    assert said.endswith("The audio files stay as they are") and ".wav" not in said


def test_a_label_that_is_twice_in_one_file(tmp_path):
    labels = add_dialog(tmp_path, "Ses01F_impro01", {"F000": "neu"})
    labels.write_bytes(2 * labels.read_bytes())
    with pytest.raises(InputError, match="1 ids occur more than once.*keep one line for each"):
        read_corpus("iemocap", tmp_path)


def test_too_many_names_end_the_search(tmp_path, monkeypatch):
    touch(tmp_path, *(f"{n}.wav" for n in range(20)))
    monkeypatch.setattr("corpora.audio_files.list_tree.__defaults__", (10, SUFFIXES))
    with pytest.raises(InputError, match="holds more than .* files: set it to the folder of the"):
        read_corpus("emodb", tmp_path)


@pytest.mark.skipif(not RAVDESS.is_dir(), reason=f"no RAVDESS in {RAVDESS}; set MAXMVIT_RAVDESS")
def test_real_ravdess_in_two_folders_with_a_copy_inside(tmp_path):
    for actor in range(1, 25):
        part = tmp_path / ("Actors_01-12" if actor < 13 else "Actors_13-24")
        part.mkdir(exist_ok=True)
        (part / f"actor_{actor:02d}").symlink_to(RAVDESS / f"Actor_{actor:02d}")
    found = read_corpus("ravdess", tmp_path)
    assert len(found) == 1440 and len({one.speaker for one in found}) == 24
    assert unread_audio(tmp_path, [one.path for one in found]).words() == []
