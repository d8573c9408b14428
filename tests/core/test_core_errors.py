"""Errors on purpose: one base class, and configurations report every problem at once."""

from multiebm.core import errors


def test_every_error_is_a_multiebm_error_so_that_the_command_line_can_print_it():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    assert len(kinds) >= 7
    assert all(issubclass(kind, errors.MultiebmError) for kind in kinds)


def test_a_config_error_keeps_all_its_problems_one_per_line():
    error = errors.ConfigError(["a: got 1", "b: got 2"])
    assert error.problems == ["a: got 1", "b: got 2"]
    assert str(error) == "a: got 1\nb: got 2"
    assert errors.ConfigError("alone").problems == ["alone"]


def test_a_modality_error_is_a_data_error():
    assert issubclass(errors.ModalityError, errors.DataError)
