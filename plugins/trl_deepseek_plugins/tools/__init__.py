"""First-party tools, one module each."""
