"""The benchmark of heads trains each fusion on kept features, in a tiny form."""

from benchmarks import heads
from storage.run_folder import read_run


def test_heads_of_all_fusions_are_trained_and_timed(tmp_path) -> None:
    found = heads.measure(tmp_path, epochs=2, seeds=range(2), speakers=6, takes=1)
    assert list(found) == list(heads.FUSIONS)
    for fusion, row in found.items():
        run = read_run(tmp_path / "runs" / fusion)
        assert run.seeds == [0, 1] and run.config["train.features"] == "frozen"
        assert all(seconds > 0 for seconds in row.values()) and len(row) == 6
    assert len(list((tmp_path / "store/branches").glob("*.safetensors"))) == 2
