"""What a training run may set, with units and ranges; plain frozen dataclasses that presets are validated against."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class WarmupSettings:
    """The stratified MMVAE / MMVAE+ bound that gives both chains a sensible start."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    steps: Annotated[Count, Field(description="training steps of warm-up")] = 1000
    beta: Annotated[NonNegative, Field(description="weight of the divergence term")] = 1.0
    anneal: Annotated[float, Field(ge=0, le=1, description="share of the warm-up over which rates fall")] = 0.5
    final: Annotated[Positive, Field(description="factor on those rates at its end")] = 0.3
    prior_after: Annotated[Count, Field(description="step from which a latent energy prior learns")] = 200
    tilt_after: Annotated[int, Field(ge=-1, description="step from which the bound uses it; -1: never")] = -1


@dataclass(frozen=True)
class CooperativeSettings:
    """The cooperative step. The paper's literal one: anchor 0, reconstruction 1, revision all, no steering, refresh."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    steps: Annotated[Count, Field(description="cooperative steps after the warm-up")] = 300
    energy_first: Annotated[Count, Field(description="first steps in which only the energy learns")] = 50
    anchor: Annotated[NonNegative, Field(description="weight of the stratified ELBO term")] = 1.0
    beta: Annotated[NonNegative, Field(description="weight of the divergence term of the anchor")] = 1.0
    reconstruction: Annotated[NonNegative, Field(description="weight of -log p(X | z~, W~)")] = 0.2
    synthetic: Annotated[
        Literal["balance"] | NonNegative,
        Field(description="lambda_s, weight of -log p(X~ | z); balance: residual ratio"),
    ] = 1.0
    inference_synthetic: Annotated[NonNegative, Field(description="lambda_I, weight of -log q(z | X~)")] = 0.1
    expert_mix: Annotated[float, Field(ge=0, le=1, description="eta of the convex mix that keeps experts alive")] = 0.0
    revision: Annotated[
        Literal["all", "single"], Field(description="latent chain sees all parts, or only the one its expert saw")
    ] = "all"
    encoder_loss: Annotated[
        Literal["nll", "elbo"],
        Field(description="inference learns -log q(z~ | X), eq. (12), or from the anchor's bound alone"),
    ] = "nll"
    positive_phase: Annotated[
        Literal["random_expert", "all_experts"],
        Field(description="latent chains start from a code of one expert an item, or of each that it has"),
    ] = "random_expert"
    anchor_generator: Annotated[bool, Field(description="the anchor teaches the generator, not inference alone")] = True
    incomplete: Annotated[
        Literal["fill", "skip"],
        Field(description="items with gaps in the energy's positive phase: absent parts drawn, or left out"),
    ] = "fill"
    negatives: Annotated[
        Literal["refresh", "reuse"], Field(description="rerun the data chain after the generator's update, or reuse it")
    ] = "reuse"
    start: Annotated[
        Literal["prior", "aggregate"],
        Field(description="data chains start from the prior, or (ceiling) from posterior codes"),
    ] = "prior"
    energy_scale: Annotated[Positive, Field(description="c_T, factor of the contrastive energy loss")] = 1.0
    energy_penalty: Annotated[NonNegative, Field(description="weight of mean E^2 over both phases")] = 0.01
    energy_gate: Annotated[
        NonNegative, Field(description="the energy rests while E(refined) - E(data) exceeds this; 0 = never rests")
    ] = 5.0
    steer: Annotated[bool, Field(description="steer the displacement by the sign of the energy gap")] = True
    steer_rate: Annotated[Positive, Field(description="log change of the displacement per step")] = 0.02
    displacement_min: Annotated[Positive, Field(description="rms per coordinate and chain step, state units")] = 0.001
    displacement_max: Annotated[Positive, Field(description="rms per coordinate and chain step, state units")] = 0.004
    tilt_in_bound: Annotated[bool, Field(description="the anchor's bound uses the tilt of an energy prior")] = False
    prior_positive: Annotated[Literal["revised", "experts"], Field(description="codes an energy prior learns from")] = (
        "revised"
    )


@dataclass(frozen=True)
class OptimiserSettings:
    """Adam for each of the four parts, and the average of weights used for evaluation."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    generator: Annotated[Positive, Field(description="learning rate")] = 1e-3
    inference: Annotated[Positive, Field(description="learning rate")] = 1e-3
    energy: Annotated[Positive, Field(description="learning rate")] = 1e-4
    prior: Annotated[Positive, Field(description="learning rate")] = 1e-4
    cooperative: Annotated[Positive, Field(description="factor on generator and inference rates after the warm-up")] = (
        0.3
    )
    final: Annotated[Positive, Field(description="factor on those rates at the end of the cooperative steps")] = 1.0
    decay: Annotated[float, Field(gt=0, le=1, description="factor on all rates but the prior's, each epoch")] = 1.0
    beta1: Annotated[float, Field(ge=0, lt=1, description="first moment decay in the warm-up")] = 0.9
    beta1_cooperative: Annotated[float, Field(ge=0, lt=1, description="first moment decay afterwards")] = 0.5
    beta2: Annotated[float, Field(gt=0, lt=1, description="second moment decay")] = 0.99
    weight_decay: Annotated[NonNegative, Field(description="L2 inside Adam, generator and inference")] = 0.0
    amsgrad: Annotated[bool, Field(description="Adam of generator and inference never raises its step again")] = False
    average: Annotated[float, Field(ge=0, lt=1, description="decay of the averaged weights; 0 = off")] = 0.99
