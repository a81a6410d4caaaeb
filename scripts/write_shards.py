"""Write a corpus into shards: tar files in webdataset's layout, from which training reads.

    python -m scripts.write_shards --config configs/iemocap_gmu.yaml --to /data/shards --shard 3/10

A speaker is in one shard, and the certificate of the splits in each. A job array writes one shard a
job (`--shard $SLURM_ARRAY_TASK_ID/10`, tasks from 1); those that are there are skipped. Then
`run.shards=/data/shards` trains from them: from audio with `train.images=computed`, from
`--format images` with `train.images=stored`. Needs the extra `stream`.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from config.fusions import IMAGES
from config.loading import load_config
from corpora.readers import check_corpora_exist
from system.cli import run_cli, run_entry, say
from system.errors import InputError
from system.extras import check_extra

FORMATS = ("flac", "wav", "images")
MOST = 99_999  # shards, as the names of the files allow


def main(argv: Sequence[str]) -> int:
    """Write one shard; return the exit status.

    Args:
        argv: Arguments of the process.
    """
    parser = argparse.ArgumentParser(
        prog="python -m scripts.write_shards",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, help="YAML config")
    parser.add_argument("--to", required=True, type=Path, metavar="FOLDER", help="of the shards")
    parser.add_argument("--shard", default="1/1", metavar="I/N", help="shard I, from 1, of N")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        default="flac",
        help="audio without loss (float recordings are WAV in either case), or images in float16",
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. corpus.root=/path"
    )
    arguments = parser.parse_intermixed_args(argv)

    def work() -> None:
        number, total = parse_shard(arguments.shard)
        config = load_config(arguments.config, arguments.overrides)
        check_corpora_exist(config)
        if not set(config.model.reads) & set(IMAGES):
            raise InputError(f"{arguments.config} reads no image, and so no shards: name another")
        check_extra("scripts/write_shards.py", "webdataset", "stream")

        # torch is imported only now, so that a mistake above is reported within a second.
        from corpora.plan import make_plan
        from storage.shard_writer import Content, rows_of_shard, write_shard
        from storage.shards import Shard
        from training.session import open_store

        plan, shard = make_plan(config, keep=True), Shard(number, total)
        rows = rows_of_shard(plan.utterances, plan.hashes, shard)
        content = Content(arguments.format, plan.certificate, open_store(config))
        written = write_shard(arguments.to, shard, rows, content, config.run.workers)
        state = f"{len(rows)} utterances" if written else "is there already"
        say(f"{arguments.to / shard.file}: {state}")

    return run_cli(work)


def parse_shard(text: str) -> tuple[int, int]:
    """Return number and total of I/N.

    Raises:
        InputError: It does not have this form, or I is not in 1..N.

    >>> parse_shard("3/10")
    (3, 10)
    """
    match = re.fullmatch(r"(\d{1,5})/(\d{1,5})", text)
    number, total = (int(word) for word in match.groups()) if match else (0, 0)
    if not 1 <= number <= total <= MOST:
        raise InputError(f"--shard must be I/N with I in 1..N, e.g. 3/10, got {text!r}")
    return number, total


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
