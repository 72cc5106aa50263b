"""Count the three walks of docs/architecture.md: `python lab/walks.py scan|train|knn`.

A tiny run is watched by `sys.setprofile`. Each time one of the functions of `MOMENTS` is called, the modules of vitreg on the call
stack are noted; each counts once, as a stay. A room is a folder of vitreg, or of `verbs`. A room that stands twice on one stack, with
another between, was entered again within a stack.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import FrameType

import numpy as np
from PIL import Image

import vitreg
from vitreg.presets.small import deit3_imagenette_cpu

SOURCE = Path(vitreg.__file__).parent
DECODED = {("decode", "open_image"), ("decode", "decode"), ("decode", "read_picture")}
MOMENTS = {
    "scan": DECODED | {("vit", "forward_features"), ("tally", "add"), ("decide", "choose")},
    "train": DECODED
    | {
        ("vit", "forward_stacks"),
        ("supervised", "forward"),
        ("optim", "step"),
        ("tensors", "write_tensors"),
        ("checkpoint", "save"),
    },
    "knn": DECODED
    | {("vit", "forward_features"), ("shards", "write"), ("neighbours", "fit"), ("neighbours", "ranked_by")},
}
"""Module and function: a picture is opened, a model runs, something is summed, answered, voted on or saved."""
CHECKS_KEYWORDS = ("passes/options", "called")  # wraps every verb


def main() -> None:
    """Walk, and print stays, rooms and what was entered again."""
    walk = sys.argv[1] if sys.argv[1:] and sys.argv[1] in MOMENTS else sys.exit(f"name a walk: {', '.join(MOMENTS)}")
    stacks = watched(walk, RUNS[walk])
    stays = list(dict.fromkeys(module for stack in stacks for module in stack))
    rooms = list(dict.fromkeys(map(room, stays)))
    print(f"{walk}: {len(stays)} stays in {len(rooms)} rooms ({', '.join(rooms)})")
    print(" ", " · ".join(stays))
    print("  entered again:", ", ".join(sorted(again(stacks))) or "none")


def watched(walk: str, run: Callable[[Path], object]) -> list[tuple[str, ...]]:
    """Return the stacks of a run at its moments, outermost module first."""
    stacks: dict[tuple[str, ...], None] = {}

    def note(frame: FrameType, event: str, _: object) -> None:
        here = module_of(frame) if event == "call" else None
        if here is None or (here.rsplit("/", 1)[-1], frame.f_code.co_name) not in MOMENTS[walk]:
            return
        found, outer = [], frame
        while outer is not None:
            name = module_of(outer)
            if name and (not found or found[-1] != name):
                found.append(name)
            outer = outer.f_back
        stacks[tuple(reversed(found))] = None

    with tempfile.TemporaryDirectory() as folder:
        pictures(Path(folder) / "set")
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            run(Path(folder))
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return list(stacks)


def module_of(frame: FrameType) -> str | None:
    """Name a frame's module of vitreg; None for others."""
    path = Path(frame.f_code.co_filename)
    if not path.is_relative_to(SOURCE):
        return None
    name = path.relative_to(SOURCE).with_suffix("").as_posix()
    return None if (name, frame.f_code.co_name) == CHECKS_KEYWORDS else name


def room(module: str) -> str:
    """Name the room of a module."""
    parts = module.split("/")
    return "/".join(parts[:2]) if parts[0] == "verbs" and len(parts) > 2 else parts[0]


def again(stacks: list[tuple[str, ...]]) -> set[str]:
    """Name the steps into a room that stands further out on the same stack already."""
    found = set()
    for stack in stacks:
        for place, module in enumerate(stack[1:], 1):
            if room(module) != room(stack[place - 1]) and room(module) in map(room, stack[:place]):
                found.add(f"{stack[place - 1]} -> {module}")
    return found


def pictures(folder: Path) -> None:
    """Write two sides of two classes of noise."""
    rng = np.random.default_rng(0)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (folder / name).mkdir(parents=True)
        for number in range(40):
            Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / name / f"{number}.png")


def _train(folder: Path) -> object:
    base = deit3_imagenette_cpu()
    config = replace(
        base,
        data=replace(base.data, root=str(folder / "set" / "train"), val=None, workers=0),
        model=replace(base.model, image_size=32, patch=8, width=32, depth=2, heads=2),
        run=replace(base.run, duration="4", batch=64),
    )
    return vitreg.train(config, folder / "run")


RUNS: dict[str, Callable[[Path], object]] = {
    "scan": lambda folder: vitreg.scan("planted:high-norm", folder / "set" / "train", out=folder / "out"),
    "train": _train,
    "knn": lambda folder: vitreg.evaluate(
        "planted:clean", "knn", folder / "set", out=folder / "out", workers=0, features=folder / "features"
    ),
}

if __name__ == "__main__":
    main()
