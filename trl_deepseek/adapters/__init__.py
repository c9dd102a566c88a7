"""LoRA: which layers it adapts, how it is kept on them, and how it is merged into its base."""
