"""What the bound of a multimodal VAE may set; a plain frozen dataclass that presets are validated against."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class BoundSettings:
    """What is bounded and how; by default the stratified ELBO of MMVAE+: one expert an item, mixture denominator."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

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
