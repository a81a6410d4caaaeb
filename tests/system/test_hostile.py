"""Input that means harm: nothing of it is executed, reaches outside or fills memory."""

import ast
import io
import json
import os
import pickle
import shutil
import subprocess
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
import yaml

from config.loading import load_config
from corpora.labels import label_set
from corpora.readers import read_corpus
from corpora.recordings import FILE as RECORDINGS
from corpora.recordings import index_audio
from corpora.utterance import Utterance
from models.backbones import create_backbone
from storage.tensors import load_state, load_tensors
from system.errors import InputError, RunError
from system.files import (
    MAX_CARD,
    MAX_CLASSES,
    MAX_CONFIG,
    MAX_JSON,
    MAX_LABELS,
    MAX_MANIFEST,
    MAX_WORD,
    read_json,
    read_text,
    write_csv,
)
from tests.conftest import Payload
from tests.support.paths import CODE, ROOT

SHELL = ("$(touch x)", "; touch x", "`touch x`", "| touch x", "&& touch x #")


# YAML


def yaml_payload(marker: Path) -> str:
    return f"!!python/object/apply:os.system ['touch {marker}']"


def billion_laughs() -> str:
    rows = ["a0: &a0 [lol, lol]"]
    rows += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 20)]
    return "\n".join(rows)


ODD_YAML = {
    "laughs": (billion_laughs(), "alias"),
    "nested": ("a: " + "[" * 5000, "nested too deeply"),
    "nested_blocks": (
        "\n".join(" " * n + f"a{n}:" for n in range(400)),
        "nested too deeply|no such key",
    ),
    "merge": ("a: &a {x: 1}\nb: {<<: *a}", "alias"),
    "twice": ("train: {epochs: 3, epochs: 4}", "'epochs' twice"),
    "nul": ("name: 'a\0b'", "line 1: a zero byte"),
    "escaped_nul": ('name: "a"\ncorpus: {root: "a\\0b"}', "must be set"),
    "latin": (b"name: \xff\xfe\xff", "line 1: byte 0xFF .* is not UTF-8"),
    "utf16": ("name: a".encode("utf-16"), "it is UTF-16"),
    "empty": ("", "must hold"),
    "word": ("word", "must hold"),
    "tag": ("name: !!python/name:os.system", "python/name"),
    "map_of_a_list": ("train: !!map [1]", "!!map must be a mapping"),
    "map_of_a_word": ("!!map word", "!!map must be a mapping"),
    "module": ("name: !!python/module:os", "python/module"),
    "binary": ("name: !!binary aGk=", "should be a valid string"),
    "int": ("train: {epochs: " + "9" * 5000 + "}", "digits"),
    "keys": ("\n".join(f"k{n}: 1" for n in range(2000)), "and 19.. more"),
}


@pytest.mark.promise("foreign")
def test_a_tag_in_yaml_is_not_executed(recipe, tmp_path, count):
    marker = tmp_path / "executed"
    payload = yaml_payload(marker)
    yaml.unsafe_load(payload)
    assert marker.exists(), "the payload must work, or this test says nothing"
    marker.unlink()
    bad = tmp_path / "bad.yaml"
    bad.write_text(f"name: {payload}\n")
    child = tmp_path / "child.yaml"
    child.write_text("base: bad.yaml\n")
    for arguments in ((bad,), (child,), (recipe, [f"name={payload}"]), (recipe, [payload + "=1"])):
        with pytest.raises(InputError):
            load_config(*arguments)
        count("malicious files and values tried")
    assert not marker.exists()


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("name", ODD_YAML)
def test_odd_yaml_ends_in_one_short_message(tmp_path, name, count):
    content, words = ODD_YAML[name]
    path = tmp_path / "odd.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(InputError, match=words) as refused:
        load_config(path)
    assert len(str(refused.value)) < 5000
    count("hostile inputs tried")


