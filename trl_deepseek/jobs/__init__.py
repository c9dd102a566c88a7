"""From options to a checked job: one module per kind of training, and recipes of several."""
