"""Votes of raters, of IEMOCAP and of manifests, as distributions over classes."""

import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from config.loading import load_config
from corpora.plan import list_utterances, make_plan, plan_warnings
from corpora.readers import read_corpus
from corpora.targets import select_targets, target_set
from corpora.votes import read_votes
from system.errors import InputError
from tests.corpora.test_readers import touch
from tests.support.votes import vote_on_corpus


def shares(utterances, labels):
    return {
        u.id: {c: round(s, 4) for c, s in zip(labels.classes, u.target, strict=True) if s}
        for u in utterances
    }


@pytest.fixture
def voted(tmp_path: Path):
    """Write a manifest of three rows; return what is to be predicted of them."""

    def make(name: str, content: str | None, *overrides: str):
        touch(tmp_path, "0.wav", "1.wav", "2.wav")
        if content is not None:
            (tmp_path / name).write_text(content)
        config = tmp_path / "m.yaml"
        config.write_text(
            f"name: m\ntask: distribution\ncorpus: {{name: manifest, root: {tmp_path}, manifest: "
            f"{tmp_path / name}, labels: all}}\nprotocol: {{split: leave-one-speaker-out}}\n"
            "model: {fusion: gmu}\n"
        )
        loaded = load_config(config, overrides)
        corpus = loaded.corpus
        everyone = read_corpus("manifest", Path(corpus.root), Path(corpus.manifest))
        labels = target_set(loaded, everyone)
        return labels, select_targets(everyone, labels, "all", False)

    return make


EXPECTED = {"0": {"joy": 0.6667, "sad": 0.3333}, "1": {"sad": 1.0}, "2": {"awe": 0.5, "joy": 0.5}}
FORMS = {
    "words.csv": "path,label,speaker,votes\n0.wav,,a,joy;joy;sad\n1.wav,,b,sad\n2.wav,,c,joy+awe\n",
    "objects.csv": "path,label,speaker,distribution\n"
    '0.wav,joy,a,"{""joy"": 2, ""sad"": 1}"\n1.wav,sad,b,"[""sad""]"\n'
    '2.wav,awe,c,"{""joy"": 0.5, ""awe"": 0.5}"\n',
    "columns.tsv": "path\tlabel\tspeaker\tprob_joy\tprob_sad\tprob_awe\n"
    "0.wav\t\ta\t2\t1\t0\n1.wav\t\tb\t0\t5\t\n2.wav\t\tc\t0.5\t0\t0.5\n",
    "lines.jsonl": "\n".join(
        json.dumps({"path": f"{i}.wav", "speaker": who, "label": "x", "votes": votes})
        for i, (who, votes) in enumerate(
            [("a", ["joy", "sad", "joy"]), ("b", {"sad": 3}), ("c", ["awe", "joy"])]
        )
    ),
}


def test_a_table_of_votes_needs_no_column_of_labels(voted):
    content = FORMS["words.csv"].replace("label,", "").replace(",,", ",")
    labels, found = voted("words.csv", content)
    assert shares(found, labels) == EXPECTED


@pytest.mark.parametrize(
    "votes",
    [
        [["joy", "sad", "joy"], ["sad"], ["awe", "joy"]],
        [{"joy": 2, "sad": 1}, {"sad": 3}, {"awe": 1, "joy": 1}],
    ],
)
def test_parquet_holds_votes_as_lists_and_structs(voted, tmp_path, votes):
    rows = {"path": ["0.wav", "1.wav", "2.wav"], "speaker": ["a", "b", "c"], "votes": votes}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "list.parquet")
    labels, found = voted("list.parquet", None)
    assert shares(found, labels) == EXPECTED


def test_a_column_of_shares_keeps_the_case_of_its_class(voted):
    labels, found = voted("columns.tsv", FORMS["columns.tsv"].replace("prob_joy", "Prob-Joy"))
    assert labels.classes == ("Joy", "awe", "sad")
    assert shares(found, labels)["0"] == {"Joy": 0.6667, "sad": 0.3333}


