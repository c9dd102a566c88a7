"""What a model is measured by, one module per metric or family of them."""
