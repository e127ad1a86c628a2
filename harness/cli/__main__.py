"""`python -m harness.cli`: what the console script runs, for launchers such as torchrun."""

from harness.cli.main import main

if __name__ == "__main__":
    main()
