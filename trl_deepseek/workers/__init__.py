"""Supervised processes: one way to run a stranger's code in another process."""
