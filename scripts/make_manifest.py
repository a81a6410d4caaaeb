"""Write a manifest from a folder or table of recordings, and show what was understood of it.

    python -m scripts.make_manifest recordings
    python -m scripts.make_manifest recordings --layout "{speaker}/{label}/*.wav" --out mine.csv
    python -m scripts.make_manifest list.parquet --root recordings --columns "{label: emotion}"

SOURCE is read as `corpus.name: folder` reads a folder (a folder for each class, a pattern, Hugging
Face, Kaldi, audformat) and `corpus.name: manifest` a table (CSV, TSV, JSONL, JSON, Parquet). No
audio is opened.
"""

import argparse
import math
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from config.schema import CorpusConfig
from config.tasks import CLASS, DIMENSIONS, DISTRIBUTION, RATINGS, TaskName
from config.yaml_files import read_yaml
from corpora.audio_files import first, unread_audio
from corpora.columns import VOTES
from corpora.readers import check_corpus_exists, read_corpus
from corpora.segments import TIME_COLUMNS, segment_cells
from corpora.suggestion import suggest_protocol
from corpora.unknown_speakers import WAY_ON, speakers_unknown
from corpora.utterance import Utterance
from system.cli import run_cli, run_entry, say
from system.errors import InputError
from system.files import write_csv

HEADER = (
    *("path", "label", "speaker", "session", "text", "gender", "id", "split", "fold"),
    *(*DIMENSIONS, VOTES, *TIME_COLUMNS),
)
DELIMITERS = {".csv": ",", ".tsv": "\t"}  # suffix of --out: what separates fields
MIN_CLASSES = 2


