"""An edited model as a plain module, to export, to compile, or to pass to code without vitreg."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn

from vitreg.backbones.anatomy.find import find_anatomy
from vitreg.backbones.edits import Editor, EditSet
from vitreg.backbones.recorder import Recorder, Source
from vitreg.backbones.trace import Capture
from vitreg.backbones.watch import attach, functions_of, refuse_running_again
from vitreg.errors import UserError

_running: ContextVar[Recorder | None] = ContextVar("the recorder of the edited module that runs here", default=None)


class EditedModule(nn.Module):
    """A copy of a model that shares its parameters and applies edits in its forward; its outputs have the model's own
    form.

    Args:
        module: of a known library; it is not changed.
        sets: sets of edits, the inner model's first.
        source: how attention of the model is read, `AttentionStatus.source`.
    Raises:
        UserError: for edits of the whole call: they work on tokens, not on the module's output.
    """

    def __init__(self, module: nn.Module, sets: Sequence[EditSet], source: Source = "sdpa") -> None:
        super().__init__()
        shared = {id(x): x for x in (*module.parameters(), *module.buffers())}
        self.model = copy.deepcopy(module, shared)
        self.anatomy, self._sets = find_anatomy(self.model), tuple(sets)
        self._source: Source = source
        self._recorder: Recorder | None = None
        editor = self._editor()
        if editor.edits("forward"):
            raise UserError(
                "an edit of the whole call sees tokens, and a module returns what it likes; edit at 'image'."
            )
        self._changes_images, self._changes_attention = editor.edits("image"), bool(editor.attention)
        attach(self.anatomy, editor, Capture().resolve(self.anatomy.depth, ()), source, self._current)

    def forward(self, images: Any, *args: Any, **kwargs: Any) -> Any:
        """Return what the model returns for these images, edited."""
        editor, native = self._editor(), self.anatomy.layouts((images.shape[-2], images.shape[-1]))
        if self._changes_images:
            images, _ = editor.apply("image", images, native[0])
            native = self.anatomy.layouts((images.shape[-2], images.shape[-1]))
            native = tuple(editor.layout(layout, "image") for layout in native)
        plan = Capture().resolve(self.anatomy.depth, ())
        recorder = Recorder(self.anatomy, native, plan, editor, self._source)
        if torch.compiler.is_compiling():  # a graph knows no threads
            self._recorder = recorder
            try:
                return self._run(recorder, images, *args, **kwargs)
            finally:
                self._recorder = None
        if torch.is_grad_enabled():
            refuse_running_again(self.model)
        token = _running.set(recorder)
        try:
            output = _uncompiled(self._run)(recorder, images, *args, **kwargs)
        finally:
            _running.reset(token)
        recorder.refuse_lost_edits()
        return output

    def _run(self, recorder: Recorder, images: Any, *args: Any, **kwargs: Any) -> Any:
        with recorder.until_the_end, functions_of(recorder) if self._changes_attention else nullcontext():
            return self.model(images, *args, **kwargs)

    def _current(self) -> Recorder | None:
        """The recorder of the forward that runs in this thread."""
        if torch.compiler.is_compiling():
            return self._recorder
        recorder = _running.get()
        return recorder if recorder is not None and recorder.anatomy is self.anatomy else None

    def _editor(self) -> Editor:
        return Editor(self._sets, self.anatomy.depth)


def _uncompiled(run: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function of which no part is compiled.

    Where `torch.compile` gives up on a whole forward it still compiles the functions called in it, one by one, and those
    would not find the edits.
    """
    return torch.compiler.disable(run) if "torch._dynamo" in sys.modules else run