def odd_files(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield what is no small plain file, and how it is refused."""
    huge = folder / "huge.csv"
    with huge.open("wb") as file:
        file.truncate(10**12)  # sparse: takes no room
    yield huge, "larger than"
    pipe = folder / "pipe.csv"
    os.mkfifo(pipe)
    yield pipe, "not a regular file"
    inside = folder / "folder.csv"
    inside.mkdir()
    yield inside, "not a regular file"
    for name, target in (("zero", "/dev/zero"), ("self", folder / "self.csv")):
        link = folder / f"{name}.csv"
        link.symlink_to(target)
        yield link, "not a regular file" if name == "zero" else "cannot read|corrupt|circle"


@pytest.mark.promise("bounds")
def test_only_plain_bounded_files_are_read(recipe, tmp_path, count):
    readers: dict[str, Callable[[Path], object]] = {
        "config": load_config,
        "parent": lambda path: load_config(parent_of(path)),
        "manifest": lambda path: read_corpus("manifest", tmp_path, path),
        "json": read_json,
    }

    def parent_of(path: Path) -> Path:
        child = path.with_suffix(".yaml")
        child.write_text(f"base: {path.name}\n")
        return child

    for path, words in odd_files(tmp_path):
        for reader in readers.values():
            with pytest.raises((InputError, RunError), match=words):
                reader(path)
            count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("most", [MAX_CONFIG, MAX_CARD, MAX_LABELS])
def test_the_bound_is_a_bound(tmp_path, most, count):
    path = tmp_path / "file"
    path.write_bytes(b"a" * most)
    assert len(read_text(path, most)) == most
    path.write_bytes(b"a" * (most + 1))
    with pytest.raises(ValueError, match=f"larger than {most / 1e6:g} MB"):
        read_text(path, most)
    assert max(MAX_MANIFEST, MAX_JSON) <= 10**8
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("model.mlp_hidden_dim=1000000000000", "less than or equal to 65536"),
        ("model.fusion_hidden_dim=1000000000000", "less than or equal to 65536"),
        ("model.image_size=100000", "less than or equal to 1024"),
        ("run.workers=1000000", "less than or equal to 1024"),
        ("name=" + "a" * MAX_CONFIG, "longer than"),
        (".".join("a" * 5000) + "=1", "section.key=value"),
        ("corpus.labels=[" + "a, " * 9000 + "]", ""),
        ('run.root="a\\0b"', r"run.root .* control character \\x00"),
        ('run.store="\\ud800"', r"run.store .* control character \\ud800|not valid YAML"),
    ],
)
def test_sizes_of_a_config_are_bounded(recipe, override, words, count):
    count("hostile inputs tried")
    if not words:
        assert len(load_config(recipe, [override]).corpus.labels) == 9000
        return
    with pytest.raises(InputError, match=words) as refused:
        load_config(recipe, [override])
    assert len(str(refused.value)) < 2000


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="a file of Linux")
def test_a_file_that_hides_its_size_is_bounded():
    hidden = Path("/proc/self/maps")
    assert hidden.stat().st_size == 0 and len(read_text(hidden, MAX_JSON)) > 100
    with pytest.raises(ValueError, match="larger than"):
        read_text(hidden, 100)


def test_a_long_chain_of_parents_is_refused(tmp_path):
    for n in range(40):
        (tmp_path / f"{n}.yaml").write_text(f"base: {n + 1}.yaml\n")
    with pytest.raises(InputError, match="more than 20 files"):
        load_config(tmp_path / "0.yaml")


# Manifests stay in corpus.root


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A corpus of one clip, and a clip beside it that is nobody's business."""
    for path in ("root/a/in.wav", "out.wav", "home/out.wav"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(tmp_path / path, np.zeros(100), 8000)
    return tmp_path


def manifest_of(folder: Path, kind: str, **row: str) -> Path:
    row = {"path": "a/in.wav", "label": "joy", "speaker": "ann"} | row
    path = folder / f"list.{kind}"
    if kind == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    else:
        write_csv(path, list(row), [list(row.values())])
    return path


OUTSIDE = (
    "{room}/out.wav",
    "../out.wav",
    "a/../../out.wav",
    "a/../in.wav",
    "..\\out.wav",
    "~/out.wav",
    "~root/out.wav",
    "C:\\out.wav",
    "c:out.wav",
    "\\\\server\\share\\out.wav",
    "//server/out.wav",
    "downloads/iemocap/{room}/out.wav",
    "downloads/iemocap/../out.wav",
    "downloads/iemocap//out.wav",
)


@pytest.mark.promise("containment")
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
@pytest.mark.parametrize("path", OUTSIDE)
def test_a_manifest_cannot_reach_outside(room, kind, path, count):
    table = manifest_of(room, kind, path=path.format(room=room), dataset="iemocap")
    line = 2 if kind == "csv" else 1
    words = rf"line {line}: '.*' leads out of corpus.root .* set corpus.absolute_paths=true"
    with pytest.raises(InputError, match=words):
        read_corpus("manifest", room / "root", table)
    count("ways out tried")


@pytest.mark.promise("containment")
@pytest.mark.parametrize("dataset", ["", "..", "/", "a/../..", "x"])
def test_what_emobox_puts_before_a_path_does_not_lead_outside(room, dataset, count):
    hidden = f"downloads/{dataset}/{room}/out.wav"
    with pytest.raises(InputError, match="leads out"):
        read_corpus(
            "manifest", room / "root", manifest_of(room, "csv", path=hidden, dataset=dataset)
        )
    count("ways out tried")


@pytest.mark.promise("containment")
def test_with_the_key_paths_may_lead_outside(room, monkeypatch, count):
    monkeypatch.setenv("HOME", str(room / "home"))
    ways = {f"{room}/out.wav": "out.wav", "../out.wav": "out.wav", "~/out.wav": "home/out.wav"}
    for path, there in ways.items():
        table = manifest_of(room, "csv", path=path)
        (found,) = read_corpus("manifest", room / "root", table, absolute_paths=True)
        assert found.path.resolve() == (room / there).resolve()
        count("allowed ways tried")


@pytest.mark.promise("containment")
def test_a_link_inside_is_followed(room, count):
    (room / "root/link.wav").symlink_to(room / "out.wav")
    (found,) = read_corpus("manifest", room / "root", manifest_of(room, "csv", path="link.wav"))
    assert found.path == room / "root/link.wav"
    count("allowed ways tried")


@pytest.mark.promise("containment")
@pytest.mark.parametrize("field", ["path", "label", "speaker", "id", "session", "text"])
@pytest.mark.parametrize(
    "bad", ["\0", "\x1b[2J", "\x7f", "\x85", "\ud800", "\u2028", "\u2029", "\uffff"]
)
def test_control_characters_are_refused_by_name(room, field, bad, count):
    table = manifest_of(room, "jsonl", **{field: f"a{bad}b.wav"})
    if field == "text":  # of free speech: cleaned
        (found,) = read_corpus("manifest", room / "root", table)
        assert found.text_id == ("a [2jb.wav" if bad == "\x1b[2J" else "a b.wav")
        return
    with pytest.raises(InputError, match=rf"'{field}' holds the control character \\") as refused:
        read_corpus("manifest", room / "root", table)
    assert bad not in str(refused.value)
    count("ways out tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("path", ["a" * 300 + ".wav", "a/" * 3000 + "in.wav"])
def test_a_long_path_is_refused(room, path, count):
    with pytest.raises(InputError, match="path is too long"):
        read_corpus("manifest", room / "root", manifest_of(room, "csv", path=path))
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("line", [1, 2])
def test_a_field_without_end_is_not_csv(room, line, count):
    lines = ["path,label,speaker", "a/in.wav,joy,ann"]
    lines[line - 1] += "," + "a" * 200_000
    (room / "list.csv").write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"line {line}: not CSV: field larger than") as refused:
        read_corpus("manifest", room / "root", room / "list.csv")
    assert len(str(refused.value)) < 1000
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("field", ["label", "speaker", "id", "session"])
def test_a_name_is_bounded(room, field, count):
    word = "a" * MAX_WORD
    (found,) = read_corpus("manifest", room / "root", manifest_of(room, "csv", **{field: word}))
    assert word in (found.label, found.speaker, found.id, found.session)
    with pytest.raises(InputError, match=f"'{field}' has more than 1000 characters"):
        read_corpus("manifest", room / "root", manifest_of(room, "csv", **{field: word + "a"}))
    count("hostile inputs tried")


@pytest.mark.promise("bounds")
def test_the_number_of_classes_is_bounded(count):
    def clips(n: int) -> list[Utterance]:
        return [Utterance(f"{k}", Path(), f"class {k}", "ann") for k in range(n)]

    assert len(label_set("manifest", "all", clips(MAX_CLASSES)).classes) == MAX_CLASSES
    with pytest.raises(InputError, match="1001 classes, at most 1000"):
        label_set("manifest", "all", clips(MAX_CLASSES + 1))
    count("hostile inputs tried")


@pytest.mark.promise("containment")
@pytest.mark.parametrize(
    "clip",
    ["../../../../out", "Ses01F_../../out_F000", "/out", "Ses01F_impro01_F000/../../out"]
    + ["Ses0./_impro01_F000", "Ses01F_impro01_F000\0", "a" * 5000, "Ses06F_impro01_F000", "_", "~"],
)
def test_an_id_of_iemocap_makes_no_path_outside(corpus_root, tmp_path, clip, count):
    root = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, root)
    soundfile.write(tmp_path / "out.wav", np.zeros(100), 8000)
    labels = next(root.glob("Session1/dialog/EmoEvaluation/*impro*.txt"))
    good = labels.read_text()
    labels.write_text(good + f"[0.0000 - 1.0000]\t{clip}\tneu\t[2.5000, 2.5000, 2.5000]\n")
    with pytest.raises(InputError, match="not an IEMOCAP label line"):
        read_corpus("iemocap", root)
    labels.write_text(good)
    for one in read_corpus("iemocap", root):
        assert one.path.resolve().is_relative_to(root.resolve())
    count("ways out tried")


@pytest.mark.promise("containment")
def test_a_label_file_that_is_none_is_refused(corpus_root, tmp_path, count):
    root = tmp_path / "IEMOCAP"
    shutil.copytree(corpus_root, root)
    folder = root / "Session1/dialog/EmoEvaluation"
    os.mkfifo(folder / "pipe.txt")
    with pytest.raises(InputError, match="pipe.txt: it is not a regular file"):
        read_corpus("iemocap", root)
    (folder / "pipe.txt").unlink()
    (folder / "huge.txt").write_bytes(b"[" * (MAX_LABELS + 1))
    with pytest.raises(InputError, match="huge.txt: it is larger than 2 MB"):
        read_corpus("iemocap", root)
    count("ways out tried", 2)


# Nothing is unpickled, nothing reaches a shell


@pytest.mark.promise("foreign")
@pytest.mark.parametrize("suffix", ["pth", "pt", "bin", "safetensors", "npz"])
@pytest.mark.parametrize("form", ["pickle", "torch", "torch_old", "tensors_and_payload"])
def test_weights_that_are_a_pickle_are_not_executed(tmp_path, marker, suffix, form, count):
    file = tmp_path / f"weights.{suffix}"
    if form == "pickle":
        file.write_bytes(pickle.dumps(Payload(marker)))
    else:
        kept = {"a": torch.zeros(1), "b": Payload(marker)} if "and" in form else Payload(marker)
        torch.save(kept, file, _use_new_zipfile_serialization=form != "torch_old")
    with pytest.raises(InputError, match=r"model.cqt_weights=.* does not hold the weights"):
        create_backbone("test_maxvit", 32, 1, False, str(file), "cqt")
    for load in (load_tensors, load_state):
        with pytest.raises(RunError, match="corrupt"):
            load(file)
    count("malicious files and values tried", 3)


@pytest.mark.promise("foreign")
@pytest.mark.parametrize("form", ["pickle", "object_array"])
def test_the_audio_index_is_not_unpickled(tmp_path, marker, form, count):
    file = tmp_path / RECORDINGS
    if form == "pickle":
        file.write_bytes(pickle.dumps(Payload(marker)))
    else:
        objects = np.array([Payload(marker)], dtype=object)
        np.savez(
            file, sha256=objects, hash=objects, seconds=objects, lengths=objects, words=objects
        )
    with pytest.raises(RunError, match="corrupt"):
        index_audio([], 0, tmp_path)
    count("malicious files and values tried")


@pytest.mark.promise("bounds")
@pytest.mark.parametrize("n", [10**10, 10**14, 10**18])
def test_the_audio_index_cannot_claim_more_than_it_holds(tmp_path, n, count):
    claimed = io.BytesIO()
    head = {"descr": "<f8", "fortran_order": False, "shape": (n,)}
    np.lib.format.write_array_header_1_0(claimed, head)
    with zipfile.ZipFile(tmp_path / RECORDINGS, "w") as packed:
        for name in ("words", "lengths", "hash", "seconds", "sha256"):
            packed.writestr(f"{name}.npy", claimed.getvalue())
    with pytest.raises(RunError, match="corrupt"):
        index_audio([], 0, tmp_path)
    count("hostile inputs tried")


FORBIDDEN_MODULES = {"pickle", "cPickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "torch.load"}
FORBIDDEN_CALLS |= {"yaml.unsafe_load", "yaml.full_load", "yaml.load_all", "pty.spawn", "os.execv"}
FORBIDDEN_CALLS |= {"subprocess.getoutput", "subprocess.getstatusoutput", "pandas.read_pickle"}


def foreign_code(tree: ast.AST) -> list[str]:
    """Name what could execute a file or a user's words."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            found += [name for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in FORBIDDEN_CALLS - {"torch.load"} or name.startswith(("os.spawn", "os.exec")):
            found.append(name)
        elif name == "torch.load" and given.get("weights_only") != "True":
            found.append(name)
        elif name == "yaml.load" and given.get("Loader") not in ("_Loader", "yaml.SafeLoader"):
            found.append(name)
        elif given.get("allow_pickle", "False") != "False":
            found.append(name)
        elif given.get("shell", "False") != "False":
            found.append(name)
        elif name in ("np.load", "numpy.load") and "allow_pickle" not in given:
            found.append(name)
    return found


@pytest.mark.promise("foreign")
def test_no_module_executes_what_it_reads(count):
    for file in [*CODE, *ROOT.glob("benchmarks/*.py")]:
        assert foreign_code(ast.parse(file.read_text(encoding="utf-8"))) == [], file.name
        count("modules read")


@pytest.mark.parametrize(
    "code",
    ["import pickle", "from marshal import loads", "import os\nos.system(x)", "eval(x)", "exec(x)"]
    + ["torch.load(x)", "torch.load(x, weights_only=False)", "np.load(x, allow_pickle=True)"]
    + ["yaml.load(x, Loader=yaml.Loader)", "subprocess.run(x, shell=True)", "np.load(x)"]
    + ["os.popen(x)", "yaml.load(x, yaml.Loader)", "os.execvp(x, y)", "import joblib.parallel"],
)
def test_foreign_code_would_be_found(code):
    assert foreign_code(ast.parse(code))


@pytest.mark.promise("foreign")
def test_the_shell_script_hands_on_words_as_they_are(tmp_path, count):
    teller = tmp_path / "python"
    teller.write_text('#!/bin/sh\nprintf "%s\\0" "$@" > "$SAID"\n')
    teller.chmod(0o755)
    words = [*SHELL, "two  words", "", "*", "--jobs", "~", "$HOME", "a\nb"]
    environment = os.environ | {"PYTHON": str(teller), "SAID": str(tmp_path / "said")}
    subprocess.run([ROOT / "scripts/ablation.sh", *words], env=environment, check=True)
    said = (tmp_path / "said").read_bytes().decode().split("\0")[:-1]
    assert said == ["-m", "scripts.ablation", *words]
    assert not (ROOT / "x").exists()
    count("malicious files and values tried", len(words))
