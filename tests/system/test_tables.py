"""CSV whose fields never span lines, and text that is UTF-8."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from system.tables import csv_rows, csv_table
from system.text import EncodingError, decode_text

FIELDS = st.text(st.characters(exclude_characters="\r\n", exclude_categories=("Cs",)), max_size=8)


@given(st.lists(st.lists(FIELDS, min_size=2, max_size=4), max_size=6), st.sampled_from(",;\t"))
def test_what_python_writes_is_read_back_line_by_line(rows, delimiter):
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(rows)
    assert list(csv_rows(text.getvalue(), delimiter)) == list(enumerate(rows, start=1))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("closed", ["", 'e,"f', 'he said ""no"'])
def test_a_quote_that_is_not_closed_is_named_by_its_line(end, closed):
    lines = ["a,b", "", "1,2", '3,"4', "5,6", f"7,{closed}", "8,9"]
    with pytest.raises(
        ValueError, match="line 4: not CSV: a quote .* opens here and is not closed"
    ):
        list(csv_rows(end.join(lines)))


def test_a_quote_within_a_field_is_a_quote():
    assert list(csv_rows('he said "no",1\n"he said ""no""",2')) == [
        (1, ['he said "no"', "1"]),
        (2, ['he said "no"', "2"]),
    ]
    with pytest.raises(ValueError, match="line 2: not CSV: ',' expected after '\"'"):
        list(csv_rows('a\n"no" he said'))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "line 1: must name columns"),
        ("a,a\n1,2", "line 1: must name columns, each once"),
        ("a,b\n1,2\n3\n", "line 3: 1 fields, the header has 2"),
        ("a,b\n1,2,3\n", "line 2: 3 fields, the header has 2"),
    ],
)
def test_a_table_that_is_none(text, reason):
    with pytest.raises(ValueError, match=reason):
        csv_table(text)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (
            "a\ntr\u00e4ge".encode("latin-1"),
            r"line 2: byte 0xE4 \(number 5 of the file\) is not UTF-8",
        ),
        (b"\xef\xbb\xbfa\n\xff", r"line 2: byte 0xFF \(number 6 of the file\)"),
        ("a\nb\u00e4".encode("utf-16"), "it is UTF-16"),
        ("ab".encode("utf-16-be"), "line 1: a zero byte"),
        ("ab".encode("utf-32"), "it is UTF-32"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_text_that_is_not_utf_8_is_named_with_line_byte_and_the_fix(content, reason, encoding):
    with pytest.raises(EncodingError, match=rf"{reason}.*: save it as UTF-8 .*iconv -f NAME"):
        decode_text(content, encoding)


def test_a_byte_order_mark_is_dropped():
    assert decode_text("\ufeffa\u00e4".encode(), "utf-8-sig") == "a\u00e4"
