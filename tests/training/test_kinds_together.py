"""A picture, counts, categories and numbers of one thing: each is completed from the others, saved, measured, shown."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import multiebm
from multiebm.evaluation.judges import JudgeSettings
from multiebm.evaluation.stored_judges import load_sets

N, GIVEN = 600, 100
STEPS = 30  # of the latent chain, which puts together what all parts say
COLOURS = np.array(["blue", "green", "red"])
PROFILES = np.array([[20, 2, 1, 5], [2, 20, 1, 5], [1, 2, 20, 5]])
SETTINGS = [
    "data.settings={}",
    "model.shared=6",
    "model.private=0",
    "model.private_components=0",
    "model.temperature=1",
    "model.prior={kind: normal}",
    "model.networks={picture: {kind: conv, width: 4}, vector: {width: 32}, counts: {width: 32}, category: {width: 32}}",
    "model.likelihood.scale=0.3",
    "model.parts={spot: {likelihood: bernoulli}, table: {likelihood: student_t, scale: learned}}",
    "model.energy={width: 8}",
    "model.latent_chain.step_size=0.1",
    "model.data_chain={kind: displaced, steps: 3}",
    "training.phases=[{kind: bound, steps: 400}, {kind: cooperative, steps: 10}]",
    "training.optimiser.generator=0.01",
    "training.optimiser.inference=0.01",
    "training.precision=fp32",
    "evaluation.sizes=[1]",
]


def things(n, seed):
    """Of a class and a size: a spot in a picture, counts by class and depth, two columns of categories, two numbers."""
    draws = np.random.default_rng(seed)
    kind, size = draws.integers(0, 3, n), draws.choice([-1, 1], n) + draws.normal(0, 0.1, n)
    y, x = np.mgrid[0:6, 0:6]
    spot = np.exp(-((x - 1 - 1.5 * kind[:, None, None]) ** 2 + (y - 2.5 - 1.5 * size[:, None, None]) ** 2) / 2)
    counts = draws.poisson(PROFILES[kind] * draws.uniform(0.5, 2, (n, 1)))
    table = np.stack([size, kind - 1.0], 1) + 0.1 * draws.standard_t(3, (n, 2))
    looks = pd.DataFrame({"colour": COLOURS[kind], "large": size > 0}, dtype=object)
    return {
        "spot": spot[..., None].astype(np.float32),
        "counts": scipy.sparse.csr_matrix(counts),
        "looks": looks,
        "table": table,
    }


DECLARED = {
    "spot": "picture",
    "counts": {"kind": "counts", "library": True},
    "looks": {"kind": "category", "missing": "nan"},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder, parts = tmp_path_factory.mktemp("kinds") / "run", things(N, 0)
    parts["looks"].iloc[::7, 1] = None  # single cells are missing, and whole rows
    parts["looks"].iloc[::11] = None
    data = multiebm.from_arrays(parts, DECLARED | {"table": None}, np.array(["b", "g", "r"])[things_class(parts)])
    assert data.describe().startswith(
        "spot: 6x6 grey pictures; counts: 4 counts; looks: 2 columns of categories (3 and 2); table: 2 numbers"
    )
    multiebm.train("arrays", folder, SETTINGS, dataset=data, progress=False)
    return folder


def things_class(parts):
    return parts["counts"].toarray()[:, :3].argmax(1)


@pytest.fixture(scope="module")
def model(run):
    return multiebm.from_pretrained(run / "model")


def without(name, seed=1):
    parts = things(GIVEN, seed)
    truth = parts.pop(name)
    return parts, truth


def test_categories_are_found_from_the_others(model):
    parts, truth = without("looks")
    found = model.impute(parts, latent_steps=STEPS)["looks"]
    assert model.modalities["looks"].columns == (
        "colour=blue",
        "colour=green",
        "colour=red",
        "large=False",
        "large=True",
    )
    torch.testing.assert_close(found[:, :3].sum(1), torch.ones(GIVEN))
    assert (COLOURS[found[:, :3].argmax(1)] == truth["colour"]).mean() > 0.9  # chance 1/3
    assert (found[:, 3:].argmax(1).bool().numpy() == truth["large"]).mean() > 0.75  # chance 1/2


def test_counts_are_expected_counts_whose_profile_is_found_from_the_others(model):
    """The total is not known to the others: it is the median of training. Beaten is the mean profile of all items."""
    parts, truth = without("counts")
    found, counts = model.impute(parts, latent_steps=STEPS)["counts"].numpy(), truth.toarray()
    assert (found >= 0).all()
    np.testing.assert_allclose(found.sum(1), model.modalities["counts"].total, rtol=0.02)
    share, mean = counts / counts.sum(1, keepdims=True), things(N, 0)["counts"].toarray().sum(0)
    error = ((found / found.sum(1, keepdims=True) - share) ** 2).sum(1).mean()
    assert error < 0.25 * ((mean / mean.sum() - share) ** 2).sum(1).mean()


@pytest.mark.parametrize(("name", "share"), [("table", 0.4), ("spot", 0.5)])
def test_numbers_and_pictures_are_found_from_the_others_better_than_the_mean(model, name, share):
    parts, truth = without(name)
    found = model.impute(parts, latent_steps=STEPS)[name].numpy()
    truth = truth.transpose(0, 3, 1, 2) if name == "spot" else truth
    mean = things(N, 0)[name].mean(0)
    mean = mean.transpose(2, 0, 1) if name == "spot" else mean
    assert ((found - truth) ** 2).mean() < share * ((mean - truth) ** 2).mean()


def test_a_missing_cell_is_filled_from_its_column_and_the_other_parts(model):
    parts = things(GIVEN, 2)
    truth = parts["looks"]["colour"].copy()
    parts["looks"]["colour"] = None
    found = model.impute(parts, latent_steps=STEPS)["looks"]
    assert torch.equal(found[:, 4].bool(), torch.tensor(list(parts["looks"]["large"])))
    assert (COLOURS[found[:, :3].argmax(1)] == truth).mean() > 0.9


def test_the_data_chain_ends_in_states_of_each_kind(model):
    drawn = model.sample(20, data_steps=3)
    for columns in (slice(0, 3), slice(3, 5)):
        torch.testing.assert_close(drawn["looks"][:, columns].sum(1), torch.ones(20))
    assert (drawn["looks"] >= 0).all()
    assert (drawn["counts"] >= 0).all()
    assert ((drawn["spot"] >= 0) & (drawn["spot"] <= 1)).all()


def test_scores_tell_parts_that_belong_together_from_others(model):
    right = things(GIVEN, 3)
    wrong = right | {"looks": right["looks"].iloc[::-1].reset_index(drop=True)}
    other = things_class(right) != things_class(right)[::-1]
    better = model.log_likelihood(right, samples=50) > model.log_likelihood(wrong, samples=50)
    assert better[torch.from_numpy(other)].float().mean() > 0.9
    assert (model.match(right) > model.match(wrong))[torch.from_numpy(other)].float().mean() > 0.9
    assert model.score(right).isfinite().all()


def test_it_is_saved_and_loaded_bit_for_bit(model, tmp_path):
    model.save_pretrained(tmp_path / "again")
    again = multiebm.from_pretrained(tmp_path / "again")
    assert again.modalities == model.modalities
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
    scale = again.generator.likelihoods["table"].now.scale
    assert scale[1] < 0.3  # learned, of the number that every part tells
    parts, _ = without("looks")
    for one, other in zip(model.impute(parts).values(), again.impute(parts).values(), strict=True):
        assert torch.equal(one, other)


def test_the_run_is_evaluated_from_its_folder_and_reported(run, monkeypatch):
    """Its judges learn for one short cycle: nothing here asks how well they read."""
    from multiebm.cli.main import main

    def quick(data, folder, wanted, device):
        return load_sets(data, folder, [(seed, JudgeSettings(cycles=((60, 1.0),))) for seed, _ in wanted], device)

    monkeypatch.setattr("multiebm.experiments.measure.load_sets", quick)

    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(run), "evaluation.items=40", "evaluation.samples=60"])
    assert not ended.value.code
    page = multiebm.write_report(run).read_text()
    assert "looks" in page
    assert "red, True" in page
