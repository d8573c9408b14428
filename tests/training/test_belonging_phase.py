"""The phase that teaches the energy of interaction: what it learns, its weight, its randomness, gaps."""

import pytest
import torch

import multiebm.training.phases.belonging as module
from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.core.tree import item_square_norm
from multiebm.evaluation.belonging import auroc
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import contradictions
from multiebm.mcmc.run import evaluate
from multiebm.modalities import Text
from multiebm.models.interaction import Interaction
from multiebm.models.model import MultimodalModel
from multiebm.nn.spectral import frozen
from multiebm.objectives.belonging import draw_donors, higher
from multiebm.training.codes import refine_samples
from multiebm.training.phases import energy
from multiebm.training.phases.belonging import Belonging, with_fewer_parts
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.phase import Settling
from multiebm.training.phases.settle import take_average
from multiebm.training.state import TrainState
from multiebm.training.steps import OptimiserSettings, TrainingStep, make_optimisers
from multiebm.training.weights import FEWEST, TOLD, WEIGHING, weigh_interaction, weigh_score
from small_models import Again, mixed, random_views, small_model, vectors, whole

RHO = 0.9  # correlation of two numbers that belong together


def started(model: MultimodalModel, phase: Belonging, seed: int = 1) -> TrainState[MultimodalModel]:
    optimisers = make_optimisers(model, OptimiserSettings(), [phase])
    return TrainState(model, optimisers, make_generator(seed), None)  # type: ignore[arg-type]


def train(model: MultimodalModel, phase: Belonging, batches) -> TrainState[MultimodalModel]:
    state, step = started(model, phase), TrainingStep([phase], OptimiserSettings())
    for _ in range(phase.steps):
        step(state, next(batches))
        state.step += 1
    model.eval()
    return state


def triples(n: int, draws: torch.Generator) -> Batch:
    """a and b are of correlation RHO; c says nothing of them."""
    a, b, c = torch.randn(3, n, 1, generator=draws)
    return whole({"a": a, "b": RHO * a + (1 - RHO**2) ** 0.5 * b, "c": c})


def endless(make, size: int = 128, seed: int = 0):
    draws = make_generator(seed)
    while True:
        yield make(size, draws)


def small(kind: str = "pair", **sections) -> MultimodalModel:
    return small_model(vectors(a=1, b=1, c=1), interaction={"kind": kind}, **sections)


@pytest.mark.parametrize("kind", ["pair", "mlp"])
def test_it_learns_the_ratio_of_two_gaussian_numbers(kind):
    """The optimum is -log sqrt(1 - r^2) - (r^2 a^2 + r^2 b^2 - 2 r a b) / (2 (1 - r^2)): f is close to it in ranks and
    tells foreign parts about as well, and the part that says nothing costs nothing.
    """
    model = small(kind)
    train(model, Belonging(steps=100), endless(triples, 64))
    batch = triples(2000, make_generator(7))
    foreign = batch._replace(views=batch.views | {"b": batch.views["b"].roll(1, 0)})
    alone = batch._replace(views=batch.views | {"c": batch.views["c"].roll(1, 0)})

    def best(of: Batch) -> torch.Tensor:
        a, b = of.views["a"][:, 0], of.views["b"][:, 0]
        return -(RHO**2 * (a**2 + b**2) - 2 * RHO * a * b) / (2 * (1 - RHO**2))

    with torch.no_grad():
        true, moved, unmoved = (model.match_states(of) for of in (batch, foreign, alone))
    ceiling = auroc(best(batch), best(foreign)).value
    assert ceiling > 0.8
    assert ceiling - 0.02 < auroc(true, moved).value < ceiling + 0.01
    assert auroc(true, unmoved).value == pytest.approx(0.5, abs=0.02)
    assert int(model.interaction.steps) == 100


def test_what_no_item_has_is_told_even_where_all_parts_are_so(monkeypatch):
    """Parts are points on a circle; inside it there are none. Without corrupted donors f knows that less well."""
    modalities, found = vectors(a=2, b=2), {}

    def make(n: int, draws: torch.Generator) -> Batch:
        angle = 6.2832 * torch.rand(n, 1, generator=draws)
        turned = angle + 0.3 * torch.randn(n, 1, generator=draws)
        return whole({k: torch.cat([v.cos(), v.sin()], 1) for k, v in (("a", angle), ("b", turned))})

    batch = make(1000, make_generator(7))
    middle = whole({name: 0.3 * view for name, view in batch.views.items()})  # inside, where no item is
    one = batch._replace(views=batch.views | {"b": middle.views["b"]})
    for n in (0, 8):
        model = small_model(modalities, interaction={"kind": "pair"})
        monkeypatch.setattr(module, "CORRUPTED", n)
        train(model, Belonging(steps=100), endless(make, 64))
        with torch.no_grad():
            true, all_of, part = (model.match_states(of) for of in (batch, middle, one))
        found[n] = auroc(true, all_of).value, auroc(true, part).value
    assert min(found[8]) > 0.9
    assert all(with_them > without for with_them, without in zip(found[8], found[0], strict=True))


