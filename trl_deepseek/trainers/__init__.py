"""Trainers: one seam of TRL each."""
