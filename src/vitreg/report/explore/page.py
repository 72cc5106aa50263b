"""The page of the explorer: beside its parts in a folder, or with all of them in one file.

A page opened from disk may not fetch, so parts are scripts that call `vitregPart`, and script tags load them when they are
needed; in one file they are blocks of JSON; a server is asked for them. The modules of `client/` are written as JavaScript
modules and put into the page as one script, since a page from disk may not import either. One line holds each
`import { names } from "./module.js";`.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vitreg.records.explore import ExploreResult
from vitreg.report import shell
from vitreg.report.explore.packing import packed
from vitreg.report.look.palette import MAGMA, VIRIDIS, table

CLIENT = Path(__file__).with_name("client")
DATA = "data"
"""The folder of the parts, beside the page."""
MODULES = (
    "drawing/numbers", "measured/parts", "drawing/colours", "drawing/svg", "measured/attention", "measured/nearest",
    "measured/shown", "page/state", "page/layers", "page/readout", "drawing/map", "drawing/charts", "page/panel", "page/story",
    "page/save", "page/live", "page/main",
)  # fmt: skip
"""In the order in which they need one another."""


def folder_page(record: ExploreResult) -> str:
    """Return the page that loads its parts from `data/`."""
    return _page(record, {})


def single_page(record: ExploreResult, parts: Mapping[str, str]) -> str:
    """Return the page with its parts inside.

    Args:
        parts: JSON by name.
    """
    return _page(record, parts)


def live_page(record: ExploreResult, largest: int) -> str:
    """Return the page of a server, which measures the photos that are dropped on it.

    Args:
        record: without documents; its photos are measured at first.
        largest: bytes of a photo.
    """
    return _page(record.model_copy(update={"photos": []}), {}, {"given": record.photos, "largest": largest})


def script_of(name: str, part: str) -> str:
    """Return the file of a part: a script that hands it to the page."""
    return f"vitregPart({json.dumps(name)},{part});\n"


def kept_parts(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the parts that lie beside a page, by name, as JSON."""
    for path in sorted((folder / DATA).glob("*.js")):
        text = path.read_text(encoding="utf-8")
        yield path.stem, text[text.index(",") + 1 : text.rindex(")")]


def _page(record: ExploreResult, parts: Mapping[str, str], live: Mapping[str, Any] | None = None) -> str:
    colours = {name: packed(table(held))["data"] for name, held in (("magma", MAGMA), ("viridis", VIRIDIS))}
    manifest = {**record.model_dump(), "palettes": colours, "live": live}
    return shell.render(
        "explore.html.j2",
        client=_client(),
        asks=live is not None,
        record=record,
        manifest=_held(json.dumps(manifest, allow_nan=False, separators=(",", ":"))),
        parts={name: _held(part) for name, part in parts.items()},
    )


@functools.cache
def _client() -> tuple[str, str]:
    """The style and the script."""
    modules = "\n".join(_module(name) for name in MODULES)
    script = f'"use strict";\n(() => {{\nconst modules = {{}};\n{modules}}})();\n'
    return (CLIENT / "drawing/explore.css").read_text(encoding="utf-8"), script


def _module(name: str) -> str:
    """Return a module as a function of its own, so that its names are its own; what it exports stands in `modules`."""
    text = (CLIENT / f"{name}.js").read_text(encoding="utf-8")
    text = re.sub(r'^import (\{.*\}) from "\.[\w./]*/(\w+)\.js";$', r"const \1 = modules.\2;", text, flags=re.MULTILINE)
    exported = re.findall(r"^export (?:async )?(?:const|function|class) (\w+)", text, re.MULTILINE)
    text = re.sub(r"^export (?=\w)", "", text, flags=re.MULTILINE)
    return f"modules.{Path(name).name} = (() => {{\n{text}return {{ {', '.join(exported)} }};\n}})();\n"


def _held(text: str) -> Markup:
    """Return JSON that cannot leave its element."""
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