def test_a_label_map_merges_votes_and_leaves_them_out(voted):
    wish = "corpus.label_map={joy: good, awe: good}"
    labels, found = voted("words.csv", FORMS["words.csv"], wish)
    assert labels.name.startswith("manifest2-mapped-") and labels.name.endswith("-distribution")
    assert shares(found, labels) == {
        "0": {"good": 0.6667, "sad": 0.3333},
        "1": {"sad": 1.0},
        "2": {"good": 1.0},
    }
    labels, found = voted("words.csv", FORMS["words.csv"], "corpus.label_map={awe: null}")
    assert shares(found, labels)["2"] == {"joy": 1.0}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_distributions(voted, name):
    labels, found = voted(name, FORMS[name])
    assert labels.classes == ("awe", "joy", "sad")
    assert labels.name == "manifest3-distribution"
    assert shares(found, labels) == EXPECTED
    assert [u.label for u in found] == ["joy", "sad", "awe"]  # most votes; of equal ones the first


def test_only_votes_for_chosen_classes_count(voted):
    labels, found = voted("words.csv", FORMS["words.csv"], "corpus.labels=[joy,sad]")
    assert shares(found, labels)["2"] == {"joy": 1.0}
    labels, found = voted("words.csv", FORMS["words.csv"], "corpus.labels=[joy,awe]")
    assert [u.id for u in found] == ["0", "2"]  # nobody voted for a class of these


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{joy: 2}", "must be labels with ;"),
        ('{"joy": -1}', "must be a number, 0 or more"),
        ('{"joy": true}', "must be a number, 0 or more"),
        ('{"joy": 0}', "must hold a vote at least"),
        ("[1, 2]", "must be labels with ;"),
        ('{"joy": 1, "joy": 2}', "must be labels with ;"),
        (" ; ", "must hold a vote at least"),
    ],
)
def test_votes_that_cannot_be_read_are_refused(text, words):
    with pytest.raises(InputError, match=words):
        read_votes(text)


def test_votes_that_a_row_says_twice_are_refused(voted):
    rows = ["0.wav,joy,a,joy;sad,1", "1.wav,awe,b,sad,", "2.wav,awe,c,joy,"]
    content = "\n".join(["path,label,speaker,votes,prob_joy", *rows, ""])
    with pytest.raises(InputError, match="0: votes are in the column votes and in columns prob_"):
        voted("list.csv", content)
    assert len(voted("list.csv", content, "task=class")[1]) == 3  # where nobody reads them


def test_a_row_without_votes_is_refused_by_its_id(voted):
    with pytest.raises(InputError, match="1 of 3 utterances have no votes: 1"):
        voted("words.csv", FORMS["words.csv"].replace(",,b,sad", ",sad,b,"))


def test_rows_without_a_label_are_refused_for_classes(voted):
    with pytest.raises(InputError, match="3 of 3 utterances have no label"):
        voted("words.csv", FORMS["words.csv"], "task=class")


def test_a_row_with_neither_label_nor_votes_is_refused(voted):
    with pytest.raises(InputError, match="'label' is empty"):
        voted("words.csv", FORMS["words.csv"].replace("b,sad", "b,"), "task=class")


def test_external_raters_of_iemocap_are_counted(tiny, corpus_root, tmp_path):
    root = vote_on_corpus(corpus_root, tmp_path)
    file = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    text = file.read_text()
    head, first, rest = text.partition("Ses01F_impro01_F000\tneu")
    block, blank, others = rest.partition("\n\n")
    lines = ["C-E1:\tNeutral;\t()", "C-E2:\tNeutral state; Frustration;\t(a bit; sad)"]
    lines += ["C-E3:\tExcited;\t()", "C-F1:\tAnger;\t()"]
    ratings = block.split("\n")[0]
    file.write_text("\n".join([head + first + ratings, *lines]) + blank + others)
    config = tiny("task=distribution", f"corpus.root={root}")
    plan = make_plan(config)
    one = next(u for u in plan.utterances if u.id == "Ses01F_impro01_F000")
    assert one.votes == "neu;neu+fru;exc"
    # 1.5 of 2.5 votes for a class of the set; frustration is none of it, the actor's is not read
    assert dict(zip(plan.labels.classes, one.target, strict=True)) == pytest.approx(
        {"neutral": 0.6, "happy": 0.4, "angry": 0, "sad": 0}
    )


