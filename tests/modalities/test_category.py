"""Categories: what is read as a class, what is refused, densities and draws against SciPy, the simplex."""

import numpy as np
import pandas as pd
import pytest
import scipy.optimize
import scipy.stats
import torch

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError, DataError, ModalityError
from multiebm.core.handed import unpack
from multiebm.core.random import item_generators, make_generator
from multiebm.data import Rows, from_arrays
from multiebm.data.arrays import load_arrays
from multiebm.modalities import Category, from_json, to_json
from multiebm.modalities.category import Categorical
from multiebm.nn.precision import Mixed, set_precision
from small_models import make_batch, small_model

FRAME = pd.DataFrame(
    {"colour": ["red", "blue", "green", "red"], "open": [True, False, True, True], "size": [2, 10, 2, 3]}
)
CATEGORY = {"kind": "category"}


def modality(values, **declared):
    return from_arrays({"c": values}, {"c": CATEGORY | declared}, test=Rows({"c": values})).modalities["c"]


def states(values, like=None, **declared):
    """As training makes them and as use makes them, which are the same."""
    like = values if like is None else like
    data = from_arrays({"c": like}, {"c": CATEGORY | declared}, test=Rows({"c": values}))
    made = data.batch("test", torch.arange(len(values))).views["c"]
    used = make_batch(data.modalities, {"c": values}).views["c"]
    torch.testing.assert_close(used, made, rtol=0, atol=0, equal_nan=True)
    return made


def test_columns_of_a_data_frame_become_blocks_named_by_column_and_class():
    m = modality(FRAME)
    assert m.classes == (("blue", "green", "red"), ("False", "True"), ("2", "3", "10"))
    assert m.columns == (
        *("colour=blue", "colour=green", "colour=red", "open=False", "open=True"),
        *("size=2", "size=3", "size=10"),
    )
    assert m.shape == (8,)
    assert m.describe() == "3 columns of categories (3, 2 and 3)"
    assert states(FRAME)[1].tolist() == [1, 0, 0, 1, 0, 0, 0, 1]
    assert torch.equal(states(FRAME[["size", "open", "colour"]], FRAME), states(FRAME))
    assert from_json(to_json(m)) == m


@pytest.mark.parametrize(
    ("values", "classes"),
    [
        (np.array(["b", "a", "b", "a"]), ("a", "b")),
        (["b", "a", "b", "a"], ("a", "b")),
        (np.array([b"b", b"a", b"b", b"a"]), ("a", "b")),
        (pd.Series(["b", "a", "b", "a"], dtype="category"), ("a", "b")),
        (pd.Series(["b", "a", "b", "a"], dtype="string"), ("a", "b")),
        (np.array([False, True, False, True]), ("False", "True")),
        (np.array([10, 9, 10, 9]), ("9", "10")),
        (np.array([-1.0, 1.0, -1.0, 1.0]), ("-1", "1")),
        (torch.tensor([1, 0, 1, 0]), ("0", "1")),
    ],
)
def test_texts_bools_whole_numbers_and_categories_name_classes(values, classes):
    m = modality(values)
    assert m.classes == (classes,)
    assert m.describe() == "2 categories"
    assert m.columns == tuple(f"c={name}" for name in classes)
    assert states(values).argmax(1).tolist() in ([0, 1, 0, 1], [1, 0, 1, 0])


@pytest.mark.parametrize(
    "values",
    [
        ["a", None, "b", "a"],
        ["a", float("nan"), "b", "a"],
        ["a", "", "b", "a"],
        pd.Series(["a", None, "b", "a"], dtype="category"),
        pd.Series(["a", pd.NA, "b", "a"], dtype="string"),
        pd.Series([True, None, False, True], dtype="boolean"),
        pd.Series([1, None, 0, 1], dtype="Int64"),
        np.ma.MaskedArray(["a", "?", "b", "a"], [False, True, False, False]),
    ],
)
def test_what_says_that_a_value_is_missing_makes_the_part_absent(values):
    data = from_arrays({"c": values}, {"c": CATEGORY | {"missing": "nan"}}, test=Rows({"c": values}))
    assert data.test.present[:, 0].tolist() == [True, False, True, True]
    assert len(data.modalities["c"].classes[0]) == 2
    batch = make_batch(data.modalities, {"c": values})
    assert batch.present[:, 0].tolist() == [True, False, True, True]
    assert batch.views["c"][1].tolist() == [0, 0]


def test_single_columns_may_be_missing_and_are_nan_over_all_their_classes():
    frame = FRAME.astype(object)
    frame.loc[1, "colour"] = None
    made = states(frame, missing="nan")
    assert made[1].isnan().tolist() == [True, True, False, False, False, False, False]  # blue was that row alone
    like = Categorical((2, 2, 3))
    mean = torch.full((4, 7), 0.25)
    assert float(like.log_density(made, mean)[1]) == pytest.approx(2 * np.log(0.25))
    model = small_model(modality_of(frame))
    filled = model.impute({"c": frame})["c"]
    assert torch.equal(filled[1, 2:], made[1, 2:])
    assert float(filled[1, :2].sum()) == pytest.approx(1)
    assert (filled[1, :2] > 0).all()
    assert not Batch({"c": made}, torch.ones(4, 1).bool()).complete()[1]


