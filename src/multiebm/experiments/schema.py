"""What an experiment may say: one description per setting, with unit and range; unknown keys are refused.

A choice (a prior, a way of training, networks of a kind of modality) owns its settings; here they are put together, a
section of one of several kinds being a union over the table of that choice.
"""

from collections.abc import Iterable
from itertools import accumulate
from typing import Annotated, Any, Literal, NamedTuple, Union

from pydantic import BaseModel, ConfigDict, Field, GetCoreSchemaHandler, JsonValue, create_model
from pydantic_core import CoreSchema

from multiebm.core.table import Table
from multiebm.distributions.families import FAMILIES
from multiebm.distributions.fusion import FUSIONS
from multiebm.evaluation.result import EvaluationSettings
from multiebm.modalities import MODALITIES
from multiebm.models.aggregation import PriorExpert, Subsets
from multiebm.models.chains import DataChain, Displaced, LatentChain, starts_from_noise
from multiebm.models.inference import SCALES
from multiebm.models.interaction import Interaction
from multiebm.objectives.vae import BoundSettings
from multiebm.priors import PRIORS
from multiebm.priors.prior import PriorSettings
from multiebm.priors.standard import Normal
from multiebm.training.phases import PHASES
from multiebm.training.phases.phase import Chosen, Phase
from multiebm.training.steps import OptimiserSettings, counted

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Weight = PositiveFloat | Literal["balance"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _As(NamedTuple):
    """Validates a field as `type`, which tables make, so that type checkers do not know it."""

    type: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self.type)


def _one_of(classes: Iterable[Any]) -> Any:
    return Annotated[Union[tuple(classes)], Field(discriminator="kind")]  # noqa: UP007


def _entries(table: Table[Any]) -> list[Any]:
    return [table[name] for name in table]


class DataSection(_Section):
    """Which data set, by name, and the settings its loader takes."""

    name: str = Field("polydigits", description="name of a data set: polydigits, polymnist, mnist_svhn, cub, coco, ...")
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="settings of that data set's loader")
    missing: Fraction = Field(0.0, description="chance of each training part to be hidden; an item keeps one")


class InferenceSection(_Section):
    """q(z | X): which subsets of experts are its components, and how a subset's experts become one density."""

    subsets: Subsets = Field(
        "single",
        description="components: one expert each, all together, every subset, all together and one each; some: every "
        "subset, from six parts on full_single; joint: all together, complete items read by one encoder (JMVAE)",
    )
    fusion: Annotated[str, FUSIONS] = Field("product", description="how the experts of one subset become one density")
    prior_expert: PriorExpert = Field(
        "none",
        description="subsets in which N(0, I) counts as an expert; complete: that of all parts there are; full: that "
        "of all parts an item has, but complete in use where pooled",
    )
    learned_weights: bool = Field(False, description="weights of the components are learned (CoDE-VAE)")
    pooled: bool = Field(False, description="in use, fuse all given parts into one density")
    separate_trunks: bool = Field(False, description="private latents get an encoder trunk of their own (MMVAE+)")


class LikelihoodSection(_Section):
    """p(x_m | z, w_m): family and constant scale in state units (pictures in [-1, 1])."""

    family: Annotated[str, FAMILIES] = Field("normal", description="family around the decoder mean")
    scale: PositiveFloat | Literal["learned"] = Field(
        0.3, description="constant scale, state units, or learned, by kinds that can, others then have 0.3"
    )
    weights: dict[str, Weight] = Field(
        default_factory=dict,
        description="lambda_m by modality, 1 if not named; balance: the phase bound sets it when it begins, so that "
        "gradients by the shared latent are as long as those of the parts that have a number",
    )


class PartSection(_Section):
    """p(x_m | z, w_m) of one part, where it is not as in `likelihood`; which a kind knows `docs/data.md` says. And the
    names of networks of its own (`models.own`), as written where they are handed over.
    """

    likelihood: str | None = Field(None, description="its likelihood, one that its kind knows")
    scale: PositiveFloat | Literal["learned"] | None = Field(
        None, description="constant scale in state units, or learned: one for each column, or for a picture"
    )
    weight: Weight | None = Field(None, description="its lambda_m, or balance")
    encoder: str | None = Field(None, description="name of its own encoder, which is handed over in Python")
    decoder: str | None = Field(None, description="name of its own decoder, which is handed over in Python")