def main(argv: Sequence[str]) -> int:
    """Write the manifest; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    arguments = parse_arguments(argv)

    def work() -> None:
        out = Path(arguments.out)
        if out.suffix.lower() not in DELIMITERS:
            raise InputError(f"--out must end in {' or '.join(DELIMITERS)}, got {out}")
        corpus = describe(arguments)
        if out.exists():
            raise InputError(f"--out: {out} is there: remove it, or name another file with --out")
        if not out.absolute().parent.is_dir():
            raise InputError(f"--out: there is no folder {out.parent}")
        root = Path(corpus.root).expanduser()
        manifest = None if corpus.manifest is None else Path(corpus.manifest)
        outside = bool(corpus.absolute_paths)
        utterances = read_corpus(
            corpus.name, root, manifest, outside, corpus.layout, corpus.columns
        )
        write_manifest(out, root, utterances)
        unread = unread_audio(root, (one.path for one in utterances), manifest is None)
        lines = [*understood(utterances), *unread.words(), ""]
        say("\n".join([*lines, *how_to_train(out, corpus, utterances)]))

    return run_cli(work)


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m scripts.make_manifest",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="SOURCE", help="a folder, or a table")
    parser.add_argument(
        "--out", default="manifest.csv", metavar="FILE", help="default: %(default)s"
    )
    parser.add_argument("--root", metavar="DIR", help="folder of a table's paths; default: its own")
    parser.add_argument("--layout", help="as corpus.layout, e.g. {speaker}/{label}/*.wav")
    parser.add_argument("--columns", help="as corpus.columns, e.g. {path: file, label: emotion}")
    parser.add_argument(
        "--absolute-paths", action="store_true", help="lists may name files outside the folder"
    )
    return parser.parse_args(argv)


def describe(arguments: argparse.Namespace) -> CorpusConfig:
    """Return the corpus that the arguments name, checked as in a config.

    Raises:
        InputError: There is no such folder or table, or an argument is wrong or has no effect.
    """
    source = Path(arguments.source).expanduser()
    values: dict[str, Any] = {
        "layout": arguments.layout,
        "absolute_paths": arguments.absolute_paths or None,
    }
    if arguments.columns is not None:
        values["columns"] = read_yaml(arguments.columns, "--columns")
    if source.is_file():
        if arguments.layout is not None:
            raise InputError(f"--layout has no effect on the table {source}: leave it out")
        values |= {"name": "manifest", "manifest": str(source)}
        values["root"] = arguments.root or str(source.parent)
    else:
        if arguments.root is not None:
            raise InputError("--root has no effect on a folder, which is the root: leave it out")
        values |= {"name": "folder", "root": str(source)}
    check_corpus_exists(values["root"], values.get("manifest"))
    try:
        return CorpusConfig(**values, labels="all")
    except ValidationError as error:
        problem = error.errors()[0]
        key = str(problem["loc"][0]).replace("_", "-")
        raise InputError(f"--{key}: {problem['msg'].removeprefix('Value error, ')}") from None


def write_manifest(out: Path, root: Path, utterances: Sequence[Utterance]) -> None:
    """Write a table that `corpus.name: manifest` reads to the same utterances.

    Args:
        out: The file.
        root: Value of `corpus.root`.
        utterances: What to write; columns without any value are left out.
    """
    times = segment_cells(utterances)
    unknown = speakers_unknown(utterances)
    rows = []
    for one in utterances:
        below = one.path.is_relative_to(root)
        path = one.path.relative_to(root).as_posix() if below else str(one.path.absolute())
        speaker = "" if unknown else one.speaker
        cells = (path, one.label, speaker, one.session, one.text_id, one.gender, one.id)
        said = (*(one.ratings or [""] * len(DIMENSIONS)), one.votes)
        rows.append([*cells, one.split, one.fold, *said, *times.get(one.id, ("", ""))])
    used = [n for n in range(len(rows[0])) if any(row[n] not in (None, "") for row in rows)]
    fields = ([row[n] for n in used] for row in rows)
    write_csv(out, [HEADER[n] for n in used], fields, DELIMITERS[out.suffix.lower()])


def understood(utterances: Sequence[Utterance]) -> list[str]:
    """Say what the utterances are: labels, speakers and the rest, with counts; missing files."""
    lines = [f"{len(utterances)} utterances", _counts("labels", [u.label for u in utterances])]
    if speakers_unknown(utterances):
        lines.append(f"speakers: nobody knows them. {WAY_ON}")
    else:
        lines.append(_counts("speakers", [u.speaker for u in utterances]))
    lines += [
        _counts("sessions", [u.session for u in utterances]),
        _counts("genders", [u.gender for u in utterances]),
        _counts("splits", [u.split for u in utterances]),
        _counts("folds", [u.fold for u in utterances]),
    ]
    rated = [sum(bool(u.ratings and u.ratings[i]) for u in utterances) for i in range(3)]
    ratings = (f"{name} ({n})" for name, n in zip(DIMENSIONS, rated, strict=True) if n)
    voted = sum(bool(u.votes) for u in utterances)
    lines.append(f"ratings: {', '.join(ratings) or 'none'}; votes: {voted or 'none'}")
    n_texts = len({u.text_id for u in utterances} - {None})
    n_segments = sum(u.start > 0 or u.end is not None for u in utterances)
    lines.append(f"texts: {n_texts or 'none'}; segments of longer files: {n_segments or 'none'}")
    paths = {one.path: None for one in utterances}
    if missing := [str(path) for path in paths if not path.exists()]:
        lines.append(f"{len(missing)} of {len(paths)} files do not exist: {first(missing)}")
    return lines


def _rated(utterances: Sequence[Utterance]) -> list[str]:
    """Return the dimensions that all utterances have a rating of."""
    columns = zip(*(u.ratings or [""] * len(DIMENSIONS) for u in utterances), strict=True)
    return [name for name, cells in zip(DIMENSIONS, columns, strict=True) if all(cells)]


def _counts(name: str, values: Sequence[str | None]) -> str:
    """Say how often each value occurs, and how many utterances have none."""
    counts = Counter(value for value in values if value)
    if not counts:
        return f"{name}: none"
    shown = first(f"{value} ({n})" for value, n in sorted(counts.items()))
    without = len(values) - counts.total()
    return f"{len(counts)} {name}: {shown}" + f"; {without} utterances have none" * bool(without)


def how_to_train(out: Path, corpus: CorpusConfig, utterances: Sequence[Utterance]) -> list[str]:
    """Return the lines of a config that trains on the manifest, or why none does."""
    lines = [f"Everything is in {out}."]
    task = _task(utterances)
    if task is None:
        need = f"it needs {MIN_CLASSES} classes, or ratings or votes of each utterance"
        return [*lines, f"No config trains on it: {need}."]
    protocol, refused = suggest_protocol(utterances)
    lines += [f"protocol.split={split} does not go: {why}" for split, why in refused.items()]
    if protocol is None:
        lines.append("No config trains on it: no protocol can divide these utterances.")
        if suggest_protocol([replace(one, session=None) for one in utterances]).protocol:
            lines.append(
                "It goes without sessions: corpus.columns={session: null} leaves them out."
            )
        return lines
    values: dict[str, Any] = {"name": "manifest", "root": corpus.root, "manifest": str(out)}
    rated = _rated(utterances)
    values["labels"] = rated if task == RATINGS and len(rated) < len(DIMENSIONS) else "all"
    if corpus.absolute_paths:
        values["absolute_paths"] = True
    if speakers_unknown(utterances):
        values["columns"] = {"speaker": None}
    scale = []
    if task == RATINGS:
        scale = ["# corpus.scale: [lowest, highest] that the raters could give, e.g. [1, 7]"]
    return [
        *lines,
        "A config that trains on it has, beside `base:` and `name:`,",
        "",
        *([] if task == CLASS else [f"task: {task}"]),
        *scale,
        "corpus:",
        f"  {flow(values)}",
        f"protocol: {flow(protocol)}",
    ]


def _task(utterances: Sequence[Utterance]) -> TaskName | None:
    """Return the first task that all utterances have targets for; None if there is none."""
    labels = {one.label for one in utterances}
    if "" not in labels and len(labels) >= MIN_CLASSES:
        return CLASS
    if all(u.votes for u in utterances):
        return DISTRIBUTION
    return RATINGS if _rated(utterances) else None


def flow(mapping: Mapping[str, Any]) -> str:
    """Return a mapping as YAML in one line."""
    text = yaml.safe_dump(
        dict(mapping), default_flow_style=True, sort_keys=False, allow_unicode=True, width=math.inf
    )
    return str(text).strip()


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
