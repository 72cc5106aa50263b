"""Models as a folder of transformers. One of transformers is saved as it is; vitreg's own ViT as
`Dinov2WithRegistersModel`, or `Dinov2Model` without registers.

Both differ from ours in two ways: every branch has a gain, here 1 if ours has none, and CLS has a row in the position
table, here 0. Their classifier reads CLS and the mean patch; the weights of the mean patch are 0 here.
"""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.backbones.loading.fetch import calm
from vitreg.backbones.weights.into_module import load_state
from vitreg.data.views.transforms import Preprocess
from vitreg.errors import UserError
from vitreg.models.block import Block
from vitreg.models.shape import Shape, in_words, shape_of
from vitreg.models.vit import VisionTransformer
from vitreg.verbs.export.model import UNPREPARED, Answers, Model

RESAMPLE = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}  # Pillow's numbers


def write_hf(model: Model, folder: Path) -> list[str]:
    """Write the files of `save_pretrained`, and the preprocessing.

    Raises:
        UserError: if transformers is missing, or cannot express the model.
    """
    transformers = _transformers()
    built = _of_transformers(model) if model.network is None else _of_ours(model.network)
    with _quiet(transformers):
        built.save_pretrained(folder)
    if model.preprocess is None:
        return [UNPREPARED]
    described = _preprocessing(model.preprocess)
    if described is None:
        return [
            "transformers cannot express how images of this model are prepared, so preprocessor_config.json was not written."
        ]
    (folder / "preprocessor_config.json").write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
    return []


def _of_ours(network: VisionTransformer) -> Any:
    """Return vitreg's own ViT as a Dinov2 of transformers. Raises UserError if it is more than that."""
    transformers = _transformers()
    shape = shape_of(network)
    if (reason := _inexpressible(network, shape)) is not None:
        raise UserError(f"the Dinov2 models of transformers have no {reason}; export to timm, safetensors or onnx.")
    registers, classifier = network.num_registers, isinstance(network.head, nn.Linear)
    family = "Dinov2WithRegisters" if registers else "Dinov2"
    labels = {"num_labels": network.head.out_features} if isinstance(network.head, nn.Linear) else {}
    config = getattr(transformers, f"{family}Config")(
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        mlp_ratio=int(shape.mlp_ratio or 0),
        use_swiglu_ffn=shape.mlp == "swiglu",
        layer_norm_eps=shape.eps,
        image_size=network.image_size[0],
        patch_size=shape.patch[0],
        **({"num_register_tokens": registers} if registers else {}),
        **labels,
    )
    model: Any = getattr(transformers, f"{family}ForImageClassification" if classifier else f"{family}Model")(config)
    tower = model.base_model
    state = {name: value for name, value in network.published_state().items() if not name.startswith("head.")}
    if not shape.layer_scale:
        ones = torch.ones(shape.width)
        state |= {f"blocks.{i}.{name}.gamma": ones for i in range(shape.depth) for name in ("ls1", "ls2")}
    load_state(tower, state, "the run", grid=network.grid)
    if isinstance(network.head, nn.Linear):
        with torch.no_grad():
            model.classifier.weight.zero_()
            model.classifier.weight[:, : shape.width].copy_(network.head.weight)
            model.classifier.bias.copy_(network.head.bias)
    return model


def _of_transformers(model: Model) -> Any:
    """Return a model of transformers, with the registers of a repair among its weights.

    Raises:
        UserError: for a model of another library, or registers that it has no place for.
    """
    backbone = model.backbone
    if backbone.anatomy.library != "transformers":
        raise model.elsewhere("transformers")
    module: Any = backbone.original if hasattr(backbone.original, "save_pretrained") else backbone.anatomy.tower
    if model.registers is None:
        return module
    family, _, kind = type(module).__name__.partition(
        "Dinov2WithRegisters" if "With" in type(module).__name__ else "Dinov2"
    )
    if family or kind not in ("Model", "ForImageClassification"):
        raise UserError(
            f"registers of a repair cannot be weights of {backbone.spec}: transformers has none for a "
            f"{type(module).__name__}; export it to onnx."
        )
    transformers, settings = _transformers(), module.config.to_dict()
    for name in ("model_type", "architectures", "transformers_version"):
        settings.pop(name, None)
    before = settings.pop("num_register_tokens", 0) if "With" in type(module).__name__ else 0
    config = transformers.Dinov2WithRegistersConfig(**settings, num_register_tokens=before + len(model.registers))
    built: Any = getattr(transformers, f"Dinov2WithRegisters{kind}")(config).eval()
    base = f"{built.base_model_prefix}." if kind != "Model" else ""
    state = {
        name.replace(f"{module.base_model_prefix}.", base, 1) if base else name: value
        for name, value in module.state_dict().items()
    }
    own = state.get(table := f"{base}embeddings.register_tokens")
    kept = [] if own is None or not before else [own]
    state[table] = torch.cat([*kept, model.registers[None]], 1)
    built.load_state_dict(state, strict=True)
    return built


