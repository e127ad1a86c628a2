"""The model `depthbench` in lm-eval's own registry; lm-eval's own command, with it.

    python -m depthbench.lm_eval run --model depthbench --model_args pretrained=opt-e2e-mini,method=calm --tasks lambada_openai

lm-eval looks for no plugins, so something must import this module before its command runs: the line above does, and so does
`import depthbench.lm_eval` in a program that calls `lm_eval.simple_evaluate(model="depthbench", ...)`.
"""

from __future__ import annotations

import sys

from depthbench import check_packages

check_packages()

from harness.errors import BadInput, CellFailed  # noqa: E402
from harness.tasks.lm_eval.registered import NAME, Registered  # noqa: E402

__all__ = ["NAME", "Registered", "main"]


def main() -> None:
    """lm-eval's own command, `lm-eval`, with the model registered; what this project refuses is one line there too."""
    from lm_eval.__main__ import cli_evaluate

    try:
        cli_evaluate()
    except (BadInput, CellFailed) as error:
        print(f"depthbench: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, BadInput) else 1)


if __name__ == "__main__":
    main()
