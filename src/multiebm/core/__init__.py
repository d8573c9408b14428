"""Floor 0: what everything else is written in."""
