"""Puts this folder on the path, so that tests of every floor can share `small_models`."""
