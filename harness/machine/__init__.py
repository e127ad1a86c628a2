"""The machine as it is found: what it is, what it did meanwhile, and what would spoil a run on it."""
