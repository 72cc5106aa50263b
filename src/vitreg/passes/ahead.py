"""What a verb refuses before it loads a model: first missing inputs, then output folders in use. No torch here.

The command line checks this before it imports torch, so a mistake is reported at once. The verbs check again, for Python.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitreg.config import read
from vitreg.data.sets.spelling import meant
from vitreg.data.sets.synthetic.naming import named
from vitreg.data.sources.archives import is_url
from vitreg.data.sources.listing import refuse_absent
from vitreg.errors import UserError
from vitreg.specs import EXPORTS, has_source, refuse_no_run, whole
from vitreg.writing.files import missing, printable, refuse_folder, refuse_other_result, run_folder
from vitreg.writing.ledger import LOCK, read_ledger
from vitreg.writing.outputs import Outputs

SCANNED = ("result.json", "report.html", "figures/", "examples.npz")
CARD = "vitreg.json"  # lies in every exported folder
EXPLORER, EXPLORED = "index.html", "explore.json"
BADGE, MODEL_CARD = "badge.svg", "model-card.md"
FORMATS = {
    ".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".svg", ".pdf", ".eps", ".ps", ".html", ".htm", ".json",
}  # fmt: skip
"""Suffixes of files, which hardly end the name of a folder."""


def paths_of(*given: object) -> list[str]:
    """Return the paths among a verb's inputs, single or in sequences; tensors, modules and None are left out."""
    flat = [each for part in given for each in (part if isinstance(part, list | tuple) else [part])]
    return [str(each) for each in flat if isinstance(each, str | Path)]


def refuse_weights(weights: object, models: int) -> None:
    """Raise UserError for a file of weights beside no model, or several."""
    if weights is not None and models != 1:
        raise UserError(
            f"--weights belong to one model, not to {models}; name the models one by one."
            if models
            else "--weights belong to a model; name it with -m."
        )


def refuse_absent_inputs(images: object = (), *, files: Sequence[object] = ()) -> None:
    """Refuse inputs that do not exist.

    Args:
        images: images in any form that a verb takes.
        files: weights and similar inputs: single files or folders.
    Raises:
        UserError: names similar files that exist. For a model among the images it says where the model belongs.
    """
    for path in paths_of(images):
        if has_source(path) and not os.path.lexists(path):
            raise UserError(
                f"'{path}' is a model, and stands among the images; write the model first, several as one word with commas."
            )
        refuse_absent(path)
    for file in paths_of(files):
        if not os.path.exists(os.path.expanduser(file)):
            raise missing(file, "weights file")


def refuse_absent_truth(**files: object) -> None:
    """Refuse labels, boxes and the like, by their name, that do not exist; None passes. Raises UserError."""
    for what, file in files.items():
        if file is not None and not os.path.exists(os.path.expanduser(str(file))):
            raise missing(str(file), f"file or folder of {what}")


def refuse_absent_data(data: str) -> None:
    """Refuse DATA of `eval` and `train` that looks like a path and does not exist, and synthetic sets that there are not;
    names such as voc2012:ROOT pass."""
    if named(data) is None and data and ":" not in data:
        refuse_absent(data)


def refuse_absent_set(data: str) -> None:
    """Refuse DATA as `refuse_absent_data` does, and NAME:ROOT with a root that does not exist and a name that is no URL's."""
    refuse_absent_data(data)
    name, colon, root = data.partition(":")
    if colon and named(data) is None and not is_url(data) and name != "torchvision" and not os.path.exists(data):
        place = root if os.path.lexists(os.path.expanduser(root)) else root.rpartition("@")[0] or root
        if place and not os.path.lexists(os.path.expanduser(place)):
            raise UserError(f"no data '{data}': there is no folder '{place}'.")


def refuse_taken(outputs: Outputs) -> None:
    """Refuse a folder that is unwritable or holds anything but earlier results of the verb. The check leaves no file."""
    refuse_folder(outputs.folder, outputs.check)


def scan_outputs(folder: Path, images: object, weights: object) -> Outputs:
    """Where `scan` writes."""
    tokens = re.compile(r"tokens[\w-]*\.parquet")  # one per process
    return Outputs(folder, "scan", SCANNED, paths_of(images, weights), lambda name: bool(tokens.fullmatch(name)))