def modality_of(values):
    return {"c": modality(values, missing="nan")}


@pytest.mark.parametrize("values", [FRAME, FRAME.astype(object).where(FRAME != 2, None), ["b", None, "a", "a"]])
def test_what_a_run_keeps_makes_the_same_data_set(values, tmp_path):
    data = from_arrays({"c": values}, {"c": CATEGORY | {"missing": "nan"}})
    np.savez(tmp_path / "kept.npz", **data.kept.arrays)
    again = load_arrays(**data.kept.settings, path=tmp_path / "kept.npz")
    assert again.modalities == data.modalities
    assert again.fingerprint == from_arrays({"c": values}, {"c": CATEGORY | {"missing": "nan"}}).fingerprint
    for one, other in zip((again.train, again.test), (data.train, data.test), strict=True):
        torch.testing.assert_close(one.views["c"], other.views["c"], rtol=0, atol=0, equal_nan=True)
        assert torch.equal(one.present, other.present)


def test_what_is_no_class_is_refused_with_row_and_column():
    frame = FRAME.assign(colour=["red", None, "blue", "green"])
    with pytest.raises(DataError, match="row 1 of column 'colour': got (None|nan), expected a class.*missing: nan"):
        modality(frame)
    with pytest.raises(DataError, match="row 0: got 1.5, expected a class, a text, bool or whole number.*kind: vector"):
        modality([1.5, 2.0, 3.0])
    used = {"c": modality(FRAME)}
    wrong = FRAME.assign(colour=["red", "blue", "gren", "red"])
    message = (
        "got 'gren' in row 2 of column 'colour', expected one of the 3 classes of training: blue, green, red. "
        "Did you mean 'green'"
    )
    with pytest.raises(DataError, match=message):
        make_batch(used, {"c": wrong})
    with pytest.raises(DataError, match="got column 'kolour'"):
        make_batch(used, {"c": FRAME.rename(columns={"colour": "kolour"})})
    make_batch(used, {"c": wrong}, present=np.array([[True], [True], [False], [True]]))  # hidden, so it may be anything


def test_a_hidden_row_adds_no_class():
    values, present = ["a", "placeholder", "b", "a"], np.array([[True], [False], [True], [True]])
    data = from_arrays({"c": values}, {"c": CATEGORY}, present=present, test=Rows({"c": values}, present=present))
    assert data.modalities["c"].classes == (("a", "b"),)


def test_too_many_classes_are_refused_with_what_to_do():
    with pytest.raises(DataError, match="got 1,001 classes, expected 1 to 1,000; put rare ones together"):
        modality(np.arange(1001).astype(str))
    with pytest.raises(DataError, match="got no class that is there"):
        modality(np.ma.MaskedArray(["a", "b"], [True, True]))
    with pytest.raises(ConfigError, match="got one twice"):
        Category("c", (("a", "a"),))
    with pytest.raises(ModalityError, match="classes"):
        from_json({"kind": "category", "name": "c", "classes": [[]]})


def test_probabilities_of_a_model_may_be_handed_over_again():
    m = {"c": modality(FRAME)}
    shares = torch.rand(3, 8, generator=make_generator(0))
    shares = torch.cat([block / block.sum(1, keepdim=True) for block in shares.split(m["c"].sizes, 1)], 1)
    torch.testing.assert_close(make_batch(m, {"c": shares}).views["c"], shares)
    with pytest.raises(DataError, match="add up to 1 in each column"):
        make_batch(m, {"c": shares * 1.1})


def test_a_decoder_that_computes_in_bfloat16_gives_probabilities_too():
    m = modality(FRAME)
    decoder = Mixed(m.decoder(2, m.networks()))
    set_precision(decoder, "bf16")
    with torch.no_grad():
        shares = decoder(torch.randn(50, 2, generator=make_generator(0)))
    for block in shares.split(m.sizes, 1):
        torch.testing.assert_close(block.sum(1), torch.ones(50), rtol=0, atol=1e-6)


