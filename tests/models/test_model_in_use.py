"""A model at work for its users leaves itself and torch as they were, whatever the caller has set, in any thread."""

import copy
import io
import pickle
import threading
from multiprocessing import get_context

import numpy as np
import pytest
import torch

from multiebm.core.errors import ConfigError, ModalityError, MultiebmError
from multiebm.core.random import make_generator
from small_models import energy_prior, mixed, random_views, small_model

MODALITIES = mixed()
PARTS = {name: MODALITIES[name].to_raw(view) for name, view in random_views(MODALITIES, 4).items()}
LEFT = {"left": PARTS["left"]}
STATES = random_views(MODALITIES, 4)
USES = {
    "sample": lambda m: m.sample(3, data_steps=2),
    "sample plainly": lambda m: m.sample(3),
    "impute": lambda m: m.impute(LEFT, latent_steps=2, data_steps=2),
    "encode": lambda m: m.encode(PARTS),
    "score": lambda m: m.score(PARTS),
    "match": lambda m: m.match(PARTS),
    "log_likelihood": lambda m: m.log_likelihood(PARTS, given=["left"], samples=5, log_z=0.0),
    "log_normalizer": lambda m: torch.tensor(m.log_normalizer(samples=5, stages=3), dtype=torch.float32, device="cpu"),
    "log_density_unnorm": lambda m: m.log_density_unnorm(STATES),
}


def model_of(**sections):
    return small_model(MODALITIES, **({"prior": energy_prior()} | sections))


def values(result) -> list[torch.Tensor]:
    return [x.detach() for x in (result.values() if isinstance(result, dict) else [result])]


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(values(one), values(other), strict=True))