def refuse_other_scan(folder: Path, spec: str = "") -> None:
    """Refuse a folder that holds the result of another verb or model.

    Args:
        spec: of the model, as its record names it; any model's scan is taken without.
    Raises:
        UserError: with what it holds.
    """
    own = {"schema": "vitreg.scan/1", "model": spec}
    refuse_other_result(
        folder, own, lambda held: {"schema": held["schema"], "model": held["model"]["spec"] if spec else ""}
    )


def refuse_other_eval(folder: Path, task: str, spec: str, data: str) -> None:
    """Refuse a folder that holds the result of another task, model or set. Raises UserError."""
    own = {"task": task, "model": spec, "data": meant(task, data)}

    def read(held: Mapping[str, Any]) -> dict[str, str]:
        before = str(held["task"])
        return {"task": before, "model": held["model"]["spec"], "data": meant(before, held["data"]["name"])}

    refuse_other_result(folder, own, read)


def maps_outputs(folder: Path, kinds: Sequence[str], images: object, weights: object) -> Outputs:
    """Where `maps` writes. Sheets of single heads are named after models and tokens, so a pattern matches them."""
    sheets = re.compile(rf"({'|'.join(kinds)})((-[^/]*)?\.png|\.npz)")  # other kinds of maps stay
    names = [f"{kind}.png" for kind in kinds if kind != "heads"] + [f"{kind}.npz" for kind in kinds]
    return Outputs(folder, "maps", names, paths_of(images, weights), lambda name: bool(sheets.fullmatch(name)))


def fix_outputs(folder: Path, images: object, weights: object, read: object = None) -> list[Outputs]:
    """Where `fix` writes: the repair, with the list of the neurons it edits, and maps before and after."""
    names = ("repair.json", "repair.safetensors", "neurons.json")
    repair = Outputs(folder, "fix", names, paths_of(images, weights, read))
    return [repair, maps_outputs(folder, ("norm", "attention"), images, weights)]


def discover_outputs(folder: Path, images: object, boxes: object, weights: object) -> Outputs:
    """Where `discover` writes."""
    return Outputs(folder, "discover", ("result.json", "boxes.json", "pictures/"), paths_of(images, boxes, weights))


def extract_outputs(folder: Path) -> Outputs:
    """Where `extract` writes: one subfolder per store."""
    return Outputs(folder, "extract", [])


def eval_outputs(folder: Path, data: object, weights: object) -> Outputs:
    """Where `eval` writes."""
    return Outputs(folder, "eval", ["result.json", "report.html", "sheets.npz"], paths_of(data, weights))


def evaluations_outputs(folder: Path, data: object, weights: object) -> Outputs:
    """Where `eval` of several models or tasks writes its table; each (model, task) has its own folder."""
    return Outputs(folder, "eval", ["result.json", "report.html", "table.csv"], paths_of(data, weights))


def refuse_other_evaluations(folder: Path, data: str) -> None:
    """Refuse a folder that holds anything but a table of the same data. Raises UserError."""
    own = {"schema": "vitreg.evals/1", "data": printable(data)}
    refuse_other_result(folder, own, lambda held: {"schema": held["schema"], "data": held["data"]})


def repairs_outputs(folder: Path, *inputs: object) -> Outputs:
    """Where `repairs` writes: the table, the maps of every model, and finished rows, from which a later run goes on."""
    names = ["result.json", "report.html", "table.csv", "sheets.npz", "maps.png", "rows/"]
    sheets = re.compile(r"maps-\d+\.png")
    return Outputs(folder, "repairs", names, paths_of(*inputs), lambda name: bool(sheets.fullmatch(name)))


def refuse_other_repairs(folder: Path) -> None:
    """Refuse a folder that holds the result of another verb. Raises UserError."""
    refuse_other_result(folder, {"schema": "vitreg.repairs/1"}, lambda held: {"schema": held["schema"]})


def reproduce_outputs(folder: Path, *inputs: object) -> Outputs:
    """Where `reproduce` writes: the record, the ledger of claims, the page and its figures. Its jobs lie beside them."""
    names = ["result.json", "claims.json", "report.html", "figures/", "tables/"]
    return Outputs(folder, "reproduce", names, paths_of(*inputs), lambda name: name.startswith(("figures/", "tables/")))


def zoo_outputs(folder: Path, *inputs: object) -> Outputs:
    """Where `zoo` writes: the board as record, page and table. Its jobs and scans lie beside them."""
    return Outputs(folder, "zoo", ["result.json", "report.html", "board.csv"], paths_of(*inputs))


def births_outputs(folder: Path) -> Outputs:
    """Where `lab born` writes the curves of its first runs."""
    return Outputs(folder / "births", "curves", ["report.html", "curves.png", "curves.json"])


