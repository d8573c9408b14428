"""From a configuration to objects: the only place a config meets a class."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.core.names import name_problem
from multiebm.core.random import make_generator
from multiebm.distributions.families import FAMILIES
from multiebm.experiments.schema import Experiment, ModelSection, NetworkSection, TrainingSection
from multiebm.modalities import Modality, PictureNetworks, VectorNetworks
from multiebm.models.aggregation import Aggregation, PriorExpert
from multiebm.models.energy import EnergyNetwork
from multiebm.models.generator import Generator
from multiebm.models.inference import Encoder, InferenceModel, JointEncoder
from multiebm.models.model import DataChain, LatentChain, MultimodalModel
from multiebm.nn.precision import Mixed, set_precision
from multiebm.priors.clusters import ClusterPrior
from multiebm.priors.energy import EnergyPrior
from multiebm.priors.mixture import MixturePrior
from multiebm.priors.prior import Prior, ridge_for
from multiebm.priors.standard import StandardPrior
from multiebm.training import averaging
from multiebm.training.cooperative import cooperative_step, warmup_step
from multiebm.training.guard import NETWORK_RATE, PRIOR_RATE, RATE
from multiebm.training.priors import PRIOR_BETAS
from multiebm.training.state import Stream, TrainState

JOINT_FEATURES = 128  # of a part, of those a joint encoder puts side by side


def build_model(section: ModelSection, modalities: dict[str, Modality], seed: int) -> MultimodalModel:
    """Return a model with fresh weights, a function of `seed` alone; the global generator is left as it was.

    ConfigError where the section names modalities that the data does not have, or the data has names no model can use.
    """
    known = list(modalities)
    if problems := [f"modality: {problem}" for name in known if (problem := name_problem(name))]:
        raise ConfigError(problems)
    if unknown := [name for name in section.likelihood.weights if name not in modalities]:
        raise ConfigError(
            [
                f"model.likelihood.weights.{n}: got no such modality, expected some of {', '.join(known)}"
                for n in unknown
            ]
        )
    with torch.inference_mode(False), _Drawing(make_generator(seed)):
        model = _model(section, modalities)
        model.blueprint = section.model_dump()
        return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


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


def _model(s: ModelSection, modalities: dict[str, Modality]) -> MultimodalModel:
    encoders: dict[str, Encoder] = {}
    decoders: dict[str, nn.Module] = {}
    for name, m in modalities.items():
        nets = networks_of(s.networks, m)
        encoders[name] = Encoder(m, s.shared, s.private, nets, s.scale_map)
        decoders[name] = Mixed(m.decoder(s.shared + s.private, nets))
    like = s.likelihood
    likelihoods = {n: m.likelihood(like.family, like.scale, like.weights.get(n, 1.0)) for n, m in modalities.items()}
    generator = Generator(
        _prior(s),
        decoders,
        likelihoods,
        s.private,
        s.family,
        s.crossing_prior,
        s.private_components,
        private_ridge=ridge_for(s.latent_chain.step_size),
        temperature=s.prior.temperature,
    )
    e = s.energy
    energy = None if e is None else EnergyNetwork(modalities, e.width, e.fusion, e.blocks)
    x, z = s.data_chain, s.latent_chain
    data_chain = DataChain(x.steps, x.displaced, x.step_size, x.noise_scale)
    latent_chain = LatentChain(z.steps, z.step_size, z.noise_scale)
    inference = _inference(s, modalities, encoders)
    return MultimodalModel(modalities, inference, generator, energy, data_chain, latent_chain)


def _inference(s: ModelSection, modalities: dict[str, Modality], encoders: dict[str, Encoder]) -> InferenceModel:
    i, n = s.inference, len(modalities)
    aggregation = Aggregation(n, s.family, i.subsets, i.fusion, i.prior_expert, i.learned_weights, i.correlation)
    in_use: PriorExpert = "complete" if i.prior_expert == "full" else i.prior_expert
    pooled = Aggregation(n, s.family, "full", i.fusion, in_use, correlation=i.correlation) if i.pooled else None
    joint = None
    if i.joint:
        trunks: dict[str, nn.Module] = {
            name: Mixed(m.encoder(JOINT_FEATURES, networks_of(s.networks, m))) for name, m in modalities.items()
        }
        joint = JointEncoder(trunks, JOINT_FEATURES, s.shared, s.scale_map)
    return InferenceModel(encoders, s.family, aggregation, pooled, joint)


def networks_of(s: NetworkSection, modality: Modality) -> Any:
    """Return the settings of a part's encoder and decoder."""
    own = modality.networks
    if own is VectorNetworks:
        return VectorNetworks(s.hidden, s.separate_trunks)
    if own is not PictureNetworks:
        return own()
    kind: Any = "conv" if s.kind == "conv" else "resnet" if s.activated else "mmvaeplus"
    return PictureNetworks(kind, s.width, s.separate_trunks, s.bounded)


