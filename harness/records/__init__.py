"""Stored results: writing, reading, summing up, judging, comparing and publishing them. Torch-free."""
