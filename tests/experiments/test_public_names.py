"""What `import multiebm` promises."""

import importlib.metadata

import pytest

import multiebm
from multiebm.core.errors import MultiebmError


def test_every_public_name_is_there_and_documented():
    for name in [*multiebm.__all__, "write_report"]:
        assert getattr(multiebm, name).__doc__, name
    assert set(multiebm.__all__) < set(dir(multiebm))


def test_all_errors_can_be_caught_as_one():
    errors = [getattr(multiebm, name) for name in multiebm.__all__ if name.endswith("Error")]
    assert len(errors) == 7
    assert all(issubclass(error, MultiebmError) for error in errors)


def test_the_version_is_that_of_the_installed_package():
    assert multiebm.__version__ == importlib.metadata.version("multiebm")


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(AttributeError, match="has no attribute 'tran'; it has .*train"):
        multiebm.tran  # noqa: B018
