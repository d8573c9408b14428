"""The cost table: what samples of a trained model cost, and what they are worth, by each way to draw them.

    multiebm fit-refiner RUN --out RUN-1 --formulation 1
    multiebm fit-refiner RUN --out RUN-2 --formulation 2
    python scripts/cost_table.py RUN RUN-1 RUN-2 [--samples 1000] [--items 1000] [--repeats 20] [--seconds 120]

Gen: decoder means of prior draws. EBM: these after the chains. Diffusion: Gen with its pictures drawn by the refiner.
Seconds: a batch of 100 samples, median. Evaluations: calls of decoder and denoiser, and gradients of energies, for one
sample; those of the prior's tilt, which is small, stand apart. Parameters: those needed beyond encoders and decoders.
Coherence: parts agree in class; given: of one part alone. The distances, of pictures: on features of the judges (fcd)
or of lite0; given: of captions.
"""

import argparse
import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean, median
from time import perf_counter
from typing import Any, NamedTuple

import torch
from cells import processor

from multiebm.core.keys import CONFIG
from multiebm.evaluation import result as names
from multiebm.evaluation.completion import Conditioning, completions
from multiebm.evaluation.frechet import frechet_results
from multiebm.evaluation.measurement import Measurement, joined
from multiebm.evaluation.metrics import evaluation_mode, measured
from multiebm.evaluation.natural import halves, speaking
from multiebm.evaluation.result import EvaluationSettings, Result
from multiebm.experiments.build import build_dataset
from multiebm.experiments.folder import check_same_data, parameter_counts, read_run
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import measurement_of
from multiebm.experiments.saved import from_pretrained
from multiebm.models.model import MultimodalModel
from multiebm.priors.energy import EnergyPrior

BATCH, WARM_UP = 100, 10
OF_SAMPLES = (names.COHERENCE, names.FCD, names.FD_LITE0, names.PAIR_AUROC)
OF_COMPLETIONS = {names.GEN: names.COND, names.EBM: names.CLAMPED, names.DIFFUSION: names.COND_DIFFUSION}
TITLES = {names.COHERENCE: "joint coherence", "given": "coherence, given", names.FCD: "fcd", names.FD_LITE0: "fd-lite0"}
TITLES |= {
    names.PAIR_AUROC: "pairs told from shuffled",
    "fcd, given": "fcd, given",
    "fd-lite0, given": "fd-lite0, given",
}


class Way(NamedTuple):
    """A way to draw samples: its source among results, its name, and what `sample` is asked."""

    source: str
    title: str
    how: dict[str, int | None]


def ways(model: MultimodalModel) -> list[Way]:
    """Return the ways that a model has."""
    found = [Way(names.GEN, "Gen", {"data_steps": 0})]
    if model.energy_learned:
        found.append(Way(names.EBM, "EBM", {"data_steps": None}))
    if model.diffusion is not None:
        title = f"Diffusion, formulation {model.diffusion.settings.formulation}"
        found.append(Way(names.DIFFUSION, title, {"diffusion_steps": None}))
    return found


def evaluations(model: MultimodalModel, way: Way) -> dict[str, int]:
    """Return how often networks are called for one sample, counted while it is drawn: decoders and denoisers (of one
    part, the most) and what compares draws of the prior with codes; energies over data and the prior's tilt where a
    gradient is taken. The value that a chain has at its end only tells how it went.
    """
    prior, refiner = model.generator.prior, model.diffusion
    counted: dict[str, list[torch.nn.Module]] = {
        "decoder": list(model.generator.decoders.values()),
        "energy": [net for net in (model.energy,) if net is not None],
        "interaction": [net for net in (model.interaction,) if net is not None],
        "ratio": [net for net in (model.ratio,) if net is not None],
        "denoiser": [] if refiner is None else list(refiner.networks.values()),
        "prior": [prior.net] if isinstance(prior, EnergyPrior) else [],
    }
    calls = {id(net): 0 for nets in counted.values() for net in nets}
    always = {id(net) for name in ("decoder", "denoiser", "ratio") for net in counted[name]}

    def count(net: torch.nn.Module, _: Any) -> None:
        calls[id(net)] += id(net) in always or torch.is_grad_enabled()

    hooks = [net.register_forward_pre_hook(count) for nets in counted.values() for net in nets]
    try:
        model.raw_samples(1, **way.how)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: max((calls[id(net)] for net in nets), default=0) for name, nets in counted.items()}


