"""One file per architecture, over the blocks that several share: plain.py (GPT-2's kind) and gated.py (Llama's kind)."""