def test_the_weight_gives_the_gradients_their_ratio():
    """On the samples that it is set by; another ratio is another weight, in proportion."""
    weights = []
    for ratio in (0.7, 1.4):
        model = small_model(mixed(), interaction={"kind": "pair", "ratio": ratio})
        train(model, Belonging(steps=3), endless(lambda n, draws: whole(random_views(mixed(), 8)), 8))
        model.interaction.steps.fill_(FEWEST)
        weigh_interaction(model, 3)
        weights.append(float(model.interaction.weight))
    assert weights[1] == pytest.approx(2 * weights[0], rel=1e-5)
    weight = float(model.interaction.weight)
    views = model.decode(model.sample_latents(WEIGHING, make_generator(3)))
    with frozen(model):
        of_energy, of_f = (
            item_square_norm(evaluate(of, views).grad).sqrt().mean() for of in (model.energy, model.interaction)
        )
    assert float(weight * of_f / of_energy) == pytest.approx(1.4, rel=1e-5)
    model.energy_steps.fill_(0)
    weigh_interaction(model, 3)
    assert model.interaction.weight == 0
    assert small_model(mixed(), interaction={"kind": "pair"}, energy=None).interaction.weight == 0


def test_captions_that_no_chain_moves_have_no_say_in_the_weight():
    parts = {"x": vectors(x=3)["x"], "words": Text("words", ("a", "b", "c"), 4, text_mode="frozen")}
    model = small_model(parts, interaction={"kind": "pair", "ratio": 1.4})
    train(model, Belonging(steps=3), endless(lambda n, draws: whole(random_views(parts, 8)), 8))
    model.interaction.steps.fill_(FEWEST)
    model.energy_steps.fill_(1)
    weigh_interaction(model, 3)
    drawn = model.decode(model.sample_latents(WEIGHING, make_generator(3)))
    views = {name: parts[name].relax(view) for name, view in drawn.items()}
    with frozen(model):
        norms = [evaluate(of, views).grad["x"].norm(dim=1).mean() for of in (model.energy, model.interaction)]
    assert float(model.interaction.weight * norms[1] / norms[0]) == pytest.approx(1.4, rel=1e-5)


def test_the_finished_model_has_the_weight_of_the_rule_by_its_averaged_weights():
    model = small_model(mixed(), interaction={"kind": "pair", "ratio": 0.5})
    state = started(model, Belonging(steps=FEWEST))
    model.interaction.steps.fill_(FEWEST - 1)
    state.average.update({name: p.detach() * 1.1 for name, p in model.named_parameters()})
    state.stream = Again(whole(random_views(mixed(), 8)))
    take_average(state, Settling())
    assert model.interaction.weight == 0  # too few steps: it says nothing yet, and chooses nothing
    assert model.chooses == Interaction()
    model.interaction.steps.fill_(FEWEST)
    take_average(state, Settling())
    weight = float(model.interaction.weight)
    weigh_interaction(model, state.rng.initial_seed())
    assert weight == float(model.interaction.weight) > 0
    assert model.chooses.ratio == 0.5


class Loud(torch.nn.Module):
    """An energy that differs between items, and knows nothing of what belongs together: `height` times c."""

    def __init__(self, height: float) -> None:
        super().__init__()
        self.height = height

    def forward(self, views):
        return self.height * views["c"][:, 0]


