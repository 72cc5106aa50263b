"""`extract_features` in processes of their own: killed at random, stopped, started twice at once, and under torchrun."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from tests.patience import PATIENCE, until
from vitreg.backbones import load
from vitreg.errors import UserError
from vitreg.features.extract import Wanted
from vitreg.features.store import open_store
from vitreg.verbs.extract.verb import extract_features, summary

IMAGES = 60
SPEC = "timm:vit_tiny_patch16_224"
PROGRAM = f"""
import sys
import torch
from vitreg.features import shards as feature_shards
from vitreg.verbs.extract.verb import Wanted, extract_features
from vitreg.features.fields import FieldReader

torch.set_num_threads(1)
feature_shards.MOST_IMAGES = 8
read = FieldReader.__call__

def told(*given):  # a line for every batch to read, as long as somebody writes them
    sys.stdin.readline()
    print("a batch", flush=True)
    return read(*given)

FieldReader.__call__ = told
extract_features(
    "{SPEC}", sys.argv[1], out=sys.argv[2], wanted=Wanted(cls=(-1,), patches=(3,), dtype="float16"),
    size=32, random=True, precision="fp32", device="cpu", batch_size=2, workers=2, quiet=False,
)
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    draw = np.random.default_rng(0)
    for number in range(IMAGES):
        Image.fromarray(draw.integers(0, 256, (36, 40, 3), dtype=np.uint8)).save(folder / f"{number:03d}.png")
    (folder / "030.png").write_bytes((folder / "030.png").read_bytes()[:200])
    return folder


def started(photographs, out, *, batches=None, wrapper=(sys.executable, "-c", PROGRAM)):
    """Start an extraction; with `batches` it reads so many and then waits for what is done to it."""
    process = subprocess.Popen(
        [*wrapper, str(photographs), str(out)], env=ENVIRONMENT, text=True,
        stdin=subprocess.DEVNULL if batches is None else subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if batches is not None:
        process.stdin.write("\n" * batches)
        process.stdin.flush()
    return process


def shards_of(out, *, left_over=False):
    [store] = out.iterdir()
    assert left_over or not list(store.glob("*.part"))
    return {file.name: file.read_bytes() for file in sorted(store.iterdir()) if file.name[0] == "0"}


@pytest.fixture(scope="module")
def undisturbed(photographs, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "features"
    process = started(photographs, out)
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    return shards_of(out)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_it_ends_bit_for_bit(photographs, undisturbed, tmp_path, seed):
    draw = random.Random(seed)
    out = tmp_path / "features"
    for _ in range(3):
        batches = draw.randrange(1, 8)
        process = started(photographs, out, batches=batches)
        for _ in range(batches):
            process.stdout.readline()
        time.sleep(draw.uniform(0, 0.06))  # anywhere in what follows the last of them
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    finished = {name for name in shards_of(out, left_over=True) if name.endswith(".json")}
    assert len(finished) < 8
    process = started(photographs, out)
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert shards_of(out) == undisturbed


@pytest.mark.slow
def test_ctrl_c_keeps_what_is_finished_and_says_so(photographs, undisturbed, tmp_path):
    out = tmp_path / "features"
    process = started(photographs, out, batches=3 * 4 + 1)
    until(lambda: list(out.glob("*/000002.json")), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode != 0
    assert "what is finished is kept" in said
    kept = {name: data for name, data in shards_of(out).items() if name.endswith(".json")}
    assert 3 <= len(kept) < 8
    times = {file: file.stat().st_mtime_ns for name in kept for file in out.glob(f"*/{name}")}
    again = started(photographs, out)
    said = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, said
    assert shards_of(out) == undisturbed
    assert times == {file: file.stat().st_mtime_ns for file in times}


@pytest.mark.slow
def test_two_at_once_share_the_work(photographs, undisturbed, tmp_path):
    processes = [started(photographs, tmp_path / "features") for _ in range(2)]
    for process in processes:
        said = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0, said
    assert shards_of(tmp_path / "features") == undisturbed


@pytest.mark.slow
def test_torchrun_gives_the_same(photographs, undisturbed, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    wrapper = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program))
    process = started(photographs, tmp_path / "features", wrapper=wrapper)
    said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    assert shards_of(tmp_path / "features") == undisturbed


@pytest.fixture(scope="module")
def backbone():
    return load(SPEC, random=True, precision="fp32", device="cpu", image_size=32)


@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_archives_give_what_their_files_give(photographs, backbone, tmp_path, kind):
    if kind == "zip":
        with zipfile.ZipFile(tmp_path / "photographs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(photographs.iterdir()):
                archive.write(file, file.name)
    else:
        shutil.make_archive(str(tmp_path / "photographs"), "tar", photographs)
    settings = {"batch_size": 4, "workers": 2}
    plain = extract_features(backbone, photographs, out=tmp_path / "features", **settings)
    packed = extract_features(backbone, tmp_path / f"photographs.{kind}", out=tmp_path / "features", **settings)
    assert plain.folder != packed.folder
    if kind == "tar":  # its members come in the order of the archive
        places = [plain.names.index(str(photographs / name.rpartition("/")[2])) for name in packed.names]
    else:
        places = list(range(plain.images))
    # Batches of another order of images may differ in the last bit.
    torch.testing.assert_close(packed["cls/-1"][:], plain["cls/-1"][places], rtol=1e-5, atol=1e-5)


def test_an_archive_made_anew_is_another_set(photographs, backbone, tmp_path):
    keys = set()
    for names in (["000.png", "001.png"], ["000.png", "001.png"], ["002.png", "001.png"]):
        with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
            for inside, name in zip(["a.png", "b.png"], names, strict=True):
                archive.write(photographs / name, inside)
        keys.add(extract_features(backbone, tmp_path / "some.zip", out=tmp_path / "features", workers=0).folder)
    assert len(keys) == 3


def test_a_compressed_tar_is_refused_with_a_remedy(photographs, backbone, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "photographs"), "gztar", photographs)
    with pytest.raises(UserError, match=r"from front to back only.*unpack it"):
        extract_features(backbone, archive, out=tmp_path / "features")


def test_the_table_and_what_is_said(photographs, backbone, tmp_path):
    import pyarrow.parquet as pq

    wanted = Wanted(cls=(-1,), mean=(0,), patches=(5,))
    store = extract_features(backbone, photographs, out=tmp_path, wanted=wanted, table=True, limit=20, workers=0)
    table = pq.read_table(store.folder / "features.parquet")
    assert table.column_names == ["row", "name", "cls/11", "mean/0"]
    assert table["name"].to_pylist() == store.names
    assert np.array_equal(np.array(table["cls/11"].to_pylist(), np.float32), store["cls/-1"][:].numpy())
    lines = summary(store).splitlines()
    assert lines[0] == "19 images"
    assert lines[-2].startswith("1 images could not be read")
    assert "030.png" in lines[-2]
    assert lines[-1] == str(store.folder)
    assert open_store(lines[-1], verify=True).names == store.names


def test_a_table_of_dense_features_only_is_refused_before_anything_is_done(photographs, backbone, tmp_path):
    with pytest.raises(UserError, match="a table holds cls and mean features only"):
        extract_features(backbone, photographs, out=tmp_path, wanted=Wanted(cls=(), patches=(-1,)), table=True)
    assert not list(tmp_path.iterdir())
