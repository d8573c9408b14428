"""What the bound of a multimodal VAE may set; a plain frozen dataclass that presets are validated against."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field


@dataclass(frozen=True)
class BoundSettings:
    """What is bounded and how; by default the stratified ELBO of MMVAE+: one expert an item, mixture denominator."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    kind: Annotated[
        Literal["elbo", "iwae", "iwae_inside", "dreg"],
        Field(description="how importance samples are joined; iwae_inside also joins components"),
    ] = "elbo"
    samples: Annotated[int, Field(ge=1, description="K, importance samples of a component")] = 1
    components: Annotated[
        Literal["one", "all"], Field(description="decode one component an item, stratified over the batch, or all")
    ] = "one"
    weights: Annotated[Literal["mean", "sum"], Field(description="components averaged, or added up (MVAE)")] = "mean"
    denominator: Annotated[
        Literal["mixture", "component"], Field(description="q* under the sample: the whole mixture or its component")
    ] = "mixture"
    divergence: Annotated[
        Literal["sampled", "analytic"], Field(description="log p(z) - log q*(z) at the sample, or -KL in closed form")
    ] = "sampled"
    reconstruct: Annotated[
        Literal["all", "own"], Field(description="a component reconstructs all parts, or those it has seen")
    ] = "all"
    crossing: Annotated[
        Literal["auxiliary", "own"],
        Field(description="private latent of a part the component has not seen: from r_n, or inferred (factorised)"),
    ] = "auxiliary"
    penalty: Annotated[
        Literal["none", "jensen_shannon", "total_correlation", "joint", "entropy"],
        Field(description="what is subtracted beside the divergence"),
    ] = "none"
    alpha: Annotated[float, Field(ge=0, description="its weight")] = 0.0
    stop_gradient: Annotated[
        bool,
        Field(description="DReG as published; false: as public code, whose stop and hook never act (iwae's gradient)"),
    ] = True
