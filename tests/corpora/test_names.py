"""Names have one spelling: composed, without what nobody sees, in one case and number format."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from corpora.names import clean_name, clean_text, is_placeholder, two_spellings


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Ja\u0308n", "J\u00e4n"),  # decomposed
        ("\ufeffanna", "anna"),  # byte order mark
        ("an\u200bna\u00ad", "anna"),  # zero-width space, soft hyphen
        ("a\u034f\u0308", "\u00e4"),  # a joiner that would keep the letter apart
        ("\u2764\ufe0f", "\u2764"),  # variation selector
        (" an\u00a0na \t x ", "an na x"),  # blanks of all kinds
        ("\u1112\u1161\u11ab", "\ud55c"),
    ],
)
def test_a_name_is_composed_and_loses_what_nobody_sees(written, name):
    assert clean_name(written) == name


@given(st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12))
def test_a_clean_name_is_composed_and_stays_as_it_is(text):
    name = clean_name(text)
    assert unicodedata.is_normalized("NFC", name)
    assert not any(unicodedata.category(c) == "Cf" for c in name)
    assert clean_name(name) == name


def test_a_text_is_cleaned_and_never_refused():
    assert clean_text("Oh\x00 NO,\x1b[2J \ud800 Ja\u0308n\u200b\uffff") == "oh no, [2j j\u00e4n"
    assert clean_text("\x07\u200b") == ""


@pytest.mark.parametrize(
    "word", ["NaN", "nan", "-nan", "NULL", "None", "N/A", "#N/A", "<NA>", "NaT"]
)
def test_words_for_unknown(word):
    assert is_placeholder(word)


@pytest.mark.parametrize("word", ["", "Nana", "naan", "neutral", "0", "no", "nada"])
def test_words_that_are_names(word):
    assert not is_placeholder(word)


@pytest.mark.parametrize(
    "same",
    [
        ("Anna", "anna"),
        ("1", "1.0"),
        ("1", "01"),
        ("0", "0.00"),
        ("1.50", "1.5"),
        ("\uff21nna", "anna"),  # a wide A
        ("Stra\u00dfe", "STRASSE"),
    ],
)
def test_two_spellings_of_a_name_are_found(same):
    assert two_spellings([*same, "else"]) == [tuple(sorted(same))]


@pytest.mark.parametrize(
    "names", [("1", "10"), ("1.5", "15"), ("0.1", "1"), ("s1", "s2"), ("", "0")]
)
def test_other_names_are_other_names(names):
    assert two_spellings(names) == []
