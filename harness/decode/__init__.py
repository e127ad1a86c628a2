"""Tokens out of a decoder under a method, step by step, and the same computation over given tokens in one parallel pass."""
