"""Write the measured tables of README.md, FUSION_COMPARISON.md and docs/ from results/.

cp runs/demo_ablation/comparison.json results/demo.json   # record what an ablation found
make test-slow                                            # record results/reliability.json
python -m benchmarks.fusions --json results/fusions.json  # record what each fusion costs
python -m benchmarks.scaling                              # record what stages make of corpora
cp runs/NAME/gates/gates.json results/NAME_gates.json     # record what gates do
cp runs/NAME_habits/habits.json results/habits.json       # record what bad habits add
cp runs/NAME_recipes/recipes.json results/recipes.json    # record what recipes reach on dev
python -m scripts.write_tables                            # write it into the pages
python -m scripts.write_tables --check                    # 1 if a page says something else
"""

import argparse
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from evaluation import habits_table, power_table, recipes_table
from evaluation.comparison_file import read_comparison
from evaluation.results import Comparison
from evaluation.tables import comparison_markdown, scores_markdown
from evaluation.wording import markdown_table
from system.cli import run_entry
from system.files import read_json, write_text

ROOT = Path(__file__).resolve().parent.parent


class Section(NamedTuple):
    """What is said of a recorded comparison, beside its figures."""

    title: str
    about: str
    command: str  # {folds} is filled in


SECTIONS = {
    "ravdess_study": Section(
        "RAVDESS, the recipe of the study",
        "All six folds with seed 0, and baselines; functionals are statistics of MFCC. The recipe "
        "was chosen on dev for concat alone, after an earlier one had been tested on the same "
        "folds (docs/STUDY.md).",
        'scripts/ablation.sh ravdess_study corpus.root=/path/to/ravdess "run.seeds=[0]"'
        "  # and baseline.py --config configs/ravdess_study_concat.yaml --kind svm_functionals "
        "--functionals mfcc, lstm; then compare.py",
    ),
    "ravdess_study_branches": Section(
        "RAVDESS, the recipe of the study: what each image is worth",
        "The same folds and seed; each branch trained alone beside the two fusions.",
        "python train.py --config configs/ravdess_study_cqt_only.yaml corpus.root=/path/to/ravdess"
        "  # and mel_only; then compare.py",
    ),
    "ravdess_study_frozen": Section(
        "RAVDESS, the recipe of the study: heads on common frozen features",
        "The same folds. Each branch is that of the table above; heads of ten seeds on its kept "
        "features, so that the arms differ in the head alone.",
        "scripts/ablation.sh ravdess_study --frozen corpus.root=/path/to/ravdess "
        '"run.seeds=[0,1,2,3,4,5,6,7,8,9]"',
    ),
    "ravdess_study_speaker": Section(
        "RAVDESS, the recipe of the study, images standardised by speaker",
        "Another protocol: it reads each speaker's unlabelled utterances. The same folds with "
        "seed 0; concat alone, with an earlier recipe of stretched recordings, mvitv2_micro and "
        "25 epochs, that of the first commit.",
        "python train.py --config configs/ravdess_study_concat.yaml corpus.root=/path/to/ravdess "
        "train.normalize=speaker  # and baseline.py --kind svm_images, majority; then compare.py",
    ),
    "ravdess_small": Section(
        "RAVDESS, small backbones trained from scratch",
        "Acted speech of people, a part of the folds and one seed: no ranking to rely on.",
        'scripts/ablation.sh ravdess_small corpus.root=/path/to/ravdess "run.folds={folds}"',
    ),
    "ravdess_baselines": Section(
        "RAVDESS, baselines",
        "All folds, on the images and splits of the small fusions; functionals are eGeMAPSv02.",
        "python baseline.py --config configs/ravdess_small_gmu.yaml --kind svm_images "
        "corpus.root=/path/to/ravdess  # and majority, svm_functionals, lstm; then compare.py",
    ),
    "ravdess_baselines_speaker": Section(
        "RAVDESS, baselines that read each speaker's unlabelled utterances",
        "Another protocol than above; functionals are statistics of MFCC.",
        "python baseline.py --config configs/ravdess_small_gmu.yaml --kind svm_images "
        "corpus.root=/path/to/ravdess train.normalize=speaker  # and majority, svm_functionals "
        "--functionals mfcc; then compare.py",
    ),
    "demo": Section(
        "Demo corpus",
        "Synthetic speech: it shows that the pipeline works, and nothing about people.",
        "make demo",
    ),
}


BACKBONES = {"small": "Small backbones", "paper": "The published backbones"}
MEMORY = {
    "allocated": "the most that was allocated on the GPU",
    "kept": "what is kept for backward, parameters, gradients and state of the optimizers",
}
NOT_MEASURED = "\nNot measured yet.\n\n"
CLOCK = {"allocated": "by the clock", "kept": "in processor time of one thread"}


def demo_table() -> str:
    """Return the scores of the demo."""
    return scores_markdown(_recorded("demo"))


