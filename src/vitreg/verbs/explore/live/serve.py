"""A session of the live explorer: models that are loaded, an address of this machine, and the server behind it."""

from __future__ import annotations

import os
import re
import secrets
import socket
import sys
import threading
import webbrowser
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreg import __version__
from vitreg.errors import UserError
from vitreg.records.explore import ExploreResult
from vitreg.report.explore.page import live_page
from vitreg.verbs.explore.live.app import LARGEST, Answers, application
from vitreg.verbs.explore.live.discretion import Discretion
from vitreg.verbs.explore.live.gate import Gate
from vitreg.verbs.explore.live.measuring import Measuring
from vitreg.verbs.explore.options import ExploreOptions
from vitreg.verbs.explore.verb import shown_model
from vitreg.verbs.look.models import Model, lookers
from vitreg.verbs.look.photos import Photos
from vitreg.verbs.look.words import CAUTION

HOST = "127.0.0.1"
PATIENCE = 2  # seconds that replies may take to end after Ctrl-C


@dataclass(frozen=True, slots=True)
class Session:
    """What was opened: it listens already, and answers while it runs.

    Args:
        record: of a page without documents; its photos are those of the command line.
        address: of the page, with the token.
    """

    record: ExploreResult
    address: str
    app: Gate
    _measuring: Measuring
    _socket: socket.socket

    def run(self) -> None:
        """Answer until Ctrl-C."""
        import uvicorn

        measuring = self._measuring

        class Server(uvicorn.Server):
            def handle_exit(self, sig: int, frame: Any) -> None:
                measuring.close()  # else it would wait for what runs
                super().handle_exit(sig, frame)

        config = uvicorn.Config(
            self.app, ws="none", lifespan="off", access_log=False, log_config=None, log_level="critical",
            server_header=False, timeout_graceful_shutdown=PATIENCE,
        )  # fmt: skip
        try:
            with suppress(KeyboardInterrupt):  # which it raises again after it has ended
                Server(config).run(sockets=[self._socket])
        finally:
            self.close()

    def ticket(self) -> str:
        """Return an address that leads to the page once."""
        return f"http://{HOST}:{self._socket.getsockname()[1]}/{self.app.ticket()}/"

    def close(self) -> None:
        """Free the address, and drop what is measured."""
        self._measuring.close()
        self._socket.close()


def opened(
    models: Sequence[Model],
    images: Sequence[Any],
    *,
    options: ExploreOptions,
    loading: dict[str, Any],
    weights: str | Path | None = None,
    port: int = 0,
) -> Session:
    """Load the models and open an address.

    Args:
        images: photos that every page shows at first; may be empty.
        port: of the address; a free one for 0.
    Raises:
        UserError: for a port that is taken, photos none of which can be read, and a model that cannot be loaded.
    """
    listening = _listening(port)
    try:
        photos = Photos(list(images), options.limit, "explore") if images else None
        if photos is not None:
            photos.refuse_none()  # before models are loaded
        subjects, chosen = lookers(models, weights, options, loading)
        given = list(photos or ())
        blocks = [options.of(each.backbone.depth, each.name) for each in subjects]
        specs = [word for each in subjects for word in (each.backbone.spec, each.name)]
        discreet = Discretion([*specs, *map(str, options.repair), *([str(weights)] if weights else [])])
        record = ExploreResult(
            photos=[name for name, _ in given], models=[shown_model(each) for each in subjects], documents=[],
            skipped=[
                each.model_copy(update={"name": re.split(r"[/\\]", each.name)[-1] or each.name})
                for each in (photos.skipped if photos else ())
            ],
            there=photos.there if photos else 0, chosen=chosen, caution=CAUTION, vitreg=__version__,
        )  # fmt: skip
        record = ExploreResult.model_validate(discreet.throughout(record.model_dump(by_alias=True)))
        page, measuring = live_page(record, LARGEST), Measuring(subjects, blocks, discreet)
    except BaseException:
        listening.close()
        raise
    number, token = listening.getsockname()[1], secrets.token_urlsafe(24)
    app = application(Answers(measuring, page, given, len(subjects)), number, token)
    return Session(record, f"http://{HOST}:{number}/{token}/", app, measuring, listening)


def _listening(port: int) -> socket.socket:
    # asyncio sends at once (TCP_NODELAY) only where TCP is named; else the end of a reply may wait 40 ms.
    found = socket.socket(proto=socket.IPPROTO_TCP)
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((HOST, port))
        found.listen(128)
    except (OSError, OverflowError) as error:
        found.close()
        why = getattr(error, "strerror", None) or "no such port"
        raise UserError(f"--port {port} cannot be used ({why.lower()}); leave it out for a free one.") from None
    return found


def open_browser(address: str, open_with: Callable[[str], object] = webbrowser.open) -> threading.Thread | None:
    """Show the page in the browser of this desktop. Returns the thread that does; without a desktop, None."""
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    thread = threading.Thread(target=open_with, args=(address,), daemon=True)  # some browsers return when they end
    thread.start()
    return thread
