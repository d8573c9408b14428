"""What a preset file may say: one description per field, with unit and range; unknown keys are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from multiebm.objectives.settings import BoundSettings
from multiebm.training.settings import CooperativeSettings, OptimiserSettings, WarmupSettings

Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataSection(_Section):
    """Which data set, by name, and the settings its loader takes."""

    name: str = Field("polydigits", description="name of a data set: polydigits, polymnist, arrays, toy2d")
    settings: dict[str, JsonValue] = Field(default_factory=dict, description="settings of that data set's loader")
    missing: Fraction = Field(0.0, description="chance of each training part to be hidden; an item keeps one")


class PriorSection(_Section):
    """The prior over the shared latent; `energy` tilts a base by a network (Pang et al. 2020, arXiv 2006.08205)."""

    kind: Literal["normal", "laplace", "clusters", "mixture", "energy"] = Field(
        "normal", description="prior over the shared latent; clusters are learned with the bound (CMVAE)"
    )
    learned_scale: bool = Field(False, description="normal and laplace: scales are parameters (MMVAE)")
    components: Annotated[int, Field(ge=0, le=1000)] = Field(
        0,
        description="clusters, or Gaussians of a mixture or base fitted to the codes; 0 = standard base",
    )
    width: PositiveInt = Field(200, description="units of a hidden layer of the tilt")
    layers: PositiveInt = Field(3, description="hidden layers of the tilt")
    activation: Literal["gelu", "leaky_relu"] = Field("gelu", description="between the layers of the tilt")
    steps: Annotated[int, Field(ge=0, le=1000)] = Field(40, description="Langevin steps from the base")
    step_size: Annotated[float, Field(gt=0, le=2)] = Field(0.2, description="Langevin step size, latent units")
    bound: Annotated[float, Field(ge=0)] = Field(0.0, description="c of c tanh(f / c); 0 = unbounded")
    penalty: Annotated[float, Field(ge=0)] = Field(1e-3, description="weight of mean f^2, both phases")
    temperature: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="T of p(z)^(1/T), from which samples and data chains start; 1 = the prior itself"
    )
    settle: Annotated[int, Field(ge=0)] = Field(
        0, description="steps in which a tilt learns on when training is over, codes and mixture base at rest"
    )
    spread: Annotated[float, Field(ge=1, le=16)] = Field(
        1.0,
        description="factor on a mixture base's covariances while the tilt settles; above 1 sharpens the prior",
    )
    prune: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description="weight of the entropy, times warmup.beta, in the score by which clusters are pruned when training "
        "is over; 0 = all are kept",
    )


class InferenceSection(_Section):
    """q(z | X): which subsets of experts are its components, and how a subset's experts become one density."""

    subsets: Literal["single", "full", "every", "full_single"] = Field(
        "single", description="components: one expert each, all together, every subset, all together and one each"
    )
    fusion: Literal["product", "geometric", "wasserstein", "hellinger", "dependent"] = Field(
        "product", description="how the experts of one subset become one density"
    )
    prior_expert: Literal["none", "complete", "full", "all"] = Field(
        "none",
        description="subsets in which N(0, I) counts as an expert; complete: that of all parts there are; full: that "
        "of all parts an item has, but complete in use where pooled",
    )
    learned_weights: bool = Field(False, description="weights of the components are learned (CoDE-VAE)")
    correlation: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="rho of fusion dependent")
    pooled: bool = Field(False, description="in use, fuse all given parts into one density")
    joint: bool = Field(False, description="complete items are read by one encoder of all parts (JMVAE)")


class NetworkSection(_Section):
    """Encoders and decoders: ResNets or plain convolutions for pictures, MLPs for vectors."""

    kind: Literal["resnet", "conv"] = Field("resnet", description="networks of pictures: MMVAE+'s, or MoPoE's")
    linear: Annotated[int, Field(ge=0)] = Field(512, description="units of the encoders' linear layer of conv; 0: none")
    width: PositiveInt = Field(16, description="channels of the first stage of picture networks")
    hidden: PositiveInt = Field(128, description="units of a hidden layer of vector networks")
    patch: Literal[1, 2, 4] = Field(1, description="pixels folded into channels, per side")
    residual: PositiveFloat = Field(0.7, description="factor on the residual branch; MMVAE+ has 0.1")
    activated: bool = Field(
        True,
        description="ResNets have an activation before the heads and after the decoder's linear layer; MMVAE+ none",
    )
    separate_trunks: bool = Field(False, description="private latents get an encoder trunk of their own (MMVAE+)")
    bounded: bool = Field(True, description="picture decoders end in tanh")


