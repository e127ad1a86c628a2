"""`depthbench`: one function per verb, no logic.

Exit status 0 = done, 1 = a cell or a gate failed, or output could not be written, 2 = bad input, 130 = Ctrl-C, 143 = SIGTERM.
"""

from __future__ import annotations

import atexit
import gc
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import cache

import typer

# Importing a module registers its verbs, in the order in which `--help` lists them within their groups.
from harness.cli import looks, runs, single, train, tuning
from harness.cli.app import app
from harness.cli.streams import standard_streams
from harness.errors import BadInput, CellFailed, DiskFull
from harness.signals import Stopping

__all__ = ["app", "command", "looks", "main", "runs", "single", "train", "tuning"]


def main(stopping: Stopping | None = None) -> None:
    """Entry point of the console script.

    Args:
        stopping: what watches the signals, where the caller does already.
    """
    # What lives at the end is not searched for cycles, which takes long after a large report.
    atexit.register(gc.freeze)
    stopping = stopping or Stopping()
    with standard_streams() as problems, stopping.watching():
        status = _status(sys.argv[1:], stopping)
    if problems and status == 0:
        _say("; ".join(problems))
        status = 1
    if status:
        sys.exit(status)


@cache
def command() -> Callable[..., object]:
    """The verbs as click has them, made once."""
    return typer.main.get_command(app)


def _status(arguments: Sequence[str], stopping: Stopping) -> int:
    """Run a verb, and say in one line what was wrong; the exit status."""
    try:
        _readable(arguments)
        returned = command()(args=list(arguments), standalone_mode=False)
        if stopping.signal is None:
            return returned if isinstance(returned, int) else 0
        raise KeyboardInterrupt  # Typer answers one with a status of its own
    except (typer.Abort, KeyboardInterrupt):
        _say(interrupted(arguments))
        return stopping.status
    except DiskFull as error:
        _say(str(error))
        return 1
    except BadInput as error:
        _say(str(error))
        return 2
    except CellFailed as error:
        _say(str(error))
        return 1
    except OSError as error:
        _say(f"{error.filename or 'file'}: {error.strerror or error}")
        return 2
    except Exception as error:
        # Typer's own usage errors (a missing argument, an unknown option) derive from a class it does not export.
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            _say(error.format_message())
            return 2
        raise


def _readable(arguments: Sequence[str]) -> None:
    """BadInput for an argument that is not text in the locale's encoding: it could be printed and stored nowhere."""
    for place, argument in enumerate(arguments, 1):
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            shown = argument[:40].encode("ascii", "backslashreplace").decode()
            raise BadInput(
                f"argument {place}, '{shown}', is not text in the encoding of the locale ({sys.getfilesystemencoding()}); "
                "write it in UTF-8, under a locale such as C.UTF-8"
            ) from None


GOES_ON = {
    "run": ("--resume", "what was measured is kept"),
    "train": ("", "saved steps are kept"),
    "selfcheck": ("", "finished tries are kept"),
}
"""Verbs that go on where they stopped: the option that says so, and what is kept."""


def interrupted(arguments: Sequence[str]) -> str:
    """What to say after Ctrl-C or SIGTERM: how to go on, where one can."""
    verb = next((part for part in arguments if not part.startswith("-")), "")
    if verb not in GOES_ON:
        return "interrupted"
    option, kept = GOES_ON[verb]
    more = [option] if option and option not in arguments else []
    return f"interrupted; {kept}, go on with: {shlex.join(['depthbench', *arguments, *more])}"


def _say(message: str) -> None:
    line = " ".join(message.split())
    if len(line) > 1000:  # an input of a megabyte is not printed back whole
        line = f"{line[:600]} ... {line[-300:]}"
    print(f"depthbench: {line}", file=sys.stderr)


if __name__ == "__main__":
    main()
