"""Floor 1: densities as functions of tensors."""
