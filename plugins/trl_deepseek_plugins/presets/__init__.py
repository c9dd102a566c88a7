"""Settings of papers by name, each number with its source; one module per paper."""
