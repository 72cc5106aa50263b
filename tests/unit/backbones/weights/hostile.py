"""Files that declare what they do not have, one function each; made small, so that memory shows in what is asked for."""

import json
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict

import torch
from torch._utils import _rebuild_tensor_v2

NAME = "patch_embed.proj.weight"
HUGE = 10**12
MANY = 120_000  # tensors, above the limit of what is read
TENTH = MANY // 10  # in files that take seconds to write, which are read within a tenth of the limits


class Reduced:
    """Pickled as a call of `function`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def expanded(path):
    torch.save({NAME: torch.zeros(1, dtype=torch.half).expand(HUGE)}, path)


def many_names(path):
    values = torch.zeros(2**21, dtype=torch.half)
    torch.save({f"blocks.0.{i}.weight": values for i in range(20_000)}, path)


def larger_than_its_storage(path):
    storage = torch.storage.TypedStorage(4, dtype=torch.float32, _internal=True)
    torch.save({NAME: Reduced(_rebuild_tensor_v2, storage, 0, (HUGE,), (1,), False, OrderedDict())}, path)


def tensor_made_of_a_size(path):
    torch.save({NAME: Reduced(torch.Tensor, HUGE)}, path)


def bytes_made_of_a_size(path):
    torch.save({NAME: torch.zeros(2), "x": Reduced(bytearray, HUGE)}, path)


def old_format_of_a_huge_storage(path):
    """What PyTorch wrote before 1.6: a pickle that declares storages, and their bytes behind it."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", HUGE, None) if value == "STORAGE" else None

    with path.open("wb") as file:
        for part in (
            0x1950A86A20F9469CFC6C,
            1001,
            {"protocol_version": 1001, "little_endian": sys.byteorder == "little", "type_sizes": {}},
        ):
            pickle.dump(part, file, protocol=2)
        call = Reduced(_rebuild_tensor_v2, "STORAGE", 0, (HUGE,), (1,), False, OrderedDict())
        Pickler(file, protocol=2).dump({NAME: call})
        pickle.dump(["0"], file, protocol=2)
        file.write(struct.pack("<q", HUGE) + b"\0" * 64)


def nested_without_end(path):
    inner = {"a": 1}
    for _ in range(30):
        inner = {str(i): inner for i in range(30)}
    torch.save({"model": inner}, path)


def deep(path):
    """A list of lists, 100 000 deep, written by hand: the pickler would not."""
    body = b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", body)
        archive.writestr("archive/version", "3\n")


def compressed(path):
    torch.save({NAME: torch.zeros(2**20)}, path)
    with zipfile.ZipFile(path) as archive:
        records = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", compression=zipfile.ZIP_DEFLATED) as archive:
        for name, data in records.items():
            archive.writestr(name, data)


def long_table(path):
    torch.save({f"blocks.{i}.norm1.weight": torch.empty(0) for i in range(TENTH)}, path)


def long_table_of_one_storage(path):
    values = torch.zeros(2)
    torch.save({f"blocks.{i}.norm1.weight": values for i in range(MANY)}, path)


def long_table_in_the_old_format(path):
    values = torch.zeros(2)
    state = {f"blocks.{i}.norm1.weight": values for i in range(MANY)}
    torch.save(state, path, _use_new_zipfile_serialization=False)


def safetensors(path, header, length=None, data=b""):
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def long_safetensors(path):
    tensors = {
        f"blocks.{i}.norm1.weight": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i in range(TENTH)
    }
    safetensors(path, tensors, data=bytes(4 * TENTH))


def safetensors_of_a_huge_shape(path):
    safetensors(path, {NAME: {"dtype": "F32", "shape": [HUGE], "data_offsets": [0, 4 * HUGE]}}, data=b"\0" * 16)


def safetensors_whose_size_overflows(path):
    safetensors(path, {NAME: {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 16]}}, data=b"\0" * 16)


def safetensors_of_a_huge_header(path):
    safetensors(path, {}, length=2**62)


def safetensors_of_an_unknown_kind(path):
    safetensors(path, {NAME: {"dtype": "F4_E9", "shape": [4], "data_offsets": [0, 16]}}, data=b"\0" * 16)


def sparse(path):
    torch.save({NAME: torch.sparse_coo_tensor(torch.zeros(4, 1, dtype=torch.long), [1.0], (10**4,) * 4)}, path)


def sparse_rows(path):
    torch.save({NAME: torch.eye(4).to_sparse_csr()}, path)


def quantised(path):
    torch.save({NAME: torch.quantize_per_tensor(torch.randn(4, 4), 0.1, 0, torch.qint8)}, path)


def meta(path):
    torch.save({NAME: torch.empty(HUGE, device="meta")}, path)


WITHIN_A_TENTH = {long_table, long_safetensors}
FILES = {
    expanded: "claims 1000000000000 values and stores 1",
    many_names: "gives the same values many names",
    larger_than_its_storage: "truncated or no PyTorch checkpoint|claims",
    tensor_made_of_a_size: "truncated or no PyTorch checkpoint|pickled code",
    bytes_made_of_a_size: "truncated or no PyTorch checkpoint|pickled code|no Vision Transformer",
    old_format_of_a_huge_storage: "truncated or no PyTorch checkpoint",
    nested_without_end: "no state dict",
    deep: "no state dict|truncated or no PyTorch checkpoint",
    compressed: "packed again with compression",
    long_table: "more tensors than any Vision Transformer|table of contents",
    long_table_of_one_storage: "120000 tensors",
    long_table_in_the_old_format: "120000 tensors",
    long_safetensors: "than any Vision Transformer",
    safetensors_of_a_huge_shape: "truncated or no checkpoint",
    safetensors_whose_size_overflows: "truncated or no checkpoint",
    safetensors_of_a_huge_header: "truncated or no checkpoint",
    safetensors_of_an_unknown_kind: "truncated or no checkpoint",
    sparse: "is sparse",
    sparse_rows: "is sparse",
    quantised: "is quantised",
    meta: "has no values",
}