class EnergySection(_Section):
    """The energy over all modalities, and what keeps it within the reach of its chain."""

    width: PositiveInt = Field(32, description="channels, or units for vectors")
    fusion: Literal["early", "late", "additive"] = Field("late", description="where modalities meet")
    penalty: Annotated[float, Field(ge=0)] = Field(0.01, description="weight of mean E^2 over data and samples")
    gate: Annotated[float, Field(ge=0)] = Field(
        5.0, description="the energy rests while E(refined) - E(data) exceeds this; 0 = never rests"
    )


_FIELDS: dict[str, Any] = {kind: (MODALITIES[kind].networks, MODALITIES[kind].networks()) for kind in MODALITIES}
_NETWORKS = create_model(
    "NetworksSection", __base__=_Section, __doc__="Encoders and decoders, by the kind of modality.", **_FIELDS
)


class ModelSection(_Section):
    """The three models and their chains."""

    shared: Annotated[int, Field(ge=0)] = Field(
        32, description="size of the shared latent; 0 = none, parts then have their private latents alone"
    )
    private: Annotated[int, Field(ge=0)] = Field(16, description="size of each private latent; 0 = none")
    linear: bool = Field(
        False,
        description="a linear half beside the networks, at which training begins: factor analysis, exact with gaps",
    )
    family: Annotated[str, FAMILIES] = Field("normal", description="family of encoders and base priors")
    private_components: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Gaussians of the mixture p(w_m), fitted to the codes; 0 = location 0 and scale 1"
    )
    scale_map: Annotated[str, SCALES] = Field("exp", description="what an encoder's last layer says about a scale")
    temperature: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="T of p(z)^(1/T), from which samples and data chains start; 1 = the prior itself"
    )
    prior: Annotated[PriorSettings, _As(_one_of(_entries(PRIORS)))] = Normal()
    inference: InferenceSection = InferenceSection()
    networks: Annotated[BaseModel, _As(_NETWORKS)] = _NETWORKS()
    likelihood: LikelihoodSection = LikelihoodSection()
    parts: dict[str, PartSection] = Field(
        default_factory=dict, description="likelihoods and own networks of parts, by name"
    )
    energy: EnergySection | None = EnergySection()
    interaction: Interaction | None = Field(
        None, description="an energy of which parts belong together, taught by a phase belonging; null = none"
    )
    data_chain: Annotated[DataChain, Field(discriminator="kind")] = Displaced()
    latent_chain: LatentChain = LatentChain()

    def weight(self, name: str) -> Weight:
        """Return lambda_m of the part of this name, or "balance"."""
        own = self.parts.get(name, PartSection()).weight
        return self.likelihood.weights.get(name, 1.0) if own is None else own


class TrainingSection(_Section):
    """How it is trained: phases, one after the other, and what they share."""

    batch_size: PositiveInt = Field(64, description="items per step")
    phases: Annotated[list[Phase], _As(list[_one_of(_entries(PHASES))])] = Field(
        [PHASES["bound"](), PHASES["energy"](), PHASES["cooperative"]()],
        description="ways of training, in the order in which they follow each other",
    )
    optimiser: OptimiserSettings = OptimiserSettings()
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the networks, auto: the fastest here; chains are always fp32"
    )
    seconds: PositiveFloat | None = Field(
        None, description="time budget: seconds of steps and of the priors' settling; null = all steps"
    )
    checkpoint_every: PositiveInt = Field(200, description="steps between checkpoints")
    log_every: PositiveInt = Field(20, description="steps between lines of metrics.jsonl")
    validate_every: Annotated[int, Field(ge=0)] = Field(0, description="steps between quick evaluations; 0 = never")

    def lengths(self) -> list[tuple[str, int]]:
        """Return kind and steps of each phase whose steps the loop makes, in order; several may be of one kind."""
        return [(phase.kind, phase.steps) for phase in counted(self.phases)]

    def unreached(self, step: int) -> list[str]:
        """Return the kinds of phases of which no step is made after `step` of the loop's."""
        begins = accumulate([0, *(steps for _, steps in self.lengths())])
        found = [kind for (kind, _), begin in zip(self.lengths(), begins, strict=False) if begin >= step]
        return list(dict.fromkeys(found))

    def phase(self, kind: str) -> Any:
        """Return the first phase of this kind that has steps, or one of no steps where there is none."""
        return next((p for p in self.phases if p.kind == kind and p.steps), PHASES[kind](steps=0))


