"""Sharded weights: the index finds every tensor, and never leads out of its folder."""

import json

import pytest

from vitreg.backbones.weights.shards import read_index, refuse_bad_indexes
from vitreg.errors import UserError


def write_index(folder, places, name="model.safetensors.index.json"):
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return folder / name


def test_an_index_says_which_tensors_lie_in_which_file(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.safetensors", "sub/b.safetensors"):
        (tmp_path / name).touch()
    index = write_index(tmp_path, {"x": "a.safetensors", "y": "sub/b.safetensors", "z": "a.safetensors"})
    assert read_index(index) == {tmp_path / "a.safetensors": ["x", "z"], tmp_path / "sub/b.safetensors": ["y"]}
    refuse_bad_indexes(tmp_path)


@pytest.mark.parametrize(
    "name", ["../secret.bin", "a/../../secret.bin", "/etc/passwd", "..\\secret.bin", "C:\\secret.bin", "C:secret.bin", "", "a\0b"]
)  # fmt: skip
def test_no_path_of_an_index_leads_out_of_its_folder(name, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.bin").touch()
    index = write_index(folder, {"x": name})
    for check in (lambda: read_index(index), lambda: refuse_bad_indexes(folder)):
        with pytest.raises(UserError, match="outside its folder"):
            check()


def test_a_missing_shard_is_named(tmp_path):
    index = write_index(tmp_path, {"x": "a.bin", "y": "b.bin"})
    with pytest.raises(UserError, match=r"names a\.bin and 1 more, missing in"):
        read_index(index)


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"x": 3}}', '{"weight_map": ["x"]}', "{"]
)
def test_what_is_no_index_is_said(text, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(UserError, match=r"index\.json is no"):
        read_index(index)
