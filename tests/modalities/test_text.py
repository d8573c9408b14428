"""Captions: what is read as one, densities and draws, chains and gradients, models that learn what words go with."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch

import multiebm
from multiebm.core.errors import ConfigError, DataError
from multiebm.core.random import item_generators, make_generator
from multiebm.core.tokens import ended, one_hot, share_changed, tokens_of
from multiebm.data import Rows, from_arrays, read_data
from multiebm.distributions.sentences import Causal, Sentences
from multiebm.modalities import Text, Vector, from_json, to_json
from multiebm.modalities.text import TextNetworks
from multiebm.training.codes import refine_views
from small_models import make_batch, make_state, small_model

TEXT = {"kind": "text", "min_count": 1}
CAPTIONS = [f"a {size} {colour} thing" for size in ("big", "small", "tiny") for colour in ("red", "green", "grey")]


def modality(values, **declared):
    return from_arrays({"c": values}, {"c": TEXT | declared}, test=Rows({"c": values})).modalities["c"]


def states(values, **declared):
    m = modality(values, **declared)
    return m, make_batch({"c": m}, {"c": values}).views["c"]


# what is handed over


@pytest.mark.parametrize(
    "values",
    [
        CAPTIONS,
        np.array(CAPTIONS),
        np.array(CAPTIONS, object),
        np.array([text.encode() for text in CAPTIONS]),
        np.array(CAPTIONS)[:, None],
        pd.Series(CAPTIONS),
        pd.Series(CAPTIONS, dtype="string"),
        pd.DataFrame({"said": CAPTIONS}),
    ],
)
def test_captions_are_told_from_classes_and_come_back_as_strings(values):
    data = read_data({"c": values}, kinds={"c": {"min_count": 1}} if isinstance(values, list) else None)
    assert data.modalities["c"].kind == "text"
    m, state = states(values)
    assert m.describe() == "captions of up to 4 of 8 words"
    assert m.vocabulary == ("a", "big", "green", "grey", "red", "small", "thing", "tiny")
    assert m.shape == (5, 10)
    assert m.give(m.to_raw(state)).tolist() == CAPTIONS


def test_single_words_and_classes_of_several_words_stay_categories():
    for values in (["red", "green"] * 9, ["New York City", "Salt Lake City"] * 9):
        assert read_data({"c": values}).modalities["c"].kind == "category"


def test_strings_become_tokens_states_tokens_and_the_same_strings():
    m, state = states(["red, (big) don't", "", "a-b é!", "red"], length=9)
    assert m.show(m.to_raw(m.to_state(m.to_raw(state)))) == ["red, (big) don't", "", "a-b é!", "red"]
    assert torch.equal(m.to_state(m.to_raw(state)), state)
    assert from_json(to_json(m)) == m


def test_a_vocabulary_of_one_word_and_captions_without_any():
    m, state = states(["red", "", "red red"])
    assert m.shape == (3, 3)
    assert tokens_of(state).tolist() == [[2, 0, 0], [0, 0, 0], [2, 2, 0]]
    assert m.decoder(4, TextNetworks())(torch.zeros(2, 4)).shape == (2, 3, 3)
    with pytest.raises(DataError, match="got 2 captions and no word that occurs 1 times"):
        modality(["", " "])


def test_the_length_is_that_of_nearly_all_captions_of_training(caplog):
    assert modality(["a b"] * 200 + ["a " * 50]).length == 3
    assert "captions have more than 2 tokens and are cut, first rows [200]" in caplog.text
    assert modality(["a " * 500] * 3).length == 64
    assert modality(["a b c"], length=2).length == 2


def test_missing_captions_are_missing_where_that_is_declared_and_else_refused():
    values = ["a b", None, "", "b a", float("nan"), " "]
    data = from_arrays({"c": values}, {"c": TEXT | {"missing": "nan"}}, test=Rows({"c": values}))
    assert data.train.present[:, 0].tolist() == [True, False, False, True, False, True]
    with pytest.raises(DataError, match="modality 'c': got None in row 1, expected a caption.*missing: nan"):
        modality(values)
    with pytest.raises(DataError, match="got 3 in row 1, expected a caption, a text; convert it by str()"):
        modality(["a", 3])
    assert modality(["a b", "", " "]).show(states(["a b", "", " "])[0].to_raw(states(["a b", "", " "])[1])) == [
        *("a b", "", "")
    ]


def test_a_run_keeps_captions_as_they_are_and_knows_missing_ones_from_those_of_no_words():
    m = modality(["a b", "b"], missing="nan")
    part = m.hide(multiebm.core.handed.unpack(["a B", None, " ", ""], "c"))
    assert m.keep(part).tolist() == ["a B", "", " ", ""]


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"length": 0}, "length: got 0, expected a whole number, at least 1"),
        ({"length": 2.5}, "length: got 2.5, expected a whole number"),
        ({"vocabulary": 100, "tokens": "bpe"}, "vocabulary: got 100, expected a whole number, 257 to 20,000"),
        ({"tokens": "letters"}, "tokens: got 'letters', expected words or bpe"),
        ({"text_mode": "gibbs"}, "text_mode: got 'gibbs', expected langevin or frozen"),
        ({"min_counts": 3}, r"unknown key 'min_counts'.*Did you mean 'min_count'"),
    ],
)
def test_wrong_declarations_are_refused_by_their_key(declared, said):
    with pytest.raises(ConfigError, match=said):
        modality(["a b"], **declared)


def test_states_that_would_fill_memory_are_refused():
    words = " ".join(f"w{i}" for i in range(9000))
    with pytest.raises(DataError, match=r"got captions of 512 tokens out of 9,002, .* expected at most 4,194,304"):
        modality([words], length=512, vocabulary=9000)


# density


def test_the_density_is_that_of_each_word_and_of_the_end_and_padding_counts_nothing():
    mean = torch.from_numpy(np.random.default_rng(0).dirichlet(np.ones(4), (2, 5))).requires_grad_()
    x = one_hot(torch.tensor([[2, 3, 0, 0, 0], [3, 3, 2, 1, 0]]), 4)
    p = mean.detach().numpy()
    by_hand = [
        sum(
            scipy.stats.multinomial.logpmf(row, 1, share) for row, share in zip(x[i, :n].numpy(), p[i, :n], strict=True)
        )
        for i, n in ((0, 3), (1, 4))  # the last position of the second can only be the end
    ]
    found = Sentences(weight=2.0)
    np.testing.assert_allclose(found.log_density(x, mean).detach().numpy(), by_hand, rtol=1e-5)
    np.testing.assert_allclose(found.log_prob(x, mean).detach().numpy(), 2 * np.array(by_hand), rtol=1e-5)
    assert found.cells(x, mean)[0, 3:].tolist() == [0, 0]
    gradient = torch.autograd.grad(found.log_density(x, mean).sum(), mean)[0]
    assert torch.equal(gradient != 0, torch.stack([x[0] * torch.tensor([1, 1, 1, 0, 0])[:, None],
                                                   x[1] * torch.tensor([1, 1, 1, 1, 0])[:, None]]).bool())  # fmt: skip


def test_draws_have_the_probabilities_of_captions():
    mean = torch.tensor([[[0.5, 0.2, 0.3], [0.1, 0.1, 0.8], [0.2, 0.3, 0.5]]]).expand(20_000, 3, 3)
    drawn = tokens_of(Sentences().sample(mean, make_generator(0))).tolist()
    for caption, share in (([0, 0, 0], 0.5), ([2, 2, 0], 0.3 * 0.8), ([1, 0, 0], 0.2 * 0.1)):
        assert abs(drawn.count(caption) / 20_000 - share) < 4 * (share * (1 - share) / 20_000) ** 0.5


@pytest.mark.parametrize("made", [Sentences, lambda: Causal(6, width=4)])
def test_draws_of_an_item_are_its_own(made):
    mean, density = torch.full((5, 4, 6), 1 / 6), made()
    five, two = (density.sample(mean[:n], item_generators(0, n)) for n in (5, 2))
    assert torch.equal(five[:2], two)


def test_a_causal_density_is_a_product_of_conditionals_that_see_the_words_before_alone():
    torch.manual_seed(0)
    density, mean = Causal(4, weight=2.0, width=5), torch.full((1, 4, 4), 0.25)
    tokens = torch.tensor([[2, 3, 1, 0]])
    found = density.cells(one_hot(tokens, 4), mean)[0]
    for t in range(3):
        other = tokens.clone()
        other[0, t:-1] = 3
        assert torch.equal(density.cells(one_hot(other, 4), mean)[0, :t], found[:t])
        every = [torch.tensor([[*tokens[0, :t], v, *[2] * (2 - t), 0]]) for v in range(4)]
        shares = torch.stack([density.cells(one_hot(of, 4), mean)[0, t] for of in every]).exp()
        torch.testing.assert_close(shares.sum(), torch.tensor(1.0))
        torch.testing.assert_close(shares[tokens[0, t]].log(), found[t])
    assert found[3] == 0
    torch.testing.assert_close(density.log_prob(one_hot(tokens, 4), mean), 2 * found.sum()[None])


def test_the_probability_of_a_word_at_its_place_is_a_mean_over_what_may_stand_before_it():
    """Of all captions of three words of four, by their probabilities; END has the places behind an end."""
    torch.manual_seed(2)
    density, mean = Causal(4, width=5), torch.rand(1, 4, 4).softmax(2)
    every = torch.cartesian_prod(*[torch.arange(4)] * 3)
    whole = ended(torch.cat([every, every.new_zeros(len(every), 1)], 1)).unique(dim=0)
    with torch.no_grad():
        share = density.log_density(one_hot(whole, 4), mean.expand(len(whole), -1, -1)).exp()
        torch.testing.assert_close(share.sum(), torch.tensor(1.0))
        expected = (share[:, None, None] * one_hot(whole, 4)).sum(0)
        found = density.marginal(mean.expand(20_000, -1, -1), make_generator(0)).mean(0)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    torch.testing.assert_close(found.sum(1), torch.ones(4))


def test_the_likeliest_caption_is_said_word_by_word():
    """No other word at a position is likelier behind the words before it."""
    torch.manual_seed(1)
    density, mean = Causal(5, width=6), torch.rand(8, 4, 5).softmax(2)
    with torch.no_grad():
        said = tokens_of(density.mode(mean))
        for t in range(3):
            others = torch.stack(
                [torch.cat([said[:, :t], torch.full((8, 1), v), said[:, t + 1 :]], 1) for v in range(5)]
            )
            shares = torch.stack([density.cells(one_hot(of, 5), mean)[:, t] for of in others])
            there = (said[:, :t] != 0).all(1)  # behind the end nothing is said
            assert torch.equal(shares.argmax(0)[there], said[there, t])


def test_causal_draws_keep_to_one_form_of_a_sentence_where_independent_words_mix_them():
    torch.manual_seed(0)
    x = one_hot(torch.tensor([[2, 3, 0], [4, 5, 0]]), 6)
    mean, density = x.mean(0, keepdim=True), Causal(6, width=8)
    optimiser = torch.optim.Adam(density.parameters(), 0.05)
    for _ in range(40):
        optimiser.zero_grad()
        (-density.log_density(x, mean.expand_as(x)).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        assert float(density.log_density(x, mean.expand_as(x)).mean()) > np.log(0.5) - 0.05
        drawn, mixed = (
            tokens_of(of.sample(mean.expand(200, 3, 6), make_generator(0)))[:, :2].tolist()
            for of in (density, Sentences())
        )
    assert sum(caption in ([2, 3], [4, 5]) for caption in drawn) > 190
    assert sum(caption in ([2, 3], [4, 5]) for caption in mixed) < 130


# networks and chains


@pytest.mark.parametrize("mode", ["langevin", "frozen"])
def test_an_energy_reads_the_nearest_caption_and_its_gradient_goes_straight_through(mode):
    m, state = states(CAPTIONS, text_mode=mode)
    trunk = m.energy_trunk([m], 8).eval()
    soft = (0.8 * state + 0.2 / m.words).requires_grad_()  # as a decoder says it
    hard = m.seen(soft.detach()).requires_grad_()
    assert torch.equal(trunk(soft), trunk(hard))
    if mode == "frozen":
        assert (
            not trunk(soft).requires_grad or torch.autograd.grad(trunk(soft).sum(), soft, allow_unused=True)[0] is None
        )
        return
    gradients = [torch.autograd.grad(trunk(x).sum(), x)[0] for x in (soft, hard)]
    assert torch.equal(*gradients)
    # it is that of a trunk that is linear in what it reads, a product with the table of words
    stem = trunk.stems[0]
    rows = (stem.larger * stem.rows.weight.T).detach()
    read = (hard.detach() @ rows).requires_grad_()
    x = torch.nn.functional.relu(stem.first(read.transpose(1, 2)[:, :, None]))
    x = stem.last(
        torch.nn.functional.relu(stem.second(torch.nn.functional.avg_pool2d(x, (1, 2), ceil_mode=True))).flatten(1)
    )
    by_hand = torch.autograd.grad(torch.relu(trunk.last(torch.relu(x))).sum(), read)[0] @ rows.T
    torch.testing.assert_close(gradients[0], by_hand)


@pytest.mark.parametrize("kind", ["cnn", "transformer"])
@pytest.mark.parametrize("values", [CAPTIONS, ["red", "", "red red red red red red red red red red red"]])
def test_networks_read_hard_captions_and_make_probabilities_of_any_length(kind, values):
    m, state = states(values)
    networks = TextNetworks(kind=kind, width=12)
    encoder, decoder = m.encoder(5, networks), m.decoder(3, networks)
    torch.testing.assert_close(encoder(0.6 * state + 0.4 / m.words), encoder(state))
    mean = decoder(torch.randn(4, 3, generator=make_generator(0)))
    torch.testing.assert_close(mean.sum(2), torch.ones(4, m.length))
    assert float(mean.detach().min()) > 0


def captions_and_numbers(mode="langevin"):
    return {"words": modality(CAPTIONS, text_mode=mode), "x": Vector("x", (2,))}


def test_a_chain_ends_at_captions_and_leaves_clamped_and_frozen_ones_untouched():
    numbers, seen = torch.randn(9, 2, generator=make_generator(1)), {}
    for mode in ("langevin", "frozen"):
        parts = captions_and_numbers(mode)
        model = small_model(parts, data_chain={"steps": 20, "noise_scale": 0.5})
        batch = make_batch(parts, {"words": CAPTIONS, "x": numbers})
        moved, _ = model.refine_data(batch.views, item_generators(0, 9))
        assert torch.equal(moved["words"], parts["words"].seen(moved["words"]))
        seen[mode] = (moved["words"] != batch.views["words"]).any(2).any(1)
        clamp = torch.tensor([[True, False]]).expand(9, 2)
        held, _ = model.refine_data(batch.views, item_generators(0, 9), clamp=clamp)
        assert torch.equal(held["words"], batch.views["words"])
        assert not torch.equal(held["x"], batch.views["x"])
    assert seen["langevin"].all()
    assert not seen["frozen"].any()


def test_gradients_move_a_chain_to_the_caption_with_less_energy():
    """Without noise, by an energy that is less for each "green" than for "red"."""
    m, state = states(["red red red red", "green red green red"])
    table = torch.zeros(m.words, 1)
    table[2 + m.vocabulary.index("green")], table[2 + m.vocabulary.index("red")] = -1.0, 1.0
    x = m.relax(state)
    for _ in range(8):
        x = x.detach().requires_grad_()
        energy = multiebm.nn.text.rows_read(x, table).sum()
        x = x - 0.1 * torch.autograd.grad(energy, x)[0]
    assert m.show(m.to_raw(m.settle(x))) == ["green green green green"] * 2


@pytest.mark.parametrize(("mode", "expected"), [("langevin", 1 / 3), ("frozen", 0.0)])
def test_the_share_of_words_that_a_chain_changes_is_logged(mode, expected):
    """By an energy that is less for "tiny" as the second word and "red" as the third, which two thirds of captions have
    not; the other two of the four words have no gradient."""
    parts = captions_and_numbers(mode)
    chain = {"kind": "langevin", "steps": 4, "step_size": 1.0, "noise_scale": 0.0}
    model, m = small_model(parts, data_chain=chain), parts["words"]

    class Asks(torch.nn.Module):
        def forward(self, views):
            told = [2 + m.vocabulary.index(word) for word in ("tiny", "red")]
            return -views["words"][:, 1, told[0]] - views["words"][:, 2, told[1]] + 0 * views["x"].sum(1)

    model.energy = Asks()
    state, views = make_state(model), make_batch(parts, {"words": CAPTIONS, "x": np.zeros((9, 2))}).views
    refined, metrics = refine_views(state, views)
    assert metrics["data_chain/words_changed/words"] == pytest.approx(expected)
    said = [text.replace(text.split()[1], "tiny").replace(text.split()[2], "red") for text in CAPTIONS]
    assert m.show(m.to_raw(refined["words"])) == (said if mode == "langevin" else CAPTIONS)
    assert not [name for name in metrics if name.endswith("words_changed/x")]


def test_changed_words_are_counted_up_to_the_end_of_the_longer_caption():
    before = torch.tensor([[2, 3, 4, 0], [2, 0, 0, 0], [2, 3, 0, 0], [0, 0, 0, 0], [2, 3, 0, 0]])
    after = torch.tensor([[2, 0, 0, 0], [2, 3, 4, 0], [3, 2, 0, 0], [0, 0, 0, 0], [2, 3, 0, 0]])
    assert share_changed(before, after).tolist() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0, 0])


# a model


def rows(n, seed=0):
    """Captions whose colour says the sign of one number, and whose size says another's."""
    draws = np.random.default_rng(seed)
    colour, size = draws.integers(0, 2, (2, n))
    said = [f"a {('big', 'tiny')[s]} {('red', 'green')[c]} thing" for c, s in zip(colour, size, strict=True)]
    x = np.stack([colour, size], 1) * 2.0 - 1 + 0.1 * draws.normal(size=(n, 2))
    return {"words": said, "x": x}, colour


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("captions") / "run"
    overrides = ["training.phases.bound.steps=60", "model.networks.text.width=16", "evaluation.items=0"]
    data = multiebm.read_data(rows(240)[0], kinds={"words": "text"})
    return multiebm.train(data, folder, overrides, progress=False), folder


