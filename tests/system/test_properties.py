"""Laws of configs, readers and scores, on drawn inputs."""

import csv
import io
import itertools
import json
import shutil
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn import metrics as sklearn

from config.effects import BRANCH_SCALES, ONLY_WITH, overlap
from config.loading import dump_config, flatten, load_config
from config.messages import config_keys
from config.schema import Config
from corpora.readers import read_corpus
from evaluation.metrics import SCORES, confusion_matrix, scores
from evaluation.paired_tests import fixed_weights_test
from evaluation.significance import mcnemar, speaker_interval
from system.errors import InputError
from system.text import control_character, printable

pytestmark = pytest.mark.promise("properties")
drawn = settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])

SMALL = {
    "name": "a",
    "corpus": {"name": "iemocap", "root": "c", "labels": "iemocap4"},
    "protocol": {"split": "speaker-k-fold"},
    "model": {"fusion": "gmu_contrastive"},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("properties")
    (folder / "small.yaml").write_text(yaml.safe_dump(SMALL))
    yield folder
    shutil.rmtree(folder)


# Configs


def leaf_schemas() -> dict[str, dict[str, Any]]:
    """Return {dotted key: its JSON schema}, from what editors get."""
    schema = Config.model_json_schema()
    found = {}

    def walk(part: dict[str, Any], at: str) -> None:
        for name, one in part["properties"].items():
            if "$ref" in one:
                walk(schema["$defs"][one["$ref"].rpartition("/")[2]], f"{at}{name}.")
            else:
                forms = one.get("oneOf", [one])  # a number, or a section in its place
                (found[f"{at}{name}"],) = [form for form in forms if "$ref" not in form]
                sections = [form for form in forms if "$ref" in form]
                for section in sections:
                    walk({"properties": {name: section}}, at)

    walk(schema, "")
    return found


LEAVES = leaf_schemas()
TEXT = st.text(
    st.characters(
        exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="\ufffd\ufffe\uffff"
    ),
    max_size=12,
)
WORDS = TEXT.map(str.strip).filter(bool)


def values_of(one: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Draw values that a JSON schema allows."""
    if "anyOf" in one:
        return st.one_of([values_of(part) for part in one["anyOf"]])
    if "enum" in one:
        return st.sampled_from(one["enum"])
    if "$ref" in one:
        section = Config.model_json_schema()["$defs"][one["$ref"].rpartition("/")[2]]
        keys = {name: values_of(key) for name, key in section["properties"].items()}
        needed = {name: keys.pop(name) for name in section["required"]}
        return st.fixed_dictionaries(needed, optional=keys)
    low = one.get("minimum", one.get("exclusiveMinimum"))
    high = one.get("maximum", one.get("exclusiveMaximum"))
    kind = one["type"]
    if kind == "integer":
        return st.integers(low, high if high is not None else 10**6)
    if kind == "number":
        open_ends = {"exclude_min": "exclusiveMinimum" in one}
        open_ends["exclude_max"] = "exclusiveMaximum" in one
        return st.floats(low, high if high is not None else 1e6, **open_ends, allow_nan=False)
    if kind == "array":
        sizes = {"min_size": one.get("minItems", 0), "max_size": one.get("maxItems", 3)}
        return st.lists(values_of(one["items"]), **sizes)
    if kind == "string":
        return st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True) | TEXT
    if kind == "object":
        names = values_of(one.get("propertyNames", {"type": "string"}))
        return st.dictionaries(names, values_of(one["additionalProperties"]), max_size=2)
    return {"boolean": st.booleans(), "null": st.none()}[kind]


def override(key: str, value: Any) -> str:
    return f"{key}={yaml.safe_dump(value, default_flow_style=True, allow_unicode=True)}"


ALLOWED = st.sampled_from(sorted(LEAVES)).flatmap(
    lambda key: st.tuples(st.just(key), values_of(LEAVES[key]))
)
JUNK = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXT, inner, max_size=2),
    max_leaves=4,
)
ANY = st.tuples(st.sampled_from(sorted(LEAVES)), JUNK)


def test_every_leaf_of_the_schema_is_drawn():
    assert set(LEAVES) == set(config_keys())
    assert set(LEAVES) > set(flatten(Config.model_validate(SMALL).model_dump()))


@drawn
@given(st.lists(ALLOWED, min_size=1, max_size=5))
def test_a_dumped_config_is_read_back(place, count, changes):
    try:
        config = load_config(place / "small.yaml", [override(*change) for change in changes])
    except InputError:
        assume(False)
    (place / "dumped.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(place / "dumped.yaml") == config
    count("drawn cases")


def leaves_of(config: Config) -> dict[str, Any]:
    """Return dotted keys to values; the rate of each backbone, in whichever form it is given."""
    found = config.optim.branch_lr_scales()
    scales = {f"{BRANCH_SCALES}.{name}": found[name] for name in ("cqt", "mel")}
    return {**flatten(config.model_dump()), **scales, BRANCH_SCALES: tuple(scales.values())}


@settings(drawn, max_examples=200)
@given(ALLOWED | ANY)
def test_an_override_changes_its_key_or_is_refused_by_it(place, count, change):
    key, value = change
    small = place / "small.yaml"
    before = leaves_of(load_config(small))
    depend = {name for name, only in ONLY_WITH.items() if only.controller == key}
    if key == "model.frozen":
        depend = {"optim.optimizer.cqt", "optim.optimizer.mel"}
    count("drawn cases")
    try:
        after = leaves_of(load_config(small, [override(key, value)]))
    except InputError as error:
        more = {"augment.gain_db": "train.images", "corpus.corpora": "corpus."}.get(key, key)
        assert any(name in str(error) for name in {key, more, *depend})
        return
    changed = {name for name in before if before[name] != after[name]}
    if overlap(key, BRANCH_SCALES):
        assert all(overlap(name, BRANCH_SCALES) for name in changed)
        assert key != BRANCH_SCALES or after[key] == (value, value) or isinstance(value, dict)
        usual = None if key == f"{BRANCH_SCALES}.speech" else 1.0  # SMALL reads no speech
        assert key == BRANCH_SCALES or after[key] == (usual if value is None else value)
        return
    assert changed <= {key, *depend}
    only = ONLY_WITH.get(key)
    reads_it = ".speech" not in key  # SMALL joins the images
    applies = only is not None and before[only.controller] in only.values and reads_it
    assert after[key] == (only.default if applies and value is None else value)
    for name in changed - {key}:
        fits = value in ONLY_WITH[name].values
        assert after[name] == (ONLY_WITH[name].default if fits else None)


@drawn
@given(st.lists(ALLOWED, min_size=2, max_size=4, unique_by=lambda change: change[0]), st.data())
def test_the_order_of_overrides_of_different_keys_does_not_matter(place, count, changes, data):
    pairs = itertools.combinations([key for key, _ in changes], 2)
    assume(not any(overlap(*pair) for pair in pairs))
    outcomes = []
    for some in (changes, data.draw(st.permutations(changes))):
        try:
            outcomes.append(load_config(place / "small.yaml", [override(*one) for one in some]))
        except InputError:
            outcomes.append(None)
    assert outcomes[0] == outcomes[1]
    count("drawn cases")


# Readers


N_FILES = 6
GENDERS = {"": None, "f": "F", "Female": "F", "M": "M", "MALE": "M"}
NAMES = st.text("""ABC xyz_é生%;,'"|<&""", max_size=12).map(lambda name: " ".join(name.split()))
UNKNOWN = {"nan", "-nan", "nat", "null", "none", "na", "<na>", "n/a", "#n/a"}  # read as no text
SPOKEN = st.text(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp", "Cf", "Mn", "Lo", "Cn")), max_size=12
).filter(lambda text: text.strip().casefold() not in UNKNOWN)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "label": NAMES.filter(bool),
            "speaker": NAMES.filter(bool),
            "session": NAMES,
            "text": SPOKEN,
            "gender": st.sampled_from(sorted(GENDERS)),
            "id": NAMES.filter(bool),
        }
    ),
    min_size=1,
    max_size=N_FILES,
    unique_by=lambda row: row["id"],
)