def everything_about(model) -> tuple:
    tensors = {name: t.detach().clone() for name, t in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()], [part.training for part in model.modules()]
    return tensors, flags, [p.grad for p in model.parameters()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("use", USES)
def test_no_use_changes_the_model_and_its_mode_does_not_matter(use, training):
    model = model_of().train(training)
    model.generator.decoders["left"].requires_grad_(False)
    before = everything_about(model)
    assert any("_u" in name for name in before[0])  # spectral norms are there to be moved
    first, second = USES[use](model), USES[use](model)
    after = everything_about(model)
    assert all(torch.equal(value, after[0][name]) for name, value in before[0].items())
    assert before[1:] == after[1:]
    assert same(first, second)
    assert same(first, USES[use](model.train(not training)))


MODES = [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu", torch.bfloat16)]
# log_density_unnorm works on states and in the precision of its caller
CASES = [(use, mode) for use in USES for mode in MODES if use != "log_density_unnorm" or mode != MODES[2]]


@pytest.mark.parametrize(("use", "mode"), CASES)
def test_modes_of_the_caller_do_not_matter(use, mode):
    model = model_of()
    usual = USES[use](model)
    with mode():
        inside = USES[use](model)
    assert same(usual, inside)
    assert use.startswith("log_") or not any(x.requires_grad or x.is_inference() for x in values(inside))


def test_parts_and_models_made_in_inference_mode_are_as_good():
    with torch.inference_mode():
        model, parts = model_of(), {name: part.clone() for name, part in LEFT.items()}
        inside = model.impute(parts, latent_steps=2, data_steps=2)
    assert same(inside, model_of().impute(LEFT, latent_steps=2, data_steps=2))
    assert same(model.impute(parts, latent_steps=2, data_steps=2), inside)


def test_chains_on_states_run_in_inference_mode():
    model, clamp = model_of(), torch.tensor([[True, False, False]] * 4)
    usual = model.refine_data(STATES, make_generator(0), 3, clamp=clamp)[0]
    with torch.inference_mode():
        states = {name: view.clone() for name, view in STATES.items()}
        assert same(model.refine_data(states, make_generator(0), 3, clamp=clamp.clone())[0], usual)


@pytest.mark.parametrize("use", USES)
def test_a_default_type_of_the_caller_does_not_matter(use):
    usual = USES[use](model_of())
    torch.set_default_dtype(torch.float64)
    try:
        other = USES[use](model_of())
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(usual, other)


@pytest.mark.parametrize("use", [use for use in USES if use != "log_density_unnorm"])
def test_a_default_device_of_the_caller_does_not_matter(use):
    """Which is meta here, for want of another: whatever were made there would have no values."""
    model = model_of()
    usual = USES[use](model)
    with torch.device("meta"):
        other = USES[use](model)
    assert same(usual, other)


@pytest.mark.parametrize("turned", ["half", "double", "bfloat16"])
@pytest.mark.parametrize("use", [use for use in USES if use != "log_density_unnorm"])
def test_weights_of_another_type_are_refused_with_the_way_back(use, turned):
    model = getattr(model_of(), turned)()
    with pytest.raises(ConfigError, match=r"expected torch.float32; call model.float\(\)"):
        USES[use](model)
    USES[use](model.float())


def through_pickle(model):
    return pickle.loads(pickle.dumps(model))  # noqa: S301 - our own bytes


def through_torch(model):
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("way", [through_pickle, through_torch, copy.deepcopy])
def test_a_model_survives_pickle_torch_save_and_deepcopy(way):
    model = model_of()
    other = way(model)
    assert all(torch.equal(value, other.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(same(ask(model), ask(other)) for ask in USES.values())
    with torch.no_grad():
        next(other.energy.parameters()).add_(1.0)
    assert not same(model.score(PARTS), other.score(PARTS))  # nothing is shared


def refined(model):
    return model.sample(2, data_steps=2)["left"].tolist()


def test_a_model_may_be_handed_to_a_spawned_process():
    model = model_of()
    with get_context("spawn").Pool(1) as pool:
        assert pool.map(refined, [model]) == [refined(model)]


def test_threads_may_use_one_model_at_once():
    model, found, barrier = model_of().train(), {}, threading.Barrier(4)
    expected = {seed: [model.sample(5, 3, seed), model.impute(LEFT, data_steps=3, seed=seed)] for seed in range(4)}

    def work(seed: int) -> None:
        barrier.wait()
        found[seed] = [(model.sample(5, 3, seed), model.impute(LEFT, data_steps=3, seed=seed)) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pairs = [(pair, expected[seed]) for seed in range(4) for pair in found[seed]]
    assert len(pairs) == 20
    for one, other in pairs:
        for a, b in zip(one, other, strict=True):
            assert {name: (a[name] - b[name]).abs().max().item() for name in a} == dict.fromkeys(a, 0.0)
    assert all(p.requires_grad for p in model.parameters())
    assert all(part.training for part in model.modules())


NO_SEEDS = [None, "1", True, 1.0, -1, 2**32, 2**70, 1 << 20000, [1]]


@pytest.mark.parametrize("seed", NO_SEEDS, ids=range(len(NO_SEEDS)))  # one of them has too many digits to show
def test_seeds_that_are_none_are_refused(seed):
    model = model_of()
    calls = (
        lambda: model.sample(2, seed=seed),
        lambda: model.impute(LEFT, seed=seed),
        lambda: model.log_likelihood(PARTS, samples=2, seed=seed, log_z=0.0),
        lambda: model.log_normalizer(seed=seed),
    )
    for call in calls:
        with pytest.raises(ConfigError, match=r"seed: got .*, expected a whole number from 0 to 4294967295"):
            call()


@pytest.mark.parametrize("kind", ["int64", "int32", "uint32", "uint8"])
def test_integers_of_numpy_and_torch_are_numbers(kind):
    import numpy as np

    model, of = model_of(), getattr(np, kind)
    assert same(model.sample(of(3), of(2), of(7)), model.sample(3, 2, 7))
    assert same(model.sample(torch.tensor(3), seed=torch.tensor(7)), model.sample(3, seed=7))
    chained = model.impute(LEFT, latent_steps=of(2), data_steps=of(1), seed=of(3))
    assert same(chained, model.impute(LEFT, latent_steps=2, data_steps=1, seed=3))
    assert same(
        model.log_likelihood(PARTS, samples=of(4), log_z=0.0), model.log_likelihood(PARTS, samples=4, log_z=0.0)
    )


@pytest.mark.parametrize("n", [0, -3, 2.0, "3", True, None, 10**10, 10**30, float("nan")])
def test_numbers_of_samples_that_are_none_or_too_many_are_refused_at_once(n):
    too_many = r" \(16 GiB\); draw fewer a seed" if n in (10**10, 10**30) else ""
    with pytest.raises(ConfigError, match=rf"n: got .*, expected a number of samples from 1 to \d+{too_many}$"):
        model_of().sample(n)


@pytest.mark.parametrize("value", [0, -1, 2.0, "3", None, True, 10**12])
def test_numbers_of_importance_samples_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match=r"samples: got .*, expected a whole number from 1 to 10000000"):
        model_of().log_likelihood(PARTS, samples=value)


@pytest.mark.parametrize("value", [-1, 2.0, "3", True, 10_001])
def test_numbers_of_steps_that_are_none_are_refused(value):
    model = model_of()
    for call in (
        lambda: model.sample(2, data_steps=value),
        lambda: model.impute(LEFT, latent_steps=value),
        lambda: model.impute(LEFT, data_steps=value),
    ):
        with pytest.raises(ConfigError, match="_steps: got .*, expected a number of chain steps from 0 to 10000"):
            call()


@pytest.mark.parametrize("value", ["1", True, 0, -1, 1.5, float("nan"), [1]])
def test_temperatures_that_are_none_are_refused(value):
    with pytest.raises(ConfigError, match="temperature: got .*, expected 0 < T <= 1"):
        model_of().sample(2, temperature=value)


def test_names_to_condition_on_are_checked_before_the_normaliser(monkeypatch):
    model = model_of()
    monkeypatch.setattr(type(model), "log_normalizer", lambda self: pytest.fail("log Z was estimated first"))
    for given in (["lefd"], ["left"]):
        with pytest.raises(MultiebmError, match="given: got"):
            model.log_likelihood({"right": PARTS["right"]}, given=given)


@pytest.mark.parametrize("names", [[1], [None], 5, ["left", 2], "lefd"])
def test_names_that_are_no_names_of_parts_are_refused(names):
    for ask in (lambda m: m.impute(PARTS, want=names), lambda m: m.log_likelihood(PARTS, given=names, log_z=0.0)):
        with pytest.raises(ModalityError, match=r"(want|given): got ('lefd'|1|None|5|2), expected .*face, left, right"):
            ask(model_of())


@pytest.mark.parametrize("names", ["left", ["left"], ("left",), {"left"}, np.array(["left"])])
def test_one_name_is_as_good_as_a_list_of_it(names):
    model = model_of()
    assert [(type(name), name) for name in model.impute(PARTS, want=names)] == [(str, "left")]
    found = model.log_likelihood(PARTS, given=names, samples=5, log_z=0.0)
    assert torch.equal(found, model.log_likelihood(PARTS, given=["left"], samples=5, log_z=0.0))


@pytest.mark.parametrize("value", ["1", [1.0], True, float("nan"), float("inf"), torch.zeros(2)])
def test_a_normaliser_that_is_no_finite_number_is_refused(value):
    with pytest.raises(ConfigError, match="log_z: got .*, expected a finite number of nats"):
        model_of().log_likelihood(PARTS, log_z=value)


def untrained():
    model = model_of()
    model.energy_steps.zero_()
    return model


@pytest.mark.parametrize(
    "ask",
    [
        lambda m: m.score(PARTS),
        lambda m: m.sample(2, data_steps=None),
        lambda m: m.sample(2, data_steps=1),
        lambda m: m.impute(LEFT, data_steps=None),
        lambda m: m.impute(LEFT, data_steps=1),
    ],
)
def test_an_energy_that_made_no_step_is_not_asked(ask):
    with pytest.raises(ConfigError, match=r"has made no step of training.*phases\.cooperative\.steps above 0"):
        ask(untrained())
    ask(model_of())


def test_without_the_energy_an_untrained_one_does_no_harm():
    model = untrained()
    assert not model.energy_learned
    assert model_of().energy_learned
    assert not small_model(MODALITIES, energy=None).energy_learned
    model.sample(2)
    model.impute(LEFT, latent_steps=1)
    model.refine_data(STATES, make_generator(0), 2)  # training begins with such an energy
    assert model.log_density_unnorm(STATES).isfinite().all()
