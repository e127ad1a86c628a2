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
    "prompt_lookup": [
        "prompt_lookup",
        "prompt_lookup(draft_tokens=2,max_ngram=1,window=part,tie=last)",
        "prompt_lookup(draft_tokens=1,max_ngram=1)",
    ],
    "static_prune": [
        "static_prune(skip=b2_b3)",
        "static_prune(skip=b1_b4,where=prompt)",
        "static_prune(skip=b0_b5,where=decode)",
        "static_prune(skip=a0_f1_b2_b3_b5)",
    ],
    "adaskip": [
        "adaskip(skip=a1x10200_f2x9500_b4)",
        "adaskip(skip=a0x8000_f0x12000_a3x11000_f5x9000,phase=e2e)",
        "adaskip(skip=f1_f2x10500_a5,phase=prefill)",
    ],
    "d3": ["d3", "d3(alpha=0.8,start=0.25,low=1)", "d3(alpha=0.5,start=0,low=0,high=2)"],
}

SPECS = [spec for specs in CASES.values() for spec in specs]

PAIRS = [
    (layout, specs[place % len(specs)])
    for specs in CASES.values()
    for place in range(max(len(CONTRACT), len(specs)))
    for layout in (CONTRACT[place % len(CONTRACT)],)
]
"""Layout of a model and setting: every method on every layout, every setting at least once."""
