"""An edited model as the module it was: to export, to compile, or to pass to code without vitreg.

The module stays of its class and answers to every name it had. Edits are made wherever images enter: by a call, by
`forward_features`, and where a model of image and text runs its vision tower.
"""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.edits import Editor, EditSet
from vitreg.backbones.recorder import Recorder, Source
from vitreg.backbones.trace import Capture
from vitreg.backbones.watch import attach, functions_of, refuse_running_again
from vitreg.errors import UserError

WHOLE, PARTS = ("forward", "forward_features"), ("forward_intermediates", "get_intermediate_layers")
_HELD = "_vitreg_edits"
_running: ContextVar[Recorder | None] = ContextVar("the recorder of the edited module that runs here", default=None)


def edited_copy(module: nn.Module, sets: Sequence[EditSet], source: Source = "sdpa") -> nn.Module:
    """Return a copy of a model that shares its parameters and makes edits; its outputs have the model's own form.

    Args:
        module: of a known library; it is not changed.
        sets: sets of edits, the inner model's first.
        source: how attention of the model is read, `AttentionStatus.source`.
    Raises:
        UserError: for edits of the whole call: they work on tokens, not on the module's output.
    """
    changed = _sharing(module)
    ModuleEdits(changed, sets, source).put_on()
    return changed


@contextmanager
def edited_in_place(module: nn.Module, sets: Sequence[EditSet], source: Source = "sdpa") -> Generator[None, None, None]:
    """Make edits in the very object given while the block runs. Sets of an edited module are its own and these.

    Raises:
        UserError: as `edited_copy`.
    """
    before = edits_of(module)
    edits = ModuleEdits(module, sets, source)
    if before is not None:
        before.take_off()
    edits.put_on()
    try:
        yield
    finally:
        edits.take_off()
        if before is not None:
            before.put_on()


def edits_of(module: nn.Module) -> ModuleEdits | None:
    """Return the edits that a module makes."""
    return vars(module).get(_HELD)


def without_edits(module: nn.Module) -> tuple[nn.Module, tuple[EditSet, ...]]:
    """Return a module without its edits, a copy that shares its parameters, and the edits; the module itself if it has none."""
    edits = edits_of(module)
    return (module, ()) if edits is None else (edits.plain(), edits.sets)


def _sharing(module: nn.Module) -> nn.Module:
    """Copy a module but for its parameters and buffers."""
    return copy.deepcopy(module, {id(x): x for x in (*module.parameters(), *module.buffers())})


@dataclass(frozen=True)
class Entry:
    """A name by which images enter a module, and the name of what it takes first."""

    name: str
    first: str


