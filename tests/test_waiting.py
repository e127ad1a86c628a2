"""Signs of life while something takes long."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from harness import waiting


def test_the_inner_one_of_two_speaks_and_nobody_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: queue.Queue[str] = queue.Queue()
    monkeypatch.setattr(waiting, "EVERY_S", 0.01)
    monkeypatch.setattr(waiting, "print", lambda line, **_: lines.put(line), raising=False)
    with waiting.told("loading"):
        assert lines.get(timeout=60) == "loading: 0 s so far"
        with pytest.raises(KeyError), waiting.told("reading"):
            while not lines.get(timeout=60).startswith("reading: "):
                pass
            raise KeyError
    nobody_speaks()
    while not lines.empty():
        lines.get()
    with waiting.told("another"):  # nothing is left of the two before
        assert lines.get(timeout=60) == "another: 0 s so far"
    nobody_speaks()


def nobody_speaks() -> None:
    threads = [t for t in threading.enumerate() if t.name == "signs of life"]
    for thread in threads:
        thread.join(timeout=60)
    assert not any(t.is_alive() for t in threads)


def test_what_is_short_says_nothing(capsys: Any) -> None:
    with waiting.told("loading"):
        pass
    assert not capsys.readouterr().err
