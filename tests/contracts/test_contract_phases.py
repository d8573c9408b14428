"""Every phase of training passes the contract that outside phases prove themselves by."""

import pytest

from multiebm.testing import PhaseContract
from multiebm.training.phases import PHASES


@pytest.mark.parametrize("kind", list(PHASES))
class TestPhases(PhaseContract):
    """The phases of the package."""

    @pytest.fixture(autouse=True)
    def _phase(self, kind):
        self.phase = PHASES[kind](steps=3)


class TestIndependentInference(PhaseContract):
    """Cooperative steps whose latent chains see their own part alone."""

    phase = PHASES["cooperative"](steps=3, positive_phase="own_part")
