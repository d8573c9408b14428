"""Floor 6: the only place that knows configurations and classes together."""