def test_f_is_as_loud_in_scores_as_it_takes_to_tell_foreign_parts():
    """The least power of two; chains keep their weight; c is moved as well, of which nothing can be told."""
    model = small()
    train(model, Belonging(steps=100), endless(triples, 64))
    model.energy_steps.fill_(1)
    model.interaction.weight.fill_(0.5)
    batch, told = triples(600, make_generator(7)), {}
    moved = [batch._replace(views=batch.views | {name: batch.views[name].roll(1, 0)}) for name in "abc"]
    for height in (0.0, 40.0):
        model.energy = Loud(height)
        weigh_score(model, [batch])
        louder = float(model.interaction.louder)
        areas = [
            torch.stack([higher(model.score_states(batch), model.score_states(of)) for of in moved]).mean()
            for model.interaction.louder.data in (torch.tensor(louder), torch.tensor(louder / 2))
        ]
        asked = torch.stack([higher(model.match_states(batch), model.match_states(of)) for of in moved]).mean() - TOLD
        told[height] = louder, areas, asked
    (quiet, (area, _), asked), (loud, (enough, less), asked_too) = told.values()
    assert quiet == 1
    assert area > asked == asked_too
    assert loud in (2.0**k for k in range(1, 12))
    assert enough >= asked > less
    views = batch.views
    assert torch.equal(model.log_density_unnorm(views), -model.energy(views) + 0.5 * model.interaction(views))


def test_items_that_lack_a_part_say_nothing_of_how_loud_f_has_to_be():
    model = small()
    train(model, Belonging(steps=3), endless(triples, 64))
    model.energy, batch = Loud(1e3), triples(8, make_generator(7))
    model.interaction.weight.fill_(1e-3)
    weigh_score(model, [batch._replace(present=torch.tensor([[True, True, False]]).expand(8, 3))] * 2)
    assert model.interaction.louder == 1
    model.interaction.weight.fill_(0)
    weigh_score(model, [batch])
    assert model.interaction.louder == 1


def test_other_parts_their_draws_and_averages_stay_as_they_are():
    model, phase = small_model(mixed(), interaction={"kind": "pair"}), Belonging(steps=2)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = started(model, phase)
    state.average.update({name: p + 1 for name, p in model.named_parameters() if not name.startswith("interaction.")})
    draws, torch_draws = state.rng.get_state(), torch.get_rng_state()
    step = TrainingStep([phase], OptimiserSettings())
    for _ in range(2):
        step(state, whole(random_views(mixed(), 8)))
        state.step += 1
    assert torch.equal(state.rng.get_state(), draws)
    assert torch.equal(torch.get_rng_state(), torch_draws)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved
    assert all(name.startswith("interaction.") for name in moved)
    for name, parameter in model.named_parameters():
        if name.startswith("interaction."):
            assert torch.equal(state.average[name], parameter), name  # no older weights of f in the average
        else:
            assert torch.equal(state.average[name], parameter + 1), name  # older weights of what it does not teach stay


def test_every_step_has_donors_shifts_and_dropout_of_its_own(monkeypatch):
    """Generators read 32 bits of a seed: seeds that differ above these would repeat one step for ever."""
    seen, drawn = [], []
    monkeypatch.setattr(module, "draw_donors", lambda *a: seen.append(draw_donors(*a)) or seen[-1])
    model, phase = small_model(mixed(), interaction={"kind": "pair"}), Belonging(steps=6)
    dropout = next(part for part in model.interaction.modules() if isinstance(part, torch.nn.Dropout))
    dropout.register_forward_hook(lambda part, given, made: drawn.append((made == 0) & (given[0] != 0)))
    batch = whole(random_views(mixed(), 8))
    train(model, phase, iter([batch] * 6))
    drawn = [mask for mask in drawn if mask.any()]  # those of training
    assert len(seen) == 6
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])
    assert len(drawn) == 6
    alike = [a.shape == b.shape and torch.equal(a, b) for i, a in enumerate(drawn) for b in drawn[:i]]
    assert not any(alike)


def test_the_same_seed_gives_the_same_f_and_another_one_another():
    found = []
    for seed in (1, 1, 2):
        model, phase = small_model(mixed(), interaction={"kind": "pair"}), Belonging(steps=2)
        state, step = started(model, phase, seed), TrainingStep([phase], OptimiserSettings())
        for _ in range(2):
            step(state, whole(random_views(mixed(), 8)))
            state.step += 1
        found.append(torch.cat([p.detach().flatten() for p in model.interaction.parameters()]))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_what_is_hidden_teaches_nothing_even_if_it_is_nan():
    present = torch.rand(16, 3, generator=make_generator(3)) < 0.7
    present[0], present[1] = False, torch.tensor([True, False, False])
    found = []
    for hidden in (0.0, torch.nan):
        model, phase = small_model(mixed(), interaction={"kind": "pair"}), Belonging(steps=2)
        views = random_views(mixed(), 16)
        for view, here in zip(views.values(), present.T, strict=True):
            view[~here] = hidden
        batch = Batch(mask_views(views, present), present)
        train(model, phase, iter([batch, batch]))
        found.append(torch.cat([p.detach().flatten() for p in model.interaction.parameters()]))
    assert torch.equal(*found)
    assert found[0].isfinite().all()