class LikelihoodSection(_Section):
    """p(x_m | z, w_m): family and constant scale in state units (pictures in [-1, 1])."""

    family: Literal["normal", "laplace"] = Field("normal", description="family around the decoder mean")
    scale: PositiveFloat = Field(0.3, description="constant scale, state units")
    weights: dict[str, PositiveFloat] = Field(default_factory=dict, description="lambda_m by modality; 1 if not named")


class EnergySection(_Section):
    """The energy over all modalities."""

    width: PositiveInt = Field(32, description="channels, or units for vectors")
    fusion: Literal["early", "late", "additive"] = Field("late", description="where modalities meet")
    stem: PositiveInt = Field(8, description="channels of each stem (early fusion of pictures)")
    patch: Literal[1, 2, 4] = Field(1, description="pixels folded into channels, per side")
    blocks: Annotated[int, Field(ge=0)] = Field(2, description="blocks after the two that halve the map")
    gain: PositiveFloat = Field(1.0, description="fixed factor on the output")


class DataChainSection(_Section):
    """The chain in data space, eq. (3) of arXiv 2605.00644 unless `displaced`."""

    steps: Annotated[int, Field(ge=0, le=10_000)] = Field(10, description="K_x")
    displaced: bool = Field(True, description="move by a fixed rms length instead of s^2/2 times the gradient")
    step_size: Annotated[float, Field(gt=0, le=10)] = Field(0.5, description="s_x, used if not displaced")
    noise_scale: Annotated[float, Field(ge=0)] = Field(0.001, description="n_x, state units")


class LatentChainSection(_Section):
    """The chain in latent space, eq. (8) of arXiv 2605.00644."""

    steps: Annotated[int, Field(ge=0, le=10_000)] = Field(5, description="K_z")
    step_size: Annotated[float, Field(gt=0, le=1)] = Field(0.05, description="s_z, latent units")
    noise_scale: Annotated[float, Field(ge=0)] | None = Field(None, description="n_z; null = step size")


class ModelSection(_Section):
    """The three models and their chains."""

    shared: PositiveInt = Field(32, description="size of the shared latent")
    private: Annotated[int, Field(ge=0)] = Field(16, description="size of each private latent; 0 = none")
    family: Literal["normal", "laplace"] = Field("normal", description="family of encoders and base priors")
    private_components: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="Gaussians of the mixture p(w_m), fitted to the codes; 0 = location 0 and scale 1"
    )
    crossing_prior: Fraction = Field(
        1.0, description="share of cross-reconstructions with w_m from its prior, the others from a learned scale"
    )
    prior: PriorSection = PriorSection()
    inference: InferenceSection = InferenceSection()
    scale_map: Literal["exp", "log_variance", "softplus", "softmax"] = Field(
        "exp", description="what an encoder's last layer says about a scale"
    )
    networks: NetworkSection = NetworkSection()
    likelihood: LikelihoodSection = LikelihoodSection()
    energy: EnergySection | None = EnergySection()
    data_chain: DataChainSection = DataChainSection()
    latent_chain: LatentChainSection = LatentChainSection()


class TrainingSection(_Section):
    """How it is trained: warm-up, then cooperative steps."""

    batch_size: PositiveInt = Field(64, description="items per step")
    warmup: WarmupSettings = WarmupSettings()
    bound: BoundSettings = BoundSettings()
    cooperative: CooperativeSettings = CooperativeSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    precision: Literal["fp32", "bf16"] = Field("bf16", description="arithmetic of the networks; chains are always fp32")
    seconds: PositiveFloat | None = Field(
        None, description="time budget: seconds of steps and of the priors' settling; null = all steps"
    )
    checkpoint_every: PositiveInt = Field(200, description="steps between checkpoints")
    log_every: PositiveInt = Field(20, description="steps between lines of metrics.jsonl")
    validate_every: Annotated[int, Field(ge=0)] = Field(0, description="steps between quick evaluations; 0 = never")
    gap_limit: PositiveFloat = Field(50.0, description="|E(data) - E(refined)| at which the guard rolls back")
    retries: Annotated[int, Field(ge=0)] = Field(3, description="roll-backs in a row before DivergenceError")
    tensorboard: bool = Field(False, description="also write TensorBoard events")


