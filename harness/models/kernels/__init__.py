"""Linear maps and sublayers in the form that is fastest on the machine at hand."""