def measured() -> str:
    """Return all recorded comparisons."""
    return "\n" + "\n".join(section(name) for name in SECTIONS)


def noted(name: str) -> str:
    """Return a table of docs/FUSION_NOTES.md, whose figures were taken from runs by hand."""
    return _shaped(read_json(ROOT / "results" / "fusion_notes.json", name)[name])


def scaled(name: str) -> str:
    """Return a table of docs/SCALING.md."""
    return _shaped(read_json(ROOT / "results" / "scaling.json", "tables")["tables"][name])


def habits() -> str:
    """Return what bad habits of evaluation add, once that is recorded."""
    file = ROOT / "results" / "habits.json"
    if not file.exists():
        return NOT_MEASURED
    return f"\n{habits_table.habits_markdown(read_json(file, *habits_table.KEYS))}\n"


def powers() -> str:
    """Return what designs can show, in the order of their files."""
    files = sorted((ROOT / "results").glob("power_*.json"))
    found = [read_json(file, *power_table.KEYS) for file in files]
    return "\n" + "\n".join(map(power_table.power_markdown, found))


def ablated() -> str:
    """Return what changed features of one branch cost the study's gated fusion, once recorded."""
    from gates.results import read_gates  # which imports torch
    from gates.tables import ablation_markdown

    file = ROOT / "results" / "ravdess_study_gates.json"
    if not file.exists() or (found := read_gates(file)).branch_ablation is None:
        return NOT_MEASURED
    return f"\n{ablation_markdown(found, found.branch_ablation)}\n\n"


def recipes() -> str:
    """Return what recipes reach on dev, once that is recorded."""
    file = ROOT / "results" / "recipes.json"
    if not file.exists():
        return NOT_MEASURED
    return f"\n{recipes_table.recipes_markdown(read_json(file, *recipes_table.KEYS))}\n"


def scaled_with() -> str:
    """Return with what the stages of docs/SCALING.md were measured."""
    made = read_json(ROOT / "results" / "scaling.json", "stages")["stages"]
    dirty = " and files that differ from it" if made["commit"].endswith("-dirty") else ""
    commit = f"at commit {made['commit'][:10]}{dirty}"
    return f"""
Made on {made["machine"]}; one thread, recordings: {made["audio"]}, {commit}:

    {made["command"]}

"""


def scaled_work() -> str:
    """Return what was counted of the published pair, in words."""
    found = read_json(ROOT / "results" / "scaling.json", "published pair", "timm_forward")
    work, timm = found["published pair"], found["timm_forward"]
    parameters, flops = work["parameters"] / 1e6, work["forward_flops"] / 1e9
    forward, step = work["forward_bytes"] / 1e9, work["step_bytes"] / 1e9
    return f"""
Counted for MaxViT-Base and MViTv2-Base with a GMU, an utterance, images of 224 pixels:
{parameters:.0f} million parameters, {flops:.1f} GFLOP forward, {forward:.1f} GB moved forward, and
{step:.1f} GB forward and backward, in float32. The one measurement to hold it to is timm's
own, of forward alone: {timm:.0f} utterances a second through both on an RTX 4090, which is
{100 * timm / found["forward_bound"]:.0f} % of the upper bound below.

"""


def _shaped(found: Mapping[str, Any]) -> str:
    """Return a table that says how its columns are shown."""
    shapes = [column.get("shape", "") for column in found["columns"]]
    rows = [
        [_cell(value, shape) for value, shape in zip(row, shapes, strict=True)]
        for row in found["rows"]
    ]
    return f"\n{markdown_table([column['name'] for column in found['columns']], rows)}\n\n"


def _cell(value: Any, shape: str) -> str:
    """Return a value, or a value with the ends of its interval.

    >>> _cell([19.3, -3.9, 40.5], "+.1f"), _cell(0.53, ".3f"), _cell(None, ".3f"), _cell("gmu", "")
    ('+19.3 [-3.9, +40.5]', '0.530', '–', 'gmu')
    """
    if isinstance(value, list):
        value, low, high = (f"{number:{shape}}" for number in value)
        return f"{value} [{low}, {high}]"
    return "–" if value is None else f"{value:{shape}}"


def proven() -> str:
    """Return what the tests of each promise did when they were last recorded."""
    found = read_json(ROOT / "results" / "reliability.json", "promises", "git_commit")
    lines = ["| promise | proof | tried |", "|---|---|---|"]
    for promise, kept in found["promises"].items():
        tests = "<br>".join(f"`{name.removeprefix('tests/')}`" for name in kept["tests"])
        counts = {"cases": sum(kept["tests"].values()), **kept["counts"]}
        tried = "<br>".join(f"{n:,} {what}" for what, n in counts.items())
        lines.append(f"| {promise} | {tests} | {tried} |")
    commit = str(found["git_commit"])
    dirty = " and files that differ from it" if commit.endswith("-dirty") else ""
    return "\n".join([f"`make test-slow` at commit {commit[:10]}{dirty}:", "", *lines, ""])