def test_a_small_model_learns_which_words_go_with_which_numbers(learned):
    (given, colour), model = rows(200, seed=1), learned[0]
    said = model.impute({"x": given["x"]})["words"]
    assert np.mean([("green" in caption) == bool(c) for caption, c in zip(said, colour, strict=True)]) > 0.9
    assert np.mean(said == np.array(given["words"])) > 0.9
    numbers = model.impute({"words": given["words"]})["x"].numpy()
    assert np.mean((numbers > 0) == (given["x"] > 0)) > 0.9
    true, foreign = (model.match({"words": given["words"], "x": x}) for x in (given["x"], np.roll(given["x"], 1, 0)))
    differ = np.array(given["words"]) != np.roll(np.array(given["words"]), 1)
    assert (true > foreign).numpy()[differ].mean() > 0.9


def test_strings_come_out_wherever_captions_do(learned):
    model, given = learned[0], rows(6, seed=2)[0]
    drawn = model.sample(3)["words"]
    assert drawn.shape == (3,)
    assert all(
        set(caption.split()) <= {"a", "big", "tiny", "red", "green", "thing", "<unk>"} for caption in drawn.tolist()
    )
    shouted = [caption.upper() for caption in given["words"]]
    assert model.impute({"words": shouted}, present={"words": [1, 1, 0, 1, 1, 1]})["words"][[0, 1, 3]].tolist() == [
        shouted[0], shouted[1], shouted[3]]  # fmt: skip
    found = model.impute({"x": given["x"]}, draws=4)
    assert found.draws["words"].shape == (4, 6)
    for i in range(6):
        each = found.draws["words"][:, i].tolist()
        assert each.count(found.mean["words"][i]) == max(map(each.count, each))
        assert float(found.std["words"][i]) == pytest.approx(1 - max(map(each.count, each)) / 4)
    frame = model.frame(model.impute(given))
    assert frame["words"].tolist() == given["words"]
    assert list(frame.columns) == ["words", "x_0", "x_1"]


