"""Every kind of prior passes the contract that outside kinds prove themselves by."""

import pytest

from multiebm.priors import PRIORS
from multiebm.priors.clusters import Clusters
from multiebm.priors.energy import Energy
from multiebm.priors.mixture import Mixture
from multiebm.priors.standard import Laplace, Normal
from multiebm.testing import PriorContract

SMALL = [
    Normal(),
    Normal(learned_scale=True),
    Laplace(),
    Clusters(components=3),
    Mixture(components=2),
    Energy(width=8, layers=1, steps=5),
    Energy(width=8, layers=1, steps=5, components=2),
]


@pytest.mark.parametrize("settings", SMALL, ids=repr)
class TestPriors(PriorContract):
    """The kinds of the package."""

    @pytest.fixture(autouse=True)
    def _settings(self, settings):
        self.settings = settings


def test_all_kinds_are_here():
    assert {settings.kind for settings in SMALL} == set(PRIORS)
