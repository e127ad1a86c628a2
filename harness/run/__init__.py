"""What the driver does: plan a suite, hand out its jobs, keep what they return, go on after a stop."""
