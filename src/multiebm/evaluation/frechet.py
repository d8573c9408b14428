"""The Frechet distance between two sets of features, each seen as a Gaussian (Heusel et al. 2017, arXiv 1706.08500).

On the features of the coherence judges it is called `fcd`; on Inception features, `fid`, through torchmetrics and only
where the weights are already on disk; on those of lite0 (`lite0.py`), `fd-lite0`. They are different numbers and no
function here mixes them.
"""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError, DataError
from multiebm.core.names import Views
from multiebm.evaluation.result import Result, mean_and_parts

_SHORT = "or leave fid out: the judges' Frechet distance 'fcd' is reported either way, and is not comparable with FID"


class Moments(NamedTuple):
    """Mean [F] and covariance [F, F] in float64."""

    mean: Tensor
    covariance: Tensor


def moments(features: Tensor) -> Moments:
    """Return the sample moments of features [N, F]; N must be at least 2."""
    if features.dim() != 2 or len(features) < 2:
        raise DataError(f"Frechet distance: got features of shape {tuple(features.shape)}, expected [N >= 2, F]")
    return Moments(features.double().mean(0), torch.cov(features.double().T).reshape(2 * [features.shape[1]]))


def symmetric_root(matrix: Tensor) -> Tensor:
    """Return the symmetric square root of a positive semi-definite matrix, shape [F, F]; below 0 counts as 0."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet_distance(real: Moments, generated: Moments) -> Tensor:
    """Return |mu_r - mu_g|^2 + Tr(C_r + C_g - 2 (C_r C_g)^(1/2)), float64 of shape [], in squared feature units.

    C_r C_g has the eigenvalues of the symmetric A C_g A, A = C_r^(1/2), whose decomposition is stable where the matrix
    square root of the product is not.
    """
    root = symmetric_root(real.covariance)
    inner = root @ generated.covariance @ root
    cross = torch.linalg.eigvalsh((inner + inner.T) / 2).clamp_min(0).sqrt().sum()
    gap = (real.mean - generated.mean).square().sum()
    return gap + real.covariance.trace() + generated.covariance.trace() - 2 * cross


def frechet_results(real: Views, generated: Views, name: str, rng: torch.Generator) -> dict[str, Result]:
    """Return `name` (mean over modalities) and "name/modality" from features [N_r, F] and [N >= 2, F] by modality.

    Errors are of the generated items. The distance is biased upwards at small N: compare equal N only. A modality with
    fewer than 2 real items has no covariance and is left out.
    """
    reference = {key: moments(features) for key, features in real.items() if len(features) > 1}
    own = {key: generated[key] for key in reference}
    return mean_and_parts(name, own, lambda key, x: frechet_distance(reference[key], moments(x)), rng)


class InceptionFeatures:
    """Pool3 features of the network of Szegedy et al. 2015, arXiv 1512.00567, of pictures of 8 bits, as in FID."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features float32 [B, 2048] of RGB states [B, 3, H, W] by modality, leaving out all others."""
        with torch.no_grad():
            return {name: self.network(eight_bits(view)) for name, view in rgb_pictures(views).items()}


def rgb_pictures(views: Views) -> Views:
    """Return those of the states [B, ...] that are [B, 3, H, W]."""
    return {name: view for name, view in views.items() if view.dim() == 4 and view.shape[1] == 3}


def eight_bits(state: Tensor) -> Tensor:
    """Return states in [-1, 1] as uint8 pictures, rounded and clamped, same shape."""
    return state.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def load_inception(weights: Path, device: str = "cpu") -> InceptionFeatures:
    """Load the TensorFlow-ported weights from a file; nothing is downloaded, and ConfigError says what is missing."""
    if not weights.is_file():
        raise ConfigError(
            f"fid: got Inception weights {str(weights)!r}, expected an existing file "
            f"(pt_inception-2015-12-05-6726825d.pth of torch-fidelity); fetch it once, {_SHORT}"
        )
    try:
        from torchmetrics.image.fid import FrechetInceptionDistance

        metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(weights))
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"fid: {error.name or error} is not installed, expected torchmetrics with its image extra; run "
            f'pip install "multiebm[metrics]", {_SHORT}'
        ) from error
    return InceptionFeatures(metric.inception.to(device))
