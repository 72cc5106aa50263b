"""Our ViT as an ONNX file for images of one size, any batch.

The position table is resampled once, for that size, because ONNX has no antialiased bicubic resampling: exports of ViTs
that resample at run time fail.
"""

from __future__ import annotations

import copy
import json
import warnings
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.loading.fetch import calm
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions
from vitreg.models.vit import VisionTransformer

SCHEMA = "vitreg.export/1"  # marks every export, so a later export may replace it
LARGEST = 1_900_000_000  # bytes of weights in one file; protobuf allows 2 GiB


class Frozen(nn.Module):
    """A network with the positions of one image size.

    Args:
        network: a network whose registers have no positions.
    """

    def __init__(self, network: VisionTransformer) -> None:
        super().__init__()
        self.network = network
        self.names = ["tokens", "pooled", *(["logits"] if isinstance(network.head, nn.Linear) else [])]

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> tuple[Tensor, ...]:
        """Return the final tokens, the pooled feature that the head reads, and the logits if there is a head."""
        net = self.network
        patches = net.patch_embed(images) + net.pos_embed  # [B, P, D]
        # Not `net.embed`, which reads the batch as a number and so would freeze it.
        prefix = [t.expand(images.shape[0], -1, -1) for t in (net.cls_token, net.reg_token) if t is not None]
        tokens = net.encode([net.norm_pre(torch.cat([*prefix, patches], dim=1))])[0]
        pooled = net.pooled(tokens)
        return (tokens, pooled, net.head(pooled)) if len(self.names) == 3 else (tokens, pooled)


def at_size(network: VisionTransformer, size: tuple[int, int]) -> VisionTransformer:
    """Return a copy with its position table resampled for images of (height, width) pixels.

    Raises:
        UserError: if a side is not a multiple of the patch.
    """
    grid = network.layout(size).grid
    resized = copy.deepcopy(network)
    table = resample_positions(network.pos_embed.detach(), network.grid, grid)
    resized.pos_embed = nn.Parameter(table.clone(), requires_grad=False)
    resized.grid, resized.image_size = grid, size
    return resized


def write_onnx(network: VisionTransformer, preprocess: Preprocess, file: Path) -> list[str]:
    """Write the model; weights too large for one file go to FILE.data beside it.

    Input `images` [batch, 3, H, W]; outputs `tokens` [batch, N, D], `pooled` [batch, D] and, with a head, `logits`.
    The metadata entry `vitreg` holds the token layout and the preprocessing as JSON.

    Raises:
        UserError: if a package is missing.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"an export to onnx needs the package {' and '.join(missing)}; install 'vitreg[export]'.")
    frozen = Frozen(network).eval()
    images = torch.zeros(2, 3, *network.image_size)
    batch = torch.export.Dim("batch")
    with warnings.catch_warnings(), calm(), torch.inference_mode(False):
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            frozen, (images,), dynamo=True, input_names=["images"], output_names=frozen.names,
            dynamic_shapes={"images": {0: batch}}, verbose=False,
        )  # fmt: skip
        layout = network.layout()
        about = {
            "schema": SCHEMA,
            "cls": list(layout.cls),
            "registers": list(layout.registers),
            "patches": [layout.first_patch, layout.first_patch + layout.num_patches],
            "grid": list(layout.grid),
            "preprocess": asdict(preprocess.with_size(network.image_size)),
        }
        program.model.metadata_props["vitreg"] = json.dumps(about)
        large = sum(value.numel() * value.element_size() for value in network.state_dict().values()) > LARGEST
        program.save(file, external_data=large)
    if find_spec("onnxruntime") is None:
        return ["onnxruntime is not installed, so the model was checked for form only; install 'vitreg[export]'."]
    return []


def answers_of_onnx(network: VisionTransformer, file: Path, images: Tensor) -> dict[str, Tensor] | None:
    """Run the file in onnxruntime; without onnxruntime check its form and return None."""
    if find_spec("onnxruntime") is None:
        import onnx

        onnx.checker.check_model(str(file), full_check=True)
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    values = session.run(names, {"images": images.numpy()})
    return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}
