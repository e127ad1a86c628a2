"""From stored runs to what they say: read, joined, and set against the full model."""
