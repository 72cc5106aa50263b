"""One queue for the models: photos are measured one by one in one thread, and what attention is read from is kept while it fits.

Reading the attention of all blocks takes as long as a forward. An answer holds what the first screen shows; a page asks for the
rest when it has drawn that.
"""

from __future__ import annotations

import io
import itertools
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace

from PIL import Image

from vitreg.data.sources.decode import Unreadable, decode
from vitreg.errors import UserError
from vitreg.report.explore.document import first_parts
from vitreg.verbs.explore.attended import Attended
from vitreg.verbs.explore.live.discretion import Discretion
from vitreg.verbs.explore.measure import EVERYTHING, attended, document_of
from vitreg.verbs.look.models import Looker
from vitreg.verbs.look.one import see
from vitreg.verbs.look.photos import MIN_SIDE

MOST_KEPT = 2**30  # bytes of queries, keys and values of all photos
NAME = re.compile(r"(d\d+)-(?:read|b(\d+)(?:-before)?)")


class Left(Exception):  # noqa: N818  nobody's fault
    """Whoever asked has left, so the work on it ends."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A photo to be measured by one of the models.

    Args:
        photo: a file as it was sent, or a picture.
        left: set when nobody waits for it any longer.
    """

    name: str
    photo: bytes | bytearray | Image.Image
    model: int
    left: threading.Event = field(default_factory=threading.Event)


class Measuring:
    """Measures photos by models, in the order in which they were asked for.

    Args:
        subjects: the models.
        blocks: those of each whose attention a page can draw.
        discreet: shortens the paths in what is sent.
        most_kept: bytes of queries, keys and values.
    """

    def __init__(
        self,
        subjects: Sequence[Looker],
        blocks: Sequence[list[int]],
        discreet: Discretion,
        most_kept: int = MOST_KEPT,
    ) -> None:
        self._subjects, self._blocks, self.discreet = subjects, blocks, discreet
        self._kept, self._numbers = _Kept(most_kept), itertools.count()
        self._closed = threading.Event()
        self._thread = ThreadPoolExecutor(1, "vitreg-explore")

    def ask(self, asked: Asked) -> Future[str]:
        """Return what will be the document of the photo by the model: JSON of its name, sentence and first parts.

        The future raises UserError for a photo that cannot be read and a model that puts out no numbers, and `Left`.

        Raises:
            Left: after the end.
        """
        try:
            return self._thread.submit(self._measure, asked)
        except RuntimeError:
            raise Left from None

    def part(self, name: str) -> str | None:
        """Return a part of the attention of a photo as JSON; None if it is no longer kept, or never was."""
        found = NAME.fullmatch(name)
        attention = self._kept.of(found[1]) if found else None
        if found is None or attention is None:
            return None
        document, block = found.groups()
        parts = dict([attention.read(document)]) if block is None else attention.block(document, int(block))
        return _json(parts[name]) if name in parts else None

    def close(self) -> None:
        """Drop what waits, and end what runs after its next step."""
        self._closed.set()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _measure(self, asked: Asked) -> str:
        looker = self._subjects[asked.model]
        self._go_on(asked)
        picture = _read(asked)
        self._go_on(asked)
        # Where a repair is shown depends on what the model shows without it.
        before = [] if looker.base is None else [self._subjects[looker.base]]
        *_, seen = see(picture, [*before, replace(looker, base=0 if before else None)], EVERYTHING)
        self._go_on(asked)
        document = document_of(looker.backbone, seen)
        name, attention = f"d{next(self._numbers)}", attended(looker.backbone, seen, self._blocks[asked.model])
        if attention is not None:
            self._kept.add(name, attention)
            with suppress(RuntimeError):  # the end
                self._thread.submit(attention.settle)
        record, parts = document.record, dict(first_parts(document, name))
        found = {"name": name, "found": record.found, "sentence": record.sentence, "parts": parts}
        return _json(self.discreet.throughout(found))

    def _go_on(self, asked: Asked) -> None:
        if asked.left.is_set() or self._closed.is_set():
            raise Left


def _read(asked: Asked) -> Image.Image:
    if isinstance(asked.photo, Image.Image):
        return asked.photo
    try:
        return decode(io.BytesIO(asked.photo), lambda picture: picture, min_side=MIN_SIDE)
    except Unreadable as error:
        raise UserError(f"{asked.name} could not be read: {error.reason}.") from None


def _json(content: object) -> str:
    return json.dumps(content, allow_nan=False, separators=(",", ":"))


class _Kept:
    """Attention of documents by their names; the oldest goes when all together exceeds the limit."""

    def __init__(self, most: int) -> None:
        self._most, self._size, self._lock = most, 0, threading.Lock()
        self._documents: OrderedDict[str, Attended] = OrderedDict()

    def add(self, name: str, attention: Attended) -> None:
        with self._lock:
            self._documents[name] = attention
            self._size += attention.size
            while self._size > self._most and len(self._documents) > 1:
                self._size -= self._documents.popitem(last=False)[1].size

    def of(self, name: str) -> Attended | None:
        with self._lock:
            return self._documents.get(name)
