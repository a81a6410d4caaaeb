"""All that is odd in a corpus, faults first."""

from collections.abc import Sequence

from corpora.findings import CHECK, Finding
from corpora.odd_audio import AUDIO_RULES
from corpora.odd_design import DESIGN_RULES
from corpora.odd_shortcuts import telling_numbers, texts_of_one_class
from corpora.shortcuts import Shortcut
from corpora.survey import Survey


def find_odd(survey: Survey, shortcuts: Sequence[Shortcut]) -> list[Finding]:
    """Return a finding for each kind that occurs: perhaps faults first, then what to know.

    Args:
        survey: The corpus.
        shortcuts: From `shortcuts` of the same survey.
    """
    found = [rule(survey) for rule in (*DESIGN_RULES, *AUDIO_RULES)]
    text = next((one for one in shortcuts if one.name == "text"), None)
    found += [texts_of_one_class(survey, text), *telling_numbers(shortcuts)]
    return sorted(
        (one for one in found if one is not None), key=lambda finding: finding.weight != CHECK
    )