def test_a_saved_model_gives_the_same_captions_and_bits(learned, tmp_path):
    model, given = learned[0], rows(5, seed=3)[0]
    model.save_pretrained(tmp_path / "model")
    again = multiebm.from_pretrained(tmp_path / "model")
    assert again.modalities == model.modalities
    assert again.sample(4)["words"].tolist() == model.sample(4)["words"].tolist()
    assert torch.equal(again.encode({"words": given["words"]}), model.encode({"words": given["words"]}))
    assert torch.equal(again.match(given), model.match(given))


def test_a_run_is_evaluated_from_its_folder_with_words_and_whole_captions_counted(learned):
    found = multiebm.evaluate(learned[0], multiebm.read_data(rows(200, seed=4)[0], kinds={"words": "text"}))
    results = found.results
    assert results["fill/accuracy/words"].value > 0.9
    assert results["fill/exact/words"].value > 0.9
    assert results["fill/log_loss/words"].value < results["fill/mean/words"].value
    assert "fill/coverage90/words" not in results


# how it is judged


def test_errors_are_of_words_up_to_the_end_and_of_whole_captions():
    m, true = states(["red cat", "red", "cat"], length=4)
    place = {word: 2 + i for i, word in enumerate(m.vocabulary)}
    red, cat = place["red"], place["cat"]
    sure = m.to_state(torch.tensor([[red, cat, 0, 0], [red, cat, 0, 0], [cat, 0, 0, 0]]))
    true[2] = torch.nan
    errors = m.errors(m.judged(true), sure, torch.ones(m.shape))
    nan = float("nan")
    np.testing.assert_equal(errors["accuracy"].numpy(), [[1, 1, 1, nan], [1, 0, nan, nan], [nan] * 4])
    np.testing.assert_equal(errors["exact"].numpy(), [[1], [0], [nan]])
    right, wrong = -np.log(0.99 + 0.01 / m.words), -np.log(0.01 / m.words)
    expected = [[right, right, right, nan], [right, wrong, nan, nan], [nan] * 4]
    np.testing.assert_allclose(errors["log_loss"].numpy(), expected, rtol=1e-5)


