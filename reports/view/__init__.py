"""From facts to tables, verdicts and prose, as plain data."""
