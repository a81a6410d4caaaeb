"""Numbers and users' words as text: percent, intervals, p-values, Markdown cells."""

import re
from collections.abc import Callable, Sequence

from corpora.splits import SPEAKERS_UNKNOWN
from system.text import count_of, printable

MARKDOWN_SPECIAL = re.compile(r"[\\`|*]|(?<=\])[(\[:]")  # code, end of a cell, link
TAG = re.compile(r"<(?=[A-Za-z/!?])")


def percent(value: float | None, sign: str = "") -> str:
    """Return a fraction in percent, or a dash for None."""
    return "–" if value is None else f"{100 * value:{sign}.1f}"


def plus_minus(mean: float, std: float | None, words: Callable[[float], str] = percent) -> str:
    """Return a mean with its standard deviation, where there is one.

    >>> plus_minus(0.74, 0.133)
    '74.0 ± 13.3'
    """
    spread = "" if std is None else f" ± {words(std)}"
    return f"{words(mean)}{spread}"


def with_interval(
    value: float,
    interval: Sequence[float] | None,
    sign: str = "",
    words: Callable[[float, str], str] = percent,
) -> str:
    """Return a value with its interval, where there is one.

    >>> with_interval(0.74, [0.646, 0.833])
    '74.0 [64.6, 83.3]'
    """
    if interval is None:
        return words(value, sign)
    return f"{words(value, sign)} [{words(interval[0], sign)}, {words(interval[1], sign)}]"


def count_speakers(n: int, protocol: str) -> str:
    """Return the number of speakers in words, also where the protocol says that nobody knows them.

    >>> count_speakers(1, "folder4/random-utterance-3-fold-SPEAKER-DEPENDENT-SPEAKERS-UNKNOWN/x")
    'unknown speakers'
    """
    return "unknown speakers" if SPEAKERS_UNKNOWN in protocol else count_of(n, "speaker")


def p_value(p: float) -> str:
    """Return a p-value with three decimals.

    >>> p_value(0.03125), p_value(0.0002)
    ('0.031', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], n_words: int = 1) -> str:
    """Return a table whose first `n_words` columns hold words, the others numbers.

    >>> print(markdown_table(["gender", "UA"], [["F", "70.1"]]))
    | gender | UA |
    |---|---:|
    | F | 70.1 |
    """
    lines = [
        "| " + " | ".join(map(in_markdown, head)) + " |",
        "|" + "---|" * n_words + "---:|" * (len(head) - n_words),
        *("| " + " | ".join(map(in_markdown, row)) + " |" for row in rows),
    ]
    return "\n".join(lines)


def in_markdown(text: str) -> str:
    r"""Escape a user's words for Markdown: one line, no tag, no link, no end of a cell.

    >>> print(in_markdown("<b>a|b</b> [x](y)"))
    &lt;b>a\|b&lt;/b> [x]\(y)
    """
    return TAG.sub("&lt;", MARKDOWN_SPECIAL.sub(r"\\\g<0>", printable(text, keep="")))


def in_code(text: str) -> str:
    """Return a user's words as code in Markdown, backquotes replaced.

    >>> print(in_code("a`b"))
    `a'b`
    """
    words = printable(text, keep="").replace("`", "'")
    return f"`{words}`"
