"""The table of coverage adds up files by room."""

from scripts.coverage_by_room import coverage_rows


def file(*counts: int) -> dict:
    keys = ("num_statements", "covered_lines", "num_branches", "covered_branches")
    return {"summary": dict(zip(keys, counts, strict=True))}


def test_files_of_a_room_are_added_up():
    files = {
        "audio/cqt.py": file(30, 30, 4, 1),
        "audio/reading.py": file(10, 0, 0, 0),
        "data.py": file(10, 5, 0, 0),
    }
    assert coverage_rows(files) == [
        ["audio/", "40", "75.0", "4", "25.0"],
        ["data.py", "10", "50.0", "0", "–"],
        ["all", "50", "70.0", "4", "25.0"],
    ]
