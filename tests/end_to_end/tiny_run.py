"""A run of seconds on JPEGs written by the test, and what must be equal where two runs are the same."""

import json
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import load_file

TIMES = {"images_per_second", "wait_share"}  # all else in metrics.jsonl is the same in the same run


def pictures(root, classes=3, train=16, val=4, size=40):
    """Write ROOT/train and ROOT/val with coarse coloured noise."""
    draw = np.random.default_rng(0)
    for side, count in (("train", train), ("val", val)):
        for number in range(classes):
            folder = root / side / f"class{number}"
            folder.mkdir(parents=True)
            for index in range(count):
                noise = draw.integers(0, 256, (5, 5, 3), dtype=np.uint8)
                noise[..., number % 3] = 255
                Image.fromarray(noise).resize((size, size)).save(folder / f"{index}.jpg")
    return root


# A classifier of 30 000 weights: it saves, looks and evaluates at steps that rarely coincide.
SETTINGS = {
    "model": {"size": "T", "width": 32, "depth": 2, "heads": 2, "image_size": 32, "patch": 8, "drop_path": 0.1},
    "data": {"workers": 0},
    "recipe": {"kind": "supervised", "group": 4, "ema": 0.9},
    "run": {
        "batch": 8,
        "duration": "12 steps",
        "precision": "fp32",
        "device": "cpu",
        "log_every": 2,
        "keep": 2,
        "save_every": "3 steps",
        "evaluate_every": "4 steps",
        "watch_every": "5 steps",
        "watch_images": 4,
    },
}


def settings_file(path, root, **changes):
    """Write the settings to a file, with some tables or some of their keys changed."""
    settings = {key: dict(table) for key, table in SETTINGS.items()}
    settings["data"]["root"] = str(root)
    for table, values in changes.items():
        same = table != "recipe" or values.get("kind", "supervised") == "supervised"
        settings[table] = {**settings.get(table, {}), **values} if same else values
    path.write_text(json.dumps(settings))
    return path


def records(run):
    """Return the lines of metrics.jsonl without what depends on the machine's speed."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def checkpoints(run):
    """Those of the run; one that was damaged is kept under another name."""
    return sorted(path for path in (run / "checkpoints").iterdir() if path.name[0] != "." and ".kept-" not in path.name)


def weights(path: Path):
    return {name: array.copy() for name, array in load_file(path).items()}


def difference(one, other):
    """Return the largest difference of two files of tensors; 0 only where every bit is the same."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    if all(np.array_equal(a[name], b[name]) for name in a):
        return 0.0
    return max(float(np.abs(a[name].astype(np.float64) - b[name]).max()) for name in a)


def assert_same_run(one, other):
    """The published weights, the last checkpoint and the records are those of the other run, bit for bit."""
    assert difference(one / "model.safetensors", other / "model.safetensors") == 0
    configs = [json.loads((run / "config.json").read_text()) for run in (one, other)]
    for config in configs:
        del config["train"]["data"]["workers"]  # may differ; nothing else may
    assert configs[0] == configs[1]
    last, wanted = checkpoints(one)[-1], checkpoints(other)[-1]
    assert last.name == wanted.name
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert difference(last / name, wanted / name) == 0
    states = [json.loads((path / "state.json").read_text()) for path in (last, wanted)]
    for key in ("step", "metric", "skipped", "looked", "sums", "scaler"):
        assert states[0][key] == states[1][key]
    assert records(one) == records(other)
