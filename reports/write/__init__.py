"""The sections of a report in their order, and from them files: HTML, PDF, figures and tables."""
