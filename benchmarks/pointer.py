"""How long the explorer's page works for one move of the pointer, by map, in a headless Chromium.

    python benchmarks/pointer.py [--model vit_base_patch14_dinov2] [--moves 120] [--write benchmarks/results]

The page shows one photo by one model with random weights, 1369 patches and 12 heads by default. What is counted is the script of
the page's thread, in its own time, so that other programs change it little. Needs chromium, chromedriver and selenium.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import vitreg
from vitreg.data.sets.synthetic.photographs import photograph
from vitreg.machine.runtime import provenance

BLOCK = 5
MAPS = ("norms", "given", "receives", "similar", "values", "neighbours")
WARM = 10  # moves that are not counted
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1280,900")


def chromium() -> Any:
    """Return a browser without a window."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in FLAGS:
        options.add_argument(flag)
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))


def moves(browser: Any, count: int) -> list[float]:
    """Milliseconds of script for each of some moves over the map, none of which stays on its patch."""
    area = browser.find_element("css selector", "#left [data-part='map']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", area)
    x, y, wide, tall = browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return [b.x, b.y, b.width, b.height]", area
    )
    rows, cols = browser.execute_script("const s = window.vitregExplorer.panels[0].shown; return [s.rows, s.cols]")
    browser.execute_cdp_cmd("Performance.disable", {})
    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})

    def script() -> float:
        found = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return 1000 * next(each["value"] for each in found if each["name"] == "ScriptDuration")

    spent, before = [], script()
    for move in range(count):
        row, col = (5 + 3 * (move // cols)) % rows, move % cols
        at = {"x": x + wide * (col + 0.5) / cols, "y": y + tall * (row + 0.5) / rows}
        browser.execute_cdp_cmd("Input.dispatchMouseEvent", {"type": "mouseMoved", **at})
        now = script()
        spent.append(now - before)
        before = now
    return spent


def measured(spec: str, count: int) -> dict[str, Any]:
    """Return milliseconds of a move by map, and what the page shows."""
    with tempfile.TemporaryDirectory() as folder:
        page = vitreg.explore(
            spec, photograph("astronaut"), out=folder, random=True, blocks=BLOCK, precision="fp32"
        ).path
        assert page is not None, "a folder was named"
        browser, found = chromium(), {}
        try:
            for shown in MAPS:
                browser.get("about:blank")
                browser.get(f"{page.as_uri()}#block={BLOCK}&map={shown}")
                browser.execute_async_script(
                    "const done = arguments[0]; setTimeout(() => vitregExplorer.drawn().then(done))"
                )
                cuts = statistics.quantiles(moves(browser, count + WARM)[WARM:], n=20, method="inclusive")
                found[shown] = {"p50": round(cuts[9], 2), "p95": round(cuts[18], 2)}
                time.sleep(0.2)
            patches = browser.execute_script("return vitregExplorer.panels[0].shown.patches")
            heads = browser.execute_script("return vitregExplorer.panels[0].attention.heads")
            version = browser.capabilities["browserVersion"]
        finally:
            browser.quit()
    return {"patches": patches, "heads": heads, "chromium": version, "move_ms": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vit_base_patch14_dinov2")
    parser.add_argument("--moves", type=int, default=120)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    started, load = datetime.now(UTC), os.getloadavg()[0]
    found = {"model": options.model, "moves": options.moves, **measured(f"timm:{options.model}", options.moves)}
    print(json.dumps(found, indent=1))
    if options.write is not None:
        where = provenance(started=started, device=torch.device("cpu"), precision="fp32", processes=1).model_dump()
        options.write.mkdir(parents=True, exist_ok=True)
        path = options.write / "pointer-chromium.json"
        path.write_text(json.dumps({**found, "load_of_others": round(load, 1), "provenance": where}, indent=1) + "\n")
        print(path)


if __name__ == "__main__":
    main()
