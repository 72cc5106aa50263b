"""The one mechanism that traces a running ViT: block hooks and a torch function mode, active only inside a `with`.

The mode sees the real inputs of attention, in `F.scaled_dot_product_attention` after qk-norm and rotary embedding. It
recognises projections by the identity of their weights, also if a block calls `F.linear(x, qkv.weight, ...)` without
the module. A call belongs to the running block; counting calls would be wrong, since pooling heads attend too. Hooks
act only in the context that set them, so threads do not see one another's.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from vitreg.backbones.anatomy.parts import Anatomy
from vitreg.backbones.edits import Editor
from vitreg.backbones.fast_linear import attention_body, faster_linear
from vitreg.backbones.recorder import Recorder, Source
from vitreg.backbones.trace import QKV, ResolvedCapture
from vitreg.errors import UserError

_running: ContextVar[Recorder | None] = ContextVar(
    "the recorder of the forward that runs in this context", default=None
)


@contextmanager
def watching(recorder: Recorder) -> Generator[None, None, None]:
    """Attach a recorder to its model inside a `with`; everything is removed afterwards, also after an error.

    A compiled model runs uncompiled meanwhile: hooks would cause a recompilation for every block.
    """
    handles: list[RemovableHandle] = []
    token = _running.set(recorder)
    try:
        handles += attach(recorder.anatomy, recorder.editor, recorder.plan, recorder.source, lambda: _here(recorder))
        with recorder.until_the_end, _eager(), functions_of(recorder):
            yield
    finally:
        for handle in handles:
            handle.remove()
        _running.reset(token)


class _Eager:
    """PyTorch's switch for compiled models, shared by all threads: off from the first trace to the end of the last."""

    def __init__(self) -> None:
        self._lock, self._runs, self._put_back = threading.Lock(), 0, ExitStack()

    @contextmanager
    def __call__(self) -> Generator[None, None, None]:
        with self._lock:
            if not self._runs and "torch._dynamo.eval_frame" in sys.modules:
                self._put_back.enter_context(torch.compiler.set_stance("force_eager"))
            self._runs += 1
        try:
            yield
        finally:
            with self._lock:
                self._runs -= 1
                if not self._runs:
                    self._put_back.close()


_eager = _Eager()


def _here(recorder: Recorder) -> Recorder | None:
    return recorder if _running.get() is recorder else None


def functions_of(recorder: Recorder) -> AbstractContextManager[object]:
    """Return the function mode that reports attention to a recorder, or a null context if hooks are enough."""
    return _Watch(recorder) if recorder.watches_functions else nullcontext()


def attach(
    anatomy: Anatomy, editor: Editor, plan: ResolvedCapture, source: Source, current: Callable[[], Recorder | None]
) -> list[RemovableHandle]:
    """Hook a recorder to its model.

    Args:
        current: returns the recorder of the running forward, None if it is not traced.
    """
    handles: list[RemovableHandle] = []
    for layer, block in enumerate(anatomy.blocks):
        handles.append(block.register_forward_pre_hook(_entering(current, layer), with_kwargs=True))
        handles.append(block.register_forward_hook(_leaving(current, layer)))
    for layer in editor.attention if source == "projections" else ():
        handles.append(anatomy.attention[layer].module.register_forward_hook(_attended(current, layer)))
    for layer in (editor.blocks("mlp") | plan.mlp) & set(range(len(anatomy.mlp))):
        handles.append(anatomy.mlp[layer].register_forward_pre_hook(_before_mlp(current, layer)))
    if plan.patch_embeddings:
        handles.append(anatomy.patch_projection.register_forward_hook(_patches(current)))
    return handles


Current = Callable[[], Recorder | None]


def _entering(current: Current, layer: int) -> Callable[..., Any]:
    def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any] | None = None) -> Any:
        # Without kwargs: another thread runs the block at the moment at which this hook is attached, and has no recorder.
        recorder = current()
        if recorder is None:
            return None
        edited = recorder.enter(layer, args[0] if args else (kwargs or {}).get("hidden_states"))
        if edited is None:
            return None
        return ((edited, *args[1:]), kwargs) if args else (args, {**(kwargs or {}), "hidden_states": edited})

    return enter


