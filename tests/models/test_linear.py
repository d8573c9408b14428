"""The linear half in use: with every kind, resumed, saved, and beside settings that do not go with it."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, PoissonRegressor

import multiebm
from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.random import make_generator
from multiebm.experiments.build import begin_linear, build_model
from multiebm.experiments.fit_prior import fit_prior, fit_prior_of_run
from multiebm.experiments.load import load_experiment
from multiebm.models.aggregation import subset_table
from multiebm.priors.energy import Energy
from multiebm.training.phases.bound import with_more_gaps
from small_models import small_model, vectors

TINY = ["model.shared=3", "model.networks.vector.width=8", "model.networks.picture.width=4"]


def rows(n=40, seed=0):
    """Numbers with gaps, counts, two columns of categories and a small picture, all of one hidden number."""
    draws = np.random.default_rng(seed)
    z = draws.standard_normal(n)
    numbers = np.stack([z, -z, z**2], 1) + 0.3 * draws.standard_normal((n, 3))
    numbers[draws.random((n, 3)) < 0.1] = np.nan
    counts = draws.poisson(np.exp(1 + z[:, None] * [0.5, -0.5]))
    classes = np.stack([np.where(z > 0, "up", "down"), draws.choice(["a", "b", "c"], n)], 1)
    picture = np.clip(0.5 + 0.2 * z[:, None, None, None] * np.ones((1, 4, 6)), 0, 1).astype(np.float32)
    kinds = {"counts": "counts", "classes": "category"}
    parts = {"numbers": numbers, "counts": counts, "classes": classes, "photo": picture}
    return multiebm.read_data(parts, kinds=kinds, missing="nan")


def begun(data, *overrides):
    experiment = load_experiment("own", [*TINY, *overrides])
    model = build_model(experiment.model, data.modalities, 0).eval()
    begin_linear(model, data, 0)
    return model


def decoder(model, name):
    return model.generator.decoders[name].net


def test_a_part_of_categories_begins_at_logistic_regression_on_codes():
    data = rows()
    link = decoder(begun(data), "classes").link
    codes = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = (codes[:, 0] > 0).long() + 2 * (codes[:, 1] > 0.5).long().clamp_max(0)
    three = (codes[:, 1] * 2).round().clamp(-1, 1).long() + 1
    states = torch.cat([torch.nn.functional.one_hot(said, 2), torch.nn.functional.one_hot(three, 3)], 1).double()
    states[:5, :2] = torch.nan
    weight, bias = link.begin(codes, states)
    found = link(codes @ weight.T + bias).double()
    for own, y, known in ((slice(0, 2), said, slice(5, None)), (slice(2, 5), three, slice(None))):
        expected = LogisticRegression(max_iter=500).fit(codes[known], y[known]).predict_proba(codes)
        torch.testing.assert_close(found[:, own], torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_a_class_that_no_item_has_begins_unlikely():
    link = decoder(begun(rows()), "classes").link
    states = torch.tensor([[1.0, 0, 1, 0, 0]] * 6, dtype=torch.float64)
    weight, bias = link.begin(torch.randn(6, 3, dtype=torch.float64), states)
    assert weight.abs().max() == 0
    assert bias.tolist() == [0, -5, 0, -5, -5]


def test_a_part_of_counts_begins_at_poisson_regression_on_codes():
    data = rows()
    model = begun(data)
    link, part = decoder(model, "counts").link, data.modalities["counts"]
    codes = torch.randn(80, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    counts = torch.poisson(codes @ torch.tensor([[0.3, 0.5], [0, 0.1], [-0.2, 0]], dtype=torch.float64) + 3)
    weight, bias = link.begin(codes, part.to_state(counts).double())
    rates = part.to_raw(link(codes @ weight.T + bias).float()).double()
    for j in range(2):
        expected = PoissonRegressor(alpha=1 / 80).fit(codes, counts[:, j]).predict(codes)
        torch.testing.assert_close(rates[:, j], torch.from_numpy(expected), rtol=1e-3, atol=1e-3)


def test_every_kind_begins_at_predictions_of_the_others():
    """Of numbers that depend on one hidden one, half of the variance of a column that is linear in it is told."""
    data = rows(400)
    model = begun(data)
    batch = data.batch("test", torch.arange(len(data.test)))
    raw = {name: data.modalities[name].to_raw(batch.views[name]) for name in ("counts", "classes", "photo")}
    raw["counts"] = raw["counts"].round()
    found = model.impute(raw, want=["numbers"], draws=20).mean["numbers"]
    true = data.modalities["numbers"].to_raw(batch.views["numbers"])
    for column in (0, 1):
        there = ~true[:, column].isnan()
        off = (found - true)[there, column]
        assert off.var() < 0.5 * true[there, column].var()


def test_the_start_of_robust_numbers_is_not_ruled_by_an_outlier():
    draws = np.random.default_rng(0)
    z = draws.standard_normal((80, 1))
    numbers = z * [1.0, -2.0, 0.5] + 0.1 * draws.standard_normal((80, 3))
    kinds = {"x": {"kind": "vector", "standardise": "robust"}, "y": {"kind": "vector"}}
    found = []
    for value in (None, 1e7):
        if value is not None:
            numbers[17, 0] = value
        data = multiebm.from_arrays({"x": numbers, "y": z}, kinds, test=multiebm.Rows({"x": numbers[:2], "y": z[:2]}))
        model = begun(data)
        x, y = (decoder(model, name).line.weight.detach()[:, :3] for name in ("x", "y"))
        found.append(x @ y.T)  # covariances with y
    assert found[0].abs().min() > 0.4
    torch.testing.assert_close(found[1], found[0], rtol=0.25, atol=0)


def test_a_run_with_it_is_resumed_bit_for_bit_and_saved_whole(tmp_path):
    data = rows()
    settings = [*TINY, "training.phases.bound.steps=6", "training.batch_size=16", "training.checkpoint_every=3"]
    whole = multiebm.train("own", tmp_path / "whole", settings, dataset=data, progress=False)
    stop = [lambda metrics, step: step == 3]
    multiebm.train("own", tmp_path / "part", settings, dataset=data, progress=False, callbacks=stop)
    again = multiebm.train("own", tmp_path / "part", settings, dataset=data, progress=False, resume=True)
    loaded = multiebm.from_pretrained(tmp_path / "whole" / "model")
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0)
        torch.testing.assert_close(loaded.state_dict()[name], value, rtol=0, atol=0)
    assert whole.inference.encoders["numbers"].gain.abs().max() > 0  # networks have begun to learn


def test_a_batch_takes_all_rows_where_there_are_fewer(tmp_path):
    data = rows(10)
    settings = [*TINY, "training.phases.bound.steps=2"]
    model = multiebm.train("own", tmp_path / "run", settings, dataset=data, progress=False)
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())


@pytest.mark.parametrize(("n", "components"), [(1, 1), (2, 3), (5, 31), (6, 7), (12, 13)])
def test_some_subsets_are_all_of_few_parts_and_few_of_many(n, components):
    table = subset_table(n, "some")
    assert len(table) == components
    assert table.sum(1).max() == n


def test_with_many_parts_an_item_with_gaps_has_the_component_of_what_it_has():
    parts = vectors(**{f"p{i}": 1 for i in range(7)})
    settings = {"subsets": "some", "prior_expert": "all", "pooled": True}
    model = small_model(parts, linear=True, private=0, energy=None, inference=settings)
    model.inference.encoders["p3"].cells.pull.data.fill_(1.0)
    model.inference.encoders["p3"].cells.sharpness.data.fill_(1.0)
    batch = {f"p{i}": torch.ones(2, 1) for i in range(7)}
    present = torch.ones(2, 7, dtype=torch.bool)
    present[1, 3] = False
    codes = model.encode(batch, present=present)
    assert codes[0].abs().min() > 0.1
    torch.testing.assert_close(codes[1], torch.zeros(3), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    "override",
    [
        "model.family=laplace",
        "model.inference.fusion=wasserstein",
        "model.inference.prior_expert=none",
        "model.prior={kind: energy}",
        "model.prior.learned_scale=true",
        "training.phases.bound.penalty=entropy",
        "model.inference.subsets=joint",
        "model.inference.pooled=false",
    ],
)
def test_what_does_not_go_with_it_is_refused_with_the_way_out(override):
    with pytest.raises(ConfigError, match=r"beside model\.linear.*or model\.linear=false"):
        load_experiment("own", [override])


def test_without_it_a_learned_scale_is_for_kinds_that_can():
    data = rows()
    model = begun(data, "model.parts.photo.scale=0.1")
    assert model.generator.likelihoods["photo"].scale == 0.1
    assert model.generator.likelihoods["numbers"].now.scale.shape == (3,)


def test_parts_of_many_numbers_and_black_and_white_ones_have_networks_alone():
    draws = np.random.default_rng(0)
    photo = draws.integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
    parts = {"photo": photo, "spot": draws.random((12, 3, 3, 1)).astype(np.float32), "x": draws.normal(size=(12, 2))}
    data = multiebm.read_data(parts)
    model = begun(data, "model.parts={spot: {likelihood: bernoulli}}")
    assert {name for name in parts if model.inference.encoders[name].cells is not None} == {"x"}
    batch = data.batch("train", torch.arange(4))
    q = model.inference.given(batch)
    assert q.shared.root.isfinite().all()
    assert model.decode({"shared": torch.zeros(4, model.generator.prior.dim)})["photo"].shape == (4, 3, 40, 40)


def test_the_line_of_a_decoder_is_not_rounded_to_bfloat16():
    model = begun(rows())
    whole = decoder(model, "numbers")
    z = torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        found = whole(z)
    torch.testing.assert_close(found, whole(z), rtol=0, atol=1e-6)


def test_a_precision_that_is_not_positive_definite_is_a_divergence():
    model = begun(rows())
    with torch.no_grad():
        model.inference.encoders["numbers"].cells.sharpness.fill_(torch.nan)
    with pytest.raises(DivergenceError, match="not positive definite"):
        model.inference(rows().batch("train", torch.arange(4)))


def test_a_run_with_it_can_have_no_other_prior_fitted(tmp_path):
    data = rows()
    model = multiebm.train(
        "own", tmp_path / "run", [*TINY, "training.phases.bound.steps=2"], dataset=data, progress=False
    )
    with pytest.raises(ConfigError, match="linear half"):
        fit_prior_of_run(tmp_path / "run", tmp_path / "new")
    with pytest.raises(ConfigError, match="linear half"):
        fit_prior(model, data, Energy())


def test_encoders_are_not_shown_up_to_a_share_of_cells_and_at_least_one_is_left():
    """A column of categories is hidden as a whole, pictures are not, and what is missing stays so."""
    data = rows(400)
    model, batch = begun(data), data.batch("train", torch.arange(len(data.train)))
    seen = with_more_gaps(model, batch, make_generator(0), 0.5)
    torch.testing.assert_close(seen.views["photo"], batch.views["photo"], rtol=0, atol=0)
    for name in ("numbers", "classes"):
        before, after = batch.views[name].isnan(), seen.views[name].isnan()
        assert (after | ~before).all()  # no gap is filled
        whole = before.any(1) & before.all(1)
        assert (~after).any(1)[~whole].all()
        torch.testing.assert_close(seen.views[name][~after], batch.views[name][~after], rtol=0, atol=0)
    blocks = [block.isnan() for block in seen.views["classes"].split([2, 3], 1)]
    assert all((block.any(1) == block.all(1)).all() for block in blocks)
    # of a row without gaps a share, uniform up to a half, a quarter on average; the guarded cell takes little of it
    full = ~batch.views["numbers"].isnan().any(1)
    assert 0.18 < seen.views["numbers"][full].isnan().float().mean() < 0.27