def design_outputs(folder: Path) -> Outputs:
    """Where `lab run` and `lab report` write: the record, the page, two tables, figures and the design."""
    return Outputs(folder, "lab", ["result.json", "report.html", "effects.csv", "runs.csv", "figures/", "design.json"])


def refuse_other_lab(folder: Path) -> None:
    """Refuse a folder that holds another result than that of the lab. Raises UserError."""
    refuse_other_result(folder, {"schema": "vitreg.lab-report/1"}, lambda held: {"schema": held["schema"]})


def badge_outputs(folder: Path, *inputs: object) -> Outputs:
    """Where `zoo --badge` writes: the badge, and a section for the model card."""
    return Outputs(folder, "zoo", [BADGE, MODEL_CARD], paths_of(*inputs))


def names_a_file(place: Path) -> bool:
    """Whether --out has the name of a file of some format, and is no folder that is there: a folder would take its name."""
    return place.suffix.lower() in FORMATS and not place.is_dir()


def refuse_other_format(place: Path) -> None:
    """Refuse a name of a file that is no PNG, for the picture of `look`. Raises UserError."""
    if names_a_file(place) and place.suffix.lower() != ".png":
        _refuse_format(place, "the picture of a look is a PNG", ".png")


def _refuse_format(place: Path, what: str, suffix: str) -> None:
    raise UserError(f"--out {place}: {what}; name {place.with_suffix(suffix).name}, or a folder that is there.")


def is_one_page(place: Path) -> bool:
    """Whether --out of `explore` names one file."""
    return place.suffix.lower() in (".html", ".htm") and not place.is_dir()


def explore_outputs(place: Path, *inputs: object) -> Outputs:
    """Where `explore` writes: the page, the record and the measured parts in a folder, or one file.

    Raises:
        UserError: for the name of a file of another format.
    """
    if is_one_page(place):
        return Outputs(place.parent, "explore", [place.name], paths_of(*inputs))
    if names_a_file(place):
        _refuse_format(place, "the page of an explorer is HTML", ".html")
    return Outputs(place, "explore", [EXPLORER, EXPLORED, "data/"], paths_of(*inputs))


def demo_outputs(folder: Path) -> list[Outputs]:
    """Where `demo` writes: the page of its acts, a comparison for each pair, photographs and four scans."""
    scans = [Outputs(folder / name, "scan", SCANNED) for name in ("born", "born-reg4", "planted", "clean")]
    return [Outputs(folder, "demo", ["index.html", "born.html", "planted.html", "photographs/"]), *scans]


def refuse_no_model(spec: str) -> None:
    """Refuse a word that `export` takes for the folder of a run and that is none; specs with a source pass. Raises UserError."""
    if not has_source(whole(spec)) and ":" not in spec:
        refuse_no_run(run_folder(spec))


def export_outputs(out: Path, to: str) -> Outputs:
    """Where `export` writes: a whole folder, or one file; an ONNX file may have its weights in a second file beside it.

    Raises:
        UserError: for a file without the suffix of its format, or a path that belongs to another export.
    """
    suffix = EXPORTS[to]
    try:
        str(out).encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the libraries that write models take no name such as {out}; name one in UTF-8.") from error
    if suffix and out.suffix != suffix:
        raise UserError(f"{out} is no name for {to}; name a file that ends with {suffix}.")
    folder = out.parent if suffix else out
    exported = set(read_ledger(folder).of("export"))
    of_folder = {CARD, *read(folder / CARD).get("files", [])} if CARD in exported else set()
    if suffix:
        others, what = {out.name} & of_folder, f"belongs to the export in {folder}"
    else:
        others, what = {name for name in exported - of_folder if (folder / name).exists()}, "is another export"
    if others:
        raise UserError(f"{folder / min(others)} {what}; name another place.")
    if not suffix:
        return Outputs(out, "export", ["./"])
    return Outputs(folder, "export", [out.name, *([f"{out.name}.data"] if to == "onnx" else [])])


def refuse_begun(folder: Path) -> None:
    """Refuse to begin a run in a folder that already has checkpoints. Raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; name a folder.")
    if (folder / LOCK).exists():
        return  # another process may be training there; only taking the lock can tell
    if (folder / "config.json").is_file() and any((folder / "checkpoints").glob("step-*")):
        raise UserError(
            f"{folder} holds a run already; go on with --resume {shlex.quote(str(folder))}, or choose another --out."
        )
