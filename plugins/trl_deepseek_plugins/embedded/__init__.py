"""Models, tokenizer and task that need no hub."""
