"""`vitreg` and `python -m vitreg`: run a verb, turn a user's mistake into one sentence and exit code 2."""

from __future__ import annotations

import sys

from vitreg.errors import UserError

EXIT_USER_ERROR, EXIT_INTERRUPTED = 2, 130


def main() -> None:
    """Entry point of the command line."""
    try:
        from vitreg.cli import run

        sys.exit(run(sys.argv[1:]))
    except UserError as error:
        print(f"vitreg: {error}", file=sys.stderr)
        sys.exit(EXIT_USER_ERROR)
    except KeyboardInterrupt:
        print("vitreg: stopped.", file=sys.stderr)
        sys.exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
