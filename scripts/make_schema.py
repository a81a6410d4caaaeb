"""Write configs/schema.json, from which editors complete the keys of the recipes."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from config.loading import json_schema  # noqa: E402
from system.errors import RunError  # noqa: E402
from system.files import write_text  # noqa: E402

if __name__ == "__main__":
    try:
        write_text(ROOT / "configs" / "schema.json", json_schema())
    except RunError as error:
        sys.exit(f"failed: {error}")
