"""Every preset builds and trains: one step of each of its phases, on a handful of items."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiebm.core.metrics import GAP, find_problem
from multiebm.experiments.build import build_dataset, build_model
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import fresh_state
from multiebm.experiments.sources import preset_names
from multiebm.modalities import Picture
from multiebm.training.steps import TrainingStep, total_steps
from small_downloads import write_coco, write_cub, write_mnist_svhn, write_tuxpaint

SMALL = ["training.batch_size=2", "training.precision=fp32"]


def polymnist_folder(folder: Path) -> None:
    """The official layout with three tuples a split."""
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("m0", "m1", "m2", "m3", "m4"):
            (folder / split / name).mkdir(parents=True)
            for i in range(3):
                pixels = draws.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.{i}.png")


def data_settings(name: str, folder: Path) -> list[str]:
    if name.startswith("polymnist"):
        polymnist_folder(folder / "polymnist")
        return [f"data.settings.folder={folder / 'polymnist'}", f"data.settings.cache_folder={folder / 'cache'}"]
    if name.startswith("mnist-svhn"):
        write_mnist_svhn(folder, list(range(10)), [10, *range(1, 10)])
        return [f"data.settings.folder={folder}", f"data.settings.cache_folder={folder / 'cache'}"]
    if name.startswith(("cub", "coco64", "tuxpaint")):
        {"coco64": write_coco, "tuxpaint": write_tuxpaint}.get(name.removesuffix("-vae"), write_cub)(folder)
        small = ["data.settings.min_count=1", "data.settings.size=32"]
        return [f"data.settings.folder={folder}", f"data.settings.cache_folder={folder / 'cache'}", *small]
    if name.startswith(("arrays", "own")):
        views = {"face": np.zeros((10, 8, 8, 1), np.uint8), "sound": np.eye(10, 3, dtype=np.float32)}
        np.savez(folder / "mine.npz", **views)
        declared = "{face: {kind: picture, layout: hwc}, sound: {kind: vector}}"
        return [f"data.settings.path={folder / 'mine.npz'}", f"data.settings.modalities={declared}"]
    if name.startswith("polydigits"):
        return ["data.settings.train_tuples=10", "data.settings.test_tuples=10"]
    return ["data.settings.train_items=10", "data.settings.test_items=10"]


@pytest.mark.parametrize("name", preset_names())
def test_one_step_of_each_phase_changes_its_weights_and_gives_finite_numbers(name: str, tmp_path: Path):
    settings = load_experiment(name)
    short = [f"model.{chain}.steps=1" for chain in ("data_chain", "latent_chain") if "toy2d" not in name]
    alone = len(settings.training.phases) == 1
    phases = [
        f"training.phases.{p.kind}.steps={0 if p.kind == 'energy' and not alone else min(p.steps, 1)}"
        for p in settings.training.phases
    ]
    experiment = load_experiment(name, [*SMALL, *short, *phases, *data_settings(name, tmp_path)])
    state = fresh_state(experiment, build_dataset(experiment.data), torch.device("cpu"))
    before = {key: value.clone() for key, value in state.model.named_parameters()}
    step = TrainingStep(experiment.training.phases, experiment.training.optimiser)
    for _ in range(total_steps(experiment.training.phases)):
        metrics = step(state, next(state.stream))
        state.step += 1
        assert find_problem(metrics, {GAP: 1e3}) is None
    moved = {key.split(".")[0] for key, p in state.model.named_parameters() if not torch.equal(p, before[key])}
    of = experiment.training
    networks = set() if alone and of.phase("energy").steps else {"generator", "inference"}
    expected = {"energy": of.phase("cooperative").steps or not networks, "interaction": of.phase("belonging").steps}
    assert moved == networks | {network for network, steps in expected.items() if steps}


def test_the_preset_of_the_predecessor_has_the_papers_equations_and_its_constants():
    e = load_experiment("polydigits-predecessor")
    c, o = e.training.phase("cooperative"), e.training.optimiser
    assert e.model.prior.kind == "normal"
    assert (e.model.energy.fusion, e.model.data_chain.kind) == ("early", "langevin")  # type: ignore[union-attr]
    assert (e.model.data_chain.step_size, e.model.data_chain.noise_scale) == (0.5, 0.001)  # type: ignore[union-attr]
    assert (c.anchor, c.reconstruction, c.synthetic) == (0, 1, "balance")
    assert (c.inference_synthetic, c.negatives, e.model.energy.penalty) == (0.1, "refresh", 0)  # type: ignore[union-attr]
    assert (o.energy, o.generator, o.inference) == (1e-4, 3e-4, 1e-4)
    assert (o.betas, c.beta1, o.average) == ((0, 0.9), 0, 0)


def test_the_warmup_preset_has_the_networks_of_the_demo_and_no_energy():
    demo, warmup = load_experiment("polydigits").model, load_experiment("polydigits-warmup").model
    assert warmup.energy is None
    assert (warmup.networks, warmup.shared, warmup.private) == (demo.networks, demo.shared, demo.private)


def test_decoders_of_mnist_beside_svhn_cannot_get_stuck_at_black():
    """With the demo's rate, or with a tanh at this width, all of MNIST is drawn black after 40 steps and stays so."""
    e = load_experiment("mnist-svhn")
    assert not e.model.networks.picture.bounded
    assert (e.training.optimiser.generator, e.training.optimiser.inference) == (1e-3, 1e-3)


def test_settings_published_for_mmvaeplus_have_amsgrad_and_those_of_mopoe_have_not():
    assert load_experiment("polymnist-mmvaeplus").training.optimiser.amsgrad
    assert not load_experiment("polymnist-mopoe").training.optimiser.amsgrad


@pytest.mark.parametrize(("row", "millions"), [("mopoe", 14.057), ("mmvaeplus", 22.2)])
def test_networks_of_polymnist_have_the_published_sizes(row: str, millions: float):
    """MoPoE's code has a linear layer of 512 units before its heads."""
    experiment = load_experiment(f"polymnist-{row}")
    model = build_model(experiment.model, {f"m{i}": Picture(f"m{i}", (3, 28, 28)) for i in range(5)}, 0)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
