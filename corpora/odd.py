"""All that is odd in a corpus, faults first."""

from collections.abc import Sequence

from config.schema import Config
from corpora.findings import CHECK, Finding, without_places
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
    named = [_without_places(one, survey.config) for one in found if one is not None]
    return sorted(named, key=lambda finding: finding.weight != CHECK)


def _without_places(finding: Finding, config: Config) -> Finding:
    return finding._replace(
        title=without_places(finding.title, config),
        details=[without_places(line, config) for line in finding.details],
    )
