"""Parameters of a method, chosen on validation data."""
