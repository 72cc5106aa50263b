"""What commands need to be given, made small: pictures, captions, masks and depths, runs, a scan."""

import json

import numpy as np
from PIL import Image

from . import tiny_run

MODEL = "planted:high-norm"
SMALL = ("--size", "64")
QUICK = ("--detector", "mad")  # the default fits mixtures to a hundred resamples


def make(vitreg, photographs, voc, root):
    """Make what the words of a command name, below a folder: data, a run of each kind, a scan."""
    pictures = tiny_run.pictures(root / "classes")
    settings = tiny_run.settings_file(root / "settings.json", pictures)
    clip = {"kind": "clip", "embed_dim": 16, "text_width": 32, "text_heads": 2, "text_layers": 1, "context": 16}
    of_clip = tiny_run.settings_file(
        root / "clip.json", write_captions(root, photographs), recipe=clip, model={"layer_scale": None},
        run={"evaluate_every": "100%", "watch_images": 0},
    )  # fmt: skip
    for name, file in (("run", settings), ("clip", of_clip)):
        done = vitreg("train", "--config", file, "--out", root / name)
        assert done.returncode == 0, done.stderr
    done = vitreg("scan", MODEL, photographs[0].parent, "--limit", "2", "--out", root / "scanned", *SMALL, *QUICK)
    assert done.returncode == 0, done.stderr
    return {
        "model": MODEL, "photographs": photographs[0].parent, "voc": voc, "classes": pictures, "settings": settings,
        "run": root / "run", "clip": root / "clip", "captions": root / "captions.json", "scanned": root / "scanned",
        "dense": write_dense(root / "dense"),
    }  # fmt: skip


def write_captions(root, photographs):
    rows = [
        {"image": str(path), "captions": [f"a photo of {path.stem}"], "split": "train" if number % 3 else "test"}
        for number, path in enumerate(photographs)
    ]
    (root / "captions.json").write_text(json.dumps(rows))
    return root / "captions.json"


def write_dense(root):
    """Write pairs of pictures with masks and with depths: the right half is another class, and farther away."""
    draw = np.random.default_rng(0)
    for side in ("train", "val"):
        for number in range(4):
            right = np.zeros((48, 64), np.uint8)
            right[:, 32:] = 1
            noise = draw.integers(0, 99, (48, 64, 3), np.uint8) + 90 * right[..., None]
            for kind, values in (("images", noise), ("masks", right), ("depths", 40 + 60 * right)):
                (root / side / kind).mkdir(parents=True, exist_ok=True)
                Image.fromarray(values).save(root / side / kind / f"{number}.png")
    return root
