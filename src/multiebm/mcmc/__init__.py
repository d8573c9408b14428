"""Floor 1: Markov kernels. They know a log density, never a model."""
