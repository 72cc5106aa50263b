"""Standard streams that cannot take a result down with them, and text that cannot take over a terminal.

Work of hours must not end because nobody reads what it prints: a closed stream, a full disk behind it, a pipe whose reader
has left (`| head`), or a character that its encoding lacks. No torch here.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import shutil
import signal
import sys
from typing import TextIO

from vitreg.console.exits import Exit
from vitreg.errors import UserError
from vitreg.writing.files import printable

NARROWEST, WIDEST = 40, 500  # columns: in fewer, tyro lays out no help or never comes to an end
MOST_LOST = 2**16  # bytes that could not be written and are kept to be said elsewhere


def say(text: object = "", *, error: bool = False) -> None:
    """Print lines at once, with the control characters of the names in them escaped; to standard error if `error`."""
    print("\n".join(map(printable, str(text).split("\n"))), file=sys.stderr if error else sys.stdout, flush=True)


def make_streams_last() -> None:
    """Replace the standard streams by ones that never raise, and open those that are closed. Once, at the start.

    Streams that somebody else has put in place, such as those of a test, are left alone.
    """
    for _ in range(
        3
    ):  # otherwise the next file that is opened becomes standard output, and whatever is printed its content
        descriptor = os.open(os.devnull, os.O_RDWR)
        if descriptor > 2:
            os.close(descriptor)
            break
    sys.stdin = sys.stdin or io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)))
    if sys.stdout is sys.__stdout__:
        sys.stdout = _lasting(sys.stdout, 1)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _lasting(sys.stderr, 2)
    with contextlib.suppress(ValueError, OSError):
        width = shutil.get_terminal_size().columns
        if not NARROWEST <= width <= WIDEST:
            os.environ["COLUMNS"] = str(min(max(width, NARROWEST), WIDEST))


def ending(error: BaseException) -> int:
    """Say in one sentence what ended a command, and return its exit code. A fault of ours is raised again, whole."""
    if isinstance(error, SystemExit):  # --help
        return error.code if isinstance(error.code, int) else Exit.DONE
    if isinstance(error, UserError):
        say(printable(f"vitreg: {error.sentence}"), error=True)
        return Exit.MISTAKE
    if isinstance(error, KeyboardInterrupt):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends at once what is still being cleared up
        say(f"vitreg: interrupted; {error.args[0] if error.args else 'nothing was written'}.", error=True)
        return Exit.INTERRUPTED
    raise error


def settle(code: int) -> int:
    """Say on standard error what standard output could not take, for it may name the result.

    Returns:
        the exit code: `Exit.MISTAKE` if output was lost and the command itself found nothing else to say. A reader that
        left on its own accord lost nothing.
    """
    raw = _raw_of(sys.stdout)
    if raw is None:
        return code
    sys.stdout.flush()
    if raw.failure is None or raw.failure.errno == errno.EPIPE:
        return code
    say(f"vitreg: standard output takes no more ({raw.failure.strerror}); it was to read:", error=True)
    say(raw.lost.decode(sys.stdout.encoding, "replace").rstrip("\n"), error=True)
    return code or Exit.MISTAKE


class _Raw(io.FileIO):
    """A file that forgives: after the first failure it keeps the end of what it is given, and its reason."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)
        self.failure: OSError | None = None
        self.lost = b""

    def write(self, data: object) -> int:
        """Write, or keep what cannot be written."""
        piece = bytes(data)  # type: ignore[call-overload]  # any buffer, as FileIO takes it
        if self.failure is None:
            try:
                return super().write(piece) or 0
            except OSError as error:
                self.failure = error
        self.lost = (self.lost + piece)[-MOST_LOST:]
        return len(piece)


def _lasting(stream: TextIO | None, descriptor: int) -> TextIO:
    by_line = descriptor == 2 or os.isatty(descriptor) or bool(stream and getattr(stream, "write_through", False))
    encoding = stream.encoding if stream else "utf-8"
    return io.TextIOWrapper(
        io.BufferedWriter(_Raw(descriptor)), encoding=encoding, errors="backslashreplace", line_buffering=by_line
    )


def _raw_of(stream: TextIO) -> _Raw | None:
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, _Raw) else None
