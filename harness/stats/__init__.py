"""Numbers with intervals, and the tests behind verdicts. Torch-free."""
