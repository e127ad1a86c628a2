"""The table the contract suite runs over: every registered method at its no-skip, mild and hard settings."""

from __future__ import annotations

from harness.models.tiny import CONTRACT

CASES: dict[str, list[str]] = {
    "full": ["full"],
    "skipdecode": [
        "skipdecode(speedup=2)",
        "skipdecode(min_layers=2,max_layers=5,horizon=6)",
        "skipdecode(min_layers=1,max_layers=3,warmup=0,horizon=4)",
    ],
    "calm": [
        "calm(threshold=0.9)",
        "calm(threshold=0.2)",
        "calm(threshold=0.3,decay=t5x,temperature=2)",
        "calm(confidence=state,threshold=0.8,decay=none)",
        "calm(confidence=classifier,threshold=0.5)",
        "calm(threshold=0,decay=none,first_exit=2)",
    ],
    "fixed_exit": ["fixed_exit(budget=3)", "fixed_exit(budget=2,side=top)"],
    "random_skip": ["random_skip(budget=3)", "random_skip(budget=1,seed=3)"],
    "unified_skip": ["unified_skip(speedup=2)", "unified_skip(speedup=3)"],
    "layerskip": ["layerskip(exit_layer=2,draft_tokens=3)", "layerskip(exit_layer=5,draft_tokens=2)", "layerskip"],
}

SPECS = [spec for specs in CASES.values() for spec in specs]

PAIRS = [
    (layout, specs[place % len(specs)])
    for specs in CASES.values()
    for place in range(max(len(CONTRACT), len(specs)))
    for layout in (CONTRACT[place % len(CONTRACT)],)
]
"""Layout of a model and setting: every method on every layout, every setting at least once."""
