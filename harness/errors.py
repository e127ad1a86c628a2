"""The two errors a user of depthbench can meet: bad input (exit status 2) and a cell that failed (exit status 1)."""


class BadInput(ValueError):
    """Something the user gave is wrong; the message is one line that names the field or file and what would be right."""


class CellFailed(RuntimeError):
    """A cell of a run could not be measured; the message is one line that becomes the record of the failure."""
