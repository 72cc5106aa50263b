"""What `vitreg look` takes cold, in processes of their own: seconds of start, load, forward and drawing, and peak memory.

    python benchmarks/look.py [--rounds 5] [--write benchmarks/results]

Beside it runs the script that people write: timm, a forward with hooks, and the same three pictures (norms, attention of CLS,
principal components) with matplotlib. Both read the same weights, of random values, from the same folder in timm's form.
Rounds are interleaved; the minimum counts, since whatever else runs on the machine only ever adds. The seconds of processors are
those of all threads: on a busy machine they say more than the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file

from vitreg.data.sets.synthetic.photographs import photograph
from vitreg.machine.runtime import provenance

MODELS = ("vit_small_patch16_224", "vit_base_patch16_224")
PLAIN = """
import sys
import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import timm, torch
from PIL import Image

photo, folder, out = sys.argv[1:]
timm.layers.set_fused_attn(False)
model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
pixels = timm.data.create_transform(**timm.data.resolve_model_data_config(model))(Image.open(photo).convert("RGB"))[None]
kept = {}
model.blocks[-1].register_forward_hook(lambda module, inputs, output: kept.update(hidden=output))
model.blocks[-1].attn.attn_drop.register_forward_hook(lambda module, inputs, output: kept.update(attention=output))
with torch.inference_mode():
    model.forward_features(pixels)
tokens = kept["hidden"][0, 1:]
side = int(len(tokens) ** 0.5)
_, _, axes = torch.pca_lowrank(tokens, 3)
colours = (tokens - tokens.mean(0)) @ axes
colours = (colours - colours.amin(0)) / (colours.amax(0) - colours.amin(0))
figure, panels = plt.subplots(1, 3, figsize=(12, 4))
panels[0].imshow(tokens.norm(dim=-1).reshape(side, side))
panels[1].imshow(kept["attention"][0].mean(0)[0, 1:].reshape(side, side))
panels[2].imshow(colours.reshape(side, side, 3))
for panel, name in zip(panels, ("norms", "attention of CLS", "principal components")):
    panel.set_title(name)
    panel.axis("off")
figure.savefig(out, dpi=150)
"""


def write_model(name: str, folder: Path) -> Path:
    """Write a model of timm with random weights as timm keeps models in folders."""
    folder.mkdir()
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=0)
    save_file(model.state_dict(), folder / "model.safetensors")
    kept = {key: model.pretrained_cfg[key] for key in ("input_size", "mean", "std", "interpolation", "crop_pct")}
    described = {"architecture": name, "num_classes": 0, "pretrained_cfg": kept}
    (folder / "config.json").write_text(json.dumps(described))
    return folder


def timed(words: list[str]) -> tuple[dict[str, float], str]:
    """Run a process. Returns its seconds, those of processors, its peak memory in MiB, and what it printed."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as out:
        process = subprocess.Popen([sys.executable, *words], stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"{words} ended with {process.returncode}")
        out.seek(0)
        found = {"whole": seconds, "processor": used.ru_utime + used.ru_stime, "memory": used.ru_maxrss / 1024}
        return found, out.read()


def measured(photo: Path, model: Path, place: Path, rounds: int) -> dict[str, Any]:
    """Look with both, in turns."""
    looks, plain = [], []
    for number in range(rounds):
        words = ["-m", "vitreg", "look", str(photo), "-m", f"timm:local-dir:{model}", "--json", "--out", str(place)]
        found, printed = timed(words)
        parts = json.loads(printed)["seconds"]
        looks.append({**found, "start": found["whole"] - sum(parts.values()), **parts})
        plain.append(timed(["-c", PLAIN, str(photo), str(model), str(place / f"{number}.png")])[0])
    parts = ("whole", "start", "load", "forward", "drawing", "processor")
    look, script = ({key: min(each[key] for each in runs) for key in runs[0]} for runs in (looks, plain))
    return {
        "seconds": {key: round(look[key], 2) for key in parts},
        "plain_script_seconds": {key: round(script[key], 2) for key in ("whole", "processor")},
        "ratio_to_plain_script": {key: round(look[key] / script[key], 2) for key in ("whole", "processor")},
        "peak_mib": round(max(each["memory"] for each in looks)),
        "plain_script_peak_mib": round(max(each["memory"] for each in plain)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, results, load = datetime.now(UTC), {}, os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as made:
        place = Path(made)
        photograph("astronaut").save(place / "astronaut.jpg", quality=92)
        for name in options.models:
            results[name] = measured(place / "astronaut.jpg", write_model(name, place / name), place, options.rounds)
            print(f"{name}: {json.dumps(results[name])}", flush=True)
    where = provenance(started=started, device=torch.device("cpu"), precision="auto", processes=1).model_dump()
    if options.write is not None:
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / f"look-cpu-{torch.get_num_threads()}-threads.json"
        kept = {"rounds": options.rounds, "load_of_others": round(load, 1), "models": results, "provenance": where}
        path.write_text(json.dumps(kept, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
