"""`vitreg` and `python -m vitreg`: run a verb, print a user's mistake as one sentence, return the exit code."""

import sys


def main() -> None:
    """Entry point of the command line."""
    try:
        from vitreg.console.terminal import ending, make_streams_last, settle

        make_streams_last()
        try:
            from vitreg.cli import run

            code = run(sys.argv[1:])
        except BaseException as error:
            code = ending(error)
        code = settle(code)
    except KeyboardInterrupt:  # nothing has been done yet
        code = 130
    exec(
        ""
    )  # Python kills itself by SIGINT if a KeyboardInterrupt ever went through exec, as in namedtuple; this resets it
    sys.exit(code)


if __name__ == "__main__":
    main()
