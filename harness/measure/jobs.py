"""What the driver may ask of a worker process: every function takes and returns plain data, which can cross a process border."""

from harness.measure.alone import energy_per_token, peak_memory
from harness.measure.prepare import prepare
from harness.measure.quality import quality
from harness.measure.speed import speed

__all__ = ["energy_per_token", "peak_memory", "prepare", "quality", "speed"]
