"""Write the shipped pair, `vitreg:born` and `vitreg:born-reg4`, out of runs of `vitreg lab born`.

    vitreg lab born --registers 0 4 --seeds 8 --out born
    python lab/ship_born.py born

The seed is chosen by a rule that was fixed before the runs ended: seed 0; if its run without registers ended as `dissolved` or
`not solved`, the first seed whose run without registers ended as `artifacts` and whose run with 4 registers ended as `none`.
Weights are rounded to half precision, and what the card says is measured on the rounded ones: the error and the scan.
"""

from __future__ import annotations

import argparse
import datetime
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

import vitreg
from vitreg.data.sets.synthetic.parameters import USUAL
from vitreg.data.sets.synthetic.retrieval import least_error
from vitreg.experiments.lab.born import design_of
from vitreg.experiments.lab.options import LabOptions
from vitreg.experiments.lab.said import judged
from vitreg.experiments.lab.task_error import UNSEEN, task_error
from vitreg.models.shipped import CARD, HOME
from vitreg.passes.jobs import Row
from vitreg.records.card import ModelCard, OwnScan, SeedOutcome, TaskError
from vitreg.specs import SHIPPED
from vitreg.training.history import read_run
from vitreg.writing.files import write_text

RULE = (
    "The seed was chosen by a rule fixed beforehand: seed 0, or, if its run without registers ended as dissolved or not solved, the "
    "first seed that ended as artifacts without registers and as none with 4."
)
SENTENCE = {
    0: "Born by training on a synthetic task, without registers: its artifacts grew by themselves; they are neither planted nor natural.",
    4: "Born by training on a synthetic task, with 4 registers: the twin of vitreg:born, of the same seed, in which no artifacts grew.",
}
SPECS = {0: "vitreg:born", 4: "vitreg:born-reg4"}
LICENCE = "Weights: Apache-2.0, as vitreg; the data are drawn by vitreg."
IMAGES = "synthetic:retrieval"  # seed 0: no image of the run of another seed
TIMM = """import torch
from functools import partial
from safetensors.torch import load_file
from timm.layers import GluMlp, PatchEmbed, RmsNorm
from timm.models.vision_transformer import VisionTransformer

model = VisionTransformer(
    img_size=32, patch_size=4, embed_dim=64, depth=4, num_heads=2, mlp_ratio=5.5, num_classes=0,
    class_token=False, reg_tokens={registers}, pos_embed="none", no_embed_class=True, global_pool="", fc_norm=False,
    qkv_bias=False, proj_bias=False, norm_layer=partial(RmsNorm, eps=1e-6),
    mlp_layer=lambda bias, act_layer, **given: GluMlp(bias=False, act_layer=torch.nn.SiLU, gate_last=False, **given),
    embed_layer=lambda bias=False, **given: PatchEmbed(bias=False, **given),
)
model.head = torch.nn.Linear(64, 48, bias=False)  # reads every patch token
model.load_state_dict(load_file("model.safetensors"), strict=True)
"""


@dataclass(frozen=True)
class Run:
    """A run that ended: what became of it, and where it lies."""

    folder: Path
    outcome: str
    steps: int
    ratio: float
    made: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="--out of vitreg lab born")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--out", type=Path, default=HOME)
    options = parser.parse_args()
    runs = runs_of(options.folder)
    outcomes = [
        SeedOutcome(
            seed=seed,
            without=outcome_of(runs, 0, seed),
            with_registers=outcome_of(runs, 4, seed),
            ratio=runs[0, seed].ratio if (0, seed) in runs else None,
        )
        for seed in range(options.seeds)
    ]
    seed = chosen(outcomes)
    for registers in SPECS:
        ship(runs[registers, seed], registers, seed, outcomes, options)
        print(f"{SPECS[registers]}: seed {seed}, {runs[registers, seed].folder}")


