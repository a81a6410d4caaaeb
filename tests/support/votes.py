"""Votes of three raters for the tiny IEMOCAP of the tests."""

import re
import shutil
from pathlib import Path

import numpy as np

WORDS = {"neu": "Neutral", "hap": "Happiness", "ang": "Anger", "sad": "Sadness"}
LINE = re.compile(r"\[[\d.]+ - [\d.]+\]\t\w+\t(\w+)\t\[.*\]")


def vote_on_corpus(corpus: Path, folder: Path) -> Path:
    """Copy an IEMOCAP and add the votes of raters, who mostly agree with the label."""
    root = folder / "IEMOCAP"
    shutil.copytree(corpus, root)
    draw = np.random.default_rng(0)
    for file in sorted(root.rglob("EmoEvaluation/*.txt")):
        lines = []
        for line in file.read_text().splitlines():
            lines.append(line)
            if (match := LINE.fullmatch(line)) is not None:
                others = draw.choice(list(WORDS.values()), 2, p=[0.25] * 4)
                chosen = [WORDS[match[1]], WORDS[match[1]], *others[:1]]
                lines += [f"C-E{i}:\t{word};\t()" for i, word in enumerate(chosen, start=1)]
                lines += ["C-F1:\tSurprise;\t(the actor)", "A-E1:\tval 3; act 2; dom  2;\t()", ""]
        file.write_text("\n".join(lines) + "\n")
    return root
