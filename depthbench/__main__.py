"""The console script `depthbench`, and `python -m depthbench`."""

from __future__ import annotations

import sys

from depthbench import check_packages


def main() -> None:
    """Run the command line; where its packages are somebody else's, say so in one line."""
    try:
        check_packages()
    except ImportError as error:
        print(f"depthbench: {error}", file=sys.stderr)
        sys.exit(2)
    from harness.signals import Stopping

    stopping = Stopping()
    try:
        with stopping.watching():  # importing takes a while, too
            from harness.cli.main import main as run

            run(stopping)
    except KeyboardInterrupt:
        print("depthbench: interrupted", file=sys.stderr)
        sys.exit(stopping.status)


if __name__ == "__main__":
    main()
