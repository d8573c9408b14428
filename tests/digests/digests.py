"""What training and use give, number by number: written once, before the house was rebuilt, and kept ever since.

    python tests/digests/digests.py [NAME ...] --write

A digest of a preset is 20 steps of each of its phases on a few items, one thread: the metrics of the last step of each
phase, and a checksum of the weights; then what the saved model answers (sample, refined sample, impute, encode, score,
evaluate). Checksums and norms of gradients repeat on the machine that wrote them; the other numbers repeat on any, to
four digits.
"""

import argparse
import hashlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import multiebm
from multiebm.experiments.baselines import baselines
from multiebm.experiments.sources import preset_names

FILE = Path(__file__).with_name("digests.json")
STEPS = 20  # of each phase
SEEN = ("toy2d", "polydigits")  # data on which every row of the table of baselines is followed
Numbers = dict[str, float]


def machine() -> str:
    """Where checksums repeat: the processor and the release of torch."""
    cpu = Path("/proc/cpuinfo")
    lines = cpu.read_text().splitlines() if cpu.exists() else []
    found = {
        key: next((line for line in lines if line.startswith(key)), "") for key in ("model name", "model\t", "flags")
    }
    return f"{torch.__version__} {hashlib.sha256(json.dumps(found).encode()).hexdigest()[:12]}"


def names() -> list[str]:
    """All presets, and every baseline on the small data and on pictures."""
    return [*preset_names(), *(f"{data}-{row}" for data in SEEN for row in baselines())]


