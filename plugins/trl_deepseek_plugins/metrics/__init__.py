"""Metrics, one idea per module."""
