"""What a GRPO run leaves of its completions, and how it is read again."""
