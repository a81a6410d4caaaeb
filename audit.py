"""Audit anybody's train, dev and test split: `python audit.py SPLIT --corpus ravdess --root DIR`.

SPLIT is a table (CSV, TSV, JSON, JSONL), a folder of EmoBox's or s3prl's lists, the lists of one
fold (train.json valid.json test.json), or the name of a table in configs/folds. Nothing is trained.
Exit status: 0 nothing is on both sides; 1 something is, or the audit failed and says so; 2 the
input is wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from config.loading import load_config
from config.schema import RunConfig
from corpora.readers import CORPORA, check_corpus_exists, read_corpus
from system.cli import DONE, FAILED, check_output, exit_status, run_entry
from system.errors import InputError, nearest
from system.text import short_repr


class Corpus(NamedTuple):
    """The corpus that a partition divides; without a root only its name is known, or not even it.

    Args:
        name: One of `CORPORA`.
        root: Its folder.
        manifest: Table of a manifest corpus.
        absolute_paths: Whether the table may name files outside `root`.
        layout: How the folder of a folder corpus is read; None is what lies there.
        columns: Columns of other names.
    """

    name: str | None
    root: str | None = None
    manifest: str | None = None
    absolute_paths: bool = False
    layout: str | None = None
    columns: Mapping[str, str | None] | None = None


def main(argv: Sequence[str]) -> int:
    """Print the certificate, or what is on both sides; return the exit status."""
    arguments = parse_arguments(argv)
    with exit_status() as result:
        refuse_empty(arguments)
        corpus = choose_corpus(arguments)
        check_output(arguments.json)

        from corpora.audit import audit, audit_markdown  # slow: NumPy, audio libraries
        from corpora.audit_members import members_of
        from corpora.partition import find_partition, read_partition
        from corpora.recordings import index_audio
        from system.files import write_json

        partition = read_partition([find_partition(word, "SPLIT") for word in arguments.split])
        everyone = recordings = None
        if corpus.name and corpus.root:
            manifest = None if corpus.manifest is None else Path(corpus.manifest)
            root = Path(corpus.root)
            everyone = read_corpus(
                corpus.name, root, manifest, corpus.absolute_paths, corpus.layout, corpus.columns
            )
        folds, notes = members_of(partition, corpus.name, everyone)
        if everyone is not None and not arguments.no_audio:
            listed = {one.audio: None for fold in folds for _, one in fold if one.path.is_file()}
            run = RunConfig()
            recordings, bad = index_audio(list(listed), run.workers, Path(run.store))
            notes += [f"{source} cannot be used: {reason}" for source, reason in bad.items()]
        name = corpus.name or "the lists' own columns"
        found = audit(partition, name, folds, notes, recordings, arguments.texts_apart)
        if arguments.json is not None:
            write_json(Path(arguments.json), found.as_json())
        print(audit_markdown(found))
        result.status = DONE if found.clean else FAILED
    return result.status


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("split", nargs="+", metavar="SPLIT", help="table, folder or lists")
    parser.add_argument("--corpus", metavar="NAME", help=f"one of {', '.join(CORPORA)}")
    parser.add_argument("--root", metavar="DIR", help="its folder; without it no audio is compared")
    parser.add_argument("--manifest", metavar="FILE", help="table of --corpus manifest")
    parser.add_argument("--config", metavar="FILE", help="a config that names the corpus instead")
    parser.add_argument("--no-audio", action="store_true", help="compare names alone, in seconds")
    parser.add_argument("--texts-apart", action="store_true", help="refuse shared texts as well")
    parser.add_argument("--json", metavar="FILE", help="write all of it as JSON")
    return parser.parse_args(argv)


def refuse_empty(arguments: argparse.Namespace) -> None:
    """Refuse a word of nothing, as an unset variable of a shell gives it.

    Raises:
        InputError: There is one; the current folder would be read, or the option ignored.
    """
    for name, value in vars(arguments).items():
        if value == "" or (isinstance(value, list) and "" in value):
            option = "SPLIT" if name == "split" else f"--{name}"
            raise InputError(f"{option} is empty: write its value, or leave it out")


def choose_corpus(arguments: argparse.Namespace) -> Corpus:
    """Return the corpus that the options name.

    Raises:
        InputError: The options contradict each other, or name what is not there.
    """
    name, root, manifest = arguments.corpus, arguments.root, arguments.manifest
    if name is not None and name not in CORPORA:
        raise InputError(f"--corpus {short_repr(name)} is not known; {nearest(name, CORPORA)}")
    if arguments.config is not None:
        if name or manifest:
            raise InputError("--config names the corpus: leave --corpus and --manifest out")
        overrides = [] if root is None else [f"corpus.root={root}"]
        given = load_config(arguments.config, overrides).corpus
        if given.corpora is not None:
            raise InputError("a split of others divides one corpus, and --config names several")
        outside = given.absolute_paths or False
        corpus = Corpus(
            given.name, given.root, given.manifest, outside, given.layout, given.columns
        )
    else:
        if root is not None and name is None:
            raise InputError("--root needs --corpus, which says how the folder is read")
        if (name == "manifest") != (manifest is not None and root is not None):
            raise InputError("--corpus manifest needs --root and --manifest, and they need it")
        corpus = Corpus(name, root, manifest, absolute_paths=True)
    if corpus.root:
        check_corpus_exists(corpus.root, corpus.manifest)
    return corpus


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
