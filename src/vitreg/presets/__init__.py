"""Complete runs by name. Each is a function; its docstring gives the cost and the expected result.

Any preset takes a number of registers: `deit3-b16-in22k` has 4 and `deit3-b16-in22k-reg0` none; the paper's ablation
(Fig. 8) is `dinov2-l14-in22k-reg{0,1,2,4,8,16}`. Every setting of a preset can be overridden.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from vitreg.errors import UserError, unknown
from vitreg.presets import lab, paper, small
from vitreg.training.settings import TrainConfig

MOST_REGISTERS = 1024

PRESETS: dict[str, Callable[[], TrainConfig]] = {
    function.__name__.replace("_", "-"): function
    for function in (
        paper.deit3_b16_in22k, paper.clip_b16, paper.dinov2_l14_in22k, paper.deit3_b16_in22k_finetune,
        paper.deit3_b16_in1k, paper.deit3_b16_in1k_finetune, paper.deit3_s16_in1k, paper.dinov2_l16_in1k,
        paper.dino_b16_in1k, paper.mae_b16_in1k, small.deit3_lab, small.clip_lab, small.dinov2_lab, small.deit3_imagenette_cpu,
        small.clip_flickr8k_cpu, small.dinov2_imagenette_cpu, small.dino_imagenette_cpu, small.mae_imagenette_cpu,
        small.deit3_smoke, small.clip_smoke, small.dinov2_smoke, small.dino_smoke, small.mae_smoke,
        lab.lab_retrieval,
    )
}  # fmt: skip


def preset(name: str) -> TrainConfig:
    """Return the configuration of a preset, with `-regN` for another number of registers.

    Raises:
        UserError: for a name that does not exist.
    """
    found = re.fullmatch(r"(.+?)(?:-reg(\d+))?", name)
    base, registers = (found[1], found[2]) if found else (name, None)
    if base not in PRESETS:
        raise unknown("preset", base, PRESETS, see="vitreg train lists them")
    config = PRESETS[base]()
    if registers is None:
        return config
    if int(registers) > MOST_REGISTERS:
        raise UserError(f"{registers} registers are more than any sequence has patches; the paper tries 0 to 16.")
    return replace(config, model=replace(config.model, registers=int(registers)))
