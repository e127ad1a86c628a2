"""Probes: one file per quantity. Each turns a generation or its trace into values with units in their names."""
