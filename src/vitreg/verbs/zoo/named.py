"""Which models and records are meant: specs, groups of the public list, files of models, folders of scans. No torch here."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreg.documents import parse_json
from vitreg.errors import UserError, unknown
from vitreg.records.zoo import PublishedRow
from vitreg.specs import has_source, whole
from vitreg.verbs.zoo.options import ZooOptions
from vitreg.writing.files import missing

HERE = Path(__file__).parent
RECORD = "result.json"
ALL, WITH_REGISTERS = "public", "registers"
DEEPEST = ("*/", "*/*/")  # where records are looked for below a folder: DIR/MODEL, DIR/runs/KEY


@dataclass(frozen=True)
class Listed:
    """A model of the public list.

    Args:
        groups: the family first. license: as the library's own configuration states it, else None.
    """

    spec: str
    groups: tuple[str, ...]
    registers: int
    license: str | None = None


@dataclass(frozen=True)
class Named:
    """What a command names: models to scan, and folders of scans."""

    models: tuple[str, ...]
    records: tuple[Path, ...]


@functools.cache
def public() -> dict[str, Listed]:
    """Return the list that ships, by spec."""
    held = json.loads((HERE / "public.json").read_text(encoding="utf-8"))["models"]
    return {each["spec"]: Listed(**{**each, "groups": tuple(each["groups"])}) for each in held}


def published() -> list[PublishedRow]:
    """Return what others published, with source and protocol."""
    held = json.loads((HERE / "published.json").read_text(encoding="utf-8"))
    about = {name: held[name] for name in ("source", "protocol")}
    return [PublishedRow(**{**each, **about}) for each in held["rows"]]


def groups() -> dict[str, list[str]]:
    """Return the specs of each group: all, those with registers, each source of models, each family."""
    found: dict[str, list[str]] = {ALL: list(public())}
    for spec, each in public().items():
        for name in (*each.groups, spec.partition(":")[0], *([WITH_REGISTERS] if each.registers else [])):
            found.setdefault(name, []).append(spec)
    return {name: list(dict.fromkeys(specs)) for name, specs in found.items()}


def named(models: Sequence[str], records: Iterable[str | Path] = (), file: str | Path | None = None) -> Named:
    """Return the models and records that are named, each once.

    Args:
        models: specs, @GROUP, and folders of scans. records: folders of scans, or of such folders. file: of models.
    Raises:
        UserError: for an unknown group, a folder without a scan, or a file that holds no models.
    """
    specs: list[str] = []
    folders = [folder for each in records for folder in _scans(Path(each).expanduser())]
    for word in (*models, *([] if file is None else _of_file(Path(file).expanduser()))):
        if word.startswith("@"):
            known = groups()
            if word[1:] not in known:
                raise unknown("group", word[1:], known, "vitreg zoo", see="docs/verbs/zoo.md lists them")
            specs += known[word[1:]]
        elif not has_source(whole(word)) and (Path(word).expanduser() / RECORD).is_file():
            folders += _scans(Path(word).expanduser())
        else:
            specs.append(word)
    return Named(tuple(dict.fromkeys(specs)), tuple(dict.fromkeys(folders)))


def asked_for(images: Sequence[str], options: ZooOptions) -> Named:
    """Return the models and records that are asked for.

    Raises:
        UserError: if there are none, for models without images, and for an unknown detector.
    """
    from vitreg.analysis.outliers import detector as detector_named

    detector_named(options.detector)
    asked = named(options.models, options.records, options.models_file)
    if not asked.models and not asked.records:
        raise UserError("no model named; name each with -m, such as -m @dinov2, or records with --records.")
    if asked.models and not images:
        raise UserError("no images named; give files, a folder or an archive, for example photos/ behind vitreg zoo.")
    return asked


def _scans(folder: Path) -> list[Path]:
    """Return the folder, if it holds a record that is no board, or the folders below it that hold one."""
    if not folder.is_dir():
        raise (
            missing(folder, "folder of a scan")
            if not folder.exists()
            else UserError(f"{folder} is a file; name the folder of a scan.")
        )
    if (folder / RECORD).is_file() and _schema(folder / RECORD) not in ("vitreg.zoo/1", "vitreg.reproduce/1"):
        return [folder]
    below = [path.parent for pattern in DEEPEST for path in sorted(folder.glob(f"{pattern}{RECORD}"))]
    if not below:
        raise UserError(f"{folder} holds no scan; name a folder that vitreg scan or vitreg zoo wrote.")
    return below


def _schema(path: Path) -> str | None:
    try:
        return parse_json(path.read_bytes()).get("schema")
    except (OSError, ValueError, AttributeError):
        return None


def _of_file(path: Path) -> list[str]:
    """Read specs and groups: a line each, # for comments, or JSON as the public list is written."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise missing(path, "file of models") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read as a file of models ({error}).") from error
    if path.suffix.lower() == ".json":
        try:
            held: Any = parse_json(text.encode())
            words = [
                each if isinstance(each, str) else each["spec"]
                for each in (held if isinstance(held, list) else held["models"])
            ]
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is no list of models; write {{"models": [{{"spec": "timm:NAME"}}]}}.') from error
    else:
        words = [line.partition("#")[0].strip() for line in text.splitlines()]
    words = [word for word in words if word]
    if not words or not all(isinstance(word, str) for word in words):
        raise UserError(f"{path} names no model; write a SPEC a line, such as timm:vit_base_patch16_224.dino.")
    return words
