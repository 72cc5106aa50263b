"""Write docs/results.md and the pages in docs/results/ from the result.json files of evaluations.

    python lab/results.py eval/ --out docs

Looks for `<folder>/<model>/<task>[-variant]/result.json`, and for `lab/results/born.json`, the record of `vitreg lab born`.
Every number stands beside the controls measured in the same run, and below each table stand the commands that made it.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

INTRODUCTION = """# What features are good for, measured

Every number here was measured with the command below its table (`lab/results.py` writes these pages from the `result.json` files); those of
`vitreg eval` and `vitreg discover` on small subsets of public sets. They compare models and controls on one protocol; none reproduces a
published number, since sets and lengths of training differ. A **control** is the same measurement of
something that must be worse: shuffled labels, the majority class, the box in the middle, the mean depth, untrained weights.

Models: `deit-tiny` is a DeiT-Tiny/16 trained on ImageNet-1k, restored from a quantised copy; `untrained` the same network with random
weights. The others were trained by vitreg's CPU presets ([train](verbs/train.md)) at 96 (CLIP: 112) pixels, with 0 and with 4 registers,
and have no artifacts. One run each: differences of a few points between 0 and 4 registers mean nothing.

Controls that are hardly beaten, or not at all: in `depth` the small runs beat the overall mean depth, but the mean depth *at each place*
only narrowly (DeiT-III, DINOv2 without registers) or not at all; their features are 8 x 8 per picture.
DeiT-Tiny beats both by far, so the probe works. In `discover` DeiT-Tiny lies above the best of nine centre boxes by less than its
interval; the small runs find fewer objects than that box.

