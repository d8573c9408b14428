"""Pictures of 256 pixels with captions: one step of each phase of the preset `cub256`, on tiny widths."""

from pathlib import Path

import pytest
import torch
from torch import nn

from multiebm.experiments.build import build_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import fresh_state
from multiebm.training.steps import TrainingStep
from small_downloads import write_cub

TINY = [
    *("model.shared=4", "model.networks.picture.width=4"),
    *("model.networks.text.width=8", "model.energy.width=4", "model.data_chain.steps=1", "model.prior.components=2"),
    *("training.batch_size=2", "training.precision=fp32", "data.settings.vocabulary=20", "data.settings.length=8"),
    *(f"training.phases.{kind}.steps=1" for kind in ("bound", "energy", "settle", "belonging")),
    "data.settings.min_count=1",
]


def maps(network: nn.Module) -> list[int]:
    """The sides of what the convolutions of a network read, told by hooks."""
    seen: list[int] = []
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _, given, out: seen.append(given[0].shape[-1]))
    return seen


@pytest.fixture
def state(tmp_path: Path):
    write_cub(tmp_path)
    files = [f"data.settings.folder={tmp_path}", f"data.settings.cache_folder={tmp_path / 'cache'}"]
    experiment = load_experiment("cub256", [*files, *TINY])
    return experiment, fresh_state(experiment, build_dataset(experiment.data), torch.device("cpu"))


def test_a_step_of_each_phase_at_256_pixels_moves_the_stages_of_large_maps(state):
    experiment, state = state
    assert state.model.modalities["picture"].shape == (3, 256, 256)
    before = {name: value.clone() for name, value in state.model.named_parameters()}
    seen = maps(state.model.inference)
    step = TrainingStep(experiment.training.phases, experiment.training.optimiser)
    for _ in range(4):
        metrics = step(state, next(state.stream))
        state.step += 1
        assert all(torch.tensor(value).isfinite() for value in metrics.values())
    assert (max(seen), min(seen)) == (256, 8)  # halved until as small as the last map of 32 pixels
    moved = [name for name, value in state.model.named_parameters() if not torch.equal(value, before[name])]
    for network in ("generator.decoders.picture", "inference", "energy", "interaction"):
        large = [n for n in moved if n.startswith(network) and before[n].dim() == 4 and before[n].shape[1] == 3]
        made = [n for n in moved if n.startswith(network) and before[n].dim() == 4 and before[n].shape[0] == 3]
        assert made if network.startswith("generator") else large, network
    picture = state.model.sample(1, seed=0)["picture"]
    assert picture.shape == (1, 3, 256, 256)
