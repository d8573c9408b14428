"""The energy alone learns, to tell data from what the generator and a chain make; so does a prior, from codes."""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from multiebm.training.phases.phase import Phase


@dataclass(frozen=True)
class Energy(Phase):
    """The energy learns alone, before generator and inference model follow it."""

    kind: Literal["energy"] = "energy"
    steps: Annotated[int, Field(ge=0, description="training steps; 0 = the phase is left out")] = 50
