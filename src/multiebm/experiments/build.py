"""From a configuration to objects: data, model and state, on a device. The only place a config meets a class."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any, cast

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from multiebm.core.errors import ConfigError
from multiebm.core.keys import DATA
from multiebm.core.names import module_key, name_problem
from multiebm.core.random import make_generator
from multiebm.core.table import nearest
from multiebm.data import BatchStream, MultimodalDataset, Split, load_dataset, read_parts
from multiebm.distributions.likelihoods import START_SCALE, Observation
from multiebm.experiments.schema import DataSection, Experiment, ModelSection, PartSection
from multiebm.modalities import Modality
from multiebm.models.aggregation import Aggregation, PriorExpert
from multiebm.models.energy import EnergyNetwork
from multiebm.models.generator import Generator
from multiebm.models.inference import Encoder, InferenceModel, JointEncoder
from multiebm.models.interaction import FROM_POSTERIOR, InteractionNetwork
from multiebm.models.linear import CellExperts, LinearDecoder, begin
from multiebm.models.model import MultimodalModel
from multiebm.models.own import Own, laid_out, make_own, name_of
from multiebm.models.ratio import RatioNetwork
from multiebm.nn.precision import Mixed, fastest_precision, set_precision
from multiebm.priors.prior import Settling, ridge_for
from multiebm.training.phases.settle import settling
from multiebm.training.state import TrainState
from multiebm.training.steps import make_optimisers

CORRELATION = 0.5  # of experts fused as dependent (CoDE-VAE)
LINEAR_ROWS, LINEAR_CELLS = 3000, 2_000_000  # that the linear half begins with at most
LARGEST_LINED = 1024  # coordinates of a part that has a linear half, at most; larger ones have networks alone
LARGEST_KEPT = 1 << 30  # bytes of arrays from Python that a run folder keeps
JOINT_FEATURES = 128  # of a part, of those a joint encoder puts side by side
NO_CODE = Own()


def build_model(
    section: ModelSection, modalities: dict[str, Modality], seed: int, own: Own = NO_CODE
) -> MultimodalModel:
    """Return a model with fresh weights, a function of `seed` alone; the global generator is left as it was.

    `own` has the networks of the user's own that the section names. ConfigError where the section names modalities that
    the data does not have, or networks that were not handed over, or the data has names no model can use.
    """
    check_own(section, own, modalities)
    known = list(modalities)
    if problems := [f"modality: {problem}" for name in known if (problem := name_problem(name))]:
        raise ConfigError(problems)
    for key, named in (("likelihood.weights", section.likelihood.weights), ("parts", section.parts)):
        problems += [
            f"model.{key}.{name}: got no such modality, expected some of {', '.join(known)}.{nearest(name, known)}"
            for name in named
            if name not in modalities
        ]
    for name, m in modalities.items():
        problems += _likelihood_problems(f"model.parts.{name}", section.parts.get(name, PartSection()), m)
    if problems:
        raise ConfigError(problems)
    s, i, e, n = section, section.inference, section.energy, len(modalities)
    networks = {name: getattr(s.networks, m.kind) for name, m in modalities.items()}
    encoders: dict[str, Encoder] = {}
    decoders: dict[str, nn.Module] = {}
    draws = make_generator(seed)

    def make(kind: str, name: str) -> Callable[[int], nn.Module]:
        if name in (makers := getattr(own, kind)):
            return lambda n: make_own(kind, makers[name], modalities[name], n, draws)
        return lambda n: getattr(modalities[name], kind)(n, networks[name])

    with torch.inference_mode(False), _Drawing(draws):  # the order here is that of the draws
        for name, m in modalities.items():
            lined = _has_line(s, m) and not (m.linked and name in own.decoder)
            how = (s.shared, s.private, s.scale_map, i.separate_trunks, s.linear, m.size if lined else 0)
            encoders[name] = Encoder(make("encoder", name), *how)
            decoder = make("decoder", name)(s.shared + s.private)
            decoders[name] = Mixed(LinearDecoder(decoder, s.shared + s.private, m.shape) if lined else decoder)
        likelihoods = {name: _likelihood(s, m) for name, m in modalities.items()}
        ridge = ridge_for(s.latent_chain.step_size)
        prior = s.prior.build(s.shared, s.family, ridge)
        private = (s.private, s.family, s.private_components)
        generator = Generator(prior, decoders, likelihoods, *private, ridge, s.temperature)
        generator.balance_parts([name for name in modalities if s.weight(name) == "balance"])
        energy = None if e is None else EnergyNetwork(modalities, e.width, e.fusion, e.penalty, e.gate)
        aggregation = Aggregation(n, s.family, i.subsets, i.fusion, i.prior_expert, i.learned_weights, CORRELATION)
        in_use: PriorExpert = "complete" if i.prior_expert == "full" else i.prior_expert
        pooled = Aggregation(n, s.family, "full", i.fusion, in_use, correlation=CORRELATION) if i.pooled else None
        joint = None
        if i.subsets == "joint":
            trunks: dict[str, nn.Module] = {name: Mixed(make("encoder", name)(JOINT_FEATURES)) for name in modalities}
            joint = JointEncoder(trunks, JOINT_FEATURES, s.shared, s.scale_map)
        inference = InferenceModel(encoders, s.family, aggregation, pooled, joint)
        interaction = None if s.interaction is None else InteractionNetwork(modalities, s.interaction)
        chains = (s.data_chain, s.latent_chain)
        ratio = None
        if s.interaction is not None and s.interaction.compares:
            sizes = {key: prior.dim for key, prior in generator.priors().items()}
            ratio = RatioNetwork(modalities, sizes, s.interaction.best_of - FROM_POSTERIOR)
        model = MultimodalModel(modalities, inference, generator, energy, *chains, interaction, ratio)
        model.blueprint, model.own, model.reads = section.model_dump(), own, read_parts
        return laid_out(model)


def check_own(section: ModelSection, own: Own, known: Mapping[str, Modality], where: str = "") -> None:
    """Raise ConfigError, lines begin with `where`, unless `own` has just the networks that a model names, by part."""
    problems = []
    for kind, makers in own._asdict().items():
        named = {part: name for part, of in section.parts.items() if (name := getattr(of, kind))}
        problems += [
            f"{kind}s: got one for {part!r}, expected some of {', '.join(known)}.{nearest(part, list(known))} Rename it"
            for part in makers
            if part not in known
        ]
        problems += [
            f"{kind}s: got {name_of(makers[part])} for {part!r}, expected none, as the model has none of its own "
            "there; leave it out"
            for part in makers
            if part in known and part not in named
        ]
    if problems := problems + lacking_own(section, own):
        raise ConfigError([where + problem for problem in problems])


def lacking_own(section: ModelSection, own: Own) -> list[str]:
    """Return a line for each network of the user's own that a model names and `own` has not."""
    return [
        f"model.parts.{part}.{kind}: got the name {name} and not its code, expected that to be handed over in Python: "
        f"{kind}s={{{part!r}: {name.rpartition('.')[2]}}} of multiebm.train, from_pretrained or write_report; the "
        "command line cannot have it"
        for kind, makers in own._asdict().items()
        for part, of in section.parts.items()
        if (name := getattr(of, kind)) and part not in makers
    ]


