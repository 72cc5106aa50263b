"""Weights files that lie about their size: one sentence, and no more memory than they have bytes."""

import re
import resource
import warnings
from pathlib import Path

import pytest
import torch
from hostile import FILES, WITHIN_A_TENTH
from tests.apart import printed

from vitreg.backbones.weights import tensor_files
from vitreg.backbones.weights.into_module import load_weights
from vitreg.errors import UserError
from vitreg.models.vit import VisionTransformer


def read_all(files):
    """Print, for each file, the one sentence that refuses it. 600 MB above what is used may be asked for, no more."""
    model = VisionTransformer(32, 8, 32, 1, 2)
    used = int(re.search(r"VmSize:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (used + 600 * 2**20,) * 2)
    limits = {name: getattr(tensor_files, name) for name in ("_TENSORS", "_HEADER")}
    for file in files:
        for name, limit in limits.items():
            tenth = Path(file).name in {make.__name__ for make in WITHIN_A_TENTH}
            setattr(tensor_files, name, limit // 10 if tenth else limit)
        try:
            load_weights(model, file, allow_partial=True)
            print(Path(file).name, "LOADED")
        except UserError as error:
            print(Path(file).name, error)


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse and quantised tensors announce themselves
        for make in FILES:
            make(folder / make.__name__)
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to limit memory")
    files = [str(folder / make.__name__) for make in FILES]
    lines = printed(lambda: read_all(files)).splitlines()
    assert len(lines) == len(files), "one sentence, on one line, for each file"
    return dict(line.split(" ", 1) for line in lines)


@pytest.mark.parametrize(("make", "sentence"), FILES.items(), ids=lambda value: getattr(value, "__name__", None))
def test_a_file_that_declares_what_it_does_not_have_gets_one_sentence_in_bounded_memory(make, sentence, sentences):
    said = sentences[make.__name__]
    assert re.search(sentence, said), said
    assert len(said) < 400


def test_ties_between_weights_are_no_lie(tmp_path):
    from vitreg.backbones.weights.checkpoints import read_checkpoint

    values = torch.randn(64, 64)
    torch.save({f"blocks.{i}.attn.proj.weight": values for i in range(24)}, tmp_path / "tied.pth")
    assert len(read_checkpoint(tmp_path / "tied.pth")) == 24
