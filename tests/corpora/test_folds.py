"""`protocol.folds`: tables and lists of every form, worked by hand, matched, drawn and stamped."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas
import pytest
import soundfile

from config.loading import load_config
from config.schema import Config
from corpora.dev_draw import draw_dev
from corpora.fold_names import match
from corpora.fold_table import GivenFolds, fit_folds, given_splits
from corpora.partition import find_partition, read_partition, shipped_tables
from corpora.plan import (
    check_listing,
    list_trainable,
    make_plan,
    make_tuning_plan,
    plan_warnings,
)
from corpora.protocol import split_corpus
from corpora.readers import check_corpus_exists
from corpora.splits import Split
from corpora.utterance import Utterance
from system.errors import InputError
from tests.audio.test_fingerprint import RATE, speech
from tests.corpora.test_given import config_of, corpus, speakers
from tests.support.paths import ROOT

TESTED = {"a": 1, "b": 2, "c": 3, "d": 1, "e": 2, "f": 3}  # speaker -> fold that tests them
LABELS = ("joy", "awe")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def rotating(folder: Path) -> Path:
    rows = "".join(f"{who},{fold}\n" for who, fold in TESTED.items())
    return write(folder / "table.csv", f"# made_by: somebody\nspeaker,fold\n{rows}")


def mapping(folder: Path) -> Path:
    return write(folder / "table.json", json.dumps({"made_by": "somebody", "speakers": TESTED}))


def explicit(folder: Path) -> Path:
    rows = [
        {"fold": k, "speaker": who, "split": "test" if TESTED[who] == k else "train"}
        for k in (1, 2, 3)
        for who in TESTED
    ]
    return write(folder / "table.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def parquet(folder: Path) -> Path:
    frame = pandas.DataFrame({"speaker": list(TESTED), "fold": list(TESTED.values())})
    frame.to_parquet(folder / "table.parquet")
    return folder / "table.parquet"


def by_utterance(folder: Path) -> Path:
    rows = "".join(f"sub/{who}{x}.wav;{k}\n" for who, k in TESTED.items() for x in LABELS)
    return write(folder / "table.tsv", f"utterance;fold\n{rows}")


def lists(write_list: Callable[[Path, int, str, list[str]], None]) -> Callable[[Path], Path]:
    """Return a writer of a folder with a subfolder for each fold."""

    def make(folder: Path) -> Path:
        for k in (1, 2, 3):
            for part in ("train", "test"):
                names = [
                    f"{who}{x}"
                    for who in TESTED
                    for x in LABELS
                    if (TESTED[who] == k) == (part == "test")
                ]
                write_list(folder / "lists", k, part, names)
        return folder / "lists"

    return make


def emobox(folder: Path, fold: int, part: str, names: list[str]) -> None:
    rows = [
        {"key": f"mine-{name}", "dataset": "mine", "wav": f"downloads/mine/{name}.wav", "emo": "x"}
        for name in names
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    write(folder / f"fold_{fold}/mine_{part}_fold_{fold}.jsonl", text)
    write(folder / f"fold_{fold}/mine_{part}_fold{fold}.jsonl", "an older list\n")  # is not read


def s3prl(folder: Path, fold: int, part: str, names: list[str]) -> None:
    rows = [{"path": f"wav/{name}.wav", "label": "x", "speaker": "?"} for name in names]
    value = {"labels": {"x": 0}, "meta_data": rows}
    write(folder / f"Session{fold}/{part}_meta_data.json", json.dumps(value))


def speechbrain(folder: Path, fold: int, part: str, names: list[str]) -> None:
    value = {name: {"wav": f"{{data_root}}/{name}.wav", "length": 1.0} for name in names}
    write(folder / f"{fold}/{part}.json", json.dumps(value))


FORMS = {
    "CSV of speakers": rotating,
    "JSON of speakers": mapping,
    "JSONL of folds": explicit,
    "Parquet of speakers": parquet,
    "TSV of utterances": by_utterance,
    "EmoBox": lists(emobox),
    "s3prl": lists(s3prl),
    "SpeechBrain": lists(speechbrain),
}


def load(path: Path | str, dev: str | None = "speakers", overlap: bool = False) -> GivenFolds:
    everyone = corpus()
    return fit_folds(read_partition([find_partition(str(path))]), dev, overlap, everyone, everyone)


def shown(splits: Sequence[Split]) -> list[list[str]]:
    return [[speakers(part) for _, part in split.parts()] for split in splits]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_one_partition_gives_the_same_folds_and_the_same_hash(form, tmp_path):
    given = load(FORMS[form](tmp_path))
    splits = given_splits(given, corpus())
    assert [speakers(split.test) for split in splits] == ["ad", "be", "cf"]
    for split in splits:
        assert len(speakers(split.dev)) == 1 and len(speakers(split.train)) == 3
    first = load(rotating(tmp_path / "other"))
    assert given.digest == first.digest and splits == given_splits(first, corpus())
    made_by = {
        "CSV of speakers": "somebody",
        "JSON of speakers": "somebody",
        "EmoBox": "EmoBox",
        "s3prl": "not stated; in the form of s3prl",
    }
    assert given.describe()["made_by"] == made_by.get(form, given.partition.made_by)


def test_the_hash_is_of_the_content_and_not_of_the_place_or_the_spelling(tmp_path):
    one = load(write(tmp_path / "one.csv", "speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n"))
    same = load(write(tmp_path / "two.csv", "fold;speaker\n1;D\n1;A\n2;b\n2;e\n3;f\n3;c\n"))
    other = load(write(tmp_path / "one.csv", "speaker,fold\na,1\nb,2\nc,3\nd,1\ne,3\nf,2\n"))
    assert one.scheme == same.scheme == f"given-{one.digest}" != other.scheme


def test_a_table_of_splits_is_one_fold_with_its_own_dev(tmp_path):
    text = "speaker,split\na,train\nb,Training\nc,valid\nd,dev\ne,test\nf,excluded\n"
    given = load(write(tmp_path / "t.csv", text), dev=None)
    assert shown(given_splits(given, corpus())) == [["ab", "cd", "e"]]
    assert given.dev_scheme == "dev-given" and given.describe()["excluded"] == 2
    assert [one.speaker for one in corpus() if not given.used(one)] == ["f", "f"]


def test_the_next_fold_is_dev_unless_asked_otherwise(tmp_path):
    given = load(rotating(tmp_path), dev=None)
    assert shown(given_splits(given, corpus())) == [
        ["cf", "be", "ad"],
        ["ad", "cf", "be"],
        ["be", "ad", "cf"],
    ]
    assert given.dev_scheme == "dev-fold"


def test_all_that_does_not_fit_is_in_one_message(tmp_path):
    table = "speaker,fold\na,1\nA,2\nb,1\nc,2\nd,3\nzoe,3\n"
    with pytest.raises(InputError) as error:
        load(write(tmp_path / "t.csv", table))
    lines = str(error.value).splitlines()
    assert lines[0] == "t.csv does not fit the corpus:"
    assert lines[1].strip() == ("1 speakers that the corpus does not have: t.csv, line 7: 'zoe'")
    assert lines[2].strip() == (
        "1 speakers that are named twice: a (t.csv, line 2; t.csv, line 3, as fold 1 and 2)"
    )
    assert lines[3].strip() == (
        "2 speakers of the corpus without a fold or part; name them, or write excluded: e, f"
    )
    assert len(lines) == 4


def test_an_unknown_name_comes_with_the_nearest():
    people = [Utterance(f"{who}1", Path(f"{who}1.wav"), "joy", who) for who in ("anna", "bernd")]
    partition = read_partition([write(Path("t.csv").absolute(), "speaker,fold\nana,1\nbernd,2\n")])
    Path("t.csv").unlink()
    with pytest.raises(InputError, match="'ana' .did you mean anna"):
        match(partition, people, people)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("speaker\na\n", "no column `fold` or `split`"),
        ("speaker,split\na,train\nb,eval\n", "line 3: `split` says 'eval'"),
        ("speaker,split\na,train\nb,\n", "line 3: `split` is empty: fill it in, or write excluded"),
        ("speaker,split\na,train\nb,dev\n", "nobody is in test"),
        ("fold,split\n1,train\n", "line 2: no `speaker`, `utterance` or `path`"),
        ("speaker,fold\na,1\nb,1\n", "needs at least 2 values, got 1"),
        ("speaker,utterance,fold\na,,1\nb,x,2\n", "rows must all name utterances, or all speakers"),
        ("# made by me\nspeaker,fold\na,1\n", "line 1: the head must name made_by, source, note"),
        ("speaker,fold,fold\na,1,2\n", "mean the same, fold"),
        ("", "has no rows"),
    ],
)
def test_a_table_that_gives_no_folds_is_refused(table, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load(write(tmp_path / "t.csv", table))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[1]", "row 1: must be an object, got 1"),
        ("7", "it must hold a list of objects"),
        ('{"speakers": {"a": 1, "a": 2}}', "the key 'a' occurs twice"),
        ('{"speakers": {"a": 1}, "author": "me"}', "made_by"),
        ('{"speakers": ["a"]}', "must map names"),
        ('{"a": 1}', "no speakers, utterances, rows in it, and it must hold"),
        ('{"rows": [{"speaker": "a", "fold": [1]}]}', "row 1: 'fold' must be a word or number"),
    ],
)
def test_json_that_gives_no_folds_is_refused(content, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load(write(tmp_path / "t.json", content))


WITH_A_TYPO = {"a": "train", "b": "train", "c": "dev", "d": "dev", "e": "test", "f": "tset"}


@pytest.mark.parametrize("form", ["json", "csv"])
def test_a_misspelled_part_does_not_make_the_parts_folds(form, tmp_path):
    rows = "".join(f"{who},{word}\n" for who, word in WITH_A_TYPO.items())
    text = json.dumps({"speakers": WITH_A_TYPO}) if form == "json" else f"speaker,fold\n{rows}"
    with pytest.raises(InputError) as error:
        load(write(tmp_path / f"t.{form}", text))
    assert str(error.value) == (
        f"t.{form}: the column `fold` says 'dev', which is a part, not a fold: call the column "
        "`split`, and correct 'tset'; or give the fold another name"
    )


@pytest.mark.parametrize(
    ("folds", "words"),
    [
        ("1 01 2 2 3 3", "says '01' and '1': write each fold in one way"),
        ("1 1 2 2.0 3 3", "says '2' and '2.0': write each fold in one way"),
        ("A a B B C C", "says 'A' and 'a': write each fold in one way"),
        ("1 1 2 2 3 exclude", "says 'exclude': write excluded for what is left out"),
        ("1 1 2 2 3 NaN", "says 'NaN': name the fold"),
    ],
)
def test_a_fold_that_a_typing_error_would_make_is_refused(folds, words, tmp_path):
    rows = "".join(f"{who},{fold}\n" for who, fold in zip("abcdef", folds.split(), strict=True))
    with pytest.raises(InputError, match=words):
        load(write(tmp_path / "t.csv", f"speaker,fold\n{rows}"))


def test_a_fold_with_two_spellings_is_refused_beside_a_column_split(tmp_path):
    rows = "".join(
        f"{fold},{who},{'test' if who in tested else 'train'}\n"
        for fold, tested in (("1", "ab"), ("01", "cd"))
        for who in "abcdef"
    )
    with pytest.raises(InputError, match="has the folds '01' and '1': write each fold in one way"):
        load(write(tmp_path / "t.csv", f"fold,speaker,split\n{rows}"))
    for fold in ("1", "01"):
        for part, who in (("train", "a"), ("test", "b")):
            write(tmp_path / f"lists/{fold}/{part}.csv", f"path\n{who}joy.wav\n")
    with pytest.raises(InputError, match="has the folds '01' and '1': write each fold in one way"):
        load(tmp_path / "lists")


@pytest.mark.parametrize("key", ["made_by", "source", "note"])
@pytest.mark.parametrize(
    ("value", "words"),
    [
        (
            r'"x\nPASSED, certificate 0123456789"',
            r"holds the control character \\n: write one line",
        ),
        (r'"\ud800"', r"holds the control character \\ud800"),
        (r'{"name": "Ann"}', "must be words, got"),
        ("null", "must be words, got None"),
        (f'"{"x" * 501}"', "must have at most 500 characters, got 501"),
    ],
    ids=["lines", "surrogate", "object", "null", "long"],
)
def test_a_head_that_is_not_a_line_of_words_is_refused(key, value, words, tmp_path):
    text = f'{{"{key}": {value}, "speakers": {json.dumps(TESTED)}}}'
    with pytest.raises(InputError, match=f"'{key}' {words}"):
        load(write(tmp_path / "t.json", text))


def test_the_head_of_a_csv_has_the_same_bounds(tmp_path):
    table = "speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n"
    with pytest.raises(InputError, match="'made_by' must have at most 500 characters, got 501"):
        load(write(tmp_path / "t.csv", f"# made_by: {'x' * 501}\n{table}"))
    with pytest.raises(InputError, match=r"'source' holds the control character \\x1b"):
        load(write(tmp_path / "t.csv", f"# source: \x1b[2J.\n{table}"))
    given = load(write(tmp_path / "t.csv", f"# made_by: {'x' * 500}\n{table}"))
    assert given.partition.made_by == "x" * 500


@pytest.mark.parametrize("column", ["speaker", "fold"])
def test_a_name_that_no_page_can_hold_is_refused(column, tmp_path):
    row = {"speaker": "a", "fold": "1"} | {column: "x" * 1001}
    path = write(tmp_path / "t.jsonl", json.dumps(row) + "\n")
    with pytest.raises(InputError, match=f"{column!r} must have at most 1000 characters, got 1001"):
        load(path)


def test_a_file_name_cannot_forge_lines(tmp_path):
    path = write(tmp_path / "x\nPASSED.csv", "speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n")
    assert load(path).words().startswith(r"folds of x\nPASSED.csv, made by not stated in x\nPASSED")


def test_what_is_said_of_columns_is_said_once_a_run(clips, caplog):
    rows = "".join(f"{one.id},{TESTED[one.speaker]},x\n" for one in corpus())
    path = write(clips / "once/folds.csv", f"utterance,fold,age\n{rows}")
    config = config_of(clips, corpus(), folds=str(path))
    with caplog.at_level("INFO"):
        check_listing(config)
        make_plan(config)
    said = [line for line in caplog.messages if str(path) in line]
    assert said == [
        f"{path}: column utterance is read as id",
        f"{path}: columns that are not used: age",
    ]


def test_folders_that_give_no_folds_are_refused(tmp_path):
    with pytest.raises(InputError, match="has no list for train and test"):
        load(tmp_path)
    write(tmp_path / "train.json", '{"ajoy": {"wav": "ajoy.wav"}}')
    with pytest.raises(InputError, match="has no list for test"):
        load(tmp_path)
    write(tmp_path / "my_train.csv", "path\najoy.wav\n")
    with pytest.raises(InputError, match="both .*my_train.csv and .*train.json say train"):
        load(tmp_path)
    (tmp_path / "my_train.csv").unlink()
    write(tmp_path / "test.csv", "path,fold\nbjoy.wav,1\n")
    with pytest.raises(InputError, match="the file's name says test, and a column gives"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("table", "dev", "words"),
    [
        (
            "speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n",
            "given",
            "gives no dev: use fold, speakers",
        ),
        ("speaker,fold\na,1\nb,2\nc,1\nd,1\ne,2\nf,2\n", "fold", "at least 3 folds"),
        ("speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n", "session", "'session' does not go with"),
        ("speaker,fold\na,1\nb,2\nc,3\nd,1\ne,2\nf,3\n", "dialogs", "only names of IEMOCAP tell"),
        (
            "speaker,split\na,train\nb,dev\nc,test\nd,dev\ne,dev\nf,dev\n",
            "random",
            "gives dev itself",
        ),
        (
            "speaker,split\na,train\nb,test\nc,test\nd,test\ne,test\nf,test\n",
            None,
            "one group alone",
        ),
    ],
)
def test_a_dev_rule_that_cannot_be_is_refused(table, dev, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load(write(tmp_path / "t.csv", table), dev)


def iemocap(n: int = 5) -> list[Utterance]:
    """Two sessions of four dialogues, n utterances of each speaker in each dialogue."""
    return [
        Utterance(name, Path(f"{name}.wav"), "joy", f"Ses0{k}_{who}", f"Session{k}", None, who)
        for k in (1, 2)
        for dialog in ("F_impro01", "M_impro02", "F_script01_1", "M_script01_1b")
        for who in "FM"
        for i in range(n)
        for name in [f"Ses0{k}{dialog}_{who}{i:03d}"]
    ]


def test_dialogues_are_drawn_whole_and_from_every_training_session():
    train = iemocap()  # 40 utterances a session: a fifth are 8, one dialogue has 10
    dev = draw_dev("dialogs", train)
    dialogs = {name.rpartition("_")[0] for name in dev}
    assert len(dev) == 20 and len(dialogs) == 2
    assert {name[:5] for name in dialogs} == {"Ses01", "Ses02"}
    assert {name for one in train if (name := one.id).rpartition("_")[0] in dialogs} == dev
    alone = draw_dev("dialogs", [one for one in train if one.session == "Session1"])
    assert alone == {name for name in dev if name.startswith("Ses01")}  # the same in any fold
    assert draw_dev("dialogs", train[::-1]) == dev


def test_speakers_are_drawn_by_gender_and_sessions_whole():
    people = [
        Utterance(f"{sex}{k}_{i}", Path("x.wav"), "joy", f"{sex}{k}", gender=sex)
        for sex, n in (("F", 10), ("M", 5))
        for k in range(n)
        for i in range(3)
    ]
    drawn = {one.speaker for one in people if one.id in draw_dev("speakers", people)}
    assert sorted(name[0] for name in drawn) == ["F", "F", "M"]  # a fifth of each
    sessions = {one.session for one in iemocap() if one.id in draw_dev("speakers", iemocap())}
    assert len(sessions) == 1


def test_utterances_are_drawn_by_class():
    some = [
        Utterance(f"{x}{i}", Path("x.wav"), x, "a")
        for x, n in (("p", 50), ("q", 10))
        for i in range(n)
    ]
    drawn = sorted(name[0] for name in draw_dev("random", some))
    assert drawn == ["p"] * 10 + ["q"] * 2


def test_folds_that_share_a_speaker_are_stamped_only_where_that_is_allowed(tmp_path):
    names = [one.id for one in corpus()]
    parts = ["train", "test", "train", "dev", *["train"] * 4, *["dev"] * 2, *["test"] * 2]
    rows = "".join(f"{n},{p}\n" for n, p in zip(names, parts, strict=True))
    path = write(tmp_path / "t.csv", f"utterance,split\n{rows}")
    allowed = load(path, None, overlap=True)
    assert allowed.speaker_dependent and allowed.shared_dev
    assert allowed.scheme == f"given-{allowed.digest}-SPEAKER-DEPENDENT"
    assert not load(path, None).speaker_dependent  # the gate refuses it: see below
    with pytest.raises(InputError, match="has no effect on .*, which keeps speakers apart"):
        load(rotating(tmp_path), overlap=True)


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("folds")
    for seed, one in enumerate(corpus(), start=7300):
        soundfile.write(root / one.path, speech(seed, 0.3), RATE)
    return root


def planned(clips: Path, table: str, **protocol: object) -> Config:
    path = write(clips / "folds.csv", table)
    return config_of(clips, corpus(), folds=str(path), **protocol)


PARTS = "# made_by: Ann\n# source: a paper\nspeaker,split\na,train\nb,train\nc,dev\nd,dev\ne,test\n"


def test_a_certificate_says_who_made_the_folds_and_holds_the_excluded_out(clips):
    config = planned(clips, f"{PARTS}f,excluded\n")
    plan = make_plan(config)
    facts = plan.certificate["given"]
    assert plan.certificate["protocol"] == f"manifest2/given-{facts['digest']}/dev-given/all"
    assert (facts["made_by"], facts["source"], facts["table"]) == ("Ann", "a paper", "folds.csv")
    assert "made by Ann; dev: as the folds give it" in plan.certificate["checks"]["folds"]
    assert {one.speaker for one in plan.utterances} == set("abcde")
    assert shown(plan.splits) == [["ab", "cd", "e"]]
    tuning = make_tuning_plan(config)
    assert tuning.certificate["protocol"] == plan.certificate["protocol"]
    assert shown(tuning.splits) == [["ab", "cd", ""]]


def test_shared_speakers_pass_the_gate_only_with_the_key_and_the_stamp(clips):
    rows = [f"{one.id},{'test' if one.speaker == 'f' else 'train'}\n" for one in corpus()]
    rows[0], rows[2] = "ajoy,test\n", "bjoy,dev\n"
    table = f"utterance,split\n{''.join(rows)}"
    with pytest.raises(InputError, match="fold 1: speaker a is in train .* and in test"):
        make_plan(planned(clips, table))
    plan = make_plan(planned(clips, table, allow_speaker_overlap=True))
    assert "-SPEAKER-DEPENDENT/dev-given-DEV-SHARES-SPEAKERS/" in plan.certificate["protocol"]
    assert plan_warnings(plan)[0].startswith("SPEAKER-DEPENDENT: the same speakers are in train")
    assert plan.certificate["speaker_dependent"]
    stamp = next(line for line in plan_warnings(plan) if line.startswith("DEV-SHARES-SPEAKERS"))
    assert stamp == "DEV-SHARES-SPEAKERS: dev has speakers or sessions of train"  # so has test


@pytest.mark.parametrize(
    ("tested", "result"),
    [
        ([["c", "d"]], "not applicable: there is one test split"),
        ([["c", "d"], ["e"]], "passed; 6 utterances are tested in no fold"),
        ([["a", "b"], ["c", "d"], ["e", "f"]], "passed"),
    ],
)
def test_the_certificate_says_what_is_never_tested(tested, result, clips):
    rows = "".join(
        f"{k},{who},{'test' if who in some else 'train'}\n"
        for k, some in enumerate(tested, start=1)
        for who in TESTED
    )
    plan = make_plan(planned(clips, f"fold,speaker,split\n{rows}", dev="speakers"))
    assert plan.certificate["checks"]["tested exactly once"] == result


def test_a_dev_that_shares_speakers_with_training_is_stamped_and_test_is_apart(clips):
    table = "speaker,fold\n" + "".join(f"{who},{k}\n" for who, k in TESTED.items())
    plan = make_plan(planned(clips, table, dev="random"))
    assert plan.certificate["protocol"].split("/")[2] == "dev-random-DEV-SHARES-SPEAKERS"
    assert plan_warnings(plan)[1].startswith("folds of folds.csv, made by not stated in folds.csv")
    assert plan_warnings(plan)[0] == (
        "DEV-SHARES-SPEAKERS: dev has speakers or sessions of train; test has not"
    )
    assert plan.certificate["checks"]["speaker"] == "passed; train and dev may share some"
    assert plan.certificate["checks"]["tested exactly once"] == "passed"
    assert not plan.certificate["speaker_dependent"]
    tuning = make_tuning_plan(planned(clips, table, dev="random"))
    assert set(speakers(tuning.splits[0].dev)) <= set(speakers(tuning.splits[0].train))


def test_a_column_beside_folds_is_said_to_be_unused(clips):
    config = planned(clips, f"{PARTS}f,test\n")
    rows = corpus(fold="1 1 2 2 3 3")
    plan = make_plan(config_of(clips, rows, folds=config.protocol.folds))
    assert any("column `fold` is not used: protocol.folds is" in one for one in plan_warnings(plan))


def test_a_manifest_may_give_its_own_folds_and_have_its_dev_drawn(clips):
    rows = corpus(fold="1 2 3 1 2 3")
    plan = make_plan(config_of(clips, rows, folds=str(clips / "list.csv"), dev="speakers"))
    assert [speakers(split.test) for split in plan.splits] == ["ad", "be", "cf"]
    assert plan.certificate["protocol"].split("/")[2] == "dev-speakers"
    assert not any("not used" in line for line in plan_warnings(plan))


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_corpus_columns_are_those_of_a_manifest_that_is_its_own_table(clips, suffix):
    rows = [(str(u.path), u.label, u.speaker, TESTED[u.speaker]) for u in corpus()]
    frame = pandas.DataFrame(rows, columns=["path", "what", "who", "turn"])
    table, other = clips / f"own.{suffix}", clips / f"other.{suffix}"
    for path in (table, other):
        frame.to_csv(path, index=False) if suffix == "csv" else frame.to_parquet(path)
    config = config_of(clips, corpus(), folds=str(table))
    columns = {"label": "what", "speaker": "who", "fold": "turn"}
    named = config.corpus.model_copy(update={"manifest": str(table), "columns": columns})
    config = config.model_copy(update={"corpus": named})
    listed = list_trainable(config)
    splits = split_corpus(config, listed.protocol.given, listed.utterances, {}, ())
    assert [speakers(split.test) for split in splits] == ["ad", "be", "cf"]
    elsewhere = config.protocol.model_copy(update={"folds": str(other)})
    with pytest.raises(InputError, match="other.* has no column `fold` or `split`"):
        list_trainable(config.model_copy(update={"protocol": elsewhere}))


def test_four_sessions_of_iemocap_train_and_a_dialogue_of_each_is_dev(tiny):
    plan = make_plan(
        tiny("protocol.split=given", "protocol.folds=iemocap_sessions5", "protocol.dev=dialogs")
    )
    assert plan.certificate["protocol"].startswith("iemocap4-exc/given-")
    assert plan.certificate["protocol"].endswith("/dev-dialogs-DEV-SHARES-SPEAKERS/all")
    assert len(plan.splits) == 5
    for k, split in enumerate(plan.splits, start=1):
        assert {one.session for one in split.test} == {f"Session{k}"}
        others = {f"Session{n}" for n in range(1, 6)} - {f"Session{k}"}
        assert {one.session for one in split.train} == {one.session for one in split.dev} == others
        # two dialogues of four utterances a session: one is dev
        assert [len(part) for _, part in split.parts()] == [16, 16, 8]


SHIPPED = {  # test speakers, fold by fold, as published
    "ravdess_papers5": "02 05 14 15 16|03 06 07 13 18|10 11 12 19 20|08 17 21 23 24|01 04 09 22",
    "ravdess_emobox6": "01 11 20 21|04 10 12 14|08 09 19 23|03 05 07 24|02 15 16 18|06 13 17 22",
    **dict.fromkeys(
        ("iemocap_emobox5", "iemocap_sessions5"),
        "|".join(f"Ses0{k}_F Ses0{k}_M" for k in range(1, 6)),
    ),
    "savee_emobox4": "JE|KL|DC|JK",
    "emovo_emobox6": "f2|m3|m2|f3|f1|m1",
    "esd_emobox5": "0005 0011 0016 0018|0012 0014 0015 0019|0003 0004 0006 0009|"
    "0007 0008 0013 0020|0001 0002 0010 0017",
    "tess_speakers2": "OAF|YAF",
    "urdu_speakers4": "SF1 SF6 SM1 SM21 SM22 SM24|"
    "SF2 SF3 SF7 SF8 SF11 SM2 SM5 SM17 SM19 SM23 SM26|SF9 SM4 SM7 SM20 SM25|"
    "SF4 SF5 SF10 SM3 SM6 SM18 SM27",
}


@pytest.mark.parametrize("name", shipped_tables())
def test_shipped_tables_are_complete_disjoint_and_signed(name):
    partition = read_partition([shipped_tables()[name]])
    expected = [set(fold.split()) for fold in SHIPPED[name].split("|")]
    people = sorted(set().union(*expected))
    whom = [Utterance(who, Path(f"{who}.wav"), "joy", who) for who in people]
    parts = match(partition, whom, whom)
    tested = [{who for who in people if fold[who] == "test"} for fold in parts]
    assert sorted(who for fold in tested for who in fold) == people
    assert tested == expected
    assert partition.name == name and partition.source and "not stated" not in partition.made_by


@pytest.mark.parametrize("spelling", ["{}", "{:02d}", "Actor_{:02d}", "actor {}", "{}.0"])
def test_spellings_of_an_actor_are_one(spelling, tmp_path):
    people = [Utterance(f"x{n}", Path("x.wav"), "joy", f"{n:02d}") for n in range(1, 25)]
    rows = "".join(f"{spelling.format(n)},{n % 3}\n" for n in range(1, 25))
    partition = read_partition([write(tmp_path / "t.csv", f"speaker,fold\n{rows}")])
    first = match(partition, people, people)[0]
    assert {name for name, part in first.items() if part == "test"} == {
        f"x{n}" for n in range(3, 25, 3)
    }


def test_speakers_whom_only_a_separator_tells_apart_need_their_exact_names(tmp_path):
    people = [Utterance(name, Path("x.wav"), "joy", name) for name in ("a1", "a_1", "b")]
    exact = read_partition([write(tmp_path / "t.csv", "speaker,fold\na1,1\na_1,2\nb,3\n")])
    assert match(exact, people, people)[0] == {"a1": "test", "a_1": "train", "b": "train"}
    vague = read_partition([write(tmp_path / "t.csv", "speaker,fold\nA-1,1\nb,2\n")])
    with pytest.raises(InputError, match="'A-1'"):
        match(vague, people, people)


def test_a_missing_table_is_refused_at_once(tmp_path):
    with pytest.raises(InputError, match="did you mean 'ravdess_papers5'"):
        check_corpus_exists(tmp_path, None, "ravdess_papers")
    check_corpus_exists(tmp_path, None, "ravdess_papers5")
    with pytest.raises(InputError, match="protocol.folds is empty: name a file, a folder or one"):
        check_corpus_exists(tmp_path, None, "")
    with pytest.raises(InputError) as error:
        check_corpus_exists(tmp_path, None, "x" * 5000)
    assert len(str(error.value)) < 1000


RECIPES = {
    "ravdess_small_papers5_gmu": "ravdess_papers5",
    "ravdess_small_emobox6_gmu_contrastive": "ravdess_emobox6",
    "iemocap_finetune_4sessions_gmu": "iemocap_sessions5",
}


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipes_name_a_shipped_table(recipe):
    protocol = load_config(ROOT / f"configs/{recipe}.yaml").protocol
    assert protocol.folds == RECIPES[recipe] in shipped_tables()
    assert protocol.split == "given"


@pytest.mark.parametrize(("name", "n_speakers"), [("emodb", 10), ("cremad", 91)])
def test_recipes_of_corpora_with_shared_folds_test_whole_speakers(name, n_speakers):
    config = load_config(ROOT / f"configs/{name}_finetune_gmu.yaml")
    assert (config.protocol.split, config.protocol.n_folds) == ("speaker-k-fold", 5)
    assert config.features.input_rate == 16_000 and config.features.mel.fmax == 8000
