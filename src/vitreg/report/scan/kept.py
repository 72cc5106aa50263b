"""The example images of a scan as a file beside its record, for other pages and for redrawing.

`examples.npz` holds the names as JSON and the arrays of each image under `NUMBER/FIELD`. Pictures are kept as PNG or JPEG,
no larger than a page shows them. The file is untrusted: arrays that do not fit together are refused.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from vitreg.records import Example
from vitreg.report.npz import read_npz, read_picture, write_npz
from vitreg.report.scan import payload

FILE_NAME = "examples.npz"
MAPS = ("outliers", "near", "norms", "cls_attention", "register_attention", "pca", "attends", "attends_share")
BLOCKS = ("layer", "attention_layer")


def write_examples(examples: Sequence[Example], directory: Path) -> Path:
    """Write ``directory/examples.npz``, even without images, and return its path.

    Raises:
        UserError: if the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    known = [{"name": each.name, **{block: getattr(each, block) for block in BLOCKS}} for each in examples]
    arrays["examples"] = np.frombuffer(json.dumps(known).encode(), np.uint8)  # lone surrogates as escapes
    for number, each in enumerate(examples):
        arrays[f"{number}/image"] = np.frombuffer(payload.encoded(each)[1], np.uint8)
        arrays |= {f"{number}/{name}": value for name in MAPS if (value := getattr(each, name)) is not None}
    return write_npz(Path(directory) / FILE_NAME, arrays)


def read_examples(directory: Path) -> list[Example]:
    """Read the example images that a scan kept.

    Raises:
        ValueError: if the file is missing, damaged, too large, or of another kind.
    """

    def build(arrays: np.lib.npyio.NpzFile) -> list[Example]:
        known = json.loads(arrays["examples"].tobytes())
        return [_example(arrays, number, each) for number, each in enumerate(known)]

    return read_npz(Path(directory) / FILE_NAME, build)


def _example(arrays: np.lib.npyio.NpzFile, number: int, known: dict[str, object]) -> Example:
    content = arrays[f"{number}/image"]
    image = read_picture(content, payload.LONGEST_SIDE)
    maps = {name: arrays[f"{number}/{name}"] for name in MAPS if f"{number}/{name}" in arrays.files}
    blocks = {block: known[block] for block in BLOCKS}
    maps = {"cls_attention": None, **maps}
    example = Example(name=str(known["name"]), image=image, file=content.tobytes(), **maps, **blocks)  # type: ignore[arg-type]
    rows, cols = example.norms.shape
    wanted = {
        "outliers": (rows, cols), "near": (rows, cols), "cls_attention": (rows, cols), "pca": (rows, cols, 3),
        "register_attention": (len(example.register_attention), rows, cols),
        "attends": example.attends_share.shape, "attends_share": (rows * cols, example.attends.shape[1]),
    }  # fmt: skip
    fit = all(maps[name].shape == shape for name, shape in wanted.items() if maps.get(name) is not None)
    numbers = all(values.dtype.kind in "biuf" for values in maps.values() if values is not None)
    if not fit or not numbers or any(not isinstance(block, int | None) for block in blocks.values()):
        raise ValueError(f"the maps in {FILE_NAME} do not fit together")
    return example
