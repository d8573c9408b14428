"""Floor 2: the models."""
