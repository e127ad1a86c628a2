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
    from harness.cli.main import main as run

    run()


if __name__ == "__main__":
    main()