def test_regression_beside_it_is_logistic_where_words_are_few():
    m, state = states(["red cat", "green cat"] * 20)
    x = np.tile([[1.0], [-1.0]], (20, 1))
    found = m.regress(x, state.flatten(1).double().numpy(), np.array([[1.0], [-1.0]])).reshape(2, *m.shape)
    assert found.argmax(2).tolist() == tokens_of(state[:2]).tolist()
    assert found[:, 1].max(1).tolist() == [1.0, 1.0]
    np.testing.assert_allclose(found.sum(2), 1.0)


def test_what_no_item_has_are_other_words_or_its_own_in_another_order():
    m, state = states(CAPTIONS * 20)
    spoilt = m.corrupt(state, make_generator(0))
    lengths = [(tokens_of(x) != 0).sum(1) for x in (state, spoilt)]
    assert torch.equal(*lengths)
    same = (tokens_of(state).sort(1).values == tokens_of(spoilt).sort(1).values).all(1).float().mean()
    assert 0.35 < float(same) < 0.65
    assert float((spoilt == state).all(2).all(1).float().mean()) < 0.15
    assert float((m.disturb(state, make_generator(0)) == state).all(2).float().mean()) > 0.7


def test_text_is_a_frozen_dataclass_that_packages_may_import():
    assert multiebm.modalities.MODALITIES["text"] is Text
