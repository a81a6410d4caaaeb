"""Work out what corpora of 7, 400 and 100,000 hours take on 1 and on 64 GPUs.

    python -m benchmarks.scaling       # from results/stages.json to results/scaling.json
    python -m scripts.write_tables     # its tables into docs/SCALING.md

Measured: the stages on one core, states, the index (`benchmarks/stages.py`). Counted: FLOPs and
bytes of the published pair. Estimated: everything on a GPU, from the counts and the vendors' peak
rates; no GPU was at hand. Simulated: how the stages flow (`benchmarks/queueing.py`).
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.costs import (
    CARDS,
    CORPORA,
    DISK,
    FAST,
    HALF,
    REFERENCE,
    SETTINGS,
    SPREAD,
    STATE,
    TIMM,
    TIMMS,
    Measured,
    Setting,
    flow,
    stations,
)
from benchmarks.front_end import ROOT, table
from benchmarks.queueing import Flow
from storage.provenance import git_commit
from system.cli import run_entry
from system.files import read_json, write_json


def stage_table(measured: Measured) -> dict[str, Any]:
    """Return what was measured of each stage."""
    rows = []
    for row in measured.rows.values():
        each = row["seconds"] / row["utterances"]
        spread = row["sd"] / row["utterances"]
        rows.append([row["stage"], row["utterances"], 1e3 * each, 1e3 * spread, 1 / each])
    columns = [("stage", ""), ("utterances at once", "d"), ("ms an utterance, m", ".3f")]
    return _table([*columns, ("sd, ms, m", ".3f"), ("utterances/s a core, m", ",.0f")], rows)


def state_table(measured: Measured) -> dict[str, Any]:
    """Return what states of the measured sizes take, and by proportion that of the pair."""
    rows = [
        [f"{row['bytes'] / 1e6:.0f} MB, measured", row["copy_s"], row["write_s"]]
        for row in measured.found["states"]
    ]
    size = STATE * measured.work["parameters"] / 1e9
    rows.append([f"{size:.2f} GB: the published pair, in proportion", *measured.state()])
    return _table([("state", ""), ("copy, s, m", ".2f"), ("write, s, m", ".2f")], rows)


def card_table(measured: Measured) -> dict[str, Any]:
    """Return what the published pair takes on cards, estimated."""
    rows = []
    for name, card in CARDS.items():
        flops, moved = measured.step(card)
        forward, step = max(measured.forward(card)), max(flops, moved)
        rows.append([name, card.bfloat16 / 1e12, card.bandwidth / 1e12, 1e3 * flops, 1e3 * moved])
        rows[-1] += [1 / step, HALF / step, 1 / forward, 1e3 * measured.front_end(card)]
    columns = [("card", ""), ("bfloat16, TFLOP/s, p", ".0f"), ("memory, TB/s, p", ".2f")]
    columns += [("step by FLOPs, ms, e", ".2f"), ("step by bytes, ms, e", ".2f")]
    columns += [("training, at most, utterances/s, e", ".0f"), ("half of it, e", ".0f")]
    columns += [
        ("forward, at most, utterances/s, e", ".0f"),
        ("both images by bytes, ms, e", ".3f"),
    ]
    return _table(columns, rows)


def core_table(measured: Measured) -> dict[str, Any]:
    """Return how many cores keep a card busy at its upper bound."""
    ways = {
        "stored images, in memory": measured.seconds("store read, cached"),
        "FLAC, images on the GPU": measured.seconds("read FLAC"),
        "FLAC, images on the cores": measured.seconds("read FLAC")
        + measured.seconds("resample on the device, both images"),
    }
    rows = []
    for name, card in CARDS.items():
        rate = 1 / max(measured.step(card))
        rows.append([name, rate, *(rate * seconds for seconds in ways.values())])
    columns = [
        ("card", ""),
        ("utterances/s, e", ".0f"),
        *((f"{way}, m / e", ".3f") for way in ways),
    ]
    return _table(columns, rows)


def corpus_table(measured: Measured, rates: Mapping[int, float]) -> dict[str, Any]:
    """Return what corpora take on disk, to build, and to train on.

    Args:
        measured: The measured stages.
        rates: Simulated utterances a second of 1 and 64 GPUs.
    """
    rows = []
    for name, corpus in CORPORA.items():
        n = 3600 * corpus.hours / corpus.utterance
        each = measured.seconds("index: hash and fingerprint", corpus.utterance)
        build = measured.seconds("read FLAC", corpus.utterance) + measured.seconds("store write")
        build += measured.seconds("resample on the device, both images", corpus.utterance)
        flac = 3600 * corpus.hours * measured.found["bytes_a_second"]["flac"]
        gpu = n * max(measured.step(CARDS[REFERENCE])) / 3600
        rows.append([name, n, flac / 1e9, n * measured.image_bytes / 1e9, n * each / 3600])
        rows[-1] += [n * build / 3600, n * build / 3600 / 64, f"{_hours(gpu)} to {_hours(2 * gpu)}"]
        rows[-1] += [_hours(n / rate / 3600) for rate in rates.values()]
    columns = [
        ("corpus", ""),
        ("utterances, p", ",.0f"),
        ("FLAC, GB, m", ",.1f"),
        ("images, GB, c", ",.1f"),
    ]
    columns += [("index, core hours, m", ",.2f"), ("cold store, core hours, m", ",.2f")]
    columns += [("on 64 cores, h, m", ",.2f"), ("GPU hours an epoch, e", "")]
    return _table([*columns, *((f"epoch on {n}, s", "") for n in rates)], rows)


def memory_table(measured: Measured) -> dict[str, Any]:
    """Return what the names of all recordings take in each process."""
    index, rows = measured.found["index"], []
    for name, corpus in CORPORA.items():
        n = 3600 * corpus.hours / corpus.utterance
        seconds = n * (index["index_s"] + index["dataset_s"])
        memory = n * (index["index_bytes"] + index["dataset_bytes"])
        rows.append([name, n * index["file_bytes"] / 1e6, seconds, memory / 1e6])
    columns = [("corpus", ""), ("index file, MB, m", ",.1f"), ("to read, s, m", ",.2f")]
    return _table([*columns, ("memory of a process, MB, m", ",.0f")], rows)


def flow_table(measured: Measured, flows: Mapping[Setting, Flow]) -> dict[str, Any]:
    """Return how the settings flow, and who is busiest."""
    best = 1 / max(measured.step(CARDS[REFERENCE]))
    rows = []
    for setting, found in flows.items():
        source = "own disk" if setting.source == DISK else setting.source
        network = "–" if setting.n_gpus == 1 else f"{8 * setting.network / 1e9:,.0f}"
        rows.append([f"{setting.images}, {source}", setting.n_gpus, network])
        rows[-1] += [found.per_second, 100 * found.per_second / best / setting.n_gpus]
        rows[-1] += [_percent(found.busy.get(name)) for name in ("mount", "workers", "GPUs")]
        rows[-1].append(_bottleneck(measured, setting, found))
    columns = [("images", ""), ("GPUs, a", "d"), ("network, Gbit/s a node, a", "")]
    columns += [("utterances/s, s", ",.0f"), ("of the GPUs' best, %, s", ".0f")]
    columns += [("mount busy, %, s", ""), ("workers busy, %, s", ""), ("GPUs busy, %, s", "")]
    return _table([*columns, ("busiest, s", "")], rows)


def _bottleneck(measured: Measured, setting: Setting, found: Flow) -> str:
    """Name the busiest station; of GPUs say if they average gradients longer than they compute."""
    if found.bottleneck != "GPUs":
        return found.bottleneck
    last = stations(measured, setting, CARDS[REFERENCE])[-1]
    return "network" if last.together(last.mean) > (1 + SPREAD) * last.mean else "step"


def pipeline_table(measured: Measured) -> dict[str, Any]:
    """Return real pipelines beside simulated ones."""
    rows = [list(row.values()) for row in measured.found["pipelines"]]
    columns = [("a worker", ""), ("the training process", ""), ("workers", "d")]
    columns += [("a second, m", ".1f"), ("a second, s", ".1f")]
    return _table([*columns, ("s / m", ".2f")], rows)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f}"


def _hours(hours: float) -> str:
    """Return a duration with two digits.

    >>> _hours(0.004), _hours(0.52), _hours(12.3), _hours(4800)
    ('14 s', '31 min', '12 h', '4,800 h')
    """
    units = {"h": hours, "min": 60 * hours, "s": 3600 * hours}
    unit = next((unit for unit, number in units.items() if number >= 1.5), "s")
    number = units[unit]
    return f"{number:,.0f} {unit}" if number >= 10 else f"{number:.2g} {unit}"


def _table(columns: list[tuple[str, str]], rows: list[list[Any]]) -> dict[str, Any]:
    return {"columns": [{"name": name, "shape": shape} for name, shape in columns], "rows": rows}


def arithmetic(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tables that need no simulation.

    Args:
        found: What `benchmarks/stages.py` wrote.
    """
    measured = Measured(found)
    made = (stage_table, state_table, card_table, core_table, memory_table, pipeline_table)
    return {table.__name__.removesuffix("_table"): table(measured) for table in made}


