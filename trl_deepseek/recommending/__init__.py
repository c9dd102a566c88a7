"""What data is good for: its kind, its figures, and the training that it suggests."""