class EvaluationSection(_Section):
    """How the trained model is measured."""

    samples: Annotated[int, Field(ge=2)] = Field(2000, description="joint samples")
    items: Annotated[int, Field(ge=0)] = Field(2000, description="test items per observed subset; 0 = none")
    refined_items: Annotated[int, Field(ge=0)] = Field(500, description="test items per subset where a chain runs")
    sizes: list[PositiveInt] = Field(default_factory=lambda: [1], description="sizes of observed subsets")
    refine_steps: Annotated[int, Field(ge=0)] = Field(
        0, description="latent chain steps of refined conditionals; 0 = none"
    )
    clamped_sizes: list[PositiveInt] = Field(
        default_factory=lambda: [1], description="sizes of subsets held fixed while the data chain completes them"
    )
    codes: Annotated[int, Field(ge=0)] = Field(4000, description="training codes of the latent classifier; 0 = none")
    temperature: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="T of p(z)^(1/T) that joint samples are drawn from; none = model.prior.temperature"
    )


class Experiment(_Section):
    """One run, whole: data, model, training, evaluation, seed."""

    data: DataSection = DataSection()
    model: ModelSection = ModelSection()
    training: TrainingSection = TrainingSection()
    evaluation: EvaluationSection = EvaluationSection()
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(
        0, description="seed of everything: weights, data order, chains"
    )


def contradictions(experiment: Experiment) -> list[str]:
    """Return a line for every pair of settings that cannot both be meant, with the way out."""
    model, cooperative = experiment.model, experiment.training.cooperative
    problems = []
    needs_energy = [
        name for name in ("synthetic", "inference_synthetic", "energy_first") if getattr(cooperative, name) != 0
    ]
    if model.energy is None and cooperative.steps and needs_energy:
        names = ", ".join(f"training.cooperative.{name}" for name in needs_energy)
        problems.append(
            f"model.energy: got null with training.cooperative.steps {cooperative.steps} and {names} above 0, expected "
            "an energy; set training.cooperative.steps=0 (warm-up only), or these to 0 (the latent chain alone)"
        )
    if not (cooperative.anchor_generator or cooperative.reconstruction or cooperative.synthetic) and cooperative.steps:
        problems.append(
            "training.cooperative.anchor_generator: got false with reconstruction and synthetic 0, expected something "
            "that teaches the generator; set training.cooperative.reconstruction=1, or anchor_generator=true"
        )
    if cooperative.encoder_loss == "elbo" and not cooperative.anchor and cooperative.steps:
        problems.append(
            "training.cooperative.encoder_loss: got elbo with anchor 0, expected a bound from which the inference "
            "model learns; set training.cooperative.anchor=1, or encoder_loss=nll"
        )
    if model.prior.kind == "mixture" and not model.prior.components:
        problems.append(
            "model.prior.components: got 0 with model.prior.kind mixture, expected at least 1; set "
            "model.prior.components=60"
        )
    if model.prior.kind == "clusters" and not model.prior.components:
        problems.append(
            "model.prior.components: got 0 with model.prior.kind clusters, expected at least 1; set "
            "model.prior.components=40"
        )
    problems += _contradictions_of_bound(experiment) + _contradictions_of_tilt(experiment)
    settles = model.prior.kind == "energy" and model.prior.components and model.prior.settle
    if model.prior.spread > 1 and not settles:
        problems.append(
            f"model.prior.spread: got {model.prior.spread:g} where no tilt settles on a mixture, expected 1; set "
            "model.prior.spread=1, or model.prior.kind=energy with components and settle above 0"
        )
    if cooperative.steer and not model.data_chain.displaced:
        problems.append(
            "training.cooperative.steer: got true with model.data_chain.displaced false, expected a displacement to "
            "steer; set training.cooperative.steer=false or model.data_chain.displaced=true"
        )
    if cooperative.displacement_min > cooperative.displacement_max:
        problems.append(
            f"training.cooperative.displacement_min: got {cooperative.displacement_min:g}, expected at most "
            f"displacement_max {cooperative.displacement_max:g}; lower the one or raise the other"
        )
    return problems


