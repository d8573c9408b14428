"""Many items are computed a few at a time: within bounded memory, and to the bit what fewer of them are."""

import pytest
import torch

from multiebm.core.progress import listening
from multiebm.models.use import rows_at_a_time
from small_models import energy_prior, mixed, random_views, small_model

MODALITIES = mixed()
ROWS = 16  # at a time, set for these tests
PARTS = {name: MODALITIES[name].to_raw(view) for name, view in random_views(MODALITIES, 3 * ROWS).items()}
USES = {
    "sample": lambda m, n: m.sample(n, seed=3, data_steps=2 if m.energy else 0),
    "encode": lambda m, n: {"": m.encode(first(n))},
    "score": lambda m, n: {"": m.score(first(n))},
    "match": lambda m, n: {"": m.match(first(n))},
    "log_likelihood": lambda m, n: {"": m.log_likelihood(first(n), ["left"], samples=20, log_z=0.0)},
    "impute": lambda m, n: m.impute(
        {"left": first(n)["left"]}, latent_steps=2, data_steps=2 if m.energy else 0, seed=3
    ),
}


@pytest.fixture(autouse=True)
def few_at_a_time(monkeypatch):
    monkeypatch.setattr("multiebm.models.use.PLACES", 1)
    assert rows_at_a_time(MODALITIES) == ROWS


def first(n: int) -> dict[str, torch.Tensor]:
    return {name: part[:n] for name, part in PARTS.items()}


@pytest.mark.parametrize("energy", [{}, {"energy": None}])
@pytest.mark.parametrize("use", USES)
def test_an_item_is_the_same_to_the_bit_however_many_follow_it(use, energy):
    model = small_model(MODALITIES, prior=energy_prior(), **energy)
    whole = USES[use](model, 3 * ROWS)
    for n in (ROWS, ROWS + 1, 2 * ROWS + 5):
        for name, values in USES[use](model, n).items():
            assert len(values) == n
            assert torch.equal(values, whole[name][:n])


@pytest.mark.parametrize("use", USES)
def test_networks_never_see_more_items_than_that(use):
    """Latents of a likelihood are drawn many an item; how many are decoded at a time has a bound of its own."""
    model, seen = small_model(MODALITIES, prior=energy_prior()), []
    for encoder in model.inference.encoders.values():
        encoder.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    model.energy.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]["left"])))
    USES[use](model, 3 * ROWS)
    assert max(seen) <= ROWS


@pytest.mark.parametrize("use", ["score", "log_likelihood"])
def test_a_likelihood_depends_on_its_item_alone_and_a_score_not_even_on_its_place(use):
    """Rounding apart; sharing noise over the batch moved scores by a third of their spread."""
    model = small_model(MODALITIES, energy=None)
    together = USES[use](model, 12)[""]
    torch.testing.assert_close(USES[use](model, 5)[""], together[:5], rtol=1e-4, atol=1e-3)
    alone = model.score({name: part[7:8] for name, part in PARTS.items()})
    torch.testing.assert_close(alone, model.score(first(12))[7:8], rtol=1e-4, atol=1e-3)
    backwards = model.score({name: part.flip(0) for name, part in first(12).items()})
    torch.testing.assert_close(backwards.flip(0), model.score(first(12)), rtol=1e-4, atol=1e-3)


def test_pictures_bound_the_items_at_a_time_by_their_pixels(monkeypatch):
    monkeypatch.setattr("multiebm.models.use.PLACES", 2**18)
    assert [rows_at_a_time(mixed(size)) for size in (2, 28, 100, 500)] == [1024, 256, 16, 16]


class Heard:
    """What every task said it has to do, and what it then did."""

    def __init__(self):
        self.tasks: list[list] = []

    def start(self, what, total):
        self.tasks.append([what, total, 0])
        return len(self.tasks) - 1

    def advance(self, task, steps):
        self.tasks[task][2] += steps

    def end(self, task):
        self.tasks[task].append("over")


@pytest.mark.parametrize("use", USES)
def test_whole_sets_say_how_many_items_are_done(use):
    model, heard, n = small_model(MODALITIES, prior=energy_prior()), Heard(), 2 * ROWS + 5
    with listening(heard):
        USES[use](model, n)
    assert heard.tasks[0] == ["items", n, n, "over"]


def test_a_likelihood_says_how_many_stages_and_samples_are_done():
    model, heard = small_model(MODALITIES, prior=energy_prior()), Heard()
    with listening(heard):
        model.log_normalizer(samples=5, stages=7)
        model.log_likelihood(first(3), samples=2300, log_z=0.0)
    assert heard.tasks == [["log Z of the prior", 7, 7, "over"], ["importance samples", 6900, 6900, "over"]]
