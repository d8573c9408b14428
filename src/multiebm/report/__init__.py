"""Floor 7: one self-contained HTML page about a run."""
