"""Names that are markup, commands or steer a terminal are shown as text, and do nothing."""

import base64
import csv
import logging
import os
import re
import shutil
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
import soundfile
import yaml

import compare
from config.loading import load_config
from evaluation.comparison_file import read_comparison
from evaluation.figures import dot_plot
from evaluation.tables import comparison_latex
from evaluation.wording import markdown_table
from reports.publish import gather, publish
from system.cli import WRONG_INPUT, run_cli
from system.errors import InputError, RunError
from system.files import write_csv
from system.text import printable
from tests.conftest import PITCHES, SAMPLE_RATE, tone
from tests.support.paths import ROOT
from tests.support.runs import run_experiment
from train_gmu import main as train_main

NASTY = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "| a | b |",
    "[x](javascript:1)",
    "\\input{/etc/passwd} & % $ #",
    "a\\|b `c` *d*",
    "\u202egnp.exe",
    "{{ 7 * 7 }}",
)
STEERING = ("a\nb", "\x1b[2J", "a\rb", "\x9b2J", "a\u2028b", "a\uffffb")
SHELL = ("$(touch x)", "; touch x", "`touch x`", "| touch x", "&& touch x #")


# A corpus of hostile names, from manifest to report


LABELS = (NASTY[0], NASTY[2], NASTY[4], SHELL[0])
SPEAKERS = (*SHELL, *NASTY)


