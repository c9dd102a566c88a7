"""Preference and reward-model losses, one module each."""
