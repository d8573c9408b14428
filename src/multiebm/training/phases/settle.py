"""When the steps are over: averaged weights, and priors that learn on from codes that no longer move."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from multiebm.training.phases.phase import Phase


@dataclass(frozen=True)
class Settle(Phase):
    """The prior learns on from finished codes, when training is over."""

    kind: Literal["settle"] = "settle"
    is_last: ClassVar[bool] = True
    steps: Annotated[int, Field(ge=0, description="steps of an energy prior's tilt; 0 = it stays as it is")] = 500
    widen_base: Annotated[
        float,
        Field(ge=1, le=16, description="factor on a mixture base's covariances meanwhile; above 1 sharpens the prior"),
    ] = 1.0
    prune: Annotated[
        float,
        Field(
            ge=0, description="weight of the entropy, times beta of the bound, by which clusters are pruned; 0 = not"
        ),
    ] = 0.0
