"""What the author of a plugin checks it with."""
