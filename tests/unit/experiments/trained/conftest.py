"""A scale of a few steps, for tests of what surrounds a training."""

from dataclasses import replace

import pytest

from vitreg.experiments.trained import scales

TINY = {"width": 16, "depth": 2, "heads": 2, "patch": 8, "image_size": 32, "register_init": 0.02}


@pytest.fixture(scope="module")
def tiny_scale():
    """Smoke runs of six steps of the smallest networks."""

    def short(tables):
        run = {"duration": "6 steps", "save_every": "1 steps", "batch": 16, "watch_images": 8, "watch_every": "3 steps"}
        recipe = dict(tables.get("recipe", {}))
        if "crops" in recipe:
            recipe |= {
                "crops": replace(recipe["crops"], local_size=16),
                "prototypes": 32,
                "hidden": 16,
                "bottleneck": 8,
            }
        if "group" in recipe:
            recipe |= {"group": 16}
        if "text_width" in recipe:
            recipe |= {"text_width": 16, "text_layers": 1, "text_heads": 2, "embed_dim": 16}
        return {
            **tables,
            "model": TINY,
            "recipe": recipe,
            "optim": {**tables["optim"], "warmup": "1 steps"},
            "run": {**tables["run"], **run},
        }

    smoke = scales.PROTOCOLS["smoke"]
    probes = {
        "linear": {"steps": 2, "batch": 16},
        "knn": {},
        "segmentation": {"steps": 2, "batch": 4},
        "depth": {"steps": 2, "batch": 4},
    }
    changed = replace(
        smoke, changes={recipe: short(tables) for recipe, tables in smoke.changes.items()}, probes={**smoke.probes, **probes},
        sizes={"small": {"depth": 1}, "": {}, "large": {"width": 32}},
    )  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(scales.PROTOCOLS, "smoke", changed)
        yield
