"""How varied generated parts are, coordinate by coordinate: judges, which look for classes, do not see that."""

import torch
from torch import Tensor

from multiebm.core.modality import Views
from multiebm.evaluation.base import Result, bootstrap_deviation

ITEMS = 1000  # kept of each kind of sample


def total_variance(parts: Tensor) -> Tensor:
    """Return the variance over items, mean over coordinates, of parts [N, ...]: a scalar."""
    return parts.flatten(1).var(0).mean()


def variety_results(real: Views, generated: Views, name: str, generator: torch.Generator) -> dict[str, Result]:
    """Return `name` (mean over modalities) and "name/modality": variance of generated parts over that of real ones.

    Parts are [N, ...]. 1 is as varied as the data, 0 one part repeated; a modality whose real parts do not vary is left
    out. Averages score low, noise scores high: read it beside coherence and Frechet distance. The standard error is the
    deviation over 5 resamples of the generated items.
    """
    reference = {key: total_variance(parts) for key, parts in real.items() if len(parts) > 1}
    reference = {key: variance for key, variance in reference.items() if variance > 0}
    if not reference:
        return {}

    def ratios(rows: Tensor) -> Tensor:
        each = torch.stack([total_variance(generated[key][rows]) / reference[key] for key in reference])
        return torch.cat([each.mean().reshape(1), each])

    n = len(next(iter(generated.values())))
    values, errors = ratios(torch.arange(n)).tolist(), bootstrap_deviation(ratios, n, generator).tolist()
    names = [name, *[f"{name}/{key}" for key in reference]]
    return {key: Result(value, error, n) for key, value, error in zip(names, values, errors, strict=True)}
