"""From a configuration to objects: the only place a config meets a class."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.core.names import name_problem
from multiebm.core.random import make_generator
from multiebm.experiments.schema import Experiment, ModelSection
from multiebm.modalities import Modality
from multiebm.models.aggregation import Aggregation, PriorExpert
from multiebm.models.chains import Displaced
from multiebm.models.energy import EnergyNetwork
from multiebm.models.generator import Generator
from multiebm.models.inference import Encoder, InferenceModel, JointEncoder
from multiebm.models.model import MultimodalModel
from multiebm.nn.precision import Mixed, fastest_precision, set_precision
from multiebm.objectives.settings import BoundSettings
from multiebm.priors.prior import ridge_for
from multiebm.training import averaging
from multiebm.training.cooperative import cooperative_step, warmup_step
from multiebm.training.guard import PRIOR_RATE
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.phase import Phase
from multiebm.training.settings import CooperativeSettings, WarmupSettings
from multiebm.training.state import Stream, TrainState
from multiebm.training.steps import in_force, make_optimisers, set_rates

CORRELATION = 0.5  # of experts fused as dependent (CoDE-VAE)
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
        nets = getattr(s.networks, m.kind)
        encoders[name] = Encoder(m, s.shared, s.private, nets, s.scale_map)
        decoders[name] = Mixed(m.decoder(s.shared + s.private, nets))
    like = s.likelihood
    likelihoods = {n: m.likelihood(like.family, like.scale, like.weights.get(n, 1.0)) for n, m in modalities.items()}
    ridge = ridge_for(s.latent_chain.step_size)
    prior = s.prior.build(s.shared, s.family, ridge)
    generator = Generator(
        prior, decoders, likelihoods, s.private, s.family, 0.0, s.private_components, ridge, s.temperature
    )
    e = s.energy
    energy = None if e is None else EnergyNetwork(modalities, e.width, e.fusion, e.blocks)
    return MultimodalModel(
        modalities, _inference(s, modalities, encoders), generator, energy, s.data_chain, s.latent_chain
    )


def _inference(s: ModelSection, modalities: dict[str, Modality], encoders: dict[str, Encoder]) -> InferenceModel:
    i, n = s.inference, len(modalities)
    aggregation = Aggregation(n, s.family, i.subsets, i.fusion, i.prior_expert, i.learned_weights, CORRELATION)
    in_use: PriorExpert = "complete" if i.prior_expert == "full" else i.prior_expert
    pooled = Aggregation(n, s.family, "full", i.fusion, in_use, correlation=CORRELATION) if i.pooled else None
    joint = None
    if i.joint:
        trunks: dict[str, nn.Module] = {
            name: Mixed(m.encoder(JOINT_FEATURES, getattr(s.networks, m.kind))) for name, m in modalities.items()
        }
        joint = JointEncoder(trunks, JOINT_FEATURES, s.shared, s.scale_map)
    return InferenceModel(encoders, s.family, aggregation, pooled, joint)


def settling(experiment: Experiment, numbers: Mapping[str, float]) -> dict[str, Any]:
    """Return how priors settle when training is over, as `settle_priors` takes it; `numbers`: those of its state.

    Where the guard had to lower the rate of the prior, it settles at the lower one.
    """
    training = experiment.training
    settle = training.phase("settle")
    rate = training.optimiser.prior * numbers.get(PRIOR_RATE, 1.0)
    prune = settle.prune * training.phase("bound").beta
    return {"steps": settle.steps, "spread": settle.widen_base, "rate": rate, "prune": prune}


def build_state(experiment: Experiment, model: MultimodalModel, stream: Stream) -> TrainState[MultimodalModel]:
    """Return the state at step 0: model, one Adam per part, the random stream of training."""
    set_precision(model, resolved(experiment, model.device).training.precision)
    optimisers = make_optimisers(model, experiment.training.optimiser, experiment.training.phases)
    return TrainState(model, optimisers, make_generator(experiment.seed + 1, model.device), stream)


def resolved(experiment: Experiment, device: str | torch.device) -> Experiment:
    """Return the experiment with what "auto" means on a device: the fastest precision."""
    if experiment.training.precision != "auto":
        return experiment
    training = experiment.training.model_copy(update={"precision": fastest_precision(device)})
    return experiment.model_copy(update={"training": training})


class TrainingStep:
    """The step of a run: that of the phase in force, at its rates; then the averaged weights move."""

    def __init__(self, experiment: Experiment) -> None:
        self.model, self.training = experiment.model, experiment.training

    def __call__(self, state: TrainState[MultimodalModel], batch: Batch) -> dict[str, float]:
        """Run one step and update the averaged weights; metrics by name."""
        t = self.training
        phase, done = in_force(t.phases, state.step)
        set_rates(state, t.optimiser, phase, done)
        if isinstance(phase, Bound):
            warmup, bound = settings_of_bound(phase, self.model, state.step - done)
            metrics = warmup_step(state, batch, warmup, bound)
        else:
            metrics = cooperative_step(state, batch, settings_of_cooperative(phase, self.model))
        if t.optimiser.average:
            averaging.update(state.average, state.model, t.optimiser.average)
        return metrics


def settings_of_bound(p: Bound, model: ModelSection, start: int = 0) -> tuple[WarmupSettings, BoundSettings]:
    """Return the settings of `warmup_step` for a phase that begins at step `start`."""
    inside = getattr(model.prior, "in_bound", False)
    warmup = WarmupSettings(p.steps, p.beta, p.anneal, p.final, start + p.prior_from, 0 if inside else -1)
    coded = p.estimator == "dreg_as_coded"
    return warmup, BoundSettings(
        kind="dreg" if coded else p.estimator,  # type: ignore[arg-type]
        samples=p.samples,
        components="one" if p.components == "one" else "all",
        weights="sum" if p.components == "sum" else "mean",
        denominator="mixture" if p.divergence == "mixture" else "component",
        divergence="analytic" if p.divergence == "analytic" else "sampled",
        reconstruct="own" if p.unseen == "skipped" else "all",
        crossing="own" if p.unseen == "inferred" else "auxiliary",
        penalty=p.penalty,
        alpha=p.alpha,
        stop_gradient=not coded,
    )


def settings_of_cooperative(p: Phase, model: ModelSection) -> CooperativeSettings:
    """Return the settings of `cooperative_step` for a phase in which all learn, or the energy alone."""
    e, chain = model.energy, model.data_chain
    own: dict[str, Any] = {"energy_first": 10**9}
    if isinstance(p, Cooperative):
        own = {
            "energy_first": 0,
            "anchor": p.anchor,
            "reconstruction": p.reconstruction,
            "synthetic": p.synthetic,
            "inference_synthetic": p.inference_synthetic,
            "encoder_loss": "nll" if p.inference else "elbo",
            "positive_phase": p.positive_phase,
            "incomplete": p.incomplete,
            "negatives": p.negatives,
            "start": p.start,
            "prior_positive": "revised" if p.prior_codes == "refined" else "experts",
        }
    if e is not None:
        own |= {"energy_penalty": e.penalty, "energy_gate": e.gate}
    if isinstance(chain, Displaced):
        own |= {"displacement_max": chain.displacement_max}
    return CooperativeSettings(
        steps=p.steps,
        steer=isinstance(chain, Displaced),
        tilt_in_bound=getattr(model.prior, "in_bound", False),
        **own,
    )
