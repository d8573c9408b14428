"""The cost table: evaluations are counted, parameters and seconds are those of the way, and nothing else."""

from importlib.util import find_spec

import pytest
import torch

from multiebm.models.diffusion import Diffusion, DiffusionRefiner
from small_models import energy_prior, mixed, small_model
from test_scripts import loaded

cost = loaded("cost_table")


def model_of(**sections):
    return small_model(mixed(), prior=energy_prior(), **sections).eval()


def numel(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_gen_decodes_once_and_the_chain_asks_the_energy_once_a_step():
    """NFE 1 and 1 + K; K = 3 steps. The tilt of the prior, of 4 steps, stands apart."""
    gen, ebm = cost["ways"](model := model_of())
    assert [way.title for way in (gen, ebm)] == ["Gen", "EBM"]
    none = {"energy": 0, "interaction": 0, "ratio": 0, "denoiser": 0}
    assert cost["evaluations"](model, gen) == none | {"decoder": 1, "prior": 4}
    assert cost["evaluations"](model, ebm) == none | {"decoder": 1, "energy": 3, "prior": 4}


def test_an_energy_of_interaction_that_learned_is_counted_with_its_steps_over_latents():
    """L steps over latents decode and ask f in each, and at their end decode twice; K steps ask E and f in each."""
    model = model_of(interaction={"kind": "pair", "latent_steps": 5})
    model.interaction.steps.fill_(100)
    model.interaction.weight.fill_(2.0)
    _, ebm = cost["ways"](model)
    assert cost["evaluations"](model, ebm) == {
        "decoder": 5 + 2, "energy": 3, "interaction": 5 + 3, "ratio": 0, "denoiser": 0, "prior": 4 + 5
    }  # fmt: skip
    expected = sum(map(numel, filter(None, (model.energy, model.interaction, model.ratio, model.generator.prior))))
    assert cost["parameters"](model, ebm) == expected


@pytest.mark.skipif(find_spec("diffusers") is None, reason="the extra diffusion is not installed")
def test_a_refiner_asks_its_network_once_a_step():
    model = model_of()
    model.diffusion = DiffusionRefiner(Diffusion(2, 4, 25), model.modalities).eval()
    *_, way = cost["ways"](model)
    assert way.title == "Diffusion, formulation 2"
    calls = cost["evaluations"](model, way)
    assert calls == {"decoder": 1, "energy": 0, "interaction": 0, "ratio": 0, "denoiser": 25, "prior": 4}
    assert cost["parameters"](model, way) == numel(model.diffusion) + numel(model.generator.prior)


def test_a_model_without_a_learned_energy_has_gen_alone_and_its_prior_is_all_it_needs():
    (gen,) = cost["ways"](model := small_model(mixed(), energy=None))
    assert cost["parameters"](model, gen) == 0
    assert cost["parameters"](tilted := model_of(), gen) == numel(tilted.generator.prior) > 0


class Clock:
    """Stands still but for calls, each of which takes the next of these seconds."""

    def __init__(self, *seconds: float) -> None:
        self.now, self.seconds = 0.0, list(seconds)

    def __call__(self) -> float:
        return self.now

    def call(self) -> None:
        self.now += self.seconds.pop(0)


def test_calls_before_are_not_timed_and_time_that_is_spent_ends_the_timing():
    timed = cost["timed"]
    clock = Clock(9, 8, 1, 2, 3, 4)
    assert timed(clock.call, 3, 1000.0, 2, clock) == [1, 2, 3]
    clock = Clock(9, 1, 2, 3, 4)
    assert timed(clock.call, 3, 12.0, 5, clock) == [1, 2]  # a third of 12 is spent after the first call
    clock = Clock(100, 90, 1)
    assert timed(clock.call, 20, 10.0, 10, clock) == [90]


def test_the_table_has_the_columns_that_were_measured():
    def row(way, seconds, **quality):
        values = {name: {"value": v, "standard_error": 0.01, "n": 9} for name, v in quality.items()}
        calls = {"prior": 4}
        return {"run": "r", "way": way, "seconds": seconds, "evaluations": 2, "calls": calls, "parameters": 1234,
                "quality": values}  # fmt: skip

    lines = cost["table"]([row("Gen", 0.5, fcd=3.0), row("EBM", 2.0, fcd=1.0, joint_coherence=0.9)]).splitlines()
    assert (
        lines[0]
        == "| run | way | s per 100 | ratio | evaluations | of the prior | parameters | joint coherence | fcd |"
    )
    assert lines[2] == "| r | Gen | 0.5 | 1 | 2 | 4 | 1,234 | - | 3.000 ± 0.010 |"
    assert lines[3] == "| r | EBM | 2 | 4 | 2 | 4 | 1,234 | 0.900 ± 0.010 | 1.000 ± 0.010 |"
