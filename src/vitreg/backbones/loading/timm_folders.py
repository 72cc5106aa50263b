"""Models in timm's own form outside its list: a folder (`timm:local-dir:PATH`) or a repository of the hub (`timm:hf-hub:REPO`).

Their config.json names an architecture of timm and its arguments; no code of theirs is run. `vitreg export --to timm` writes one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from vitreg.backbones.loading.fetch import fetch, first_line, refuse_others
from vitreg.backbones.loading.filled import built
from vitreg.documents import read_json
from vitreg.errors import UserError, unknown
from vitreg.specs import TIMM_PLACES


def build(place: str, name: str, pretrained: bool) -> nn.Module:
    """Build the model that a folder or a repository describes.

    Args:
        place: one of `TIMM_PLACES`.
        name: the folder, or OWNER/REPO.
    Raises:
        UserError: where there is no such model, it is not of timm, or no Vision Transformer.
    """
    import timm

    if place not in TIMM_PLACES:
        raise unknown("place", f"{place}:", [f"{each}:" for each in TIMM_PLACES], "timm")
    if not name:
        raise UserError(f"timm:{place}: names no {'folder' if place == 'local-dir' else 'repository'}.")
    if place == "local-dir":
        name = str(_timm_folder(Path(name).expanduser()))
    spec = f"timm:{place}:{name}"
    online = place == "hf-hub"

    def create(weights: bool) -> Any:
        try:
            return built(lambda: timm.create_model(f"{place}:{name}", pretrained=weights), filled=weights)
        except Exception as error:
            if online and isinstance(error, OSError | ConnectionError):
                raise  # the hub is the matter, not what it holds
            raise UserError(f"timm cannot build {spec} ({first_line(error)}).") from error

    fetch(spec, online, lambda: refuse_others(spec, lambda: create(False)))  # before weights are downloaded
    return fetch(spec, online, lambda: create(pretrained))


def describes_timm(config: Any) -> bool:
    """Whether a config.json is of a model in timm's form."""
    return isinstance(config, dict) and isinstance(config.get("architecture"), str)


def _timm_folder(folder: Path) -> Path:
    import timm

    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json, so it is no folder of a timm model.")
    config = read_json(folder / "config.json")
    if not describes_timm(config):
        other = "hf" if isinstance(config, dict) and "model_type" in config else "run"
        raise UserError(f"{folder / 'config.json'} names no architecture of timm. Did you mean '{other}:{folder}'?")
    architecture = config["architecture"].partition(".")[0]
    if not timm.is_model(architecture):
        raise unknown("model", architecture, timm.list_models(), "timm")
    return folder
