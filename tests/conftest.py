"""Puts this folder on the path, so that tests of every floor can share `small_models`; and the longest files first.

Files are handed out in order, one to each process: a long one that came last would leave the other processes idle.
"""

import pytest

LONGEST = (
    "test_reproducible.py",
    "test_run_processes.py",
    "test_kill.py",
    "test_third_kind.py",
    "test_report_small.py",
    "test_cli.py",
    "test_resume.py",
    "test_settle.py",
    "test_fit_prior.py",
    "test_kinds_together.py",
    "test_tutorials.py",
    "test_report_page.py",
    "test_planning.py",
    "test_evaluate_model.py",
    "test_robust.py",
    "test_reference_step.py",
    "test_docs.py",
    "test_callbacks.py",
    "test_contract_baselines.py",
    "test_small_sets.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
