"""From the view to files: HTML, PDF, figures and tables."""