def test_a_batch_in_which_nothing_can_be_foreign_changes_nothing():
    model, phase = small(), Belonging(steps=3)
    state, one = started(model, phase), triples(1, make_generator(0))
    before = [p.clone() for p in model.interaction.parameters()]
    assert phase.step(state, one, 0) == {}
    lonely = Batch(triples(4, make_generator(0)).views, torch.tensor([[True, False, False]]).expand(4, 3))
    assert phase.step(state, lonely, 1) == {}
    assert all(map(torch.equal, before, model.interaction.parameters()))
    assert not model.interaction_learned


def test_fewer_parts_are_two_or_more_of_those_there_each_set_as_often():
    present = torch.ones(4000, 4, dtype=torch.bool)
    present[:1000, 0] = present[:500, 1] = False  # 500 items of two parts, 500 of three, 3000 of four
    shown = with_fewer_parts(present, 0.5, make_generator(0))
    assert bool((shown <= present).all())
    assert torch.equal(shown[:500], present[:500])
    sizes = shown.sum(1)
    assert float((sizes[500:1000] == 2).float().mean()) == pytest.approx(0.5, abs=0.09)
    for size, share in ((2, 0.25), (3, 0.25), (4, 0.5)):
        assert float((sizes[1000:] == size).float().mean()) == pytest.approx(share, abs=0.035)
    three = shown[1000:][sizes[1000:] == 3]
    assert ((~three).float().mean(0) - 0.25).abs().max() < 0.07
    assert torch.equal(with_fewer_parts(present, 0.0, make_generator(0)), present)


def test_the_rate_makes_one_cycle():
    phase = Belonging(steps=100)
    rates = [phase.cycle(done) for done in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=2e-3)
    assert rates.index(max(rates)) in (29, 30)
    assert rates[0] < 0.05
    assert rates[-1] < 1e-3
    assert all(rate > 0 for rate in rates)


def test_a_run_says_what_it_lacks():
    lacks = "^model.interaction: got null with training.phases.belonging.steps 5, expected an energy of interaction"
    with pytest.raises(ConfigError, match=lacks):
        load_experiment("toy2d", ["training.phases=[{kind: belonging, steps: 5}]"])
    for phases in ("{kind: belonging, steps: 5}, {kind: cooperative, steps: 5}", "{kind: bound}, {kind: belonging}"):
        assert (
            contradictions(load_experiment("toy2d", [f"training.phases=[{phases}]", "model.interaction.kind=mlp"]))
            == []
        )
    assert "interaction" not in make_optimisers(small_model(mixed()), OptimiserSettings(), [Bound()])


def test_learned_before_it_moves_the_latents_of_samples_that_the_three_networks_learn_from(monkeypatch):
    """The chain starts from moved latents; generator and inference model learn of its end beside z as it was drawn."""
    model = small_model(mixed(), interaction={"kind": "pair", "latent_steps": 3})
    state = started(model, Cooperative(steps=5))
    z = model.sample_latents(8, make_generator(0))
    monkeypatch.setattr(MultimodalModel, "sample_latents", lambda *_: z)
    drawn, _ = refine_samples(state, 8)
    assert drawn.moved is drawn.latents
    model.interaction.steps.fill_(1)
    model.interaction.weight.fill_(0.1)
    state.rng = make_generator(4)
    samples, _ = refine_samples(state, 8)
    assert samples.latents is z
    moved, _ = model.refine_sampled(z, rng := make_generator(4), 3)
    expected, _ = model.refine_data(model.decode(moved), rng)
    for name in z:
        assert torch.equal(samples.moved[name], moved[name])
        assert not torch.equal(moved[name], z[name])
    for name, mean in model.decode(z).items():
        torch.testing.assert_close(samples.means[name].detach(), mean)
        torch.testing.assert_close(samples.refined[name], expected[name])


def test_learned_before_it_is_weighed_as_the_energy_goes_on():
    model = small_model(mixed(), interaction={"kind": "pair", "ratio": 0.5})
    model.interaction.steps.fill_(FEWEST)
    state, weights = started(model, energy.Energy(steps=5)), []
    state.step = energy.WEIGHED_EVERY - 1
    for done in range(3):
        energy.Energy(steps=5).step(state, whole(random_views(mixed(), 8, seed=done)), done)
        state.step += 1
        weights.append(float(model.interaction.weight))
    assert weights[0] == 0
    assert weights[1] > 0
    assert weights[2] == weights[1]
