"""What the server answers: the page, a photo measured by a model, and attention of a block.

A photo is the body of a request, and its document the reply: who asks waits, and who leaves is forgotten. Photos are held in
memory only. Every error is one sentence.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image

from vitreg.errors import UserError
from vitreg.verbs.explore.live.gate import App, Gate
from vitreg.verbs.explore.live.measuring import Asked, Left, Measuring

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST = 64 * 2**20  # bytes of a photo
MOST_WAITING = 512 * 2**20  # bytes of all photos that wait
GONE = 499  # nobody reads it


class Refused(Exception):  # noqa: N818  its sentence is its point
    """A request that is answered by one sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence


@dataclass(slots=True)
class Answers:
    """What is answered, in the words of `starlette`.

    Args:
        given: photos that were named on the command line, by name.
        models: number of models.
        waiting: bytes of the photos that are held.
    """

    measuring: Measuring
    page: str
    given: Sequence[tuple[str, Image.Image]]
    models: int
    waiting: int = 0

    async def show(self, request: Request) -> Response:
        """Answer with the page."""
        from starlette.responses import HTMLResponse

        return HTMLResponse(self.page)

    async def part(self, request: Request) -> Response:
        """Answer with the attention of a block."""
        from starlette.concurrency import run_in_threadpool

        found = await run_in_threadpool(self.measuring.part, request.path_params["name"])
        if found is None:
            raise Refused(404, "Attention of this photo is no longer kept; reload the page and drop it again.")
        return _json(found)

    async def measure(self, request: Request) -> Response:
        """Answer with the document of a photo by a model."""
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response

        held = 0
        try:
            name, model, number = _asked_for(request, self.models, len(self.given))
            photo: bytes | bytearray | Image.Image = bytearray()
            if number is not None:
                photo = self.given[number][1]
            else:
                async for piece in request.stream():
                    self.waiting += len(piece)
                    held += len(piece)
                    if held > LARGEST:
                        raise Refused(413, f"{name} has more than {LARGEST >> 20} MB.")
                    if self.waiting > MOST_WAITING:
                        raise Refused(503, f"{name} was not taken, as too many photos wait; drop it again later.")
                    photo += piece
                photo = bytes(photo)
            return await self._measured(Asked(name, photo, model), request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        finally:
            self.waiting -= held

    async def _measured(self, asked: Asked, request: Request) -> Response:
        from starlette.responses import Response

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        gone = asyncio.ensure_future(left())
        try:
            done = asyncio.wrap_future(self.measuring.ask(asked))
            done.add_done_callback(
                lambda each: each.cancelled() or each.exception()
            )  # nobody may wait for it any longer
            await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                done.cancel()
                return Response(status_code=GONE)
            return _json(done.result())
        except UserError as error:
            raise Refused(422, self.measuring.discreet(error.sentence)) from None
        except (Left, asyncio.CancelledError):
            raise Refused(503, "The server is ending.") from None
        except Exception:
            traceback.print_exc()
            raise Refused(500, f"vitreg failed at {asked.name}; the terminal that it runs in says how.") from None
        finally:
            asked.left.set()
            gone.cancel()


def _asked_for(request: Request, models: int, given: int) -> tuple[str, int, int | None]:
    """Return the photo's name, the number of the model, and that of the photo if it was named on the command line."""
    asked = request.query_params

    def number(name: str, most: int) -> int:
        text = asked.get(name, "")
        if not (text.isascii() and text.isdecimal() and len(text) < 9 and int(text) < most):
            raise Refused(400, f"There is no such {name}.")
        return int(text)

    photo = number("given", given) if "given" in asked else None
    return asked.get("name", "")[:200] or "the photo", number("model", models), photo


def _json(text: str) -> Response:
    from starlette.responses import Response

    return Response(text, media_type="application/json")


def application(answers: Answers, port: int, token: str) -> App:
    """Return the ASGI application, which answers those who know the token."""
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.responses import PlainTextResponse
    from starlette.routing import Route

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused), "it handles these only"
        return PlainTextResponse(error.sentence, error.status)

    async def nothing(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 404
        return PlainTextResponse("There is nothing here.", status)

    routes = [
        Route("/{token}/", answers.show),
        Route("/{token}/data/{name}", answers.part),
        Route("/{token}/photos", answers.measure, methods=["POST"]),
    ]
    return Gate(Starlette(routes=routes, exception_handlers={Refused: refused, HTTPException: nothing}), port, token)
