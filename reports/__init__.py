"""Reports from stored results alone: no rerun, no torch. `reports.write.report` writes them."""
