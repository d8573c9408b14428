"""The literal cooperative algorithm learns toy2d from scratch, three seeds, a third of the budget of results/toy2d."""

import statistics
import sys
from pathlib import Path

import pytest

STEPS = 600
SEEDS = (0, 1, 2)

pytestmark = pytest.mark.slow


sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import toy2d_table as SCRIPT  # noqa: E402, N812


def train(row: str) -> list[dict[str, float]]:
    """Measured numbers of the three seeds."""
    return [SCRIPT.run_cell(SCRIPT.configure(SCRIPT.ROWS[row], seed, STEPS)) for seed in SEEDS]


def mean(cells: list[dict[str, float]], name: str) -> float:
    return statistics.mean(cell[name] for cell in cells)


@pytest.fixture(scope="module")
def both_chains() -> list[dict[str, float]]:
    return train("lambda-1")


@pytest.fixture(scope="module")
def no_chains() -> list[dict[str, float]]:
    return train("no-chains")


def test_the_energys_chain_raises_joint_coherence_and_sharpness_of_its_own_starts(both_chains):
    assert mean(both_chains, "coherence_ebm") > mean(both_chains, "coherence_gen")
    assert mean(both_chains, "distance_ebm") < 0.95 * mean(both_chains, "distance_gen")


def test_data_have_lower_energy_than_refined_samples_and_these_than_the_generators(both_chains):
    for cell in both_chains:
        assert cell["energy_data"] < cell["energy_revised"] < cell["energy_generated"]


def test_both_experts_keep_about_half_of_the_codes(both_chains):
    for cell in both_chains:
        assert cell["responsibility_min"] >= 0.42
        assert cell["responsibility_max"] <= 0.58


def test_conditional_samples_have_the_class_of_what_was_observed(both_chains):
    assert mean(both_chains, "conditional") > 0.9


def test_without_the_latent_chain_classes_are_skewed_and_samples_are_farther_from_the_data(both_chains, no_chains):
    assert mean(no_chains, "largest_class") > mean(both_chains, "largest_class")
    assert mean(no_chains, "distance_gen") > 1.1 * mean(both_chains, "distance_gen")
