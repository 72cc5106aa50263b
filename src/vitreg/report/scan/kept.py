"""The example images of a scan as a file beside its record, so that a page about several scans can show them too.

`examples.npz` holds the names as JSON and the arrays of each image under `NUMBER/FIELD`. Pictures are kept as PNG or JPEG,
no larger than a page shows them. The file may come from anywhere: what does not fit together is refused.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from vitreg.records import Example
from vitreg.report.scan import payload
from vitreg.writing.files import output_folder, replacing

FILE_NAME = "examples.npz"
MAPS = ("outliers", "near", "norms", "cls_attention", "register_attention", "pca", "attends", "attends_share")
BLOCKS = ("layer", "attention_layer")
LARGEST = 256 << 20  # bytes, unpacked; eight images of the largest grid take 40 million


def write_examples(examples: Sequence[Example], directory: Path) -> Path:
    """Write ``directory/examples.npz``, also without any images, and return its path.

    Raises:
        UserError: if the folder cannot be written.
    """
    arrays: dict[str, np.ndarray] = {}
    known = [{"name": each.name, **{block: getattr(each, block) for block in BLOCKS}} for each in examples]
    arrays["examples"] = np.frombuffer(json.dumps(known).encode(), np.uint8)  # lone surrogates as escapes
    for number, each in enumerate(examples):
        arrays[f"{number}/image"] = np.frombuffer(payload.encoded(each)[1], np.uint8)
        arrays |= {f"{number}/{name}": value for name in MAPS if (value := getattr(each, name)) is not None}
    path = output_folder(Path(directory)) / FILE_NAME
    with replacing(path) as draft, draft.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    return path


def read_examples(directory: Path) -> list[Example]:
    """Read what a scan kept of its images.

    Raises:
        ValueError: if the file is missing, damaged, too large, or of another kind.
    """
    try:
        if not (Path(directory) / FILE_NAME).is_file():  # a pipe would be waited for
            raise FileNotFoundError
        with zipfile.ZipFile(Path(directory) / FILE_NAME) as members:
            if sum(member.file_size for member in members.infolist()) > LARGEST:
                raise ValueError(f"{FILE_NAME} is too large")
        with np.load(Path(directory) / FILE_NAME, allow_pickle=False) as arrays:
            known = json.loads(arrays["examples"].tobytes())
            return [_example(arrays, number, each) for number, each in enumerate(known)]
    except FileNotFoundError as error:
        raise ValueError(f"there is no {FILE_NAME}") from error
    except (
        OSError, EOFError, KeyError, TypeError, AttributeError, SyntaxError, MemoryError, OverflowError, RecursionError,
        NotImplementedError, zipfile.BadZipFile, zlib.error, Image.DecompressionBombError,
    ) as error:  # fmt: skip
        raise ValueError(f"{FILE_NAME} cannot be read ({error or type(error).__name__})") from error


def _example(arrays: np.lib.npyio.NpzFile, number: int, known: dict[str, object]) -> Example:
    with Image.open(io.BytesIO(arrays[f"{number}/image"].tobytes()), formats=("PNG", "JPEG")) as picture:
        if max(picture.size) > payload.LONGEST_SIDE:
            raise ValueError(f"a picture in {FILE_NAME} is too large")
        image = np.asarray(picture.convert("RGB"))
    maps = {name: arrays[f"{number}/{name}"] for name in MAPS if f"{number}/{name}" in arrays.files}
    blocks = {block: known[block] for block in BLOCKS}
    example = Example(name=str(known["name"]), image=image, **{"cls_attention": None, **maps}, **blocks)  # type: ignore[arg-type]
    rows, cols = example.norms.shape
    wanted = {
        "outliers": (rows, cols), "near": (rows, cols), "cls_attention": (rows, cols), "pca": (rows, cols, 3),
        "register_attention": (len(example.register_attention), rows, cols),
        "attends": example.attends_share.shape, "attends_share": (rows * cols, example.attends.shape[1]),
    }  # fmt: skip
    fit = all(maps[name].shape == shape for name, shape in wanted.items() if name in maps)
    numbers = all(values.dtype.kind in "biuf" for values in maps.values())
    if not fit or not numbers or any(not isinstance(block, int | None) for block in blocks.values()):
        raise ValueError(f"the maps in {FILE_NAME} do not fit together")
    return example
