"""Reports from stored results alone: no rerun, no torch."""

from reports.write.report import write_report

__all__ = ["write_report"]
