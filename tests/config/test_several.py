"""A list under `corpus:`: how it is read, how the command line reaches it, what is refused."""

from pathlib import Path

import pytest

from config.effects import whole_key
from config.loading import dump_config, flatten, load_config, load_stored_config
from config.several import each_corpus, roles, roots, trained_on
from corpora.readers import check_corpora_exist
from system.errors import InputError
from tests.support.several import iemocap, own, ravdess, write_config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    corpora = [ravdess("R"), iemocap("I", role="test"), own("F", role="test")]
    return write_config(tmp_path, corpora)


def test_a_list_is_one_section_of_corpora_in_their_order(file):
    config = load_config(file)
    assert config.corpus.name == "several"
    assert roles(config) == {"ravdess": "train", "iemocap": "test", "folder": "test"}
    alone = each_corpus(config)
    assert list(alone) == ["ravdess", "iemocap", "folder"] and roots(config) == "R, I, F"
    assert alone["folder"].corpus.label_map == {"joy": "happy"}
    assert alone["folder"].corpus.absolute_paths is False  # the usual value, as of one corpus
    assert alone["ravdess"].corpus.expect_published_counts is False
    assert trained_on(config) == "ravdess"


def test_bad_audio_is_skipped_where_every_corpus_says_so(file, tmp_path):
    keys = ("ravdess", "iemocap", "folder")
    config = load_config(file, [f"corpus.{key}.on_bad_audio=skip" for key in keys])
    assert config.corpus.on_bad_audio == "skip"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_stored_config(tmp_path / "config.yaml") == config


def test_one_corpus_stays_what_it_was(recipe):
    config = load_config(recipe)
    assert config.corpus.corpora is None
    assert each_corpus(config) == {"": config} and trained_on(config) == "iemocap"


def test_what_a_run_writes_is_read_back_equal(file, tmp_path):
    config = load_config(file)
    (tmp_path / "config.yaml").write_text(dump_config(config))
    stored = load_stored_config(tmp_path / "config.yaml")
    assert stored == config and list(roles(stored)) == list(roles(config))


def test_the_command_line_reaches_a_corpus_by_its_key(file):
    wishes = ["corpus.ravdess.root=/data", "corpus.folder.layout={speaker}/*/{label}.wav"]
    found = each_corpus(load_config(file, [*wishes, "corpus.corpora.iemocap.subset=scripted"]))
    assert found["ravdess"].corpus.root == "/data"
    assert found["folder"].corpus.layout == "{speaker}/*/{label}.wav"
    assert found["iemocap"].corpus.subset == "scripted"


def test_a_manifest_of_a_list_is_reached_by_its_key(tmp_path):
    """`corpus.manifest` is a key of one corpus, too."""
    table = {"name": "manifest", "manifest": "list.csv", "root": "M", "labels": "all"}
    file = write_config(tmp_path, [table, iemocap("I", role="test")])
    found = each_corpus(load_config(file, ["corpus.manifest.root=/m", "corpus.iemocap.root=/i"]))
    assert found["manifest"].corpus.root == "/m" and found["iemocap"].corpus.root == "/i"
    with pytest.raises(InputError, match="corpus.manifest .*has no effect with corpus.name=sev"):
        load_config(file, ["corpus.manifest=other.csv"])


def test_a_child_file_reaches_a_corpus_and_a_list_takes_the_place_of_any(file, tmp_path):
    child = tmp_path / "child.yaml"
    child.write_text("base: several.yaml\ncorpus:\n  ravdess: {root: mine}\n")
    assert roots(load_config(child)) == "mine, I, F"
    child.write_text(
        "base: several.yaml\ncorpus:\n  - {name: esd, root: A, labels: esd5}\n"
        "  - {name: esd, root: B, labels: esd5, role: test}\n"
    )
    config = load_config(child, ["corpus.esd-2.root=C"])
    assert roles(config) == {"esd": "train", "esd-2": "test"} and roots(config) == "A, C"


def test_keys_of_a_corpus_count_as_those_of_one_alone(file):
    leaves = flatten(load_config(file).model_dump())
    assert leaves["corpus.corpora.folder.label_map"] == {"joy": "happy"}  # one value
    assert whole_key("corpus.corpora.ravdess.root") == "corpus.root"
    assert whole_key("corpus.ravdess.root") == "corpus.root"
    for key in ("corpus.root", "corpus.label_map.joy", "corpus.columns.path", "run.root"):
        assert whole_key(key) == key


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("corpus.ravdes.root=x", "no corpus is called so; did you mean 'ravdess'"),
        ("corpus.0.root=x", "as in corpus.ravdess.root=DIR"),
        ("corpus.root=x", "set corpus.ravdess.root or corpus.iemocap.root or corpus.folder.root"),
        ("corpus.labels=all", "corpus.labels=all has no effect with several corpora"),
        ("corpus.on_bad_audio=skip", "corpus.on_bad_audio=skip has no effect"),
        ("corpus.folder.on_bad_audio=skip", "must be the same for all corpora"),
        ("corpus.ravdess.labls=x", "corpus.ravdess.labls.*did you mean 'labels'"),
        ("corpus.ravdess.role=dev", "corpus.ravdess.role.*'train' or 'test'"),
        ("corpus.ravdess.role=test", "some to train on"),
        ("corpus.iemocap.label_map={neu: sad}", "iemocap: corpus.label_map .in the command line"),
        ("corpus.iemocap.manifest=a.csv", "iemocap: corpus.manifest"),
        ("corpus=[]", "a list of corpora needs some to train on"),
        ("corpus=[ravdess]", "must be a section with a name.*got 'ravdess'"),
        ("corpus.corpora=null", "belong together"),
        ("corpus={labels: all, root: x}", "corpus.root=x has no.*corpus.labels=all has no effect"),
        ("protocol.split=speaker-k-fold", "divides one corpus"),
        ("protocol.text_groups=2", "protocol.text_groups has no effect"),
        ("task=dimensions", "task=dimensions needs ratings, which ravdess does not have"),
    ],
)
def test_what_a_list_refuses_in_one_message(file, override, said):
    with pytest.raises(InputError, match=f"(?s){said}"):
        load_config(file, [override])


def test_cross_corpus_needs_a_list(recipe):
    with pytest.raises(InputError, match="write a list of corpora under `corpus:`"):
        load_config(recipe, ["protocol.split=cross-corpus"])


def test_a_root_that_is_missing_is_named_with_its_corpus(file, tmp_path):
    (tmp_path / "R").mkdir()
    config = load_config(file, [f"corpus.ravdess.root={tmp_path / 'R'}"])
    with pytest.raises(InputError, match="iemocap: corpus.root: there is no folder I"):
        check_corpora_exist(config)
