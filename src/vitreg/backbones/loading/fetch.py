"""Guards around building foreign models: no foreign code runs, nothing but ViTs is downloaded, and a failed download is
one sentence."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from typing import Any

import torch
from torch import nn

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.errors import FROM_FILE, UserError


def refuse_others(spec: str, create: Callable[[], nn.Module]) -> None:
    """Refuse models that are no known ViT before anything is fetched, by building the model without storage."""
    try:
        with torch.device("meta"), calm():
            model = create()
    except RuntimeError:
        return  # its constructor reads tensor values; `load` checks the real one
    try:
        find_anatomy(model)
    except UserError as error:
        raise UserError(f"{spec}: {error}") from None


def fetch(spec: str, online: bool, create: Callable[[], Any], *, trusted: bool = False) -> Any:
    """Run `create`, which may download, and turn its failures to reach the hub into one sentence.

    Weights files are read as values only, and the library cannot prompt the user, whatever its defaults.

    Args:
        trusted: `create` runs code of a trusted repository, which may unpickle its weights.
    """
    values = contextlib.nullcontext() if trusted else _values_only()
    with calm(), no_questions(), values, _reachable() if online else contextlib.nullcontext():
        try:
            return create()
        except UserError:
            raise
        except Exception as error:
            text = " ".join(str(e) for e in _chain(error))
            if "trust_remote_code" in text:
                raise needs_code(spec) from None
            if "weights_only" in text or "Weights only" in text:
                raise UserError(f"the weights of {spec} hold pickled code, which vitreg never runs.") from None
            if not online:
                raise
            if any(word in text for word in ("gated", "401", "403", "Unauthorized")):
                raise UserError(f"no access to the weights of {spec}; log in to the hub, or {FROM_FILE}.") from None
            if any(word in text for word in ("404", "not a valid model identifier", "Repo id must")):
                raise UserError(f"the hub has no {spec}; check the name.") from None
            if any(isinstance(e, OSError) for e in _chain(error)) or "ownload" in text or "internet" in text:
                raise UserError(
                    f"could not fetch the weights of {spec} (no connection to the hub); "
                    f"{FROM_FILE}, or --random to look at untrained weights."
                ) from None
            raise


def needs_code(spec: str) -> UserError:
    """Build the error for a model that is code of its repository."""
    return UserError(
        f"{spec} needs code of its own repository, which vitreg never runs; build the model yourself and pass the module."
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, to stand inside a sentence."""
    return str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__


@contextlib.contextmanager
def _reachable() -> Generator[None, None, None]:
    """Skip 45 seconds of retries if the hub's name does not resolve."""
    try:
        from huggingface_hub import constants
    except ImportError:
        yield
        return
    before: bool = constants.HF_HUB_OFFLINE
    proxied = any(
        os.environ.get(name) for name in ("HF_ENDPOINT", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
    )
    if not before and not proxied:
        try:
            socket.getaddrinfo("huggingface.co", 443)
        except OSError:
            constants.HF_HUB_OFFLINE = True  # cached files are still found
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _values_only() -> Generator[None, None, None]:
    """Make `torch.load` refuse pickled code even if a library (torchvision) or the environment requests it."""
    forced, loose = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
    before = {name: os.environ.pop(name, None) for name in (forced, loose)}
    os.environ[forced] = "1"
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextlib.contextmanager
def no_questions() -> Generator[None, None, None]:
    """Empty standard input, so that a library's prompt (run this code? y/N) fails instead of waiting."""
    before, sys.stdin = sys.stdin, io.StringIO()
    try:
        yield
    finally:
        sys.stdin = before


@contextlib.contextmanager
def calm() -> Generator[None, None, None]:
    """Silence the libraries' own logs: errors become one sentence."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(before)
