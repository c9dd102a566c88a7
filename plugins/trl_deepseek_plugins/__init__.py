"""First-party plugins. They use the same entry points as anyone's, and never import each other."""
