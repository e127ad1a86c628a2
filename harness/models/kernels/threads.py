"""Whose threads run the kernels: torch's, or within a generation their own.

torch's threads (OpenMP's) wait for each other at every turn, and keep their cores busy for milliseconds after they have worked.
Beside another program on the same cores a step that runs on them can take hundreds of times longer: whoever is left waits for one
that the system does not let run. The kernels' own threads (team.h) do without whoever is kept from running, and sleep when there
is nothing to do.

The two would fight over the cores. So within a generation whose blocks the kernels run, torch's calls (an embedding, attention
over prompts) run in the calling thread alone: most are too small to be shared, and the maps, which are nearly all the work, are
the kernels'. Elsewhere (scores, training), where torch's share is larger, torch's threads run both.
"""

from __future__ import annotations

from types import TracebackType

import torch

from harness.models.kernels import native

_own: tuple[int, native.Library] | None = None


def team() -> tuple[int, int]:
    """How many threads run a call of the kernels, and whether (1 or 0) they are the kernels' own."""
    return (torch.get_num_threads(), 0) if _own is None else (_own[0], 1)


def library() -> native.Library | None:
    """The kernels inside `Own`; None elsewhere."""
    return None if _own is None else _own[1]


class Own:
    """Inside, the kernels have threads of their own, as many as torch was told to use, and torch's calls the calling thread.

    Args:
        library: the kernels.
    """

    __slots__ = ("_library", "_threads")

    def __init__(self, library: native.Library) -> None:
        self._library = library

    def __enter__(self) -> None:
        global _own
        self._threads = 0
        if _own is None:
            self._threads = torch.get_num_threads()
            self._library.calls.end_idle_threads()  # else they would keep cores busy for what work they did before
            torch.set_num_threads(1)
            _own = self._threads, self._library

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        global _own
        if self._threads:
            _own = None
            torch.set_num_threads(self._threads)