@pytest.fixture(scope="module")
def harmful(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two runs on a manifest whose every word is an attack, compared; the folder of all of it."""
    place = tmp_path_factory.mktemp("harmful")
    before = Path.cwd()
    os.chdir(place)
    root = place / "$(touch x)"
    rows = []
    for s, speaker in enumerate(SPEAKERS):
        for k, (label, pitch) in enumerate(zip(LABELS, PITCHES.values(), strict=True)):
            name = f"{s}{SHELL[s % len(SHELL)]}/`touch x` {k}; touch x.wav"
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            sound = tone(pitch * (1 + 0.02 * s), 0.2 + 0.01 * k, 10 * s + k)
            soundfile.write(root / name, sound, SAMPLE_RATE)
            text = NASTY[(s + k) % len(NASTY)]
            rows.append([name, label, speaker, f"{s}-{k} {text}", text])
    table = place / "; touch x.csv"
    write_csv(table, ["path", "label", "speaker", "id", "text"], rows)
    values = yaml.safe_load(recipe.read_text())
    values["corpus"] = {"name": "manifest", "root": root.name, "manifest": table.name}
    values["corpus"]["labels"] = "all"
    values["protocol"] = {"split": "speaker-k-fold", "n_folds": 3, "near_identical": "count"}
    values["run"] |= {"root": "runs", "store": "store"}
    values["train"]["epochs"] = 1
    (place / "recipe.yaml").write_text(yaml.safe_dump(values))
    folders = []
    for fusion, name in (("concat", NASTY[0].replace("/", "∕")), ("gmu", "[x](y) | $(touch x)")):
        config = load_config("recipe.yaml", [f"model.fusion={fusion}", f"name={fusion}"])
        run = run_experiment(config, ["train_gmu.py", *SHELL, *NASTY])
        folders.append(run.rename(run.parent / name))
    publish(place / "out", *gather(folders, breakdowns=True))
    yield place
    os.chdir(before)
    shutil.rmtree(place)


@pytest.mark.promise("foreign")
def test_no_name_of_a_corpus_reaches_a_shell(harmful, count):
    assert (harmful / "out/report.html").exists()
    for place in (harmful, ROOT):
        assert not list(place.glob("x")) and not list(place.glob("**/x"))
    count("malicious files and values tried", len(SPEAKERS) + len(LABELS))


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data):
        self.text += data


@pytest.mark.promise("escaping")
def test_the_report_holds_names_as_text(harmful, count):
    page = Page()
    page.feed((harmful / "out/report.html").read_text(encoding="utf-8"))
    assert page.tags.isdisjoint({"script", "iframe", "object", "embed", "link", "base", "form"})
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name, value)
        if name in ("src", "href"):
            assert value.startswith(("data:image/", "data:audio/", "#")), (tag, name, value)
    shown = " ".join(page.text.split())
    for name in (*LABELS, *SPEAKERS, *NASTY):
        assert " ".join(printable(name).split()) in shown, name
        count("hostile names shown")
    assert "\u202e" not in page.text


@pytest.mark.promise("escaping")
def test_the_figures_hold_names_as_text(count):
    for name in (*NASTY, *STEERING, *SHELL, "$x^$", "$\\frac{$"):
        svg = dot_plot([name[:22]], [], "percent")
        tree = ElementTree.fromstring(svg)  # it is XML
        kinds = {node.tag.rpartition("}")[2] for node in tree.iter()}
        assert kinds.isdisjoint({"script", "img", "image", "a", "foreignObject"})
        words = ["".join(node.itertext()) for node in tree.iter() if node.tag.endswith("text")]
        assert printable(name[:22], keep="")[:21] in [word.strip("…")[:21] for word in words]
        count("hostile names shown")


def cells(line: str) -> list[str]:
    """Split a row of GitHub's Markdown, in which a backslash takes the next character along."""
    found = re.findall(r"((?:\\.|[^\\|])*)\|", line)
    return found[1:]


@pytest.mark.promise("escaping")
def test_a_cell_stays_one_cell(harmful, count):
    for name in (*NASTY, *STEERING, *SHELL):
        table = markdown_table([name, "b"], [[name, "1"], ["c", "2"]])
        assert [len(cells(line)) for line in table.split("\n")] == [2, 2, 2, 2]
        count("hostile names shown")
    written = (harmful / "out/comparison.md").read_text(encoding="utf-8")
    tables = re.findall(r"(?:^\|.*\n)+", written, re.MULTILINE)
    assert len(tables) > 6
    for table in tables:
        assert len({len(cells(line)) for line in table.splitlines()}) == 1, table


@pytest.mark.promise("escaping")
def test_markdown_holds_names_as_text(harmful, count):
    markdown = pytest.importorskip("markdown")
    written = (harmful / "out/comparison.md").read_text(encoding="utf-8")
    for text in (written, *(markdown_table([name], [[name]]) for name in (*NASTY, *STEERING))):
        page = Page()
        page.feed(markdown.markdown(text, extensions=["tables"]))
        assert page.tags <= {"p", "strong", "table", "thead", "tbody", "tr", "th", "td", "code"}
        count("hostile names shown")


@pytest.mark.promise("escaping")
def test_latex_holds_names_as_text(harmful, count):
    written = (harmful / "out/comparison.tex").read_text(encoding="utf-8")
    commands = set(re.findall(r"\\([a-zA-Z]+)", written))
    ours = {"begin", "end", "caption", "toprule", "midrule", "bottomrule", "pm"}
    assert commands <= ours | {"textbackslash", "textasciitilde", "textasciicircum"}
    comparison = read_comparison(harmful / "out/comparison.json")
    for name in (*NASTY, *STEERING, "[1cm]", "*"):
        row = replace(comparison.runs[0], name=name)
        latex = comparison_latex(replace(comparison, runs=[row], tests=[]))
        body = latex.split("\\midrule\n")[1].split("\\bottomrule")[0]
        assert body.count("\n") == 1 and body[0] not in "[*"
        assert set(re.findall(r"\\([a-zA-Z]+)", latex)) <= commands | ours | {"textbackslash"}
        assert len(re.findall(r"(?<!\\)&", body)) == len(
            re.findall(r"(?<!\\)&", written.split("\\midrule\n")[1].split("\n")[0])
        )
        count("hostile names shown")


@pytest.mark.promise("escaping")
def test_csv_holds_names_as_they_are(harmful, count):
    run = next(path for path in (harmful / "runs").iterdir() if path.is_dir())
    with (run / "utterances.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    speakers = {name.replace("\u202e", "") for name in SPEAKERS}  # what nobody sees is dropped
    assert {row["speaker"] for row in rows} == speakers
    with next(run.glob("folds/*/predictions.csv")).open(newline="", encoding="utf-8") as file:
        predicted = list(csv.DictReader(file))
    assert {row["target"] for row in predicted} == set(LABELS)
    assert {row["speaker"] for row in predicted} <= speakers
    count("hostile names shown", len(SPEAKERS) + len(LABELS))


def steers(text: str) -> list[str]:
    return re.findall("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\ud800-\udfff]", text)


@pytest.mark.promise("escaping")
@pytest.mark.parametrize("name", [*STEERING, *NASTY])
def test_a_message_does_not_steer_the_terminal(name, capsys, count):
    def fail_with(kind: type[Exception]) -> Callable[[], None]:
        def work() -> None:
            raise kind(f"there is no file {name}")

        return work

    for kind, status in ((InputError, 2), (RunError, 1), (OSError, 1)):
        assert run_cli(fail_with(kind)) == status
        said = capsys.readouterr().err
        assert not steers(said) and printable(name) in said
        count("hostile names shown")


@pytest.mark.promise("escaping")
def test_a_log_line_does_not_steer_the_terminal(monkeypatch, capsys, count):
    monkeypatch.setattr(logging.root, "handlers", [])
    monkeypatch.setattr(logging.root, "level", logging.WARNING)
    assert run_cli(lambda: logging.getLogger("a").info("%s of %s", "\x1b[2J", "\u202e")) == 0
    assert capsys.readouterr().err == "\\x1b[2J of \\u202e\n"
    count("hostile names shown")


@pytest.mark.promise("escaping")
def test_compare_prints_no_steering_name(harmful, monkeypatch, capsys, count):
    folders = [str(path) for path in sorted((harmful / "runs").iterdir()) if path.is_dir()]
    monkeypatch.setattr(sys, "argv", ["compare.py", *folders, "--breakdown"])
    assert compare.main() == 0
    said = capsys.readouterr()
    assert not steers(said.out + said.err) and "&lt;script>alert" in said.out
    count("hostile names shown", len(SPEAKERS))


def test_a_config_that_is_not_a_file_is_reported_in_one_line(tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe.yaml")
    arguments = ["--config", str(tmp_path / "pipe.yaml")]
    assert train_main(arguments, "", ["concat"], "train.py") == WRONG_INPUT
    assert re.fullmatch(r"wrong input: .*not a regular file\n", capsys.readouterr().err)


def test_a_report_decodes_to_images(harmful):
    page = (harmful / "out/report.html").read_text(encoding="utf-8")
    packed = re.findall(r"data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)", page)
    assert packed
    for one in packed:
        tree = ElementTree.fromstring(base64.b64decode(one))
        assert not [node for node in tree.iter() if node.tag.endswith("script")]
