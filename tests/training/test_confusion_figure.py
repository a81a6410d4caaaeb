"""The confusion figure is bounded, however many classes there are."""

import struct
import subprocess
import sys

import numpy as np
import pytest

from evaluation.figures import MANY
from tests.support.paths import ROOT
from training.tensorboard import _png, confusion_figure

MOST = 1600  # pixels a side


def size_of(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("n", [MANY, MANY + 1, 150, 1000])
def test_the_figure_has_a_largest_size_and_few_names(n):
    names = [f"class {k} {'w' * 990}" for k in range(n)]  # nearly as long as a name may be
    figure = confusion_figure(np.ones((n, n), dtype=int), names)
    assert figure.bbox.width == figure.bbox.height <= MOST
    (axes,) = figure.axes
    assert len(axes.get_xticks()) == len(axes.get_yticks()) <= MANY
    assert all(len(label.get_text()) <= 22 for label in axes.get_yticklabels())
    assert len(axes.texts) == (n * n if n <= MANY else 0)
    if n == 150:
        assert size_of(_png(figure)) == (figure.bbox.width, figure.bbox.height)


def test_few_classes_have_their_counts():
    figure = confusion_figure(np.array([[3, 1], [0, 7]]), ["calm", "glad"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.texts] == ["3", "1", "0", "7"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["calm", "glad"]


MEASURED = """
import numpy as np
from training.tensorboard import _png, confusion_figure
def peak():  # kB; what getrusage says begins with the peak of the parent process
    return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
before = peak()
_png(confusion_figure(np.ones((1000, 1000), dtype=int), [str(k) for k in range(1000)]))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a file of Linux")
def test_the_figure_of_1000_classes_needs_less_than_half_a_gigabyte():
    done = subprocess.run(
        [sys.executable, "-c", MEASURED], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 500_000
