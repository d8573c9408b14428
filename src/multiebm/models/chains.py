"""What the two chains of a model are given."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DataChain:
    """Langevin steps on the energy. `displaced` moves every item by `model.displacement` per coordinate and step along
    the gradient (steered in training); otherwise the step is s^2/2 times the gradient with s = `step_size`, eq. (3).
    """

    steps: int = 10
    displaced: bool = True
    step_size: float = 0.5
    noise_scale: float = 0.001


@dataclass(frozen=True)
class LatentChain:
    """Langevin steps on log p(X, z, W), eq. (8); `noise_scale` None = `step_size`, which samples the posterior."""

    steps: int = 5
    step_size: float = 0.05
    noise_scale: float | None = None
