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
from vitreg.verbs.explore.live.gate import Gate
from vitreg.verbs.explore.live.measuring import Asked, Left, Measuring

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

LARGEST = 64 * 2**20  # bytes of a photo
MOST_WAITING = 512 * 2**20  # bytes of all photos that wait
GONE = 499  # nobody reads it


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
        from starlette.exceptions import HTTPException
        from starlette.responses import Response

        found = await run_in_threadpool(self.measuring.part, request.path_params["name"])
        if found is None:
            raise HTTPException(404, "Attention of this photo is no longer kept; reload the page and drop it again.")
        return Response(found, media_type="application/json")

    async def measure(self, request: Request) -> Response:
        """Answer with the document of a photo by a model."""
        from starlette.exceptions import HTTPException
        from starlette.requests import ClientDisconnect
        from starlette.responses import Response

        name = request.query_params.get("name", "")[:200] or "the photo"
        model, number = _number(request, "model", self.models), _number(request, "given", len(self.given))
        if model is None:
            raise HTTPException(400, "There is no such model.")
        if number is not None:
            return await self._measured(Asked(name, self.given[number][1], model), request)
        photo = bytearray()
        try:
            async for piece in request.stream():
                photo += piece
                self.waiting += len(piece)
                if len(photo) > LARGEST:
                    raise HTTPException(413, f"{name} has more than {LARGEST >> 20} MB.")
                if self.waiting > MOST_WAITING:
                    raise HTTPException(503, f"{name} was not taken, as too many photos wait; drop it again later.")
            return await self._measured(Asked(name, photo, model), request)
        except ClientDisconnect:
            return Response(status_code=GONE)
        finally:
            self.waiting -= len(photo)

    async def _measured(self, asked: Asked, request: Request) -> Response:
        from starlette.exceptions import HTTPException
        from starlette.responses import JSONResponse, Response

        async def left() -> None:
            while (await request.receive())["type"] != "http.disconnect":
                pass

        gone = asyncio.ensure_future(left())
        try:
            done = asyncio.wrap_future(self.measuring.ask(asked))
            done.add_done_callback(lambda each: each.cancelled() or each.exception())  # nobody may wait any longer
            await asyncio.wait((done, gone), return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                done.cancel()
                return Response(status_code=GONE)
            return Response(done.result(), media_type="application/json")
        except UserError as error:
            # The page shows it as a sentence. Browsers write every status of 400 and more into their console, as a fault.
            return JSONResponse({"refused": self.measuring.discreet(error.sentence)})
        except (Left, asyncio.CancelledError):
            raise HTTPException(503, "The server is ending.") from None
        except Exception:
            traceback.print_exc()
            raise HTTPException(500, f"vitreg failed at {asked.name}; the terminal that it runs in says how.") from None
        finally:
            asked.left.set()
            gone.cancel()


def _number(request: Request, name: str, most: int) -> int | None:
    """Return a number below `most` of the query; None for anything else."""
    text = request.query_params.get(name, "")
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 9 and int(text) < most else None


def application(answers: Answers, port: int, token: str) -> Gate:
    """Return the ASGI application, which answers those who know the token."""
    from starlette.applications import Starlette
    from starlette.routing import Route

    routes = [
        Route("/{token}/", answers.show),
        Route("/{token}/data/{name}", answers.part),
        Route("/{token}/photos", answers.measure, methods=["POST"]),
    ]
    return Gate(Starlette(routes=routes), port, token)
