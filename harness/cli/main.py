"""`depthbench`: one function per verb, no logic. Exit status 0 = done, 1 = a cell or a gate failed, 2 = bad input."""

from __future__ import annotations

import atexit
import gc
import shlex
import sys

import typer

# Importing a module registers its verbs, in the order in which `--help` lists them.
from harness.cli import runs, single, training
from harness.cli.app import app
from harness.errors import BadInput, CellFailed

__all__ = ["app", "main", "runs", "single", "training"]


def main() -> None:
    """Entry point of the console script."""
    atexit.register(
        gc.freeze
    )  # what lives at the end is not searched for cycles, which takes long after a large report
    try:
        app(standalone_mode=False)
    except BadInput as error:
        _fail(str(error), 2)
    except CellFailed as error:
        _fail(str(error), 1)
    except typer.Exit as error:
        sys.exit(error.exit_code)
    except (typer.Abort, KeyboardInterrupt):
        _fail(_interrupted(sys.argv[1:]), 130)
    except OSError as error:
        _fail(f"{error.filename or 'file'}: {error.strerror or error}", 2)
    except Exception as error:
        # Typer's own usage errors (a missing argument, an unknown option) derive from a class it does not export.
        if hasattr(error, "exit_code") and hasattr(error, "format_message"):
            _fail(error.format_message(), 2)
        raise


def _interrupted(arguments: list[str]) -> str:
    """What to say after Ctrl-C: how to go on, where one can."""
    if arguments[:1] != ["run"]:
        return "interrupted"
    again = shlex.join(["depthbench", *arguments, *([] if "--resume" in arguments else ["--resume"])])
    return f"interrupted; what was measured is kept, go on with: {again}"


def _fail(message: str, status: int) -> None:
    print(f"depthbench: {message}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
