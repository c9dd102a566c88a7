"""Rewards for GRPO, one module per subject."""
