"""From the numbers of a plot to its drawing."""