def naming_own(section: ModelSection, own: Own) -> ModelSection:
    """Return the section with the names of the networks in `own`, those of the user's own."""
    parts = dict(section.parts)
    for kind, names in own.names().items():
        for part, name in names.items():
            parts[part] = parts.get(part, PartSection()).model_copy(update={kind: name})
    return section.model_copy(update={"parts": parts})


def _likelihood_problems(at: str, part: PartSection, m: Modality) -> list[str]:
    known = m.likelihoods
    if part.likelihood is not None and part.likelihood not in known:
        near = nearest(part.likelihood, list(known))
        got = f"{at}.likelihood: got {part.likelihood!r}, which {m.kind} does not know"
        return [f"{got}, expected {', '.join(known)}.{near} Choose one of them"]
    if part.scale is None:
        return []
    # without a likelihood of its own the part has that of model.likelihood, of which only the scale is in question
    scales = [known[part.likelihood]] if part.likelihood else list(known.values())
    if all(scale == "none" for scale in scales):
        return [
            f"{at}.scale: got {part.scale}, expected none: a {part.likelihood or m.kind} has no scale; leave it out"
        ]
    if part.scale == "learned" and "learned" not in scales:
        return [f"{at}.scale: got learned, which {m.kind} does not know, expected a number above 0; set one"]
    return []


def _likelihood(s: ModelSection, m: Modality) -> Observation:
    like, part = s.likelihood, s.parts.get(m.name, PartSection())
    family = part.likelihood or (like.family if like.family in m.likelihoods else next(iter(m.likelihoods)))
    scale = part.scale or like.scale
    if part.scale is None and scale == "learned" and m.likelihoods[family] != "learned":
        scale = START_SCALE
    weight = s.weight(m.name)
    return m.likelihood(family, scale, 1.0 if weight == "balance" else weight)


def begin_linear(model: MultimodalModel, data: MultimodalDataset, seed: int) -> float:
    """Set a model's linear half to the factor analysis of LINEAR_ROWS training rows at most; return its seconds."""
    began, parts = perf_counter(), dict[str, tuple[CellExperts, LinearDecoder, Observation]]()
    for name, likelihood in model.generator.likelihoods.items():
        cells = cast(Encoder, model.inference.encoders[module_key(name)]).cells
        decoder = cast(Mixed, model.generator.decoders[module_key(name)]).net
        if cells is not None:
            parts[name] = (cells, cast(LinearDecoder, decoder), likelihood)
    if parts:
        most = LINEAR_CELLS // sum(data.modalities[name].size for name in parts)
        n = max(min(len(data.train), 300), min(len(data.train), LINEAR_ROWS, most))
        rows = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:n]
        batch = data.batch("train", rows)
        views = {name: data.modalities[name].tamed(view) for name, view in batch.views.items()}
        begin(parts, batch._replace(views=views), model.generator.prior.dim)
    return perf_counter() - began