class Experiment(_Section):
    """One run, whole: data, model, training, evaluation, seed."""

    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSettings = EvaluationSettings()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="seed of everything: weights, data order, chains"
    )

    def changed(self, section: str, values: dict[str, Any]) -> "Experiment":
        """Return a copy with other values, not checked, in the section of this name."""
        return self.model_copy(update={section: getattr(self, section).model_copy(update=values)})


def contradictions(experiment: Experiment) -> list[str]:
    """Return a line for every pair of choices that cannot both be meant, with the way out."""
    m, phases = experiment.model, experiment.training.phases
    energy, noise = m.energy is not None, starts_from_noise(m.data_chain)
    chosen = Chosen(m.prior, m.family, m.private, m.inference.subsets, energy, phases, m.interaction is not None, noise)
    problems = m.prior.problems() + _linear_problems(m, phases) + apart_problems(m) + _balance_problems(m, phases)
    if m.inference.subsets == "joint" and experiment.data.missing:
        problems.append(
            f"model.inference.subsets: got joint with data.missing {experiment.data.missing:g}, expected complete "
            "items: a joint encoder reads all parts at once; set data.missing=0, or model.inference.subsets=full"
        )
    problems += [problem for phase in phases if phase.steps for problem in phase.problems(chosen)]
    return list(dict.fromkeys(problems))  # two phases of a kind may say the same


def apart_problems(m: ModelSection) -> list[str]:
    """Return what does not go with no shared latent, where parts are independent given nothing."""
    if m.shared:
        return []
    wanted: dict[str, tuple[Any, str, set[Any]]] = {
        "model.prior.kind": (m.prior.kind, "normal", {"normal", "laplace"}),
        "model.prior.learned_scale": (getattr(m.prior, "learned_scale", False), "false", {False}),
        "model.inference.subsets": (m.inference.subsets, "single", {"single"}),
        "model.inference.separate_trunks": (m.inference.separate_trunks, "false", {False}),
        "model.linear": (m.linear, "false", {False}),
    }
    problems = [
        f"{key}: got {str(got).lower()} with model.shared 0, expected {want}: there is no shared latent it could be "
        f"of; set {key}={want}, or model.shared above 0"
        for key, (got, want, fits) in wanted.items()
        if got not in fits
    ]
    if not m.private:
        problems.append(
            "model.private: got 0 with model.shared 0, expected latents of either kind; set model.private above 0, or "
            "model.shared above 0"
        )
    return problems


def _balance_problems(m: ModelSection, phases: list[Phase]) -> list[str]:
    """Return a line for each weight that is to be balanced where nothing could balance it."""
    keys = {f"model.likelihood.weights.{name}": weight for name, weight in m.likelihood.weights.items()}
    keys |= {f"model.parts.{name}.weight": part.weight for name, part in m.parts.items() if part.weight is not None}
    if not m.shared:
        why, out = "with model.shared 0", "there is no latent by which all have a gradient"
    elif not any(isinstance(phase, BoundSettings) and phase.steps for phase in phases):
        why, out = "without a phase bound", "that phase measures the gradients"
    else:
        return []
    return [
        f"{key}: got balance {why}, expected a number above 0: {out}; set {key}=1"
        for key, weight in keys.items()
        if weight == "balance"
    ]


def _linear_problems(m: ModelSection, phases: list[Phase]) -> list[str]:
    if not m.linear:
        return []
    penalties = [phase.penalty for phase in phases if isinstance(phase, BoundSettings) and phase.penalty != "none"]
    wanted = {
        "model.family": (m.family, "normal"),
        "model.inference.fusion": (m.inference.fusion, "product"),
        "model.inference.prior_expert": (m.inference.prior_expert, "all"),
        "model.prior.kind": (m.prior.kind, "normal"),
        "model.prior.learned_scale": (getattr(m.prior, "learned_scale", False), False),
        "training.phases.bound.penalty": (next(iter(penalties), "none"), "none"),
    }
    if m.inference.subsets == "joint":
        wanted["model.inference.subsets"] = (m.inference.subsets, "every")
    elif m.inference.subsets not in ("full", "full_single"):
        wanted["model.inference.pooled"] = (m.inference.pooled, True)
    return [
        f"{key}: got {got} beside model.linear, expected {want}: its posterior is a product of Gaussians with N(0, I); "
        f"set {key}={str(want).lower()}, or model.linear=false"
        for key, (got, want) in wanted.items()
        if got != want
    ]
