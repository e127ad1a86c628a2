"""From facts to the report as plain data: sections of tables, plots and prose."""
