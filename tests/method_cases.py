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
    "adaskip_extra": [
        "adaskip_extra(skip=a1x10200_f2x9500_b4,similarity=0.9,window=3)",
        "adaskip_extra(skip=a0x8000_f5x9000,phase=e2e,similarity=0.8,window=2)",
        "adaskip_extra(skip=f1_f2x10500,phase=prefill,similarity=-1,window=1)",
    ],
    "ffn_skip": [
        "ffn_skip(skips=2,similarity=0.7,low=1,high=1,every=2)",
        "ffn_skip(skips=3,similarity=-1,low=2,high=1,warmup=0.2)",
        "ffn_skip(skips=1,similarity=0.9,low=3,high=1,warmup=0)",
    ],
    "ee_exit": [
        "ee_exit(threshold=0.05)",
        "ee_exit(exits=b2_b3_b5,confidence=margin,threshold=0.03)",
        "ee_exit(exits=b1_b4,confidence=entropy,threshold=0.06)",
        "ee_exit(exits=b1_b4,threshold=0.05,keys=recompute,pending=3)",
        "ee_exit(exits=b2_b3_b5,confidence=margin,threshold=0.03,keys=recompute)",
    ],
    "patience": ["patience(patience=1)", "patience(patience=2,first=2)"],
    "adainfer": ["adainfer(gap=10,bias=-0.3)", "adainfer(top=20,gap=0,bias=-2,confidence=0.6,first=2)"],
    "draft_verify": [
        "draft_verify(skip=a1_f2_b3,draft_tokens=4,threshold=0.1)",
        "draft_verify(skip=b0_f5,draft_tokens=2,threshold=0,adaptive=False)",
    ],
    "swift": ["swift(draft_tokens=3,threshold=0.05,window=2)", "swift(skip=b2_a3,search=False,draft_tokens=4)"],
    "clasp": ["clasp(skips=2,draft_tokens=3,threshold=0.05)", "clasp(skips=3,draft_tokens=2,threshold=0,every=2)"],
    "knapspec": ["knapspec(draft_tokens=3,threshold=0.05,every=2,window=3)", "knapspec(attention_weight=2,every=1)"],
    "del_exit": ["del_exit(draft_tokens=4)", "del_exit(draft_tokens=3,every=2,decay=0.5)"],
    "seed": ["seed(blocks=2,draft_tokens=3)", "seed(blocks=1,draft_tokens=4,threshold=0.05)"],
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
