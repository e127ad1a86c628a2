"""The verbs of `depthbench`, one file a group, without logic."""
