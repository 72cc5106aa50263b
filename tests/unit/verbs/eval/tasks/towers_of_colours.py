"""Pictures of plain colours with captions that name them, and a CLIP trained on these for seconds."""

import json

import numpy as np
from PIL import Image

from vitreg.config import decode
from vitreg.training.settings import TrainConfig
from vitreg.verbs.train.verb import train

COLOURS = {"red": (230, 20, 20), "green": (20, 230, 20), "blue": (20, 20, 230), "white": (240, 240, 240)}


def pictures(root, count=6):
    """Write ROOT/images/COLOUR/*.png, ROOT/captions.json with two captions each, and ROOT/classes/{train,test}."""
    draw = np.random.default_rng(0)
    rows = []
    for name, colour in COLOURS.items():
        for index in range(count):
            noise = np.clip(np.array(colour) + draw.integers(-15, 16, (40, 48, 3)), 0, 255).astype(np.uint8)
            split = "test" if index < 2 else "train"
            file = root / "classes" / split / name / f"{index}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise).save(file)
            texts = [f"a photo of a {name}.", f"a bad photo of the {name}."]
            rows.append({"image": str(file.relative_to(root)), "captions": texts, "split": split})
    (root / "captions.json").write_text(json.dumps(rows))
    return root


def clip_run(root, out, *, steps, kind="clip", **model):
    """Train on `pictures`."""
    settings = {
        "model": {"width": 32, "depth": 2, "heads": 2, "image_size": 32, "patch": 8, "layer_scale": None} | model,
        "data": {"root": str(root / ("captions.json" if kind == "clip" else "classes")), "workers": 0},
        "recipe": {"kind": "clip", "embed_dim": 16, "text_width": 32, "text_heads": 2, "text_layers": 1, "context": 16}
        if kind == "clip"
        else {"kind": kind, "group": 2},
        "optim": {"lr": 3e-3, "warmup": "0 steps"},
        "run": {
            "batch": 8, "duration": f"{steps} steps", "precision": "fp32", "device": "cpu", "watch_images": 0,
            "evaluate_every": "100%", "save_every": "100%", "tensorboard": False,
        },
    }  # fmt: skip
    train(decode(TrainConfig, settings), out)
    return out
