"""Figures: from facts to numbers with a caption, and from those to a drawing."""
