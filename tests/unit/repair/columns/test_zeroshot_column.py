"""Zero-shot accuracy in the table of repairs, against open_clip's own towers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.stats import binomtest

import vitreg
from vitreg.backbones import Backbone, load
from vitreg.errors import UserError
from vitreg.passes.clip.class_names import numbered
from vitreg.repair.fitting import fit_repair, subject_of
from vitreg.repair.repair import repaired
from vitreg.repair.settings import FitOptions

open_clip = pytest.importorskip("open_clip", reason="open_clip is not installed")
NAME = "tiny-of-the-table-of-repairs"
TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 4, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
}
WORDS = ["red", "green", "blue", "white"]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """open_clip's untrained model, in which a block writes one direction into bright patches: outliers."""
    file = tmp_path_factory.mktemp("architectures") / f"{NAME}.json"
    file.write_text(json.dumps(TINY))
    open_clip.add_model_config(file)
    torch.manual_seed(5)
    return open_clip.create_model(NAME).eval()


@pytest.fixture(scope="module")
def backbone(theirs: Any, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    file = tmp_path_factory.mktemp("weights") / "open_clip.safetensors"
    save_file({name: value.contiguous() for name, value in theirs.state_dict().items()}, file)
    return load(f"openclip:{NAME}", weights=file, device="cpu", precision="fp32")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """48 pictures, their labels, and the names of the classes."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for number in range(48):
        Image.fromarray(draw.integers(0, 256, (32, 32, 3)).astype(np.uint8)).save(root / f"{number:02}.png")
    (root / "labels.json").write_text(json.dumps({f"{number:02}": number % 4 for number in range(48)}))
    (root / "names.txt").write_text("\n".join(WORDS))
    return {"images": sorted(root.glob("*.png")), "labels": root / "labels.json", "names": root / "names.txt"}


def test_zeroshot_is_that_of_the_two_towers_before_and_after(theirs, backbone, given) -> None:
    settings: dict[str, Any] = {"where": "onset", "force": True}
    result = vitreg.repairs(
        backbone, given["images"], methods=("clip-norm",), labels=given["labels"], names=given["names"],
        templates="simple", force=True, controls=False,
    )  # fmt: skip
    before, after = result.rows
    with subject_of(backbone, given["images"], FitOptions()) as subject:
        pixels, names = torch.cat(list(subject.batches("held_out"))), subject.images.names_of("held_out")
    labels = torch.tensor([int(Path(name).stem) % 4 for name in names])
    classifier = open_clip.build_zero_shot_classifier(
        theirs, open_clip.get_tokenizer(NAME), WORDS, open_clip.SIMPLE_IMAGENET_TEMPLATES
    )
    repair = fit_repair(backbone, given["images"], "clip-norm", **settings)
    with torch.no_grad():
        was = (theirs.encode_image(pixels) @ classifier).argmax(1) == labels
        with repaired(theirs.visual, repair):
            now = (theirs.encode_image(pixels) @ classifier).argmax(1) == labels
    assert len(labels) == 24
    assert before.cells["zeroshot"].value == pytest.approx(100 * was.float().mean().item())
    assert after.cells["zeroshot"].value == pytest.approx(100 * now.float().mean().item())
    lost, won = int((was & ~now).sum()), int((now & ~was).sum())
    wanted = binomtest(min(lost, won), lost + won).pvalue if lost + won else 1.0
    assert after.cells["zeroshot_mcnemar"].value == pytest.approx(wanted)
    assert "head_agreement" in after.lacking


def test_a_model_without_a_text_tower_says_so(given) -> None:
    result = vitreg.repairs(
        "planted:clean", given["images"][:8], methods=("none",), labels=given["labels"], names=given["names"]
    )
    assert "has no text tower" in result.rows[0].lacking["zeroshot"]
    assert "zeroshot" not in result.rows[0].cells


def test_names_that_do_not_fit_the_labels_are_refused(backbone, given, tmp_path) -> None:
    few = tmp_path / "few.txt"
    few.write_text("red\ngreen")
    with pytest.raises(UserError, match=r"names 2 classes, and a label is 3"):
        vitreg.repairs(backbone, given["images"], labels=given["labels"], names=few)
    with pytest.raises(UserError, match="are those of the classes in"):
        vitreg.repairs(backbone, given["images"], names=given["names"])
    few.write_text("1\tgreen\n0\tred")
    assert numbered(few) == ["red", "green"]
    few.write_text("red")
    with pytest.raises(UserError, match="less than 2"):
        numbered(few)
