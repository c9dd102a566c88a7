"""Advantages and policy losses of GRPO, one idea a module."""
