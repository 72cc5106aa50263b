"""Who may talk to the server: those who know the token, and pages that the server itself sent.

Any page in a browser on this machine can send requests to 127.0.0.1. Its requests carry its own origin, or, where its name was
made to point to this machine (DNS rebinding), its own name as the host; and it does not know the token.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from secrets import compare_digest, token_urlsafe
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

STRANGER = "This address lacks the token of the session; open the address that vitreg printed."
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"frame-ancestors 'none'"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
)
"""Of every reply: nothing is kept by a cache, framed, embedded by other sites, or read as something else than it is."""


class Gate:
    """Lets the requests of those through to an application who may talk to it; others get one sentence.

    Other users of this machine see with which words a browser was started, the token among them if it were one. So a browser is
    started with a ticket, which the first to use it exchanges for the token.

    Args:
        app: an ASGI application.
        port: the server's, of 127.0.0.1 and localhost.
        token: the first part of every path.
    """

    def __init__(self, app: App, port: int, token: str) -> None:
        self._app, self._token = app, token
        self._tickets: set[str] = set()
        self._hosts = [f"127.0.0.1:{port}", f"localhost:{port}"]

    def ticket(self) -> str:
        """Return a word that leads to the page once in the place of the token."""
        word = token_urlsafe(24)
        self._tickets.add(word)
        return word

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":  # nothing here speaks anything else
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        if sentence := self.refusal(scope):
            await _say(sentence, with_headers)
        elif self._redeemed(scope):
            await _lead(f"/{self._token}/", with_headers)
        elif not compare_digest(_first(scope).encode(), self._token.encode()):
            await _say(STRANGER, with_headers)
        else:
            await self._app(scope, receive, with_headers)

    def refusal(self, scope: Message) -> str:
        """Return why a request is refused whatever it knows; empty if it is not."""
        headers: list[tuple[bytes, bytes]] = scope["headers"]

        def of(name: bytes) -> list[str]:
            return [value.decode("latin-1") for key, value in headers if key == name]

        if len(hosts := of(b"host")) != 1 or hosts[0].lower() not in self._hosts:
            return f"This server answers to {' and '.join(self._hosts)} only."
        allowed = [f"http://{hosts[0].lower()}"]
        here = all(origin in allowed for origin in of(b"origin"))
        if not here or any(site not in ("same-origin", "none") for site in of(b"sec-fetch-site")):
            return "Pages of other sites may not ask this server."
        return ""

    def _redeemed(self, scope: Message) -> bool:
        """Whether a request carries a ticket, which it then has used."""
        if scope["method"] != "GET" or (word := _first(scope)) not in self._tickets:
            return False
        self._tickets.remove(word)
        return True


def _first(scope: Message) -> str:
    """The first part of the path."""
    return scope["path"].split("/")[1]


async def _lead(path: str, send: Send) -> None:
    await send(
        {
            "type": "http.response.start",
            "status": 303,
            "headers": [(b"location", path.encode()), (b"content-length", b"0")],
        }
    )
    await send({"type": "http.response.body"})


async def _say(sentence: str, send: Send) -> None:
    body = f"{sentence}\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": body})