def parameters(model: MultimodalModel, way: Way) -> int:
    """Return the number of parameters that drawing needs beyond those of a VAE, whose prior has none."""
    counts = parameter_counts(model)
    parts = {names.GEN: (), names.EBM: ("energy", "interaction"), names.DIFFUSION: ("diffusion",)}[way.source]
    compared = model.ratio if way.source == names.EBM else None
    return counts["prior"] + sum(counts.get(part, 0) for part in parts) + numel(compared)


def numel(network: torch.nn.Module | None) -> int:
    """Return the number of parameters of a network, 0 where there is none."""
    return 0 if network is None else sum(p.numel() for p in network.parameters())


def timed(
    call: Callable[[], Any],
    repeats: int,
    most: float,
    warm_up: int = WARM_UP,
    clock: Callable[[], float] = perf_counter,
) -> list[float]:
    """Return the seconds of `repeats` calls after `warm_up` others, of fewer where `most` seconds are spent; one call
    and one before it at least.
    """
    started, found = clock(), list[float]()
    for i in range(warm_up):
        if i and clock() - started > most / 3:
            break
        call()
    while not found or (len(found) < repeats and clock() - started < most):
        before = clock()
        call()
        found.append(clock() - before)
    return found


def from_captions(m: Measurement, way: Way) -> dict[str, Result]:
    """Return the Frechet distance of pictures that are drawn for the captions of one half of the test items from the
    pictures of the other half; nothing where no part is captions or nothing reads pictures.
    """
    spoken, readers = speaking(m), {names.FD_LITE0: m.lite0, names.FCD: m.judges}
    targets = [name for name, modality in m.dataset.modalities.items() if modality.shows == "pictures"]
    real = m.once(halves)
    if not spoken or not targets or real.shape[1] < 2:
        return {}
    how = Conditioning("cost", data_chain=way.source == names.EBM, diffusion=way.source == names.DIFFUSION)
    others = tuple(name for name in m.dataset.modalities if name not in targets)
    shown = [{name: views[name] for name in targets} for views in completions(m, real[1], others, how)]
    true = [m.dataset.batch("test", rows).views for rows in real[0].split(m.batch_size)]
    true = [{name: views[name] for name in targets} for views in true]
    found: dict[str, Result] = {}
    for key, reader in readers.items():
        if reader is None:
            continue
        theirs, own = (joined([reader.features(views) for views in each]) for each in (true, shown))
        if own:
            key = f"{key}, given"
            found[key] = frechet_results(theirs, own, key, m.rng(key))[key]
    return found


def quality(m: Measurement, way: Way) -> dict[str, Result]:
    """Return what samples and completions of this way are worth; a distance is that of pictures."""
    given = OF_COMPLETIONS[way.source]
    results = m.once(all_results)
    found = {"given": results[f"{given}/size1"]} if f"{given}/size1" in results else {}
    for name in OF_SAMPLES:
        key = f"{way.source}/{name}"
        of = [results[f"{key}/{part}"] for part, modality in m.dataset.modalities.items()
              if modality.shows == "pictures" and f"{key}/{part}" in results]  # fmt: skip
        if of and name in (names.FCD, names.FD_LITE0):
            found[name] = Result(fmean(r.value for r in of), max(r.standard_error for r in of), of[0].n)
        elif key in results:
            found[name] = results[key]
    with evaluation_mode(m.model):
        return found | from_captions(m, way)


