"""The range of training data, against values worked out by hand."""

from audio.description import RecordingFacts
from storage.training_range import training_range


def test_spread_and_rates_worked_out_by_hand() -> None:
    facts = [
        RecordingFacts(1 + i / 100, 8000 if i < 10 else 16_000, -i / 2, 1000 + 10 * i)
        for i in reversed(range(101))
    ]
    found = training_range(facts).model_dump()
    points = ("min", "p1", "median", "p99", "max")
    assert list(found["seconds"]) == list(points)
    assert list(found["seconds"].values()) == [1.0, 1.01, 1.5, 1.99, 2.0]
    assert list(found["level"].values()) == [-50.0, -49.5, -25.0, -0.5, 0.0]
    assert list(found["bandwidth"].values()) == [1000, 1010, 1500, 1990, 2000]
    assert found["rates"] == [
        {"rate": 8000, "recordings": 10},
        {"rate": 16_000, "recordings": 91},
    ]
