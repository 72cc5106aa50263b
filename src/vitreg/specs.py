"""How models are named: SOURCE:NAME. Malformed names are refused here, without torch."""

from __future__ import annotations

import re
from pathlib import Path

from vitreg import plugins
from vitreg.documents import read_json
from vitreg.errors import UserError, nearest, unknown
from vitreg.writing.files import missing, run_folder

RUN_SCHEMA = "vitreg.run/1"
RUN_HEAD = "run_"
"""Begins the names of the head that a run trained on top of a model of another library."""
LIBRARIES = ("timm", "hf", "openclip", "torchvision", "hub")
COMPLETE = ("run", "planted", "fixed", "vitreg")
"""Sources whose models bring their own weights."""
SOURCES = tuple(sorted((*LIBRARIES, *COMPLETE)))
TIMM_PLACES = ("local-dir", "hf-hub")
WEIGHTS = (".safetensors", ".pth", ".pt", ".bin")
"""Suffixes of files of weights."""
EXPORTS = {"timm": "", "hf": "", "transformers": "", "safetensors": ".safetensors", "onnx": ".onnx"}
"""File suffix of each `export` format; empty where the format is a folder."""
PLANTED = ("high-norm", "low-norm", "position-locked", "last-block", "hidden", "global")
"""Artifacts that are planted."""
PLANTED_TWINS = ("clean", "clean-registers", "global-registers")
"""Planted models without an outlier among the patches: without any artifact, and with one on the registers alone."""

SHIPPED = {"born": "synthetic:retrieval", "born-reg4": "synthetic:retrieval"}
"""Models that come with the package, after `vitreg:`, and the images each was made for."""


def has_source(spec: str) -> bool:
    """Whether a spec says where the model comes from."""
    prefix, colon, _ = spec.partition(":")
    plugins.refuse_taken("source", SOURCES)
    return bool(colon) and (prefix in SOURCES or prefix in plugins.names("source"))


def images_for(spec: str) -> str:
    """Return the images that commands name for a model: what a shipped one was made for, else photographs."""
    source, _, name = spec.partition(" + ")[0].partition(":")
    return SHIPPED.get(name, "photos/") if source == "vitreg" else "photos/"


def is_run(folder: Path) -> bool:
    """Whether a folder is one that training wrote."""
    try:
        config = read_json(folder / "config.json")
    except UserError:
        return False
    return isinstance(config, dict) and config.get("schema") == RUN_SCHEMA


def is_repair(folder: Path) -> bool:
    """Whether a folder is one that `vitreg fix` wrote."""
    return (folder / "repair.json").is_file()


def names_repair(spec: object) -> bool:
    """Whether a spec is `fixed:DIR`, or the folder of a repair alone."""
    return isinstance(spec, str | Path) and whole(str(spec)).startswith("fixed:")


def whole(spec: str) -> str:
    """Return the spec with its source: the folder of a run or of a repair may stand alone."""
    if has_source(spec):
        return spec
    folder = run_folder(spec)
    return f"run:{spec}" if is_run(folder) else f"fixed:{spec}" if is_repair(folder) else spec


def absolute(spec: str) -> str:
    """Return the spec with the folder that it names, where that exists, as an absolute path: it opens from any folder."""
    source, _, name = whole(spec).partition(":")
    place, entry = "", ""
    if source == "timm" and name.startswith("local-dir:"):
        place, name = "local-dir:", name.removeprefix("local-dir:")
    elif source == "hub":
        name, colon, entry = name.rpartition(":")
        entry = colon + entry
    elif source not in ("run", "fixed", "hf"):
        return spec
    folder = Path(name).expanduser()
    return f"{source}:{place}{folder.absolute()}{entry}" if name and folder.is_dir() else spec


def refuse(spec: str, *, random: bool = False, weights: object = None, trust: bool = False) -> None:
    """Refuse specs that are wrong without asking a library.

    Raises:
        UserError: for an unknown source, a spec without a name, contradictory weights, a run folder, planted kind or
            shipped model that does not exist, and a repository whose code is not trusted.
    """
    if random and weights is not None:
        raise UserError("weights from a file and random weights exclude each other; leave one out.")
    prefix, colon, name = whole(spec).partition(":")
    if not colon:
        if Path(spec).expanduser().is_file():
            raise UserError(f"{spec} is a file; name the model it belongs to, and give the file as its weights.")
        return  # perhaps a bare model name, which only its library can judge
    if not has_source(whole(spec)):
        raise _unknown_source(spec, prefix, name)
    if not name:
        raise UserError(f"'{spec}' names no model; write {prefix}:NAME.")
    if prefix in COMPLETE and (random or weights is not None):
        raise UserError(
            f"{prefix}: models bring their own weights; leave {'random' if random else 'other'} weights out."
        )
    if prefix == "run":
        refuse_no_run(run_folder(name))
    if prefix == "fixed" and not is_repair(folder := run_folder(name)):
        raise (
            UserError(f"{folder} holds no repair.json, so it is no repair.")
            if folder.exists()
            else missing(folder, "folder of a repair")
        )
    if prefix == "planted" and name.partition("@")[0] not in (*PLANTED, *PLANTED_TWINS):
        raise unknown("planted kind", name.partition("@")[0], (*PLANTED, *PLANTED_TWINS))
    if prefix == "vitreg" and name not in SHIPPED:
        raise unknown("shipped model", name, SHIPPED)
    if prefix == "hub" and not trust and re.fullmatch(r"\w[\w.-]*/[\w.-]+(:[\w./-]+)+", name):  # on GitHub
        raise untrusted(name)


def refuse_no_run(folder: Path) -> None:
    """Raise UserError for a folder that does not exist or holds no run."""
    if not folder.exists():
        raise missing(folder, "folder of a vitreg run")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no readable config.json, so it is no folder of a vitreg run.")


def untrusted(name: str) -> UserError:
    """Build the error for hub:REPOSITORY:ENTRY whose code was not allowed to run."""
    return UserError(
        f"hub:{name} runs the code of {name.rpartition(':')[0] or name}; add --trust (in Python trust=True) if you trust "
        "whoever wrote it."
    )


def _unknown_source(spec: str, prefix: str, name: str) -> UserError:
    if prefix in TIMM_PLACES:
        return UserError(f"'{spec}' does not say where the model comes from. Did you mean 'timm:{spec}'?")
    known = plugins.names("source", SOURCES)
    close = nearest(prefix, known, 1)
    hint = f"Did you mean '{close[0]}:{name}'?" if close else f"Known: {', '.join(known)}."
    return UserError(f"no source '{prefix}:' of models. {hint}")