@pytest.fixture(scope="module")
def recordings(place: Path) -> Path:
    root = place / "root"
    root.mkdir()
    for n in range(N_FILES):
        (root / f"{n}.wav").touch()
    return root


@drawn
@given(ROWS, st.sampled_from(["csv", "jsonl", "emobox"]), st.randoms())
def test_a_manifest_is_read_back_field_by_field(recordings, count, rows, kind, chance):
    for n, row in enumerate(rows):
        row["path"] = f"{n}.wav"
    fields = list(rows[0])
    chance.shuffle(fields)
    theirs = {"path": "wav", "label": "emo", "speaker": "spk", "id": "key"}
    names = theirs if kind == "emobox" else {}
    table = recordings / ("list.csv" if kind == "csv" else "list.jsonl")
    if kind == "csv":
        text = io.StringIO()
        writer = csv.writer(text, quoting=chance.choice([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
        writer.writerows([fields, *([row[field] for field in fields] for row in rows)])
        content = text.getvalue()
    else:
        ascii_only = chance.random() < 0.5
        renamed = [{names.get(field, field): row[field] for field in fields} for row in rows]
        content = "\n".join(json.dumps(row, ensure_ascii=ascii_only) for row in renamed)
    table.write_bytes(content.encode())
    found = read_corpus("manifest", recordings, table)
    assert [one.id for one in found] == sorted(row["id"] for row in rows)
    by_id = {one.id: one for one in found}
    for row in rows:
        one = by_id[row["id"]]
        assert (one.label, one.speaker) == (row["label"], row["speaker"])
        assert one.path == recordings / row["path"]
        assert one.session == (row["session"] or None)
        said = unicodedata.normalize("NFC", " ".join(row["text"].casefold().split()))
        assert one.text_id == (said or None)
        assert one.gender == GENDERS[row["gender"]]
    count("drawn cases")


DIALOGS = ("Ses01F_impro01", "Ses01M_script01_1", "Ses02F_impro08b", "Ses02M_script03_2b")
CLIPS = [f"{dialog}_{letter}{n:03d}" for dialog in DIALOGS for letter in "FM" for n in range(3)]
NUMBER = st.floats(0, 999, allow_nan=False).map(lambda value: f"{value:.4f}")
NOISE = st.text("ACEabc-123:;()\t %é[", max_size=20).map(lambda text: f"C-E1:{text}")
LINES = st.lists(
    st.tuples(
        st.sampled_from(CLIPS), st.from_regex(r"[a-z]{3}", fullmatch=True), *[NUMBER] * 5, NOISE
    ),
    min_size=1,
    max_size=8,
)


@pytest.fixture(scope="module")
def iemocap(place: Path) -> Path:
    root = place / "IEMOCAP"
    for clip in CLIPS:
        dialog = clip.rpartition("_")[0]
        path = root / f"Session{clip[4]}/sentences/wav/{dialog}/{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for session in "12":
        (root / f"Session{session}/dialog/EmoEvaluation").mkdir(parents=True)
    return root


@drawn
@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_label_lines_are_read_back(iemocap, count, lines, end):
    texts = {dialog: "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]" for dialog in DIALOGS}
    for clip, label, start, stop, v, a, d, noise in lines:
        dialog = clip.rpartition("_")[0]
        texts[dialog] += f"{end}{noise}{end}"
        texts[dialog] += f"[{start} - {stop}]\t{clip}\t{label}\t[{v}, {a}, {d}]{end}"
    for dialog, text in texts.items():
        folder = iemocap / f"Session{dialog[4]}/dialog/EmoEvaluation"
        (folder / f"{dialog}.txt").write_bytes(text.encode())
    count("drawn cases")
    clips = [line[0] for line in lines]
    if len(set(clips)) < len(clips):
        with pytest.raises(InputError, match="occur more than once"):
            read_corpus("iemocap", iemocap)
        return
    found = read_corpus("iemocap", iemocap)
    assert [one.id for one in found] == sorted(clips)
    labels = {line[0]: line[1] for line in lines}
    for one in found:
        assert one.label == labels[one.id]
        assert one.speaker == f"Ses0{one.id[4]}_{one.id[-4]}" and one.gender == one.id[-4]
        assert one.session == f"Session{one.id[4]}" and one.path.stem == one.id
        assert one.portion == ("improvised" if "impro" in one.id else "scripted")


@drawn
@given(st.text(max_size=30))
def test_what_is_shown_of_a_name_steers_nothing(count, name):
    shown = printable(name, keep="")
    assert all(unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Zl", "Zp") for c in shown)
    assert printable(shown, keep="") == shown
    if shown != name:
        assert len(shown) > len(name)
    assert (control_character(name) is None) or shown != name
    count("drawn cases")


# Scores


CONFUSIONS = (
    st.integers(2, 5)
    .flatmap(
        lambda k: st.lists(
            st.lists(st.integers(0, 8), min_size=k, max_size=k), min_size=k, max_size=k
        ).map(np.array)
    )
    .filter(lambda confusion: confusion.sum() > 0)
)


def clips_of(confusion: NDArray) -> tuple[NDArray, NDArray]:
    """Return targets and predictions of which a matrix is the count."""
    pairs = np.argwhere(confusion > 0).repeat(confusion[confusion > 0], axis=0)
    return pairs[:, 0], pairs[:, 1]


@drawn
@given(CONFUSIONS)
def test_scores_of_a_matrix_are_scikit_learns(count, confusion):
    targets, preds = clips_of(confusion)
    found = scores(targets.tolist(), preds.tolist(), len(confusion))
    assert found["confusion"] == confusion.tolist()
    assert all(0 <= found[name] <= 1 for name in SCORES)
    assert found["wa"] == pytest.approx(sklearn.accuracy_score(targets, preds))
    recall = sklearn.recall_score(targets, preds, average=None, labels=np.unique(targets))
    assert found["ua"] == pytest.approx(recall.mean())
    for average in ("macro", "weighted"):
        expected = sklearn.f1_score(targets, preds, average=average, zero_division=0)
        assert found[f"{average}_f1"] == pytest.approx(expected)
    count("drawn cases")


@drawn
@given(CONFUSIONS, st.lists(st.integers(1, 5), min_size=5, max_size=5))
def test_ua_does_not_depend_on_how_many_clips_a_class_has(count, confusion, times):
    more = confusion * np.array(times)[: len(confusion), None]  # every clip of a class again
    assert SCORES["ua"](more) == pytest.approx(float(SCORES["ua"](confusion)))
    same = confusion * times[0]
    for score in SCORES.values():
        assert score(same) == pytest.approx(float(score(confusion)))
    count("drawn cases")


@drawn
@given(CONFUSIONS, st.randoms())
def test_scores_do_not_depend_on_the_order_of_clips_or_classes(count, confusion, chance):
    targets, preds = clips_of(confusion)
    k = len(confusion)
    order = list(range(len(targets)))
    chance.shuffle(order)
    assert (confusion_matrix(targets[order].tolist(), preds[order].tolist(), k) == confusion).all()
    names = list(range(k))
    chance.shuffle(names)
    renamed = confusion[np.ix_(names, names)]
    for score in SCORES.values():
        assert score(renamed) == pytest.approx(float(score(confusion)))
    count("drawn cases")


@drawn
@given(CONFUSIONS, st.integers(0, 4), st.integers(0, 4))
def test_a_wrong_clip_made_right_lowers_neither_wa_nor_ua(count, confusion, target, pred):
    assume(max(target, pred) < len(confusion) and target != pred and confusion[target, pred])
    better = confusion.copy()
    better[target, pred] -= 1
    better[target, target] += 1
    for name in ("wa", "ua"):
        assert SCORES[name](better) > SCORES[name](confusion)
    count("drawn cases")


PAIRED = st.tuples(
    st.integers(1, 2), st.integers(1, 6), st.integers(2, 4), st.integers(0, 2**32 - 1)
)


def two_runs(shape: tuple[int, int, int, int]) -> tuple[NDArray, NDArray]:
    """Return counts of two runs on the same clips: 2 x (R, S, K, K)."""
    n_seeds, n_speakers, k, seed = shape
    draw = np.random.default_rng(seed)
    support = draw.integers(0, 6, (n_speakers, k))
    support[:, 0] += 1
    made = np.zeros((2, n_seeds, n_speakers, k, k), dtype=int)
    skill = draw.uniform(0.2, 0.95, (2, 1, n_speakers))
    for run, s, speaker, target in np.ndindex(2, n_seeds, n_speakers, k):
        chances = np.full(k, (1 - skill[run, 0, speaker]) / (k - 1))
        chances[target] = skill[run, 0, speaker]
        made[run, s, speaker, target] = draw.multinomial(support[speaker, target], chances)
    return made[0], made[1]


@settings(drawn, max_examples=40)
@given(PAIRED, st.sampled_from(sorted(SCORES)))
def test_an_interval_holds_the_score_and_narrows_with_more_speakers(count, shape, name):
    each, _ = two_runs(shape)
    score = float(np.mean(SCORES[name](each.sum(1))))
    found = speaker_interval(each, SCORES[name], n_draws=500)
    count("drawn cases")
    if found is None:
        return
    assert 0 <= found[0] <= score + 1e-9 and score - 1e-9 <= found[1] <= 1
    if name == "wa":  # of classes that few speakers have, a draw may hold none
        more = speaker_interval(np.tile(each, (1, 4, 1, 1)), SCORES[name], n_draws=500)
        assert more is not None
        assert more[1] - more[0] < found[1] - found[0]


@settings(drawn, max_examples=40)
@given(PAIRED, st.sampled_from(sorted(SCORES)))
def test_the_paired_test_is_the_same_turned_round(count, shape, name):
    a, b = two_runs(shape)
    one, other = (fixed_weights_test(x, y, SCORES[name], 300) for x, y in ((a, b), (b, a)))
    assert other.difference == pytest.approx(-one.difference)
    assert (other.p, other.smallest_p) == (one.p, one.smallest_p)
    assert 0 < one.smallest_p <= one.p <= 1
    if one.interval is not None:
        assert other.interval == pytest.approx([-one.interval[1], -one.interval[0]])
        assert one.interval[0] - 1e-9 <= one.difference <= one.interval[1] + 1e-9
    assert fixed_weights_test(a, a, SCORES[name], 300).p == 1.0
    count("drawn cases")


@drawn
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40))
def test_mcnemar_is_the_same_turned_round(count, pairs):
    a, b = zip(*pairs, strict=True)
    one, other = mcnemar(a, b), mcnemar(b, a)
    assert one.p == pytest.approx(other.p) and (one.only_a, one.only_b) == other[1::-1]
    assert one.g is None or one.g == pytest.approx(-other.g)
    count("drawn cases")
