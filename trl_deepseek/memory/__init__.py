"""How much memory a training step takes, found from the model's config alone."""
