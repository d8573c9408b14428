"""The bound of a multimodal VAE alone; a latent energy prior learns beside it from detached codes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from multiebm.training.phases.phase import Phase, half_cosine


@dataclass(frozen=True)
class Bound(Phase):
    """Generator and inference model learn from a bound of a multimodal VAE."""

    kind: Literal["bound"] = "bound"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 1000
    beta: Annotated[float, Field(ge=0, description="weight of the divergence")] = 1.0
    anneal: Annotated[float, Field(ge=0, le=1, description="share of the steps over which rates fall")] = 0.5
    final: Annotated[float, Field(gt=0, description="factor on those rates at the end")] = 0.3
    prior_from: Annotated[int, Field(ge=0, description="step of the phase from which an energy prior learns")] = 200
    estimator: Annotated[
        Literal["elbo", "iwae", "iwae_inside", "dreg", "dreg_as_coded"],
        Field(
            description="how importance samples are joined; iwae_inside also joins components; dreg_as_coded: as in "
            "public code, whose stop and hook never act (the gradient of iwae)"
        ),
    ] = "elbo"
    samples: Annotated[int, Field(ge=1, description="K, importance samples of a component")] = 1
    components: Annotated[
        Literal["one", "all", "sum"],
        Field(description="decode one component an item, stratified over the batch, or all; sum: all, added up (MVAE)"),
    ] = "one"
    divergence: Annotated[
        Literal["mixture", "component", "analytic"],
        Field(
            description="log p(z) - log q*(z) at the sample, q* the whole mixture or the sample's component; analytic: "
            "-KL of the component in closed form"
        ),
    ] = "mixture"
    unseen: Annotated[
        Literal["auxiliary", "inferred", "skipped"],
        Field(
            description="a part that the component has not seen is decoded with a private latent from r_n, with its "
            "own inferred one (factorised), or not at all"
        ),
    ] = "auxiliary"
    penalty: Annotated[
        Literal["none", "jensen_shannon", "total_correlation", "joint", "entropy"],
        Field(description="what is subtracted beside the divergence"),
    ] = "none"
    alpha: Annotated[float, Field(ge=0, description="weight of the penalty")] = 0.0

    def factor(self, done: int) -> float:
        """1, then over the last share `anneal` half a cosine down to `final`."""
        return half_cosine(1.0, self.final, 1 + (done - self.steps) / max(self.steps * self.anneal, 1.0))

    def marks(self) -> tuple[int, ...]:
        """The step at which the prior begins to learn."""
        return (self.prior_from,)