def runs_of(folder: Path) -> dict[tuple[int, int], Run]:
    """Return the runs that have ended, by registers and seed."""
    found = {}
    for path in sorted((folder / "jobs").glob("*.json")):
        row = Row.model_validate_json(path.read_bytes())
        config = row.settings["config"]
        registers, seed = config["model"]["registers"], config["run"]["seed"]
        run = next(
            each for each in design_of(LabOptions(registers=(registers,), seeds=seed + 1)).runs if each.seed == seed
        )
        place = folder / "runs" / path.stem
        became = judged(run, read_run(place), row.seconds, "diverged" in row.found)
        made = datetime.datetime.fromtimestamp(row.at, datetime.UTC).date().isoformat()
        found[registers, seed] = Run(
            place, "failed" if row.failed else became.outcome, became.steps, became.last_ratio, made
        )
    return found


def outcome_of(runs: dict[tuple[int, int], Run], registers: int, seed: int) -> str:
    return runs[registers, seed].outcome if (registers, seed) in runs else ""


def chosen(outcomes: list[SeedOutcome]) -> int:
    """Return the seed that ships, by the rule."""
    first = outcomes[0]
    if first.without not in ("dissolved", "not solved", ""):
        return first.seed
    for each in outcomes:
        if (each.without, each.with_registers) == ("artifacts", "none"):
            return each.seed
    raise SystemExit("no seed ended as artifacts without registers and as none with 4: there is no pair to ship.")


def came_of(first: SeedOutcome, seed: int) -> str:
    """Say what the rule came to."""
    if seed == first.seed:
        return "Seed 0 it is."
    return f"The run of seed 0 ended as {first.without}, so this is not seed 0 but seed {seed}."


def ship(run: Run, registers: int, seed: int, outcomes: list[SeedOutcome], options: argparse.Namespace) -> None:
    """Write weights, settings and card of one model."""
    spec, config = SPECS[registers], json.loads((run.folder / "config.json").read_text())
    folder = options.out / spec.partition(":")[2]
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: value.to(torch.float16) for name, value in load_file(run.folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)
    kept = {key: config[key] for key in ("schema", "model", "preprocess")}
    write_text(folder / "config.json", json.dumps(kept, indent=1) + "\n")
    model = vitreg.load(f"run:{folder}", device="cpu", precision="fp32")
    verdict = vitreg.scan(model, [IMAGES]).verdict
    card = ModelCard(
        spec=spec, sentence=SENTENCE[registers], made_for=SHIPPED[spec.partition(":")[2]], registers=registers,
        data=config["train"]["data"]["root"], recipe=config["train"]["recipe"]["kind"], preset="lab-retrieval", seed=seed,
        steps=run.steps, command=command_of(config["train"], registers, seed),
        experiment=f"vitreg lab born --registers 0 4 --seeds {options.seeds} --out born",
        error=TaskError(asked=task_error(model), least_alone=least_error(USUAL), data=UNSEEN, images=256),
        scan=OwnScan(
            command=f"vitreg scan {spec} {IMAGES} --precision fp32", kind=verdict.kind, sentence=verdict.sentence,
            reason=verdict.reason,
        ),
        rule=f"{RULE} {came_of(outcomes[0], seed)}", seeds=outcomes, vitreg=vitreg.__version__, made=run.made, licence=LICENCE,
        in_timm=TIMM.format(registers=registers),
    )  # fmt: skip
    write_text(folder / CARD, card.model_dump_json(indent=1) + "\n")


def command_of(config: dict, registers: int, seed: int) -> str:
    """Return the command that trains the same model alone."""
    preset = "lab-retrieval" + (f"-reg{registers}" if registers else "")
    run = config["run"]
    return (
        f"vitreg train {preset} --data.root {config['data']['root']} --run.seed {seed} --run.device cpu "
        f"--run.duration '{run['duration']}' --run.until '{run['until']}' --run.until-more '{run['until_more']}' --out run"
    )


if __name__ == "__main__":
    main()
