"""Cooperative learning of energy, generator and inference model (arXiv 2605.00644)."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from multiebm.training.phases.phase import Phase, half_cosine

NonNegative = Annotated[float, Field(ge=0)]


@dataclass(frozen=True)
class Cooperative(Phase):
    """The three losses of the cooperative step. The paper's: anchor 0, reconstruction 1, refresh, codes from prior."""

    kind: Literal["cooperative"] = "cooperative"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 300
    rate: Annotated[float, Field(gt=0, description="factor on the rates of generator and inference model")] = 0.3
    final: Annotated[float, Field(gt=0, description="that factor at the end, along half a cosine")] = 1.0
    beta1: Annotated[float, Field(ge=0, lt=1, description="first moment decay of all but the prior")] = 0.5
    anchor: Annotated[NonNegative, Field(description="weight of the stratified ELBO beside the losses")] = 1.0
    reconstruction: Annotated[NonNegative, Field(description="weight of -log p(X | z~, W~), eq. (11)")] = 0.2
    synthetic: Annotated[
        Literal["balance"] | NonNegative,
        Field(description="lambda_s, weight of -log p(X~ | z), eq. (11); balance: by the ratio of residuals"),
    ] = 1.0
    inference: Annotated[
        NonNegative, Field(description="weight of -log q(z~ | X), eq. (12); 0: inference learns from the anchor")
    ] = 1.0
    inference_synthetic: Annotated[NonNegative, Field(description="lambda_I, weight of -log q(z | X~), eq. (12)")] = 0.1
    positive_phase: Annotated[
        Literal["random_expert", "all_experts"],
        Field(description="latent chains start from a code of one expert an item, or of each that it has"),
    ] = "random_expert"
    incomplete: Annotated[
        Literal["fill", "skip"],
        Field(description="items with gaps in the energy's positive phase: absent parts are drawn, or left out"),
    ] = "fill"
    negatives: Annotated[
        Literal["refresh", "reuse"],
        Field(description="the energy learns from a data chain after the generator's update, or from the one before"),
    ] = "reuse"
    start: Annotated[
        Literal["prior", "aggregate"],
        Field(description="data chains start from draws of the prior, or (a ceiling) from codes"),
    ] = "prior"
    prior_codes: Annotated[
        Literal["refined", "drawn"],
        Field(
            description="codes that an energy prior learns from: after the latent chain, or as the experts draw them"
        ),
    ] = "refined"

    def factor(self, done: int) -> float:
        """Half a cosine from `rate` to `final`."""
        return half_cosine(self.rate, self.final, done / max(self.steps, 1))

    @property
    def momentum(self) -> float:
        """beta1 of the cooperative steps."""
        return self.beta1
