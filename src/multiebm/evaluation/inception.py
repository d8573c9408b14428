"""Inception-v3 features for `fid`, through torchmetrics, only where the weights are already on disk."""

from pathlib import Path

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.names import Views

_SHORT = "or leave fid out: the judges' Frechet distance 'fcd' is reported either way, and is not comparable with FID"


class InceptionFeatures:
    """Pool3 features [B, 2048] of RGB states [B, 3, H, W] in [-1, 1], quantised to 8 bits as FID prescribes.

    The network is that of Szegedy et al. 2015, arXiv 1512.00567.
    """

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features float32 [B, 2048] by modality, leaving out what is not an RGB picture."""
        pictures = {name: view for name, view in views.items() if view.dim() == 4 and view.shape[1] == 3}
        with torch.no_grad():
            return {name: self.network(eight_bits(view)) for name, view in pictures.items()}


def eight_bits(state: Tensor) -> Tensor:
    """Return states in [-1, 1] as uint8 pictures, rounded and clamped, same shape."""
    return state.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def load_inception(weights: Path, device: str = "cpu") -> InceptionFeatures:
    """Load the TensorFlow-ported weights (pt_inception-2015-12-05) from `weights`; ConfigError says what is missing.

    Nothing is ever downloaded.
    """
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
            f"pip install 'torchmetrics[image]', {_SHORT}"
        ) from error
    return InceptionFeatures(metric.inception.to(device))