def test_votes_that_do_not_count_and_utterances_without_any_are_told(tiny, corpus_root, tmp_path):
    """Half a vote of one utterance for frustration, and all three of another."""
    root = vote_on_corpus(corpus_root, tmp_path)
    file = root / "Session1/dialog/EmoEvaluation/Ses01F_impro01.txt"
    head, one, two, *others = file.read_text().split("\n\n")
    one = re.sub(r"C-E1:\t(\w+);", r"C-E1:\t\1; Frustration;", one)
    two = re.sub(r"(C-E\d:\t)\w+;", r"\1Frustration;", two)
    file.write_text("\n\n".join([head, one, two, *others]))
    plan = make_plan(tiny("task=distribution", f"corpus.root={root}"))
    assert len(plan.utterances) == 39
    assert plan_warnings(plan)[:2] == [
        "3.5 votes do not count, which are for other labels: fru (3.5)",
        "1 utterances are left out, since no vote of them counts",
    ]
    assert plan.certificate["labels"]["votes_left_out"] == {"fru": 3.5}
    assert plan.certificate["labels"]["utterances_without_votes"] == 1


def test_a_label_that_nobody_reads_leaves_no_utterance_out(tmp_path):
    """All three utterances are used, whatever their own label is; 1.5 of 6 votes are not."""
    touch(tmp_path, "0.wav", "1.wav", "2.wav")
    rows = ["0.wav,awe,a,joy;joy;sad", "1.wav,awe,b,sad;awe", "2.wav,awe,c,joy+awe"]
    (tmp_path / "list.csv").write_text("path,label,speaker,votes\n" + "\n".join(rows) + "\n")
    config = tmp_path / "m.yaml"
    config.write_text(
        f"name: m\ntask: distribution\ncorpus: {{name: manifest, root: {tmp_path}, manifest: "
        f"{tmp_path}/list.csv, labels: all, label_map: {{awe: null}}}}\n"
        "protocol: {split: leave-one-speaker-out}\nmodel: {fusion: gmu}\n"
    )
    listed = list_utterances(load_config(config))
    assert len(listed.utterances) == 3
    assert listed.relabelled.words() == [
        "1.5 votes do not count, which are for other labels: awe (1.5)"
    ]


def test_utterances_without_a_majority_are_used_and_the_protocol_says_so(
    tiny, corpus_root, tmp_path
):
    root = vote_on_corpus(corpus_root, tmp_path)
    file = next(root.rglob("EmoEvaluation/Ses01F*.txt"))
    file.write_text(file.read_text().replace("\tneu\t", "\txxx\t"))
    classes = make_plan(tiny(f"corpus.root={root}"))
    votes = make_plan(tiny("task=distribution", f"corpus.root={root}"))
    assert (len(classes.utterances), len(votes.utterances)) == (39, 40)
    assert votes.certificate["protocol"].startswith("iemocap4-exc-distribution/leave-one-session")
    assert votes.certificate["id"] != classes.certificate["id"]


def test_a_vote_for_a_label_that_no_set_knows_is_refused(tiny, corpus_root, tmp_path):
    root = vote_on_corpus(corpus_root, tmp_path)
    file = next(root.rglob("EmoEvaluation/Ses01F*.txt"))
    file.write_text(file.read_text().replace("C-E1:\tNeutral;", "C-E1:\tBoredom;"))
    with pytest.raises(InputError, match="a vote for 'boredom', which the label set"):
        make_plan(tiny("task=distribution", f"corpus.root={root}"))
    make_plan(tiny(f"corpus.root={root}"))  # of classes nobody reads it


def test_a_corpus_without_votes_is_refused(tiny):
    with pytest.raises(InputError, match="40 of 40 utterances have no votes"):
        make_plan(tiny("task=distribution"))


def test_keys_that_need_one_class_are_refused(tiny):
    with pytest.raises(InputError, match="loss.label_smoothing=0.1 needs one class"):
        tiny("task=distribution", "loss.label_smoothing=0.1")
    with pytest.raises(InputError, match="no effect with task=distribution"):
        tiny("task=distribution", "corpus.scale=[1,5]")
