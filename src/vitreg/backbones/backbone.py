"""`Backbone`: any ViT behind one interface. Calling it returns final tokens; `trace` captures values inside.

It wraps the foreign module and leaves it unchanged: temporary changes are undone before a call returns. Attention is
read only after a check on this very model (`attention_status`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import cached_property
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vitreg.backbones.anatomy.find import Anatomy, find_anatomy
from vitreg.backbones.edited_module import edited_copy, without_edits
from vitreg.backbones.edits import ChangesLayout, Edit, Editor, EditSet
from vitreg.backbones.loading.preprocessing import UNKNOWN, Unprepared, not_rgb
from vitreg.backbones.probing import AttentionStatus, check_attention, in_float32_it_can
from vitreg.backbones.recorder import Recorder, Source
from vitreg.backbones.trace import NORMS, Capture, Trace
from vitreg.backbones.watch import hooked, refuse_running_again, undisturbed, watching
from vitreg.data.views.transforms import Policy, Preprocess, fit
from vitreg.errors import UserError
from vitreg.records import PrecisionChoice
from vitreg.tokens import TokenLayout, Tokens


@final
class Backbone:
    """A Vision Transformer of any library.

    Runs without gradients and in evaluation mode; training flags are restored afterwards. Images are moved to the
    device and dtype of the model.

    Args:
        module: the model; wrappers such as CLIP models are followed to their vision tower.
        anatomy: its description; `find_anatomy` finds it if None.
        preprocess: photograph -> image tensor, None if unknown, or the reason why there is none.
        spec, weights_source, weights_sha256, notes, precision_choice: provenance; `load` fills them in.
        untrained: a sentence if features pass through untrained weights, so results do not describe a trained model. It
            is also the first of the notes.
    Raises:
        UserError: if the model is not known and no anatomy is given.
    """

    def __init__(
        self,
        module: nn.Module,
        anatomy: Anatomy | None = None,
        preprocess: Preprocess | Unprepared | None = None,
        *,
        spec: str = "",
        weights_source: str = "module",
        weights_sha256: str = "",
        notes: tuple[str, ...] = (),
        untrained: str = "",
        precision_choice: PrecisionChoice | None = None,
    ) -> None:
        module, sets = without_edits(module) if anatomy is None else (module, ())
        self.original = module  # the original; an edited backbone shares it
        self.spec = " + ".join([spec or f"module:{type(module).__name__}", *(each.name for each in sets)])
        self.notes = (untrained, *notes) if untrained else notes
        self.weights_source, self.weights_sha256 = weights_source, weights_sha256
        self.weights_size: tuple[int, int] | None = None  # as `load` read a file of weights, and the next line
        self.allow_partial = False
        self.untrained, self.precision_choice = untrained, precision_choice
        self.anatomy = find_anatomy(module) if anatomy is None else anatomy
        self.preprocess = None if isinstance(preprocess, Unprepared) else preprocess
        self._unprepared = preprocess if isinstance(preprocess, Unprepared) else not_rgb(self.anatomy) or UNKNOWN
        self._status: AttentionStatus | None = None
        self.edit_sets: tuple[EditSet, ...] = sets
        self.base: Backbone | None = None  # before edits and changed weights; None if it has none

    def edited(self, edits: Sequence[Edit], name: str, *, leaving: Sequence[Edit] = ()) -> Backbone:
        """Return a backbone of this model that applies edits in every forward. The module is not changed.

        Args:
            edits: they share one state per forward. If this backbone is already edited, its edits run first.
            name: for the spec and the records.
            leaving: edits of `module` only, after the others: they take out tokens that other code does not expect.
        Raises:
            UserError: for a block that does not exist.
        """
        other = copy.copy(self)
        other.__dict__.pop("module", None)
        other.edit_sets = (*self.edit_sets, EditSet(tuple(edits), name, tuple(leaving)))
        other.base = self.base or self
        Editor([each.of_module() for each in other.edit_sets], self.depth)
        other.spec = f"{self.spec} + {name}"
        other.notes = (*self.notes, f"Edited while it runs: {name}.")
        return other

    @cached_property
    def module(self) -> nn.Module:
        """The model. For an edited backbone, a copy that shares its parameters and applies the edits in its forward.

        Raises:
            UserError: for edits of the whole call, or of attention that cannot be read.
        """
        if not self.edit_sets:
            return self.original
        status = self.attention_status() if Editor(self.edit_sets, self.depth).attention else None
        if status is not None and status.source == "none":
            raise UserError(status.reason)
        source: Source = "projections" if status is not None and status.source == "projections" else "sdpa"
        return edited_copy(self.original, [each.of_module() for each in self.edit_sets], source)

    @property
    def edit_names(self) -> tuple[str, ...]:
        """The names of its edits, inner first."""
        return tuple(each.name for each in self.edit_sets)

    @property
    def edits_images(self) -> bool:
        """Whether an edit changes the images, so that patches no longer lie where they lie in the picture.

        A function with a method `layout` names as patches those of the picture, as one that adds a border does.
        """
        return any(
            edit.site == "image" and not isinstance(edit.function, ChangesLayout)
            for each in self.edit_sets
            for edit in each.edits
        )

    def refuse_edited_images(self, what: str) -> None:
        """Raise UserError where an edit changes the images: patches then lie elsewhere than in the picture.

        Args:
            what: what needs their places, as the sentence begins: `boxes`.
        """
        if self.edits_images:
            raise UserError(
                f"{what} of {self.spec} would lie in the wrong place: an edit changes its images before the model sees them."
            )

    @property
    def edits_identity(self) -> str | None:
        """Text that identifies the edits: "" without any, None if one cannot be identified (a lambda, a hook)."""
        if self.hooked is not None:
            return None
        identities = [each.identity() for each in self.edit_sets]
        known = [identity for identity in identities if identity is not None]
        return " ".join(known) if len(known) == len(identities) else None

    @property
    def hooked(self) -> str | None:
        """Name of a submodule with foreign hooks or a replaced forward, None if there is none."""
        return hooked(self.original)

    def __repr__(self) -> str:
        layout, (height, width) = self.anatomy.layout(self.anatomy.native_size), self.anatomy.native_size
        patch = "x".join(map(str, self.anatomy.patch))
        return (
            f"Backbone('{self.spec}', {self.depth} blocks of width {self.anatomy.width}, {len(layout.registers)} registers, "
            f"patches of {patch} at {height}x{width}, {str(self.dtype).removeprefix('torch.')} on {self.device})"
        )

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return len(self.anatomy.blocks)

    @property
    def parameters(self) -> int:
        """Number of parameters, without those of edits."""
        return sum(parameter.numel() for parameter in self.original.parameters())

    @property
    def device(self) -> torch.device:
        """The device of the patch projection."""
        return self._first_parameter.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the patch projection, which images are cast to."""
        return self._first_parameter.dtype

    def prepared(self, size: tuple[int, int] | None = None) -> Preprocess:
        """Return how a photograph becomes an image of (height, width), or of the model's own size.

        Raises:
            UserError: where that is not known, with the reason.
        """
        found = self.preprocess or self._unprepared
        found = found if size is None else found.with_size(size)
        if isinstance(found, Unprepared):
            raise UserError(found.reason)
        return found

    def layout(self, image_size: tuple[int, int]) -> TokenLayout:
        """Return the roles of the final tokens of an image of (height, width) pixels.

        Raises:
            UserError: if the model cannot take this size, naming one it can.
        """
        return self.layouts(image_size)[-1]

    def layouts(self, image_size: tuple[int, int]) -> tuple[TokenLayout, ...]:
        """Return the roles of the tokens that enter block 0 and of those after each block: the model or edits may change them.

        Raises:
            UserError: if the model cannot take this size, naming one it can.
        """
        if not self.edit_sets:
            return self._native_layouts(image_size)
        editor = Editor(self.edit_sets, self.depth)
        _, native = self._edited_images(editor, torch.zeros(1, self.anatomy.channels, *image_size))
        return editor.layouts(native)

    def one_layout(self, image_size: tuple[int, int]) -> TokenLayout:
        """Return the roles of the tokens of a model with the same tokens in all blocks.

        Raises:
            UserError: if blocks have different tokens.
        """
        first, *others = self.layouts(image_size)
        if any(layout != first for layout in others):
            raise UserError(
                f"{self.spec} has different tokens in different blocks, and this needs the same tokens in all; "
                "use Backbone.trace and Trace.layout_after."
            )
        return first

    def _native_layouts(self, image_size: tuple[int, int]) -> tuple[TokenLayout, ...]:
        """The roles of the tokens that enter block 0 and of those after each block, without edits."""
        height, width = image_size
        (rows, cols), native = self.anatomy.patch, self.anatomy.native_size
        if (height, width) != native:
            if not self.anatomy.resizable:
                raise UserError(
                    f"this {type(self.anatomy.tower).__name__} takes images of {native[0]}x{native[1]} pixels only, "
                    f"not {height}x{width}: its position bias is tied to that grid; resize the images, or build the "
                    "model for their size."
                )
            if height % rows or width % cols or not height or not width:
                close = tuple(max(1, round(side / step)) * step for side, step in ((height, rows), (width, cols)))
                raise UserError(
                    f"images of {height}x{width} pixels (height x width) do not divide into patches of {rows}x{cols}; "
                    f"pad, crop or resize them, for instance to {close[0]}x{close[1]}."
                )
        return self.anatomy.layouts((height, width))

    def fit(self, images: Float[Tensor, "B C H W"], policy: Policy) -> Float[Tensor, "B C h w"]:
        """Pad, crop or resize images to a size the model takes; images of its native size stay as they are.

        Args:
            policy: how sides become multiples of the patch; see `vitreg.data.fit`.
        """
        native = (images.shape[-2], images.shape[-1]) == self.anatomy.native_size
        return images if native else fit(images, self.anatomy.patch, policy)

    def covered(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width), from the upper left pixel, that patches cover of an image.

        It is smaller than the image if the patch does not divide the native size: the patch convolution drops the rest
        (SigLIP-so400m: 378 of 384 pixels).
        """
        grid = self.layout(image_size).grid
        rows, cols = (min(n * step, side) for n, step, side in zip(grid, self.anatomy.patch, image_size, strict=True))
        return rows, cols

    def __call__(self, images: Float[Tensor, "B C H W"], *, grad: bool = False) -> Tokens:
        """Return the final tokens, after the model's final norm where it has one.

        Args:
            grad: keep gradients, of the parameters and of the images.
        """
        images = self._checked(images)
        return self._inside(images, self.edit_sets, lambda given, editor: self._run(given, editor, grad=grad).final)

    @torch.no_grad()
    def normed(self, hidden: Float[Tensor, "B N D"], *, final_norm: bool) -> Float[Tensor, "B N D"]:
        """Return the output of a block, with or without the final norm, as probes and stores read it."""
        return self.anatomy.final_norm(hidden) if final_norm else hidden

    def trace(
        self,
        images: Float[Tensor, "B C H W"],
        capture: Capture = NORMS,
        edits: Sequence[Edit] = (),
        *,
        grad: bool = False,
    ) -> Trace:
        """Run the model and keep what `capture` asks for; by default the norms after every block.

        Without edits the final tokens are those of a plain call.

        A model edited at "forward" may run several times: the run on these images is traced, and `final` is what the
        edit returns.

        Args:
            edits: applied in this forward only, after those of the backbone.
            grad: keep gradients, of the parameters and of the images.
        Raises:
            UserError: if a block or token does not exist, the images do not fit, or attention is asked of a model whose
                attention cannot be read.
        """
        images = self._checked(images)
        sets = (*self.edit_sets, EditSet(tuple(edits), "")) if edits else self.edit_sets
        editor = Editor(sets, self.depth)
        trace = self._run(images, editor, capture, grad=grad)
        if editor.edits("forward"):
            trace.final = self._inside(images, sets, lambda given, inner: self._run(given, inner, grad=grad).final)
        return trace

    def attention_status(self) -> AttentionStatus:
        """Check once, on two synthetic inputs, how attention can be read and that the reading is correct.

        If the check fails in half precision, a float32 copy shows whether the precision is the reason.
        """
        if self._status is None:
            status = check_attention(self.anatomy, self._probed)
            if not status.readable and self.dtype in (torch.bfloat16, torch.float16):
                full = self._in_float32()
                if full is not None and full.readable:
                    status = in_float32_it_can(self.anatomy, status, self.dtype, full.error)
            self._status = status
        return self._status

    @property
    def _first_parameter(self) -> Tensor:
        return next(self.anatomy.patch_projection.parameters())

    def _checked(self, images: Tensor) -> Tensor:
        channels = self.anatomy.channels
        if images.ndim != 4 or images.shape[1] != channels or not images.is_floating_point():
            raise UserError(
                f"images must be a floating point tensor [B, {channels}, H, W], not {images.dtype} {list(images.shape)}."
            )
        return images.to(self.device, self.dtype)

    def _edited_images(self, editor: Editor, images: Tensor) -> tuple[Tensor, tuple[TokenLayout, ...]]:
        """The images after their edits, and the layouts that follow from their size."""
        before = self._native_layouts((images.shape[-2], images.shape[-1]))
        images, _ = editor.apply("image", images, before[0])
        native = self._native_layouts((images.shape[-2], images.shape[-1]))
        return images, tuple(editor.layout(each, "image") for each in native)

    def _inside(self, images: Tensor, sets: tuple[EditSet, ...], run: Callable[[Tensor, Editor], Tokens]) -> Tokens:
        """Run inside the edits of the whole call; each run has its own editor and state."""
        around = Editor(sets, self.depth)
        call = around.around(
            lambda given: run(self._checked(given), Editor(sets, self.depth)),
            lambda given: self._native_layouts((given.shape[-2], given.shape[-1]))[-1],
        )
        return call(images)

    def _run(self, images: Tensor, editor: Editor, capture: Capture | None = None, *, grad: bool = False) -> Trace:
        """One forward with all edits but those of the whole call."""
        images, native = self._edited_images(editor, images)
        lengths = [layout.length for layout in editor.layouts(native)]
        plan = (capture or Capture()).resolve(self.depth, lengths[:-1])
        source: Source = "sdpa"
        if plan.attention or editor.attention:
            status = self.attention_status()
            if status.source == "none":
                raise UserError(status.reason)
            source = status.source
        recorder = Recorder(self.anatomy, native, plan, editor, source)
        looking = watching(recorder) if capture is not None or editor.in_the_model else nullcontext()
        if grad and (editor.in_the_model or any(child.training for child in self.original.modules())):
            refuse_running_again(self.original)
        # Outside inference mode PyTorch counts in-place writes, so an edit that modifies its input is detected.
        counted = torch.inference_mode(False) if editor.in_the_model and not grad else nullcontext()
        with counted, undisturbed(self.original, grad=grad), looking:
            final = self._encode(images, lengths[-1])
        if capture is None and not editor.in_the_model:
            return Trace(Tokens(final, native[-1]), self.depth, recorder.kept)
        return recorder.finish(final)

    def _encode(self, images: Tensor, length: int) -> Tensor:
        final = self.anatomy.encode(images)
        if final.ndim != 3 or final.shape[1] != length:
            raise UserError(
                f"the model returned tokens of shape {list(final.shape)} where its anatomy says [B, {length}, D]"
                "; describe its tokens in an Anatomy made by hand."
            )
        return final

    def _probed(self, images: Tensor) -> Recorder:
        images = self._checked(images)
        native = self._native_layouts((images.shape[-2], images.shape[-1]))
        everything = Capture(qkv="all", projected="all" if self.anatomy.attention else ())
        lengths = [layout.length for layout in native]
        recorder = Recorder(self.anatomy, native, everything.resolve(self.depth, lengths[:-1]), probing=True)
        with undisturbed(self.original), watching(recorder):
            self._encode(images, lengths[-1])
        return recorder

    def _in_float32(self) -> AttentionStatus | None:
        """Check a float32 copy of this model; None if it cannot be copied: an anatomy made by hand fits its module only."""
        try:
            return Backbone(copy.deepcopy(self.original).float()).attention_status()
        except (UserError, RuntimeError, TypeError):
            return None
