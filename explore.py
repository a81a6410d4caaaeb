"""Look at a corpus before training: `python explore.py --config configs/ravdess_gmu.yaml`.

Writes one HTML page (what is odd; classes, speakers, durations, levels, silence, bandwidth, texts,
copies, folds; recordings to hear with both images) and a table of all recordings. Nothing is
trained; bad files are named, the rest is shown. Exit status: 0 done, whatever is odd;
1 failed; 2 the input is wrong.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from config.loading import load_config
from corpora.readers import check_corpora_exist
from system.cli import check_output, exit_status, run_entry, say
from system.errors import InputError
from training.command import check_config_option


def main(argv: Sequence[str]) -> int:
    """Survey a corpus, write the page and the table; return the exit status."""
    arguments = parse_arguments(argv)
    command = [sys.argv[0], *argv]
    with exit_status(command) as result:
        config = load_config(arguments.config, arguments.overrides)
        check_corpora_exist(config)
        check_output(arguments.json)
        folder = Path(arguments.out or Path(config.run.root) / "explore" / config.name)
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--out: {folder} is a file; name a folder")

        from corpora.odd import find_odd  # slow: NumPy, torch, audio libraries
        from corpora.odd_shortcuts import shortcuts
        from corpora.survey import survey_corpus
        from reports.explore import PAGE, TABLE, page_size, write_exploration
        from reports.explore_tables import exploration_json, exploration_markdown
        from system.files import write_json

        survey = survey_corpus(config)  # read, index, split; measure every recording
        telling = shortcuts(survey)  # what single numbers tell of the class
        findings = find_odd(survey, telling)
        if arguments.json is not None:
            write_json(Path(arguments.json), exploration_json(survey, telling, findings))
        say(exploration_markdown(survey, findings))
        write_exploration(
            folder, survey, telling, findings, ["explore.py", *argv], not arguments.no_audio
        )
        say(f"{folder / PAGE} ({page_size(folder)}) and {folder / TABLE}")
    return result.status


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="YAML config")
    parser.add_argument(
        "--out",
        metavar="FOLDER",
        help="of page and table, default run.root/explore/NAME",
    )
    parser.add_argument("--no-audio", action="store_true", help="leave the sound out of the page")
    parser.add_argument("--json", metavar="FILE", help="write all of it as JSON")
    parser.add_argument(
        "overrides", nargs="*", metavar="section.key=value", help="e.g. corpus.root=/data/ravdess"
    )
    check_config_option(parser, argv)
    arguments = parser.parse_intermixed_args(argv)
    for name in ("out", "json"):
        if getattr(arguments, name) == "":
            parser.error(f"--{name} is empty: write its value, or leave it out")
    return arguments


if __name__ == "__main__":
    run_entry(main, sys.argv[1:])
