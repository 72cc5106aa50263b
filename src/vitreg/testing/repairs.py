"""The conformance suite of repairs: promises to whoever applies one to a model."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones import Backbone
from vitreg.errors import UserError
from vitreg.features.key import hash_of_values
from vitreg.repair.repair import Repair, load_repair, repaired
from vitreg.tokens import Tokens

ACTS = 1e-4  # of the largest value: less is rounding
SINGLE, AGAIN = 1e-5, 1e-4  # of the largest value: an image alone, and a module's output
NEAR = 0.02  # 1 - cosine of a token that half precision may cost, beyond what it costs without the repair


def check_repair(
    repair: Repair, backbone: Backbone, images: Float[Tensor, "B C H W"], *, compile: bool = False
) -> dict[str, str]:
    """Check that a repair keeps every promise that a user relies on.

    It changes tokens; an image alone gets what it gets in a batch; the same images get the same bits; every image has a
    gradient; the model is as before after the repair's context, also after an exception; read again from its folder it
    gives the same bits; a repaired module returns what the model returns, in the same form, and its tokens are those of
    the repaired backbone; bfloat16 and autocast stay near; features are stored under a key of their own.

    Args:
        repair: fitted to this model.
        backbone: the model without the repair, in float32.
        images: at least two normalised images, on which the repair does something: for most methods, with outliers.
        compile: also compile the repaired module with `torch.compile`, which takes minutes.
    Returns:
        name of the check -> "held", or why it does not apply to this model or method.
    Raises:
        AssertionError: naming the promise and by how much it was broken.
    """
    assert len(images) >= 2, "check_repair wants at least two images: a batch and its rows"
    assert not backbone.edit_names, "check_repair wants the model without the repair"
    checks: list[tuple[str, Callable[[Repair, Backbone, Tensor], str | None]]] = [
        ("acts", _acts),
        ("batch", _batch),
        ("deterministic", _deterministic),
        ("gradients", _gradients),
        ("untouched", _untouched),
        ("untouched module", _untouched_module),
        ("saved", _saved),
        ("module", _module),
        ("bfloat16", _bfloat16),
        ("autocast", _autocast),
        ("features", _features),
        *([("compiled", _compiled)] if compile else []),
    ]
    return {name: check(repair, backbone, images) or "held" for name, check in checks}


def _acts(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    state = _state(backbone.module)
    before, after = backbone(images), repair.apply(backbone)(images)
    _same_weights(backbone, state)
    assert after.layout.length == after.values.shape[1], "the layout is not that of the tokens"
    assert after.layout.grid == before.layout.grid, f"a grid of {before.layout.grid} became {after.layout.grid}"
    assert torch.isfinite(after.values).all(), "a repaired token is not finite"
    if (before.layout.present ^ after.layout.present).any():
        return
    there = after.layout.present
    change = _error(after.patches[:, there], before.patches[:, there])
    if before.layout.cls and after.layout.cls:
        change = max(change, _error(after.cls, before.cls))
    assert change > ACTS, f"it changes no token: the largest change is {change:.1e} of the largest value"


def _batch(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    fixed = repair.apply(backbone)
    together, alone = fixed(images).values, torch.cat([fixed(image[None]).values for image in images])
    _close(together, alone, SINGLE, "an image in a batch gets other tokens than alone")


def _deterministic(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    fixed = repair.apply(backbone)
    first = fixed(images).values
    assert torch.equal(first, fixed(images).values), "the same images get other bits the second time"
    assert torch.equal(first, repair.apply(backbone)(images).values), "applied again, it gives other bits"


def _gradients(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    given = images.clone().requires_grad_()
    repair.apply(backbone)(given, grad=True).values.float().square().sum().backward()
    assert given.grad is not None, "no gradient reaches the images"
    assert torch.isfinite(given.grad).all(), "the gradient of the images is not finite"
    assert given.grad.flatten(1).abs().amax(1).min() > 0, "an image has no gradient"


def _untouched(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    before, state = backbone(images).values, _state(backbone.module)
    wanted, own = repair.apply(backbone)(images).values, dict(backbone.__dict__)
    with repaired(backbone, repair):
        assert torch.equal(backbone(images).values, wanted), (
            "within `repaired` the model is another than the applied one"
        )
    _as_before(backbone, images, before, state, own)
    try:
        with repaired(backbone, repair):
            raise _StopError
    except _StopError:
        _as_before(backbone, images, before, state, own)


def _as_before(
    backbone: Backbone, images: Tensor, before: Tensor, state: Mapping[str, Tensor], own: Mapping[str, Any]
) -> None:
    assert backbone.__dict__ == dict(own), "`repaired` leaves something behind in the backbone"
    assert torch.equal(backbone(images).values, before), "the model is another one after the repair"
    assert backbone.hooked is None, f"the repair leaves a hook in '{backbone.hooked}'"
    _same_weights(backbone, state)


def _same_weights(backbone: Backbone, state: Mapping[str, Tensor]) -> None:
    now = _state(backbone.module)
    assert state.keys() == now.keys(), "the repair added or removed weights of the model it was given"
    for name, value in state.items():
        assert torch.equal(now[name], value), f"the repair changed {name} of the model it was given"


def _untouched_module(repair: Repair, backbone: Backbone, images: Tensor) -> str | None:
    module = backbone.module
    try:
        repair.apply(module)
    except UserError as error:
        return str(error)
    before, own = _flat(_called(module, images)), dict(module.__dict__)
    try:
        with repaired(module, repair):
            assert not _same(_flat(_called(module, images)), before), "within `repaired` the module is the same"
            raise _StopError
    except _StopError:
        pass
    assert module.__dict__ == own, "`repaired` leaves something behind in the module"
    assert _same(_flat(_called(module, images)), before), "the module is another one after an exception"
    return None


def _saved(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        again = load_repair(repair.save(Path(folder) / "repair"))
    assert again.record == repair.record, "the record is another one after it was saved and read"
    first, second = repair.apply(backbone), again.apply(backbone)
    assert torch.equal(first(images).values, second(images).values), "read again, it gives other bits"
    assert first.edits_identity == second.edits_identity, "read again, its features have another key"


def _module(repair: Repair, backbone: Backbone, images: Tensor) -> str | None:
    fixed = repair.apply(backbone)
    try:
        module = fixed.module
    except UserError as error:
        return str(error)
    before, after = _called(backbone.module, images), _called(module, images)
    assert _form(before) == _form(after), f"the module returned {_form(before)}, and repaired {_form(after)}"
    tokens, own = fixed(images), backbone(images)
    own_views, views = _views(own), _views(tokens)
    compared = 0
    for output, plain in zip(_flat(after), _flat(before), strict=True):
        for (
            name,
            view,
        ) in own_views.items():  # where the model returns its tokens, the repaired one returns the new ones
            if plain.shape == view.shape and name in views and _error(plain, view) <= AGAIN:
                _close(output, views[name], AGAIN, f"the {name} that the module returns is not that of the backbone")
                compared += 1
    return None if compared else "what the module returns are not its tokens"


def _bfloat16(repair: Repair, backbone: Backbone, images: Tensor) -> str | None:
    try:
        half = Backbone(copy.deepcopy(backbone.module).bfloat16())
    except (UserError, RuntimeError, TypeError) as error:
        return str(error)
    found = repair.apply(half, force=True)(images)
    assert found.values.dtype == torch.bfloat16, f"in bfloat16 tokens are {found.values.dtype}"
    _near(found, repair.apply(backbone)(images), half(images), backbone(images), "bfloat16")
    return None


def _autocast(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    fixed = repair.apply(backbone)
    with torch.autocast(backbone.device.type, torch.bfloat16):
        found, plain = fixed(images), backbone(images)
    _near(found, fixed(images), plain, backbone(images), "autocast")


def _near(found: Tokens, wanted: Tokens, plain: Tokens, exact: Tokens, what: str) -> None:
    cost, usual = _distance(found, wanted), _distance(plain, exact)
    assert cost <= 2 * usual + NEAR, (
        f"{what} moves repaired tokens by 1 - cosine = {cost:.3f}, and those of the model by {usual:.3f}"
    )


def _distance(found: Tokens, wanted: Tokens) -> float:
    assert torch.isfinite(found.values).all(), "a token is not finite in half precision"
    if found.values.shape != wanted.values.shape:
        return 1.0
    return float(1 - F.cosine_similarity(found.values.float(), wanted.values.float(), dim=-1).mean())


def _features(repair: Repair, backbone: Backbone, images: Tensor) -> None:
    fixed = repair.apply(backbone)
    assert fixed.edits_identity is not None, "an edit has no identity, so its features cannot be stored"
    before = backbone.edits_identity, hash_of_values(backbone.anatomy.tower)
    after = fixed.edits_identity, hash_of_values(fixed.anatomy.tower)
    assert before != after, "features of the repaired model would be stored as those of the model"


def _compiled(repair: Repair, backbone: Backbone, images: Tensor) -> str | None:
    try:
        module = repair.apply(backbone).module
    except UserError as error:
        return str(error)
    with torch.no_grad():
        wanted, found = _flat(module(images)), _flat(torch.compile(module)(images))
    for x, y in zip(found, wanted, strict=True):
        _close(x, y, AGAIN, "the compiled module is another one")
    return None


class _StopError(Exception):
    """Raised within a context, to see what it leaves behind."""


def _called(module: nn.Module, images: Tensor) -> Any:
    with torch.no_grad():
        return module(images)


def _views(tokens: Tokens) -> dict[str, Tensor]:
    """What a module may return of its tokens: all but registers, the patches, CLS, or the mean patch."""
    layout = tokens.layout
    own = [index for index in range(layout.length) if index not in layout.registers]
    views = {"sequence": tokens.values[:, own], "mean patch": tokens.mean_patch}
    if layout.whole:
        views["patches"] = tokens.patches
    return {**views, "class token": tokens.cls} if layout.cls else views


def _flat(output: Any) -> list[Tensor]:
    return list(_tensors(output))


def _tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, Sequence) and not isinstance(output, str):
        for value in output:
            yield from _tensors(value)


def _form(output: Any) -> Any:
    """The types, names and shapes of what a module returns."""
    if isinstance(output, Tensor):
        return tuple(output.shape), output.dtype
    if isinstance(output, Mapping):
        return type(output).__name__, {name: _form(value) for name, value in output.items()}
    if isinstance(output, Sequence) and not isinstance(output, str):
        return type(output).__name__, [_form(value) for value in output]
    return type(output).__name__


def _same(first: Sequence[Tensor], second: Sequence[Tensor]) -> bool:
    return len(first) == len(second) and all(torch.equal(x, y) for x, y in zip(first, second, strict=True))


def _state(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def _error(found: Tensor, wanted: Tensor) -> float:
    found, wanted = found.double(), wanted.double()
    return float((found - wanted).abs().max() / wanted.abs().max().clamp_min(1e-30))


def _close(found: Tensor, wanted: Tensor, tolerance: float, what: str) -> None:
    assert found.shape == wanted.shape, f"{what}: shape {list(found.shape)} instead of {list(wanted.shape)}"
    error = _error(found, wanted)
    assert error <= tolerance, f"{what}: off by {error:.1e} of the largest value, {tolerance:.0e} allowed"