- [Whole images](results/images.md): what one vector knows of an image.
- [Patches](results/patches.md): what patch tokens know of place, pixels and objects, and one token of the image.
- [Complexity](#complexity): what registers cost.
- [The lab](#the-lab): artifacts that grew here, and the same training with registers.
- [Three seeds](verbs/reproduce.md#three-seeds) of Tables 2a, 2b and 3 and Figs. 7 and 8; [toys](lab.md#toys-with-a-known-answer);
  designs of the lab: [first](lab.md#the-first-design), [later](lab.md#registers-added-later), [dissolve](lab.md#why-artifacts-dissolve).
- [Repairs](verbs/repairs.md) and [their grid](verbs/repair-grid.md); [the paper, claim by claim](paper.md).
"""
IMAGES = "# Whole images: what one vector knows\n\nModels, sets and controls: [results](../results.md).\n"
PATCHES = "# Patches: what their tokens know\n\nModels, sets and controls: [results](../results.md).\n"
PAGES = {
    "results/images.md": (IMAGES, ("controls", "knn", "linear", "logistic", "retrieval", "zeroshot")),
    "results/patches.md": (PATCHES, ("depth", "discover", "pixels", "position", "segmentation", "tokens")),
}
"""The pages by their place in the folder: how they begin, and the tasks on them. All other tasks stand in results.md."""

BORN = Path(__file__).with_name("results") / "born.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    options = parser.parse_args()
    tasks: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for path in sorted(options.folder.glob("*/*/result.json")):
        tasks[path.parent.name].append((path.parent.parent.name, as_evaluation(json.loads(path.read_text()))))
    write({task: section(task, results) for task, results in sorted(tasks.items())}, options.out)


def write(sections: dict[str, str], out: Path) -> None:
    """Write every section to the page of its task; a variant such as `linear-scene15` stands with its task."""
    place = {task: page for page, (_, tasks) in PAGES.items() for task in tasks}
    pages = {"results.md": [INTRODUCTION], **{page: [beginning] for page, (beginning, _) in PAGES.items()}}
    for task, text in sections.items():
        pages[place.get(task.partition("-")[0], "results.md")].append(text)
    pages["results.md"].append(born(json.loads(BORN.read_text())))
    for page, texts in pages.items():
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        (out / page).write_text("\n".join(texts))
        print(out / page)


def born(record: dict[str, Any]) -> str:
    """The lab's pair: each measure without registers, with them, and the difference with its interval over seeds."""
    without, registers = record["cells"]
    (effect,) = record["effects"]
    shares = [cell["artifacts"] for cell in (without, registers)]
    lines = [
        *("## The lab", ""),
        f"Artifacts born by training on `synthetic:retrieval`, {len(without['seeds'])} seeds, two cores, 2026-11-30. Each seed stands in",
        "[docs/lab.md](lab.md#eight-seeds); the record is [lab/results/born.json](../lab/results/born.json).",
        *("", row(["", without["name"], registers["name"], "difference (95 % over seeds)"]), row(["---"] * 4)),
        row(["runs with artifacts (largest norm above 5 times the median)", *(f"{s['hits']} of {s['of']}" for s in shares), ""]),
        row(["of which dissolved before the end", *(str(c["outcomes"].get("dissolved", 0)) for c in (without, registers)), ""]),
    ]  # fmt: skip
    for name, key, measure, unit in (
        ("largest norm / median, geometric mean of the peaks", "ratio", "ratio", " times"),
        ("task solved at step", "solved", "solved", ""),
        ("error at the end", "error", "error", " times"),
    ):
        found = effect["measures"][measure]
        values = [f"{round(cell[key]):,}" if not unit else f"{cell[key]:.3g}" for cell in (without, registers)]
        numbers = [
            f"{each:,.0f}" if not unit else f"{each:.2g}" for each in (found["value"], found["low"], found["high"])
        ]
        lines.append(row([name, *values, f"{numbers[0]}{unit} ({numbers[1]} to {numbers[2]})"]))
    return "\n".join([*lines, "", "```", "vitreg lab born --registers 0 4 --seeds 8 --out born", "```", ""])


def as_evaluation(result: dict[str, Any]) -> dict[str, Any]:
    """Bring the record of `vitreg discover` into the form of the others."""
    if "corloc" not in result:
        return result
    found = result["corloc"]
    metrics = {"CorLoc": found["value"], "95 % from": found["low"], "to": found["high"], "images": found["images"]}
    return {**result, "headline": "CorLoc", "metrics": metrics, "larger_is_better": True, "tables": []}


def section(task: str, results: list[tuple[str, dict[str, Any]]]) -> str:
    """One task: a row for every model, its controls beside it, then protocol and commands."""
    first = results[0][1]
    metrics = list(dict.fromkeys(name for _, r in results for name in r["metrics"]))
    controls = list(dict.fromkeys(name for _, r in results for name in r["controls"]))
    shown = [first["headline"], *(name for name in metrics if name != first["headline"])][:10]
    direction = "larger" if first["larger_is_better"] else "smaller"
    lines = [f"## {task}", "", f"Headline: {first['headline']}, {direction} is better.", ""]
    head = ["model", *shown, *(f"control: {name}" for name in controls), "beats controls"]
    lines += [row(head), row(["---"] * len(head))]
    for model, result in results:
        lines.append(
            row([
                model,
                *(number(result["metrics"].get(name)) for name in shown),
                *(number(result["controls"].get(name)) for name in controls),
                verdict(result),
            ])
        )  # fmt: skip
    for table in first.get("tables", [])[:1]:
        if len(table["rows"]) <= 12 and len(table["columns"]) <= 9:
            lines += ["", f"{table['title']} ({results[0][0]}):", ""]
            lines += [row(table["columns"]), row(["---"] * len(table["columns"]))]
            lines += [row([number(cell) for cell in cells]) for cells in table["rows"]]
    lines += [
        "",
        "Protocol: " + ", ".join(f"{key} {short(value)}" for key, value in first["protocol"].items()) + ".",
        "",
    ]
    lines += ["```", *(result["provenance"]["command"] for _, result in results), "```", ""]
    for note in dict.fromkeys(note for _, result in results for note in result["notes"]):
        lines += [f"- {note}"]
    return "\n".join([*lines, ""])


def verdict(result: dict[str, Any]) -> str:
    """Say whether a number is better than all its controls; where it has an interval, all of it must be."""
    if not result["controls"]:
        return "has none"
    metrics, sign = result["metrics"], 1 if result["larger_is_better"] else -1
    value, best = sign * metrics[result["headline"]], max(sign * control for control in result["controls"].values())
    if value <= best:
        return "**no**"
    return "not shown" if metrics.get("95 % from", value) <= best else "yes"


def row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def number(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 6:
        return f"{value[0]} to {value[-1]} ({len(value)})"
    return " x ".join(map(str, value)) if isinstance(value, list) else str(value)


if __name__ == "__main__":
    main()
