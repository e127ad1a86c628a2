"""What a worker process does: set up alike, then measure one quantity and return plain data."""
