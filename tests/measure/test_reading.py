"""What the cores read per second: from a working set that no cache holds, and from one that the last-level cache does."""

from __future__ import annotations

import pytest

from harness.machine import environment
from harness.measure.probes import reading
from harness.models.kernels import native


@pytest.mark.parametrize("compiled", [True, False])
def test_working_sets_lie_on_both_sides_of_the_cache(compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled and native.library() is None:
        pytest.skip(native.status())
    if not compiled:
        monkeypatch.setenv(native.SWITCH, "0")
    found = reading.measure(threads=1)
    caches = environment.cache_bytes()
    assert found.last_level_cache_bytes == (max(caches.values()) if caches else None)
    if caches:
        assert found.memory_bytes >= 4 * max(caches.values()) and found.cache_bytes < max(caches.values())
    assert found.memory_gb_per_s > 0 and found.cache_gb_per_s > 0 and found.threads == 1


def test_the_compiled_loop_reads_everything() -> None:
    """A sum of what was read: a loop that left parts out would be too fast and add up to less."""
    library = native.library()
    if library is None:
        pytest.skip(native.status())
    import torch

    numbers = torch.ones(3 * 16 * 16 * 4 * 2)
    for threads, own in ((1, 0), (2, 0), (2, 1)):
        got = library.calls.read_all(numbers.data_ptr(), numbers.numel() * 4, 2, threads, own)
        assert got == 2 * numbers.numel()