def test_the_density_of_counts_of_classes_is_scipys_multinomial():
    """Of one draw from each column; soft states weigh the classes."""
    draws = np.random.default_rng(0)
    p, q = draws.dirichlet(np.ones(3), 5), draws.dirichlet(np.ones(4), 5)
    x, y = (np.stack([draws.multinomial(1, row) for row in of]) for of in (p, q))
    found = Categorical((3, 4), 2.0)
    state, mean = torch.from_numpy(np.hstack([x, y])).double(), torch.from_numpy(np.hstack([p, q]))
    expected = scipy.stats.multinomial.logpmf(x, 1, p) + scipy.stats.multinomial.logpmf(y, 1, q)
    np.testing.assert_allclose(found.log_density(state, mean), expected, rtol=1e-12)
    np.testing.assert_allclose(found.log_prob(state, mean), 2 * expected, rtol=1e-12)
    assert torch.autograd.gradcheck(lambda m: found.log_density(state, m), mean.requires_grad_())
    assert found.log_density(torch.eye(7)[:1], torch.eye(7)[1:2]).isfinite().all()  # impossible, not infinite


def test_draws_have_the_frequencies_of_the_mean_and_are_independent_of_the_batch():
    """40,000 draws: four deviations of a share are at most 0.01."""
    mean = torch.tensor([[0.7, 0.3, 0.1, 0.0, 0.9]])
    like = Categorical((2, 3))
    drawn = like.sample(mean.expand(40_000, -1), make_generator(0))
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert torch.equal(drawn[:, :2].sum(1), torch.ones(40_000))
    torch.testing.assert_close(drawn.mean(0, keepdim=True), mean, atol=0.01, rtol=0)
    assert drawn[:, 3].sum() == 0
    together = like.sample(mean.expand(4, -1), item_generators(0, 4))
    assert torch.equal(together[3:], like.sample(mean, item_generators(0, 1, first=3)))


def test_the_end_of_a_chain_is_the_nearest_point_of_the_simplex():
    m = Category("c", (("a", "b", "c"), ("x", "y")))
    moved = torch.randn(4, 5, generator=make_generator(0), dtype=torch.float64)
    settled = m.settle(moved)
    for row, at in zip(moved.numpy(), settled.numpy(), strict=True):
        for block in (slice(0, 3), slice(3, 5)):
            n = block.stop - block.start
            nearest = scipy.optimize.minimize(
                lambda z, block=block, row=row: ((z - row[block]) ** 2).sum(),
                np.full(n, 1 / n),
                bounds=[(0, 1)] * n,
                constraints={"type": "eq", "fun": lambda z: z.sum() - 1},
                tol=1e-12,
            )
            np.testing.assert_allclose(at[block], nearest.x, atol=1e-6)


def test_a_decoder_gives_probabilities_and_learns_base_rates_in_its_bias():
    """Of constant codes: shares of the classes in the data, which 400 steps of the bias find to 1 %."""
    m = Category("c", (("a", "b", "c"),))
    x = torch.eye(3)[[0, 0, 0, 0, 0, 0, 1, 1, 1, 2]]
    decoder = m.decoder(2, m.networks())
    optimiser = torch.optim.Adam([decoder[0][-1].bias], 0.05)
    for _ in range(400):
        optimiser.zero_grad()
        loss = -m.likelihood("categorical", 1.0, 1.0).log_density(x, decoder(torch.zeros(10, 2))).mean()
        loss.backward()
        optimiser.step()
    torch.testing.assert_close(decoder(torch.zeros(1, 2))[0].detach(), torch.tensor([0.6, 0.3, 0.1]), atol=0.01, rtol=0)


def test_it_shows_the_likeliest_classes():
    m = modality(FRAME)
    raw = states(FRAME)
    raw[0, :3] = torch.nan
    assert m.show(raw)[:2] == ["?, True, 2", "blue, False, 10"]


INFERRED = {
    "text": (np.array(["a", "b"]), True),
    "truth values": (np.array([[True], [False]]), True),
    "categories of numbers": (pd.Series([1.5, 2.5, 7], dtype="category"), True),
    "zeros and ones": (np.array([0, 1, 1]), True),
    "table of zeros and ones": (np.array([[0, 1], [1, 0]], np.uint8), True),
    "texts with gaps": (["a", None], True),
    "whole numbers": (np.array([0, 1, 2]), False),
    "floats": (np.array([0.0, 1.0]), False),
    "objects that are numbers": (np.array([1, 2.5], object), False),
}


@pytest.mark.parametrize("case", INFERRED)
def test_what_is_taken_for_categories_without_a_declaration(case):
    values, yes = INFERRED[case]
    assert (Category.infer(unpack(values, "c")) is not None) == yes


def test_a_table_of_numbers_and_texts_is_inferred_part_by_part():
    frame = pd.DataFrame({"a": [1.5, 2.0, 3.0, 4.0], "b": ["x", "y", "x", "y"], "c": [0, 1, 1, 0], "d": [1, 2, 3, 4]})
    data = from_arrays({"n": frame[["a", "d"]], "t": frame[["b"]], "f": frame["c"]})
    assert {name: m.kind for name, m in data.modalities.items()} == {"n": "vector", "t": "category", "f": "category"}
    assert data.modalities["t"].columns == ("b=x", "b=y")