class ModuleEdits:
    """The edits that a module makes: hooks in its blocks, and a subclass of its own class whose calls start them."""

    def __init__(self, module: nn.Module, sets: Sequence[EditSet], source: Source) -> None:
        self.module, self.sets = module, tuple(sets)
        self.source: Source = source
        self.anatomy = find_anatomy(module)
        self._entered = {id(each): each for each in (module, self.anatomy.tower)}.values()
        self._recorder: Recorder | None = None
        self._handles: list[RemovableHandle] = []
        self._classes: dict[type[nn.Module], type[nn.Module]] = {}
        editor = self._editor()
        if editor.edits("forward"):
            raise UserError(
                "an edit of the whole call sees tokens, and a module returns what it likes; edit at 'image'."
            )
        self._changes_images, self._changes_attention = editor.edits("image"), bool(editor.attention)

    def put_on(self) -> None:
        """Begin to edit."""
        plan = Capture().resolve(self.anatomy.depth, ())
        self._handles = attach(self.anatomy, self._editor(), plan, self.source, self._current)
        for each in self._entered:
            each.__class__ = self._classes.setdefault(type(each), _edited_class(type(each)))
            for name in {*WHOLE, *PARTS} & vars(each).keys():
                vars(each)[name] = _OfTheObject(self, each, name)
            vars(each)[_HELD] = self

    def take_off(self) -> None:
        """Leave the module as it was."""
        for handle in self._handles:
            handle.remove()
        for each in self._entered:
            each.__class__ = type(each).__mro__[1]
            for name, own in list(vars(each).items()):
                if isinstance(own, _OfTheObject):
                    vars(each)[name] = own.own
            del vars(each)[_HELD]

    def plain(self) -> nn.Module:
        """Return the module without edits: a copy that shares its parameters."""
        self.take_off()
        try:
            return _sharing(self.module)
        finally:
            self.put_on()

    def copied(self, memo: dict[int, Any]) -> nn.Module:
        """Return an edited copy with parameters of its own, for `copy.deepcopy`."""
        self.take_off()
        try:
            changed = copy.deepcopy(self.module, memo)
        finally:
            self.put_on()
        ModuleEdits(changed, self.sets, self.source).put_on()
        return changed

    def run(self, entered: nn.Module, entry: Entry, call: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
        """Enter the module with its edits.

        Args:
            entered: the module, or the vision tower in it.
            call: what the entry does without edits.
        Raises:
            UserError: for what holds no images, and for parts of the forward of a model whose edits add tokens.
        """
        images: Any = args[0] if args else kwargs.get(entry.first)
        if self._inside() or (entered is not self.anatomy.tower and not _are_images(images)):
            return call(*args, **kwargs)  # of a model of image and text: its vision tower is edited
        if not _are_images(images):
            raise UserError(f"an edited model takes images [B, C, H, W] first, not {type(images).__name__}.")
        editor, native = self._editor(), self.anatomy.layouts((images.shape[-2], images.shape[-1]))
        if self._changes_images:
            images, _ = editor.apply("image", images, native[0])
            native = self.anatomy.layouts((images.shape[-2], images.shape[-1]))
            native = tuple(editor.layout(layout, "image") for layout in native)
            args, kwargs = ((images, *args[1:]), kwargs) if args else (args, {**kwargs, entry.first: images})
        if entry.name in PARTS and editor.layouts(native) != native:
            raise UserError(
                f"{entry.name} would return the tokens that an edit adds or takes out; trace vitreg.load(module) instead."
            )
        recorder = Recorder(self.anatomy, native, Capture().resolve(self.anatomy.depth, ()), editor, self.source)
        return self._recorded(recorder, lambda: call(*args, **kwargs), refuses=entry.name in WHOLE)

    def _recorded(self, recorder: Recorder, call: Callable[[], Any], *, refuses: bool) -> Any:
        def run() -> Any:
            with recorder.until_the_end, functions_of(recorder) if self._changes_attention else nullcontext():
                return call()

        if torch.compiler.is_compiling():  # a graph knows no threads
            self._recorder = recorder
            try:
                return run()
            finally:
                self._recorder = None
        if torch.is_grad_enabled():
            refuse_running_again(self.module)
        token = _running.set(recorder)
        try:
            output = _uncompiled(run)()
        finally:
            _running.reset(token)
        if refuses:
            recorder.refuse_lost_edits()
        return output

    def _inside(self) -> bool:
        """Whether the call comes from an entry that has begun to edit."""
        return self._current() is not None

    def _current(self) -> Recorder | None:
        """The recorder of the forward that runs in this thread."""
        if torch.compiler.is_compiling():
            return self._recorder
        recorder = _running.get()
        return recorder if recorder is not None and recorder.anatomy is self.anatomy else None

    def _editor(self) -> Editor:
        return Editor(self.sets, self.anatomy.depth)


class _OfTheObject:
    """An entry that stands in the object, not in its class, with edits."""

    def __init__(self, edits: ModuleEdits, entered: nn.Module, name: str) -> None:
        self.own: Callable[..., Any] = vars(entered)[name]
        self._edits, self._entered, self._entry = edits, entered, Entry(name, _parameters(self.own)[0])

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._edits.run(self._entered, self._entry, self.own, args, kwargs)


def _edited_class(kind: type[nn.Module]) -> type[nn.Module]:
    """Return a subclass of the same name whose entries start the edits."""
    own = {name: _entered_by(kind, name) for name in (*WHOLE, *PARTS) if callable(getattr(kind, name, None))}
    about = {name: getattr(kind, name) for name in ("__module__", "__qualname__", "__doc__")}
    return type(kind.__name__, (kind,), {**about, **own, "__deepcopy__": _deepcopy, "__reduce_ex__": _reduce})


def _entered_by(kind: type[nn.Module], name: str) -> Callable[..., Any]:
    held = getattr(kind, name)
    about = Entry(name, _parameters(held)[1])

    @functools.wraps(held)
    def entry(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, _HELD).run(self, about, functools.partial(held, self), args, kwargs)

    plain: Any = entry
    plain.__code__ = plain.__code__.replace()  # torch.compile counts what it compiled by code: each module has its own
    return entry


def _parameters(function: Callable[..., Any]) -> list[str]:
    """Return the names of what a function takes, and empty ones."""
    return [*inspect.signature(function).parameters, "", ""]


def _deepcopy(self: nn.Module, memo: dict[int, Any]) -> nn.Module:
    return vars(self)[_HELD].copied(memo)


def _reduce(self: nn.Module, _protocol: int) -> tuple[Callable[..., nn.Module], tuple[Any, ...]]:
    """Pickle a module as it is without edits, and the edits: its class is made anew."""
    edits: ModuleEdits = vars(self)[_HELD]
    return _edited_again, (edits.plain(), edits.sets, edits.source, self is edits.module)


def _edited_again(module: nn.Module, sets: Sequence[EditSet], source: Source, whole: bool) -> nn.Module:
    edits = ModuleEdits(module, sets, source)
    edits.put_on()
    return module if whole else edits.anatomy.tower


def _are_images(given: Any) -> bool:
    return isinstance(given, Tensor) and given.ndim == 4


def _uncompiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of which no part is compiled.

    Where `torch.compile` gives up on a whole forward it still compiles the functions called in it, one by one, and those
    would not find the edits.
    """
    return torch.compiler.disable(run) if "torch._dynamo" in sys.modules else run
