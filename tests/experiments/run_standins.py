"""A run of a second on toy2d, and a hook that ends it as Ctrl-C does."""

import signal

from multiebm.data import MultimodalDataset, load_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment
from multiebm.training.state import TrainState

# Both phases, private latents, an energy prior, averaged weights: everything a checkpoint has to remember.
TINY = [
    "data.settings={train_items: 40, test_items: 20}",
    "model.private=2",
    "model.private_components=2",
    "model.prior={kind: energy, components: 3, width: 8, layers: 1, steps: 2}",
    "model.networks.vector.width=8",
    "model.energy.width=8",
    "model.data_chain={steps: 2, kind: displaced}",
    "model.latent_chain.steps=2",
    "training.batch_size=8",
    "training.phases=[{kind: bound, steps: 4, prior_from: 1}, {kind: energy, steps: 1}, {kind: cooperative, steps: 5, "
    "rate: 1, beta1: 0, reconstruction: 1, synthetic: balance, negatives: refresh}, {kind: settle, steps: 0}]",
    "training.optimiser.average=0.9",
    "training.checkpoint_every=5",
    "training.log_every=2",
]


def tiny(*overrides: str) -> Experiment:
    return load_experiment("toy2d", [*TINY, *overrides])


def tiny_data() -> MultimodalDataset:
    return load_dataset("toy2d", {"train_items": 40, "test_items": 20})


class CtrlC:
    """A hook that sends SIGINT after step `at`."""

    def __init__(self, at: int) -> None:
        self.at = at

    def on_step(self, state: TrainState, metrics: dict[str, float]) -> None:
        if state.step == self.at:
            signal.raise_signal(signal.SIGINT)

    def on_end(self, state: TrainState) -> None:
        pass