def polymnist(folder: Path) -> None:
    """Write the official layout with 40 tuples a split."""
    draws = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("m0", "m1", "m2", "m3", "m4"):
            (folder / split / name).mkdir(parents=True)
            for i in range(40):
                pixels = draws.integers(0, 256, (28, 28, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / split / name / f"{i}.{i % 10}.png")


def of_data(name: str, folder: Path) -> list[str]:
    """The settings that make the data of a preset small."""
    if name.startswith("polymnist"):
        polymnist(folder / "polymnist")
        return [f"data.settings.folder={folder / 'polymnist'}", f"data.settings.cache_folder={folder / 'cache'}"]
    if name.startswith("arrays"):
        draws = np.random.default_rng(0)
        face, sound = draws.integers(0, 256, (60, 8, 8, 1), dtype=np.uint8), draws.standard_normal((60, 3))
        np.savez(folder / "mine.npz", face=face, sound=sound)
        declared = "{face: {kind: picture, layout: hwc}, sound: {kind: vector}}"
        return [f"data.settings.path={folder / 'mine.npz'}", f"data.settings.modalities={declared}"]
    if name.startswith("polydigits"):
        return ["data.settings.train_tuples=60", "data.settings.test_tuples=40"]
    return ["data.settings.train_items=60", "data.settings.test_items=40"]


def of_phases(name: str) -> list[str]:
    """The settings that make each phase of a preset 20 steps long; a phase that it does not have stays away."""
    training = multiebm.load_experiment(name).training
    bound, energy, cooperative, settle = map(training.phase, ("bound", "energy", "cooperative", "settle"))
    together = min(energy.steps + cooperative.steps, STEPS)  # the first of these are of the energy alone
    alone = min(STEPS // 4, energy.steps)
    steps = {
        "bound": min(bound.steps, STEPS),
        "energy": alone,
        "cooperative": together - alone,
        "settle": min(settle.steps, STEPS),
    }
    settings = [f"training.phases.{p.kind}.steps={steps[p.kind]}" for p in training.phases]
    if bound.steps:
        settings.append(f"training.phases.bound.prior_from={STEPS // 2 if bound.prior_from else 0}")
    return [*settings, "training.log_every=1", "training.seconds=null"]


def smaller(name: str) -> list[str]:
    """Networks and chains as the preset has them where that takes seconds, small ones where it takes minutes."""
    if not name.startswith("polymnist"):
        return ["training.batch_size=8", "training.precision=fp32"]
    chains = [f"model.{chain}.steps=2" for chain in ("data_chain", "latent_chain")]
    energy = multiebm.load_experiment(name).model.energy
    networks = ["model.networks.picture.width=8"] + ([] if energy is None else ["model.energy.width=8"])
    return ["training.batch_size=4", "training.precision=fp32", *chains, *networks]


def checksum(tensors: dict[str, Any]) -> str:
    """A short checksum of named tensors or arrays."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = torch.as_tensor(tensors[name]).detach().cpu().contiguous()
        digest.update(f"{name} {list(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()[:16]


def size_of(tensors: dict[str, Any]) -> float:
    """The root of the mean square of all values."""
    flat = torch.cat([torch.as_tensor(t).detach().double().flatten().cpu() for t in tensors.values()])
    return float(flat.square().nan_to_num().mean().sqrt())


def digest_of(name: str, folder: Path) -> tuple[dict[str, str], Numbers]:
    """Train `name` and use it: checksums, and the numbers beside them."""
    settings = [*of_data(name, folder), *of_phases(name), *smaller(name)]
    model = multiebm.train(name, folder / "run", settings, progress=False)
    lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text().splitlines()]
    shown = {lines[i]["step"]: lines[i] for i in (min(STEPS, len(lines)) - 1, -1)}
    numbers = {
        f"step {step} {key}": value
        for step, line in shown.items()
        for key, value in line.items()
        if key not in ("time", "step", "seconds", "items_per_second") and isinstance(value, int | float)
    }
    parts = {"weights": model.state_dict()}
    data = multiebm.load_dataset(*_data(name, settings))
    seen = {key: view[:6] for key, view in data.test.views.items()}
    first = next(iter(seen))
    has_energy = model.energy is not None and bool(model.energy_learned)
    parts["sample"] = model.sample(6, seed=1)
    if has_energy:
        parts["refined"] = refined(model)
        parts["score"] = {"score": model.score(seen)}
    parts["impute"] = completed(model, {first: seen[first]}, has_energy)
    parts["encode"] = {"codes": model.encode(seen)}
    numbers |= {f"rms {part}": size_of(value) for part, value in parts.items()}
    return {part: checksum(value) for part, value in parts.items()}, numbers


def refined(model: Any) -> dict[str, Any]:
    """Joint samples after the chain in data space."""
    return model.sample(6, data_steps=3, seed=1)


def completed(model: Any, given: dict[str, Any], has_energy: bool) -> dict[str, Any]:
    """All parts from one, with both chains where there are two."""
    return model.impute(given, latent_steps=2, data_steps=2 if has_energy else 0, seed=1)


def _data(name: str, settings: list[str]) -> tuple[str, dict[str, Any]]:
    data = multiebm.load_experiment(name, settings).data
    return data.name, dict(data.settings)


def measured(folder: Path) -> Numbers:
    """The metrics of `evaluate` on a small model with labels that has everything: tilt, mixtures, energy."""
    settings = [*of_data("polydigits", folder), *of_phases("polydigits"), *smaller("polydigits")]
    small = ["samples=20", "items=25"]
    settings += [f"evaluation.{each}" for each in small]
    model = multiebm.train("polydigits", folder / "run", settings, progress=False)
    experiment = multiebm.load_experiment("polydigits", settings)
    data = multiebm.load_dataset(experiment.data.name, dict(experiment.data.settings))
    found = multiebm.evaluate(model, data, experiment.evaluation, progress=False, judges=1, robust_judges=0)
    return {key: float(value.value) for key, value in found.results.items()}


def write(chosen: list[str]) -> None:
    """Write the digests of these names (all, if none is given) into the file."""
    torch.set_num_threads(1)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {"digests": {}}
    kept["machine"] = machine()
    for name in chosen or [*names(), "evaluate"]:
        with tempfile.TemporaryDirectory() as folder:
            if name == "evaluate":
                kept["digests"][name] = [{}, measured(Path(folder))]
            else:
                kept["digests"][name] = digest_of(name, Path(folder))
        print(name, flush=True)
    FILE.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("names", nargs="*")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    if not arguments.write:
        sys.exit("add --write to write digests.json; pytest tests/digests compares")
    write(arguments.names)
