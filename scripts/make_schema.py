"""Write configs/schema.json, from which editors complete the keys of the configs."""

import argparse
import sys
from pathlib import Path

from config.loading import json_schema
from system.errors import RunError
from system.files import write_text

ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    try:
        write_text(ROOT / "configs" / "schema.json", json_schema())
    except RunError as error:
        sys.exit(f"failed: {error}")