@torch.inference_mode()
def answers_of_hf(model: Model, folder: Path, images: Tensor) -> Answers:
    """Open the folder with transformers and run it."""
    transformers = _transformers()
    if model.network is None:
        return _answers_of_theirs(model, folder, images)
    network = model.network
    kind = (
        transformers.AutoModelForImageClassification if isinstance(network.head, nn.Linear) else transformers.AutoModel
    )
    with _quiet(transformers):
        read = _read(kind, folder)
    features = read.base_model(images)
    found = {"tokens": features.last_hidden_state, "pooled": features.pooler_output}
    return found | {"logits": read(images).logits} if isinstance(network.head, nn.Linear) else found


def _answers_of_theirs(model: Model, folder: Path, images: Tensor) -> Answers:
    """Run what `from_pretrained` of the class that config.json names gives."""
    transformers = _transformers()
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    with _quiet(transformers):
        read = _read(getattr(transformers, name), folder)
    return Model(Backbone(read), None, None, model.size).answers(images)


def _read(kind: Any, folder: Path) -> Any:
    """Load a folder. Raises UserError where transformers does not find every tensor again."""
    read, info = kind.from_pretrained(folder, output_loading_info=True)
    if info["missing_keys"] or info["unexpected_keys"]:
        raise UserError(
            f"transformers {_transformers().__version__} does not find its own tensors again; install another."
        )
    return read.eval()


@contextmanager
def _quiet(transformers: Any) -> Generator[None, None, None]:
    """Keep log lines and progress bars off the screen."""
    bars = transformers.utils.logging
    shown = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        with calm():
            yield
    finally:
        if shown:
            bars.enable_progress_bar()


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("an export to hf needs the package transformers; install 'vitreg[hf]'.") from None
    return transformers


def _inexpressible(network: VisionTransformer, shape: Shape) -> str | None:
    """Name a feature of the network that transformers' Dinov2 lacks; None if there is none."""
    first = network.blocks[0]
    if in_words(shape.switches):
        return in_words(shape.switches)
    if network.cls_token is None:
        return "model without a class token"
    if shape.pre_norm:
        return "norm before the first block"
    if network.pool == "mean":
        return "pooling by the mean patch"
    if isinstance(first, Block) and first.bypass is not None:
        return "registers that enter after the first block"
    if isinstance(first, Block) and first.attn.slots is not None:
        return "registers that compete for keys as slots"
    if shape.patch[0] != shape.patch[1] or network.image_size[0] != network.image_size[1]:
        return "patches or position tables that are not square"
    if shape.mlp_ratio is None or shape.mlp_ratio % 1:
        return f"MLP ratio of {shape.mlp_ratio}, only whole ones"
    return None


def _preprocessing(preprocess: Preprocess) -> dict[str, object] | None:
    """Return the settings of an image processor; None if it cannot express the resizing."""
    resize = preprocess.resize
    if resize is None or preprocess.aspect != "squash":
        return None
    size = {"shortest_edge": resize} if isinstance(resize, int) else {"height": resize[0], "width": resize[1]}
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": size,
        "resample": RESAMPLE[preprocess.interpolation],
        "do_center_crop": preprocess.crop,
        "crop_size": {"height": preprocess.size[0], "width": preprocess.size[1]},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocess.mean),
        "image_std": list(preprocess.std),
    }