def scaling(found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return all tables.

    Args:
        found: What `benchmarks/stages.py` wrote.
    """
    measured = Measured(found)
    flows = {setting: flow(measured, setting) for setting in SETTINGS}
    rates = {
        f"{setting.n_gpus} GPU{'s' * (setting.n_gpus > 1)}": found.per_second
        for setting, found in flows.items()
        if setting.source == "memory" and setting.network == FAST
    }
    more = {"corpus": corpus_table(measured, rates), "flow": flow_table(measured, flows)}
    return arithmetic(found) | more


def main() -> None:
    """Print the tables and write them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    results = ROOT / "results"
    parser.add_argument("--stages", type=Path, default=results / "stages.json", metavar="FILE")
    parser.add_argument("--json", type=Path, default=results / "scaling.json", metavar="FILE")
    arguments = parser.parse_args()
    found = read_json(arguments.stages)
    made_of = {key: found[key] for key in ("command", "commit", "machine", "audio")}
    tables = scaling(found)
    for name, one in tables.items():
        heads = [column["name"] for column in one["columns"]]
        print(f"{name}\n\n{table([dict(zip(heads, row, strict=True)) for row in one['rows']])}\n")
    command = {"command": "python -m benchmarks.scaling", "commit": git_commit()}
    bound = 1 / max(Measured(found).forward(CARDS[TIMMS]))
    counted = {"published pair": found["published pair"]}
    counted |= {"timm_forward": TIMM, "forward_bound": bound}
    write_json(arguments.json, {**command, "stages": made_of, **counted, "tables": tables})


if __name__ == "__main__":
    run_entry(main)
