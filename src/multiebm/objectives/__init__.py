"""Floor 3: losses as functions of models and samples. They run no chain and no optimiser."""
