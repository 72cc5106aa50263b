"""A model as an ONNX file for images of one size, any batch.

The position table is resampled once, for that size, because ONNX has no antialiased bicubic resampling: exports of ViTs
that resample at run time fail.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Generator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.loading.fetch import calm
from vitreg.errors import UserError
from vitreg.models.posembed import resample_positions
from vitreg.models.vit import VisionTransformer
from vitreg.verbs.export.files import SCHEMA, described
from vitreg.verbs.export.model import Answers, Model
from vitreg.verbs.export.traced import Traced

LARGEST = 1_900_000_000  # bytes of weights in one file; protobuf allows 2 GiB
LONGEST = 240  # characters of a reason


class Frozen(nn.Module):
    """vitreg's own network with the positions of one image size.

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
        tokens = net.forward_features(images)
        pooled = net.pooled(tokens)
        return (tokens, pooled, net.head(pooled)) if len(self.names) == 3 else (tokens, pooled)


def at_size(network: VisionTransformer, size: tuple[int, int]) -> VisionTransformer:
    """Return a copy with its position table resampled for images of (height, width) pixels.

    Raises:
        UserError: if a side is not a multiple of the patch.
    """
    grid = network.layout(size).grid
    resized = copy.deepcopy(network)
    if network.pos_embed is not None:
        table = resample_positions(network.pos_embed.detach(), network.grid, grid)
        resized.pos_embed = nn.Parameter(table.clone(), requires_grad=False)
    resized.grid, resized.image_size = grid, size
    return resized


def write_onnx(model: Model, file: Path) -> list[str]:
    """Write the model; weights too large for one file go to FILE.data beside it.

    Input `images` [batch, C, H, W]; outputs `tokens` [batch, N, D], registers included, and what the model itself answers:
    `pooled` [batch, D] or `logits` [batch, K], both for vitreg's own ViT with a head. The metadata entry `vitreg` holds the
    token layout and the preprocessing as JSON.

    Raises:
        UserError: if a package is missing, or no graph can be made of the model.
    """
    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise UserError(f"an export to onnx needs the package {' and '.join(missing)}; install 'vitreg[export]'.")
    images = torch.zeros(2, model.backbone.anatomy.channels, *model.size)
    preprocess = model.preprocess
    about = {
        "schema": SCHEMA,
        **described(model.layout),
        "preprocess": None if preprocess is None else asdict(preprocess),
        "repairs": list(model.backbone.edit_names),
    }
    if model.network is None:
        traced: Traced | Frozen = Traced(model.backbone, images)
    else:
        traced = Frozen(at_size(model.network, model.size)).eval()
    program = _graph(traced, images, model.backbone.spec)
    program.model.metadata_props["vitreg"] = json.dumps(about)
    large = sum(value.numel() * value.element_size() for value in traced.state_dict().values()) > LARGEST
    program.save(file, external_data=large)
    if find_spec("onnxruntime") is None:
        return ["onnxruntime is not installed, so the model was checked for form only; install 'vitreg[export]'."]
    return []


def _graph(traced: Traced | Frozen, images: Tensor, spec: str) -> Any:
    """Return the ONNX program of a module. Raises UserError with the exporter's reason where there is none."""
    try:
        with _undisturbed():
            return torch.onnx.export(
                traced, (images,), dynamo=True, input_names=["images"], output_names=traced.names,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}}, verbose=False,
            )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # of any kind: what the exporter meets in the code of a model
        raise UserError(f"torch {torch.__version__} makes no ONNX graph of {spec}: {_reason(error)}.") from error


@contextmanager
def _undisturbed() -> Generator[None, None, None]:
    """Make graphs quietly, and without PyTorch's fused encoder path, which ONNX lacks."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with (
            warnings.catch_warnings(), calm(), torch.inference_mode(False), redirect_stdout(StringIO()),
            redirect_stderr(StringIO()),
        ):  # fmt: skip
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


def _reason(error: Exception) -> str:
    """Return the innermost cause in one line."""
    while isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__)[:LONGEST].rstrip(" .")


def answers_of_onnx(model: Model, file: Path, images: Tensor) -> Answers | None:
    """Run the file in onnxruntime, the first image alone and the others together; without onnxruntime check its form and
    return None.

    Raises:
        UserError: if onnxruntime cannot run it.
    """
    if find_spec("onnxruntime") is None:
        import onnx

        onnx.checker.check_model(str(file), full_check=True)
        return None
    import onnxruntime

    try:
        session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        parts = [session.run(names, {"images": part.numpy()}) for part in (images[:1], images[1:])]
    except Exception as error:  # onnxruntime's own kinds have no common base
        raise UserError(
            f"onnxruntime cannot run the graph of {model.backbone.spec}: {_reason(error)}; nothing was written."
        ) from error
    return {
        name: torch.cat([torch.from_numpy(value) for value in values])
        for name, *values in zip(names, *parts, strict=True)
    }
