"""Why speed-ups are above their limits, told once for all that share the reason."""

from __future__ import annotations

from harness.records import believable, beyond

OWN = "above its byte limit of 2.00: the full model's own step is 2.50 times faster with as few of its blocks"
CACHED = f"{OWN}: what a step reads (3 MB) fits the cache of 4 MB, the full model's 9 MB do not"
NOTHING = f"{OWN}; above the predicted 2.10: {beyond.UNEXPLAINED}"


def row(label: str, batch: int, explanation: str | None) -> dict[str, object]:
    return {"label": label, "batch_size": batch, "explanation": explanation}


def test_a_reason_is_told_once_with_all_it_holds_for() -> None:
    rows = [row("A", 1, OWN), row("A", 8, OWN), row("B", 8, CACHED), row("C", 1, None), row("D", 1, NOTHING)]
    own, cached, nothing = beyond.sentences(rows)
    assert own.startswith(
        "Above the byte limit: A at batch 1, 8; D at batch 1: the full model's own step gains as much"
    )
    assert (
        cached == f"Above the byte limit: B at batch 8: {beyond.reasons(CACHED)[0][1]}." and "fits the cache" in cached
    )
    assert nothing == f"Above the predicted speed-up: D at batch 1: {beyond.UNEXPLAINED}."


def test_many_arms_are_counted() -> None:
    (said,) = beyond.sentences(row(f"M{i}", 1, f"above its byte limit of 2.00: {beyond.HOST}") for i in range(7))
    assert "M0, M1, M2, M3 at batch 1; 3 more:" in said


def test_the_reasons_are_those_that_a_cell_may_have() -> None:
    """What `believable` writes and what is looked for in it are the same words."""
    for name in ("CACHE", "HOST", "OWN_STEP", "UNEXPLAINED"):
        assert getattr(believable, name) is getattr(beyond, name)
