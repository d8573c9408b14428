"""Names that the model's own parts have are refused when it is built, with the fix."""

import pytest

from multiebm.core.errors import ConfigError
from multiebm.core.modality import Modality
from multiebm.experiments.build import build_model
from multiebm.experiments.schema import ModelSection


@pytest.mark.parametrize("name", ["shared", "a.b", "type", "values"])
def test_a_modality_cannot_take_a_name_of_the_model(name):
    with pytest.raises(ConfigError, match=f"modality '{name}': got a name that is taken.*rename that part"):
        build_model(ModelSection(), {name: Modality(name, "vector", (2,))}, seed=0)
