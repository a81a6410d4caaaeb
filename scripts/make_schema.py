"""Write configs/schema.json, from which editors complete the keys of the configs."""

import argparse
from pathlib import Path

from config.loading import json_schema
from system.cli import run_entry
from system.files import write_text

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Write the schema."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_text(ROOT / "configs" / "schema.json", json_schema())


if __name__ == "__main__":
    run_entry(main)