def all_results(m: Measurement) -> dict[str, Result]:
    """Return the metrics that the table has."""
    known = [*OF_SAMPLES, *(name for source, name in OF_COMPLETIONS.items() if source != names.DIFFUSION)]
    return measured(m, [*known, *([names.COND_DIFFUSION] if m.model.diffusion else [])]).results


def rows_of(run: Path, known: list[Path], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return a row for each way of a run, but for those of the run among the `known` that its refiner was fitted to."""
    experiment, about = load_experiment(run / CONFIG), read_run(run)
    model, dataset = from_pretrained(run, options.device), build_dataset(experiment.data, run)
    check_same_data(about, dataset, run)
    settings = EvaluationSettings(options.samples, options.items, (1,))
    m = measurement_of(model, dataset, settings, options.seed, robust=0)
    fitted_to = about.get("refiner_fit", {}).get("of")
    again = fitted_to is not None and Path(fitted_to).resolve() in [path.resolve() for path in known]
    return [row_of(run, m, way, options) for way in ways(model) if way.source == names.DIFFUSION or not again]


def row_of(run: Path, m: Measurement, way: Way, options: argparse.Namespace) -> dict[str, Any]:
    """Return what a way costs and is worth, as plain values."""
    model: MultimodalModel = m.model

    def draw() -> None:
        model.raw_samples(BATCH, seed=options.seed, **way.how)
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)

    seconds = timed(draw, options.repeats, options.seconds)
    calls = evaluations(model, way)
    return {
        "run": str(run),
        "way": way.title,
        "seconds": median(seconds),
        "timed": len(seconds),
        "evaluations": sum(n for name, n in calls.items() if name != "prior"),
        "calls": calls,
        "parameters": parameters(model, way),
        "quality": {name: result._asdict() for name, result in quality(m, way).items()},
    }


def table(rows: list[Mapping[str, Any]]) -> str:
    """Return the rows as a Markdown table; a column that no row has a value for is left out."""
    shown = [key for key in TITLES if any(key in row["quality"] for row in rows)]
    heads = [
        "run",
        "way",
        "s per 100",
        "ratio",
        "evaluations",
        "of the prior",
        "parameters",
        *(TITLES[k] for k in shown),
    ]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for row in rows:
        values = [row["quality"].get(key) for key in shown]
        told = ["-" if v is None else f"{v['value']:.3f} ± {v['standard_error']:.3f}" for v in values]
        ratio = row["seconds"] / rows[0]["seconds"]
        cells = [row["run"], row["way"], f"{row['seconds']:.3g}", f"{ratio:.3g}", str(row["evaluations"])]
        cells += [str(row["calls"]["prior"]), f"{row['parameters']:,}", *told]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Print the table, with the command and the machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, help="a trained run, and runs of fit-refiner on it")
    parser.add_argument("--samples", type=int, default=1000, help="joint samples that are judged")
    parser.add_argument("--items", type=int, default=1000, help="test items that are completed; a fifth by refiners")
    parser.add_argument("--repeats", type=int, default=20, help="batches of 100 that are timed, after 10 others")
    parser.add_argument("--seconds", type=float, default=600, help="most that timing a way may take, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the values as they are")
    options = parser.parse_args()
    rows: list[Mapping[str, Any]] = []
    for i, run in enumerate(options.runs):
        rows += rows_of(run, options.runs[:i], options)
    device = torch.cuda.get_device_name(options.device) if options.device.startswith("cuda") else processor()
    command = shlex.join(["python", "scripts/cost_table.py", *sys.argv[1:]])
    machine = f"{device}, {torch.get_num_threads()} thread(s), torch {torch.__version__}, {platform.system()}"
    print(f"```\n{command}\n```\n\nOn {machine}. {options.samples} samples, {BATCH} at a time.\n\n{table(rows)}")
    if options.json:
        options.json.write_text(json.dumps({"command": command, "machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