def _prior(s: ModelSection) -> Prior:
    p = s.prior
    if p.kind in FAMILIES:
        return StandardPrior(p.kind, s.shared, p.learned_scale)
    if p.kind == "clusters":
        return ClusterPrior(s.family, s.shared, p.components)
    ridge = ridge_for(max(s.latent_chain.step_size, p.step_size if p.kind == "energy" else 0.0))
    standard = StandardPrior(s.family, s.shared, p.learned_scale)
    base = MixturePrior(s.shared, p.components, ridge) if p.components else standard
    if p.kind == "mixture":
        return base
    return EnergyPrior(base, p.width, p.layers, p.steps, p.step_size, p.bound, p.penalty)


def settling(experiment: Experiment, numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return how priors settle when training is over, as `settle_priors` takes it; `numbers`: those of its state.

    Where the guard had to lower the rate of the prior, it settles at the lower one.
    """
    prior, training = experiment.model.prior, experiment.training
    prune = prior.prune * training.warmup.beta
    rate = training.optimiser.prior * numbers.get(PRIOR_RATE, 1.0)
    return {"steps": prior.settle, "spread": prior.spread, "rate": rate, "prune": prune}


def build_state(experiment: Experiment, model: MultimodalModel, stream: Stream) -> TrainState[MultimodalModel]:
    """Return the state at step 0: model, one Adam per part, the random stream of training."""
    set_precision(model, experiment.training.precision)
    o = experiment.training.optimiser
    own = model.generator.prior  # a tilt; any other prior with parameters learns by the bound
    prior = list(own.net.parameters()) if isinstance(own, EnergyPrior) else []
    tilt = {id(p) for p in prior}
    parts = {
        "generator": ([p for p in model.generator.parameters() if id(p) not in tilt], o.generator, o.weight_decay),
        "inference": (list(model.inference.parameters()), o.inference, o.weight_decay),
        "energy": (list(model.energy.parameters()) if model.energy else [], o.energy, 0.0),
        "prior": (prior, o.prior, 0.0),
    }
    optimisers: dict[str, torch.optim.Optimizer] = {}
    for name, (parameters, rate, decay) in parts.items():
        if parameters:
            betas = PRIOR_BETAS if name == "prior" else (o.beta1, o.beta2)
            amsgrad = o.amsgrad and name in ("generator", "inference")
            optimisers[name] = torch.optim.Adam(
                parameters, rate, betas, weight_decay=decay, amsgrad=amsgrad, fused=True
            )
    if "energy" in optimisers:
        optimisers["energy"].param_groups[0]["betas"] = (o.beta1_cooperative, o.beta2)
    generator = make_generator(experiment.seed + 1, model.device)
    return TrainState(model, optimisers, generator, stream)


class TrainingStep:
    """The step of a run: warm-up until `warmup.steps`, cooperative after, with the rates of each phase."""

    def __init__(self, experiment: Experiment) -> None:
        self.training = experiment.training

    def __call__(self, state: TrainState[MultimodalModel], batch: Batch) -> dict[str, float]:
        """Run one step and update the averaged weights; metrics by name."""
        t = self.training
        warm = state.step < t.warmup.steps
        set_rates(state, t, warm)
        metrics = (
            warmup_step(state, batch, t.warmup, t.bound) if warm else cooperative_step(state, batch, t.cooperative)
        )
        if t.optimiser.average:
            averaging.update(state.average, state.model, t.optimiser.average)
        return metrics


def set_rates(state: TrainState[MultimodalModel], training: TrainingSection, warm: bool) -> None:
    """Set the rates of generator, inference and energy: phase, guard's factor, decay by epoch."""
    o = training.optimiser
    decay = 1.0 if o.decay == 1 else o.decay ** state.stream.state_dict()["epoch"]
    guarded = decay * state.numbers.get(RATE, 1.0)
    has_energy = "energy" in state.optimisers
    factor = (decay * state.numbers.get(NETWORK_RATE, 1.0) if has_energy else guarded) * annealed(state.step, training)
    for name, rate in (("generator", o.generator), ("inference", o.inference)):
        for group in state.optimisers[name].param_groups:
            group["lr"] = rate * factor
            group["betas"] = (o.beta1 if warm else o.beta1_cooperative, o.beta2)
    if has_energy:
        for group in state.optimisers["energy"].param_groups:
            group["lr"] = o.energy * guarded


def annealed(step: int, training: TrainingSection) -> float:
    """Return the factor on generator and inference rates: 1, over the last share `anneal` of the warm-up half a cosine
    down to `warmup.final`, then over the cooperative steps half a cosine from `optimiser.cooperative` to `.final`.
    """
    o, warmup, done = training.optimiser, training.warmup, step - training.warmup.steps
    if done < 0:
        last = warmup.steps * warmup.anneal
        return _half_cosine(1.0, warmup.final, 1 + done / max(last, 1.0))
    return _half_cosine(o.cooperative, o.final, done / max(training.cooperative.steps, 1))


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