def costs() -> str:
    """Return what each fusion costs, with all recorded backbones."""
    found = read_json(ROOT / "results" / "fusions.json")
    return "\n" + "\n".join(
        costs_markdown(name, found[name]) for name in BACKBONES if name in found
    )


def costs_markdown(name: str, found: Mapping[str, Any]) -> str:
    """Return what `benchmarks/fusions.py` measured, in words and as a table."""
    networks, n = found["networks"], found["steps"]
    head = ["fusion", "head, parameters", "all, millions", "head, MFLOPs", "all, GFLOPs"]
    head += ["step, of gmu's", "memory, MB"]
    rows = []
    for row in found["rows"]:
        cells = [row["name"], f"{row['head_parameters']:,}", f"{row['parameters'] / 1e6:.2f}"]
        cells += [f"{row['head_flops'] / 1e6:.2f}", f"{row['flops'] / 1e9:.3f}"]
        cells += [_with_range(row["step"], row["step_range"]), f"{row['memory'] / 1e6:,.0f}"]
        rows.append(cells)
    commit, ratios = found["git_commit"], f"median [least, most] of {n} ratios" if n > 1 else "once"
    dirty = " and files that differ from it" if commit.endswith("-dirty") else ""
    return f"""### {BACKBONES[name]}

{networks["cqt"]} and {networks["mel"]}, {networks["side"]} pixels, random weights,
{networks["batch"]} utterances a step, float32. FLOPs: of one utterance forward, two for a
multiplication with its addition, matrix products and convolutions alone. Step: forward,
backward and optimizers, beside a step of gmu, {ratios}, {CLOCK[found["memory_is"]]};
gmu's took {found["step_seconds"]:.2f} s. Memory of a step: {MEMORY[found["memory_is"]]}.
Made on {found["device"]}, {found["threads"]} thread(s), torch {found["torch"]}, at commit
{commit[:10]}{dirty}:

    python -m benchmarks.fusions --backbones {name} --steps {n}

{markdown_table(head, rows)}
"""


def _with_range(value: float, ends: Sequence[float]) -> str:
    if ends[0] == ends[1]:
        return f"{value:.2f}"
    return f"{value:.2f} [{ends[0]:.2f}, {ends[1]:.2f}]"


SCALED = ("stage", "state", "card", "core", "corpus", "memory", "flow", "pipeline")
PAGES: dict[str, dict[str, Callable[[], str]]] = {  # page -> marker -> what follows it
    "README.md": {"demo table": demo_table},
    "FUSION_COMPARISON.md": {"costs": costs, "measured": measured},
    "docs/RELIABILITY.md": {"proven": proven},
    "docs/SCALING.md": {
        "scaling made": scaled_with,
        "scaling work": scaled_work,
        **{f"scaling {name}": partial(scaled, name) for name in SCALED},
    },
    "docs/STUDY.md": {
        "branch ablation": ablated,
        "power": powers,
        "recipes": recipes,
        "habits": habits,
    },
    "docs/FUSION_NOTES.md": {
        name.replace("_", " "): partial(noted, name)
        for name in (
            *("ravdess_fusion", "ravdess_contrastive", "ravdess_seeds", "ravdess_lower_rate"),
            *("ravdess_gates", "demo_gates"),
        )
    },
}


def section(name: str) -> str:
    """Return one recorded comparison in words and tables."""
    found, said = _recorded(name), SECTIONS[name]
    made_with = "; ".join(
        f"commit {made.git_commit[:10]}, device {made.device}, {made.threads} thread(s)"
        for made in found.made_with
    )
    return "\n".join(
        [
            f"### {said.title}",
            "",
            f"{said.about} Chance is UA {100 / len(found.classes):.1f} %. Made with {made_with}:",
            "",
            f"    {said.command.format(folds=found.folds)}",
            "",
            comparison_markdown(found),
        ]
    )


def written(page: str) -> str:
    """Return a page with its tables as results/ has them."""
    text = (ROOT / page).read_text(encoding="utf-8")
    for marker, make in PAGES[page].items():
        pattern, new = rf"(<!-- {marker} -->\n).*?(<!-- end -->)", make()
        text = _between(pattern, new, text)
    return text


def _between(pattern: str, new: str, text: str) -> str:
    return re.sub(pattern, lambda match: match[1] + new + match[2], text, count=1, flags=re.DOTALL)


def main() -> int:
    """Write the pages, or check them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    stale = [page for page in PAGES if written(page) != (ROOT / page).read_text(encoding="utf-8")]
    for page in stale:
        if check:
            print(f"{page} does not say what results/ say: run python -m scripts.write_tables")
        else:
            write_text(ROOT / page, written(page))
    return int(check and bool(stale))


def _recorded(name: str) -> Comparison:
    return read_comparison(ROOT / "results" / f"{name}.json")


if __name__ == "__main__":
    run_entry(main)