def _leaving(current: Current, layer: int) -> Callable[..., Any]:
    def leave(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        recorder = current()
        return None if recorder is None else recorder.leave(layer, output)

    return leave


def _attended(current: Current, layer: int) -> Callable[..., Any]:
    def attended(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        recorder = current()
        return None if recorder is None else recorder.attended(layer, output)

    return attended


def _before_mlp(current: Current, layer: int) -> Callable[..., Any]:
    def read(_module: nn.Module, args: tuple[Any, ...]) -> Any:
        recorder = current()
        edited = None if recorder is None else recorder.mlp(layer, args[0])
        return None if edited is None else (edited, *args[1:])

    return read


def _patches(current: Current) -> Callable[..., None]:
    def patches(_module: nn.Module, _args: tuple[Any, ...], output: Tensor) -> None:
        recorder = current()
        if recorder is not None:
            recorder.patches(output)

    return patches


class _Watch(TorchFunctionMode):
    """Sees every torch function the model calls; runs each exactly as it would have run."""

    def __init__(self, recorder: Recorder) -> None:
        super().__init__()
        self._recorder = recorder
        self._weights = recorder.projection_weights()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return attention_body(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._recorder.attention(_qkv(*args, **kwargs), lambda: func(*args, **kwargs))
        output = func(*args, **kwargs)
        if func is F.linear:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            known = self._weights.get(id(weight))
            if known is not None:
                self._recorder.projection(*known, args[0] if args else kwargs["input"], output)
        return output


def _qkv(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> QKV:
    """Read the arguments of `scaled_dot_product_attention`, under its own names."""
    return QKV(query, key, value, query.shape[-1] ** -0.5 if scale is None else scale, attn_mask, is_causal)


class _Flags:
    """Flags changed while models run, restored after the last forward of a module: threads may share one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._modules: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
        self._runs, self._fast = 0, True

    def enter(self, module: nn.Module) -> None:
        """Put a module in evaluation mode, and switch off PyTorch's fused encoder path."""
        with self._lock:
            if not self._runs:
                self._fast = torch.backends.mha.get_fastpath_enabled()
                torch.backends.mha.set_fastpath_enabled(False)
            self._runs += 1
            count, training = self._modules.get(module, (0, []))
            found = [child for child in module.modules() if child.training]
            for child in found:
                child.training = False
            self._modules[module] = (count + 1, training + found)

    def leave(self, module: nn.Module) -> None:
        """Restore what the first `enter` found, if this is the last to leave."""
        with self._lock:
            self._runs -= 1
            if not self._runs:
                torch.backends.mha.set_fastpath_enabled(self._fast)
            count, training = self._modules[module]
            if count > 1:
                self._modules[module] = (count - 1, training)
                return
            del self._modules[module]
            for child in training:
                child.training = True


_flags = _Flags()


def hooked(module: nn.Module) -> str | None:
    """Return the name of a submodule with foreign hooks or a replaced forward, None if there is none."""
    for name, part in module.named_modules():
        hooks = (*part._forward_hooks.values(), *part._forward_pre_hooks.values())
        own = all(getattr(hook, "__module__", "") == __name__ for hook in hooks)  # of another thread, while it looks
        replaced = any(key.startswith("forward") and callable(value) for key, value in vars(part).items())
        if not own or replaced:
            return name or type(part).__name__
    return None


def refuse_running_again(module: nn.Module) -> None:
    """Refuse gradients of a model that recomputes its blocks in the backward pass: the forward's edits and flags are
    gone by then.

    Raises:
        UserError: if gradient checkpointing is on.
    """
    if any(getattr(child, "grad_checkpointing", False) is True for child in module.modules()):
        raise UserError(
            f"this {type(module).__name__} has gradient checkpointing on: for gradients its blocks run again, without the "
            "edits and in training mode; switch it off with set_grad_checkpointing(False)."
        )


@contextmanager
def undisturbed(module: nn.Module, *, grad: bool = False) -> Generator[None, None, None]:
    """Run in evaluation mode and without PyTorch's fused encoder path, which bypasses the mode; without gradients.

    The path is off in traced and untraced runs alike, so that both give the same bits. Training flags are put back.

    Args:
        grad: keep gradients; layers then run as PyTorch runs them.
    """
    _flags.enter(module)
    try:
        if grad:
            with torch.enable_grad():
                yield
        else:
            with torch.no_grad(), faster_linear(module):
                yield
    finally:
        _flags.leave(module)