def _contradictions_of_bound(experiment: Experiment) -> list[str]:
    model, bound = experiment.model, experiment.training.bound
    inference, steps = model.inference, experiment.training.cooperative.steps
    problems = []
    if bound.components == "one" and (bound.kind != "elbo" or bound.samples > 1):
        problems.append(
            f"training.bound.components: got one with kind {bound.kind} and {bound.samples} sample(s), expected all, "
            "or the ELBO of one sample; set training.bound.components=all"
        )
    if bound.divergence == "analytic" and (bound.kind != "elbo" or model.prior.kind != model.family):
        problems.append(
            f"training.bound.divergence: got analytic with kind {bound.kind} and a prior of kind {model.prior.kind}, "
            "expected the ELBO with a prior of the experts' family; set training.bound.divergence=sampled"
        )
    if bound.divergence == "analytic" and bound.denominator == "mixture":
        problems.append(
            "training.bound.divergence: got analytic with denominator mixture, expected component: the divergence of a "
            "mixture has no closed form; set training.bound.denominator=component, or divergence=sampled"
        )
    if bound.kind == "iwae_inside" and bound.penalty != "none":
        problems.append(
            f"training.bound.penalty: got {bound.penalty} with kind iwae_inside, expected none: a penalty is of each "
            "component's bound, and here components are joined in one estimate; set training.bound.penalty=none"
        )
    if bound.penalty == "jensen_shannon" and (model.prior.kind == "clusters" or model.prior.learned_scale):
        problems.append(
            "training.bound.penalty: got jensen_shannon with a prior that the bound has to teach, expected a fixed "
            "one: its dynamic prior has N(0, I) in it; set model.prior.kind=normal and model.prior.learned_scale=false"
        )
    if bound.kind == "iwae_inside" and bound.weights == "sum":
        problems.append(
            "training.bound.weights: got sum with kind iwae_inside, expected mean: components are joined in one "
            "estimate; set training.bound.weights=mean"
        )
    problems += _contradictions_of_penalty(model, bound)
    if inference.joint and (inference.subsets != "full" or experiment.data.missing):
        problems.append(
            f"model.inference.joint: got true with subsets {inference.subsets} and data.missing "
            f"{experiment.data.missing:g}, expected subsets full and complete items: a joint encoder reads all parts "
            "at once; set model.inference.subsets=full and data.missing=0"
        )
    if steps and (inference.subsets != "single" or inference.joint or bound != BoundSettings()):
        problems.append(
            f"training.cooperative.steps: got {steps} with inference or a bound of another method, expected 0 or "
            "single experts and the default bound; set training.cooperative.steps=0"
        )
    return problems


def _contradictions_of_tilt(experiment: Experiment) -> list[str]:
    """A tilt inside a bound: neither where nothing sees it, nor where its normaliser would have a gradient."""
    training, prior, penalty = experiment.training, experiment.model.prior, experiment.training.bound.penalty
    inside = training.warmup.tilt_after >= 0 or (training.cooperative.steps and training.cooperative.tilt_in_bound)
    if prior.kind != "energy" or not inside or not (prior.learned_scale or penalty == "jensen_shannon"):
        return []
    return [
        f"training.warmup.tilt_after, training.cooperative.tilt_in_bound: got a tilt inside a bound with penalty "
        f"{penalty} and model.prior.learned_scale {prior.learned_scale}, expected it outside: a dynamic prior has "
        "N(0, I) in it, and scales of the base would need log Z; set training.warmup.tilt_after=-1 and "
        "training.cooperative.tilt_in_bound=false"
    ]


def _contradictions_of_penalty(model: ModelSection, bound: BoundSettings) -> list[str]:
    """Penalties are over one posterior and its experts: which posterior, and of which family."""
    needs = {
        "jensen_shannon": ("single", "normal"),
        "total_correlation": ("full", model.family),
        "joint": ("full", model.family),
    }
    subsets, family = needs.get(bound.penalty, (model.inference.subsets, model.family))
    problems = []
    if (model.inference.subsets, model.family) != (subsets, family):
        problems.append(
            f"training.bound.penalty: got {bound.penalty} with subsets {model.inference.subsets} of family "
            f"{model.family}, expected subsets {subsets} of family {family}; set model.inference.subsets={subsets} and "
            f"model.family={family}"
        )
    if bound.penalty in ("jensen_shannon", "total_correlation") and model.private:
        problems.append(
            f"training.bound.penalty: got {bound.penalty} with private latents of size {model.private}, expected none: "
            "it weighs the divergence of all latents; set model.private=0"
        )
    return problems
