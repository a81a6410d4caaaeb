#!/usr/bin/env bash
# audformat 1.4.3: where a table lies as Parquet and as CSV, the Parquet file is read, however old.
#
# A table may be stored as CSV, Parquet or pickle. A pickle that is older than one of the others is
# refused with a message. Parquet beside CSV has no such check: a label that somebody corrected in
# the CSV file, which is the one that can be edited by hand, is not read, and nothing is said.
#
# Seen: CSV corrected and newer by a day, `load` returns the label of the old Parquet file; with the
# Parquet file away it returns the corrected one. Way out: remove the one that is not meant.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet --disable-pip-version-check audformat==1.4.3
cd "$work"
venv/bin/python - <<'PYTHON'
import os
import time
from pathlib import Path

import audformat

folder = Path("database")
database = audformat.Database("speech")
database.schemes["emotion"] = audformat.Scheme(labels=["happy", "sad"])
table = database["clips"] = audformat.Table(audformat.filewise_index(["a.wav", "b.wav"]))
table["emotion"] = audformat.Column(scheme_id="emotion")
table["emotion"].set(["happy", "happy"])
for storage in ("parquet", "csv"):
    database.save(folder, storage_format=storage, update_other_formats=False)

csv, parquet = folder / "db.clips.csv", folder / "db.clips.parquet"
csv.write_text(csv.read_text().replace("b.wav,happy", "b.wav,sad"))
now = time.time()
os.utime(parquet, (now - 86_400, now - 86_400))
assert csv.stat().st_mtime > parquet.stat().st_mtime and "b.wav,sad" in csv.read_text()

first = audformat.Database.load(folder)["clips"]["emotion"].get().tolist()
print("CSV and older Parquet:", first)
parquet.unlink()
second = audformat.Database.load(folder)["clips"]["emotion"].get().tolist()
print("CSV alone:", second)
assert first == ["happy", "happy"] and second == ["happy", "sad"]
print("as described: the correction was hidden by the older file")
PYTHON
