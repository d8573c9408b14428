"""Floor 1: networks."""