def _has_line(s: ModelSection, m: Modality) -> bool:
    """Return whether a part has a linear half: none where means must stay within bounds, or are of many coordinates."""
    likelihood = s.parts.get(m.name, PartSection()).likelihood or s.likelihood.family
    return s.linear and m.size <= LARGEST_LINED and likelihood != "bernoulli"


class _Drawing(TorchFunctionMode):
    """Inside, in this thread alone: layers draw their weights from `generator`, in float32 whatever the default is.

    torch's layers hand no generator to their initialisers, and the global one is shared by all threads.
    """

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.generator = generator

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: D105
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name.removeprefix("kaiming_") in ("uniform_", "normal_") and kwargs.get("generator") is None:
            kwargs["generator"] = self.generator
        if name in ("empty", "zeros", "ones", "full", "eye", "randn") and kwargs.get("dtype") is None:
            kwargs["dtype"] = torch.float32
        return func(*args, **kwargs)


def settling_of(experiment: Experiment, numbers: Mapping[str, float]) -> Settling:
    """Return how priors settle when training is over; `numbers`: those of the state."""
    return settling(experiment.training.phases, experiment.training.optimiser.prior, numbers)


def build_state(experiment: Experiment, model: MultimodalModel, stream: BatchStream) -> TrainState[MultimodalModel]:
    """Return the state at step 0: model, one Adam per part, the random stream of training."""
    set_precision(model, resolved(experiment, model.device).training.precision)
    optimisers = make_optimisers(model, experiment.training.optimiser, experiment.training.phases)
    return TrainState(model, optimisers, make_generator(experiment.seed + 1, model.device), stream)


def resolved(experiment: Experiment, device: str | torch.device, begun: Experiment | None = None) -> Experiment:
    """Return the experiment with what "auto" means: the precision of the run `begun`, or the fastest of the device."""
    if experiment.training.precision != "auto":
        return experiment
    precision = fastest_precision(device) if begun is None else begun.training.precision
    return experiment.changed("training", {"precision": precision})


def build_dataset(section: DataSection, run: Path | None = None) -> MultimodalDataset:
    """Return the complete data set of a configuration; `missing` is applied to what a run trains on, not here.

    `run`: the folder of a run of that configuration, which may hold the data, and then gives them its name.
    """
    settings = section.settings
    if run is not None and Path(str(settings.get("path"))).name == DATA and (run / DATA).is_file():
        kept = load_dataset(section.name, settings | {"path": str(run / DATA)})
        return replace(kept, name=run.absolute().name)
    return load_dataset(section.name, settings)


def naming_kept(experiment: Experiment, dataset: MultimodalDataset, out: str | Path) -> Experiment:
    """Return the experiment whose data are those that its run in `out` keeps of a data set from Python, if it will."""
    if (kept := dataset.kept) is None or sum(array.nbytes for array in kept.arrays.values()) > LARGEST_KEPT:
        return experiment
    settings = kept.settings | {"path": str(Path(out).absolute() / DATA)}
    section = experiment.data.model_copy(update={"name": "arrays", "settings": settings})
    return experiment.model_copy(update={"data": section})


def training_data(
    dataset: MultimodalDataset, missing: float, seed: int, device: str | torch.device = "cpu"
) -> MultimodalDataset:
    """Return the data set whose training split has a share `missing` of its parts hidden and lies on `device`, raw."""
    rows = hide_at_random(dataset.train, missing, seed) if missing else dataset.train
    if torch.device(device).type != "cpu":
        labels = None if rows.labels is None else rows.labels.to(device)
        views, at = ({name: of.to(device) for name, of in each.items()} for each in (rows.views, rows.at))
        rows = Split(views, rows.present.to(device), labels, at=at)
    return replace(dataset, train=rows)


def hide_at_random(rows: Split, share: float, seed: int) -> Split:
    """Hide each part (of `present` [N, M]) with probability `share`, completely at random; an item keeps at least 1."""
    draws = torch.rand(rows.present.shape, generator=make_generator((seed * 1_000_003 + 1) % 2**63))
    hidden = draws < share
    kept = torch.where(rows.present, draws, -1.0).argmax(1)
    hidden[torch.arange(len(hidden)), kept] = False
    return replace(rows, present=rows.present & ~hidden)


def find_device(device: str | torch.device = "auto") -> torch.device:
    """Return the device: auto (the first GPU if there is one), cpu, cuda or cuda:<i>, as text or torch.device."""
    name = str(device)  # of a torch.device that which names it
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    known = ["auto", "cpu", *(["cuda"] if available else []), *[f"cuda:{i}" for i in range(available)]]
    if name not in known or not isinstance(device, str | torch.device):
        what = f"{available} CUDA device(s)" if available else "no CUDA device"
        raise ConfigError(
            f"device: got {device!r}, expected one of {', '.join(known)}; torch {torch.__version__} finds {what} "
            "here: use --device auto, or install a torch build and driver for the device"
        )
    if name == "auto":
        return torch.device("cuda" if available else "cpu")
    return torch.device(name)
