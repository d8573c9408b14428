"""Data sets by name: unknown names, unknown settings and wrong types are refused before anything is read."""

import pytest

from multiebm.core.errors import ConfigError
from multiebm.data import DATASETS, load_dataset, settings_problems


def test_the_table_lists_the_data_sets():
    published = ["polymnist", "mnist_svhn", "cub", "coco", "tuxpaint"]
    assert list(DATASETS) == ["polydigits", *published, "arrays", "toy2d", "shapes"]


def test_an_unknown_data_set_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="got 'polydigit'; known: polydigits, .* Did you mean 'polydigits'"):
        load_dataset("polydigit")


def test_unknown_and_mistyped_settings_are_reported_together():
    with pytest.raises(ConfigError) as caught:
        load_dataset("polydigits", {"sise": 16, "seed": "seven", "modalities": "m0"})
    unknown, seed, names = caught.value.problems
    assert "got unknown setting 'sise', expected some of size, seed," in unknown
    assert "Did you mean 'size'?" in unknown
    assert seed.startswith("polydigits.seed: got 'seven', expected another type (Input should be a valid integer")
    assert names.startswith("polydigits.modalities: got 'm0', expected another type")


def test_a_setting_without_default_must_be_given():
    (problem,) = settings_problems("sized", lambda size: None, {})
    assert problem.startswith("data set 'sized': got no setting 'size', expected one; set data.settings.size, or pass")
