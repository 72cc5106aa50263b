"""Models of transformers: a repository on the hub or a folder of `save_pretrained`; none of its code ever runs.

The content of such a folder is untrusted. Its code, the kernels and other models it names, and paths that lead out of
it are refused or removed before the library follows them.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.loading.fetch import fetch, first_line, needs_code, refuse_others
from vitreg.backbones.loading.preprocessing import Unprepared, not_rgb, usual
from vitreg.backbones.loading.processors import read_processor
from vitreg.backbones.loading.sources import Built
from vitreg.backbones.weights.into_module import beside_features
from vitreg.backbones.weights.shards import refuse_bad_indexes, refuse_links_outside
from vitreg.data.views.transforms import Preprocess
from vitreg.documents import read_json
from vitreg.errors import UserError

# Models of images and text: only the image tower is built.
_TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}

_BLOCK = re.compile(r"(encoder\.)?layers?\.\d+\.")
# Tensors of training or recomputed ones, saved by older versions of the library.
_BESIDE = ("mask_token", "position_ids", "relative_position_index", "inv_freq")


def from_transformers(name: str, pretrained: bool) -> Built:
    """Build the model of a repository on the hub or of a folder; never runs code from there."""
    try:
        import transformers
    except ImportError:
        raise UserError("hf: models need the package transformers; install 'vitreg[hf]'.") from None
    folder = Path(name).expanduser()
    if folder.is_dir():
        _look_over(folder)
        name = str(folder)
    elif name.startswith(("/", "./", "../", "~")):
        raise UserError(f"no folder {name}.")
    spec = f"hf:{name}"
    settings = _config(transformers, name)
    whole, tower = settings, _TOWERS.get(settings.model_type)
    if tower is not None:
        settings = getattr(settings, "vision_config", settings)
    # A config can name a kernel of the hub for attention, which the library would fetch and run.
    settings._attn_implementation = None
    owner: Any = transformers.AutoModel if tower is None else getattr(transformers, tower)

    def create() -> Any:
        return owner(settings) if tower else owner.from_config(settings, trust_remote_code=False)

    try:
        refuse_others(spec, create)
    except ValueError:
        raise UserError(f"{spec} is a {whole.model_type}, which has no features of images alone.") from None
    module = _with_weights(owner, name, settings) if pretrained else create()
    preprocess, notes = _preprocess(module, name)
    return Built(module.float(), preprocess, notes)


def _look_over(folder: Path) -> None:
    """Refuse a folder that is no model or points outside itself. Raises UserError."""
    if (folder / "adapter_config.json").is_file():
        raise UserError(f"{folder} is an adapter (adapter_config.json), not a model; merge it into its model first.")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is no transformers model.")
    if not isinstance(read_json(folder / "config.json"), dict):
        raise UserError(f"{folder / 'config.json'} holds no settings by name, so it is no transformers model.")
    refuse_links_outside(folder)
    refuse_bad_indexes(folder)


def _config(transformers: Any, name: str) -> Any:
    def config() -> Any:
        try:
            return transformers.AutoConfig.from_pretrained(name, trust_remote_code=False)
        except OSError:
            raise
        except Exception as error:  # a foreign file can make the library raise anything
            if "trust_remote_code" in str(error):
                raise needs_code(f"hf:{name}") from None
            raise UserError(f"hf:{name} is not a model of the installed transformers ({first_line(error)}).") from None

    settings = fetch(f"hf:{name}", True, config)
    if getattr(settings, "quantization_config", None) is not None:
        raise UserError(f"the weights of hf:{name} are quantised; name the model they were made from.")
    return settings


def _with_weights(owner: Any, name: str, settings: Any) -> Any:
    def create() -> Any:
        return owner.from_pretrained(name, config=settings, trust_remote_code=False, output_loading_info=True)

    try:
        module, info = fetch(f"hf:{name}", not Path(name).is_dir(), create)
    except UserError:
        raise
    except Exception as error:  # a foreign file can make the library raise anything
        raise UserError(f"transformers cannot load the weights of hf:{name} ({first_line(error)}).") from None
    missing = sorted(key for key in info["missing_keys"] if not beside_features(key))
    if missing:
        raise UserError(
            f"the weights of hf:{name} lack {len(missing)} tensors of the model ({', '.join(missing[:8])})."
        )
    dropped = [key for key in sorted(info["unexpected_keys"]) if _of_features(key, module)]
    if dropped:
        raise UserError(
            f"the weights of hf:{name} have {len(dropped)} tensor{'s' * (len(dropped) != 1)} that the model lacks "
            f"({', '.join(dropped[:8])}); its config.json describes another model than they are of."
        )
    return module


def _of_features(key: str, module: Any) -> bool:
    """Whether an ignored tensor belongs to the tower, such as a further block or a bias.

    Heads, decoders and the text tower do not.
    """
    inside = key.removeprefix(f"{module.base_model_prefix}.").removeprefix("vision_model.")
    parts = {name for name, _ in module.named_children()}
    return (
        (inside.partition(".")[0] in parts or _BLOCK.match(inside) is not None)
        and not beside_features(inside)
        and inside.rpartition(".")[2] not in _BESIDE
    )


def _preprocess(module: Any, name: str) -> tuple[Preprocess | Unprepared, tuple[str, ...]]:
    anatomy = find_anatomy(module)
    refusal = not_rgb(anatomy)
    found = read_processor(name) if refusal is None else refusal
    if found is not None:
        return found, ()
    note = f"hf:{name} has no preprocessor_config.json; took the usual preprocessing of its family."
    return usual(type(anatomy.tower).__name__, anatomy.native_size), (note,)
