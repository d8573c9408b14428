"""Steps within a time budget: timed before, planned again on the way, and the run that comes of it."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from multiebm.experiments import planning
from multiebm.experiments.load import differences, load_experiment
from multiebm.experiments.planning import Plan, in_steps, planned_again, run_planned, with_steps_of
from multiebm.experiments.run import run_experiment

CPU = torch.device("cpu")
SMALL = [
    "data.settings={modalities: [m0, m1], train_tuples: 400, test_tuples: 40}",
    "evaluation.sizes=[1]",
    "training.batch_size=8",
    "training.precision=fp32",
    "model.shared=3",
    "model.networks.picture.width=2",
    "training.checkpoint_every=5",
]
PHASES = ["bound.steps=280", "bound.prior_from=200", "energy.steps=2", "cooperative.steps=8", "belonging.steps=0"]


def phases_of(experiment):
    return (experiment.training.phase(kind) for kind in ("bound", "energy", "cooperative"))


def test_steps_are_planned_from_the_time_of_a_few(monkeypatch):
    """Steps of 0.2 s, the first of 1.1 s: 95 % of 100 s are 475. Timed for 5 s, or 200 of them, but no fewer than 5."""
    monkeypatch.setattr(planning, "settling_within", lambda *state: SimpleNamespace(seconds=0.0))
    monkeypatch.setattr(planning, "TrainingStep", lambda *settings: lambda state, batch: None)  # the clock is made up
    for usual, planned, timed in ((0.2, 475, 21), (0.01, 9500, 200), (10.0, 10, 5)):
        ends = itertools.accumulate(itertools.chain([1.1], itertools.repeat(usual)))
        clock = itertools.chain([0.0], itertools.chain.from_iterable((end, end) for end in ends))
        calls: list[float] = []
        monkeypatch.setattr(planning.time, "perf_counter", lambda c=clock, seen=calls: seen.append(next(c)) or seen[-1])
        experiment = load_experiment("polydigits-mvae", [*SMALL, "training.seconds=100"])
        assert planning.planned(experiment, CPU).experiment.training.phase("bound").steps == planned
        assert len(calls) == 2 * timed


def test_phases_and_the_start_of_the_tilt_keep_their_shares(monkeypatch):
    """0.1 s a step before the tilt learns, 0.2 s with it, 0.5 s of the energy's and of cooperative ones: 20 + 16 + 5 s
    as set, so that 95 % of 92 s less 9.5 s of settling are 1.9 times as many of each.
    """
    settling = SimpleNamespace(seconds=9.5)
    monkeypatch.setattr(planning, "settling_within", lambda *state: settling)
    took = {0: 0.1, 200: 0.2, 280: 0.5, 282: 0.5}
    monkeypatch.setattr(planning, "_time_of_step", lambda experiment, at, device: took[at])
    experiment = load_experiment("polydigits", [*(f"training.phases.{s}" for s in PHASES), "training.seconds=92"])
    bound, energy, cooperative = phases_of(planning.planned(experiment, CPU).experiment)
    assert (bound.steps, bound.prior_from, energy.steps, cooperative.steps) == (532, 380, 4, 15)


def test_the_phase_of_what_belongs_together_is_timed_with_and_without_corrupted_parts(monkeypatch):
    """36 s before it and 5 s as set; of its 100 steps 30 take 0.1 s and those with corrupted parts 0.2 s: 17 s. 95 % of
    132.1 s less 9.5 s of settling are twice as much.
    """
    monkeypatch.setattr(planning, "settling_within", lambda *state: SimpleNamespace(seconds=9.5))
    took = {0: 0.1, 200: 0.2, 280: 0.5, 282: 0.5, 290: 0.1, 320: 0.2}
    monkeypatch.setattr(planning, "_time_of_step", lambda experiment, at, device: took[at])
    settings = [f"training.phases.{s}" for s in PHASES] + ["training.phases.belonging.steps=100"]
    plan = planning.planned(load_experiment("polydigits", [*settings, "training.seconds=132.1"]), CPU)
    assert [list(of) for of in plan.took] == [[0.1, 0.2], [0.5], [0.5], [0.1, 0.2]]
    assert plan.experiment.training.phase("belonging").steps == 200
    assert plan._replace(experiment=load_experiment("polydigits", settings)).seconds_until(390) == pytest.approx(58)
    assert plan.seconds_until(780) == pytest.approx(116, rel=0.01)


def test_chains_are_timed_with_the_energy_of_interaction_where_an_earlier_phase_has_taught_it(monkeypatch):
    """Taught first, it moves latents in the steps of energy and cooperative learning."""
    moved = []
    step = planning.TrainingStep.__call__

    def seen(self, state, batch):
        moved.append((state.step, state.model.chooses.latent_steps))
        return step(self, state, batch)

    monkeypatch.setattr(planning.TrainingStep, "__call__", seen)
    phases = "[{kind: belonging, steps: 60}, {kind: energy, steps: 2}, {kind: belonging, steps: 1}]"
    settings = ["model.interaction.latent_steps=2", f"training.phases={phases}", "training.seconds=0.001"]
    experiment = load_experiment("polydigits", [*SMALL, *settings])
    assert all(planning._time_of_step(experiment, at, CPU) > 0 for at in (0, 60, 62))
    assert list(dict.fromkeys(moved)) == [(0, 0), (60, 2), (62, 2)]


def plan_of(*settings):
    """280 steps of 0.1 s, from step 200 on 0.2 s, 2 + 8 of 0.5 s, 9.5 s of settling: 41 s of steps."""
    asked = [*(f"training.phases.{s}" for s in PHASES), *settings]
    return Plan(load_experiment("polydigits", asked), [[0.1, 0.2], [0.5], [0.5]], 9.5)


def test_a_plan_says_when_a_step_should_be_reached():
    plan = plan_of()
    assert [plan.seconds_until(step) for step in (0, 100, 200, 210, 280, 284, 290)] == pytest.approx(
        [0, 10, 20, 22, 36, 38, 41]
    )


def test_what_is_left_is_stretched_to_the_time_that_is_left():
    """After 100 steps in 20 s instead of 10 s the rest, 31 s as planned, would take 62 s."""
    plan = planned_again(plan_of("training.seconds=110"), 100, 20.0)
    bound, energy, cooperative = phases_of(plan.experiment)
    factor = (0.95 * 110 - 9.5 - 20) / (2 * 31)  # 1.21
    assert bound.prior_from == 100 + round(factor * 100)
    assert bound.steps == 100 + round(factor * 180)
    assert cooperative.steps == round(factor * 8)
    assert energy.steps == round(factor * 2)
    rest = plan.seconds_until(bound.steps + energy.steps + cooperative.steps) - plan.seconds_until(100)
    assert 20 + 2 * rest + 9.5 == pytest.approx(0.95 * 110, abs=1)  # whole steps


def test_when_a_phase_is_over_those_after_it_alone_are_planned_again():
    """36 s of warm-up took 45 s: 10 steps would take 6.25 s, and 12.5 s are left for them."""
    plan = planned_again(plan_of(f"training.seconds={(45 + 12.5 + 9.5) / 0.95}"), 280, 45.0)
    bound, energy, cooperative = phases_of(plan.experiment)
    assert (bound.steps, bound.prior_from) == (280, 200)
    assert (cooperative.steps, energy.steps) == (16, 4)


def test_phases_to_come_may_have_what_is_kept_free_where_less_than_half_of_their_need_is_left():
    """36 s of warm-up took 72 s, so all takes twice as planned. 2 s are left, and 5 % of 88 s are free: 6.4 s."""
    plan = plan_of("training.seconds=88", "training.phases.energy.steps=20")
    needed, taken = 2 * (20 + 8) * 0.5, 0.95 * 88 - 72 - 2
    bound, energy, cooperative = phases_of(planned_again(plan._replace(settling=taken), 280, 72.0).experiment)
    assert (bound.steps, energy.steps, cooperative.steps) == (280, round(20 * 6.4 / needed), round(8 * 6.4 / needed))
    few = plan_of("training.seconds=88")._replace(settling=taken)
    assert [phase.steps for phase in phases_of(planned_again(few, 280, 72.0).experiment)] == [280, 1, 4]  # half


def test_a_phase_for_which_no_time_is_left_keeps_a_step():
    bound, energy, cooperative = phases_of(planned_again(plan_of("training.seconds=20"), 100, 30.0).experiment)
    assert (bound.prior_from, bound.steps, energy.steps, cooperative.steps) == (101, 101, 1, 1)


@pytest.mark.parametrize("row", ["polydigits", "polydigits-mvebm"])
def test_a_planned_run_is_that_of_its_last_plan_from_the_start_bit_for_bit(row, tmp_path, monkeypatch):
    """Of a first plan that is too short by a third, with three phases or one."""
    settings = ["bound.steps=20", "bound.prior_from=15"]
    settings += (
        ["energy.steps=1", "cooperative.steps=3", "settle.steps=2", "belonging.steps=0"] if row == "polydigits" else []
    )
    experiment = load_experiment(row, [*SMALL, *(f"training.phases.{s}" for s in settings)])
    looks = []

    def again(plan, step, elapsed):
        looks.append(step)
        return planning._stretched(plan, step, 1.5)

    monkeypatch.setattr(planning, "planned_again", again)
    plan = Plan(experiment, [[0.1, 0.1], [0.1], [0.1]], 0.0)
    result = run_planned(plan, tmp_path / "planned", row, "cpu")
    last = load_experiment(tmp_path / "planned")
    straight = run_experiment(last, tmp_path / "straight", device="cpu")
    assert looks == ([9, 25, 28] if row == "polydigits" else [9])
    assert last.training.phase("bound").steps == 25
    assert result.fit.step == straight.fit.step == (37 if row == "polydigits" else 25)
    theirs = straight.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in result.model.state_dict().items())


def test_a_kind_that_comes_twice_may_have_other_steps_in_a_plan():
    """The second of a kind has no name of its own in differences."""
    phases = "training.phases=[{kind: bound, steps: 3}, {kind: cooperative, steps: 2}, {kind: bound, steps: 1}]"
    asked = load_experiment("toy2d", [phases])
    plan = load_experiment(asked, [f"training.phases.{i}.steps={20 + i}" for i in range(3)])
    assert [change.key for change in differences(asked, plan)][-1] == "training.phases.2.steps"
    assert differences(with_steps_of(asked, plan), plan) == []
    other = load_experiment(plan, ["training.phases.2.beta=2", "training.phases.1.rate=0.5"])
    assert len(differences(with_steps_of(asked, other), other)) == 2


def test_a_run_without_steps_is_planned_as_it_is(tmp_path):
    experiment = load_experiment("toy2d", ["training.phases.cooperative.steps=0", "training.seconds=5"])
    plan = planning.planned(experiment, CPU)
    assert plan.experiment == experiment
    assert run_planned(plan, tmp_path / "run", "toy2d", "cpu").fit.reason == "finished"


def test_a_number_of_steps_is_shared_by_the_phases_as_the_preset_does():
    phases = in_steps(load_experiment("arrays"), 276).training.phases  # of 2600 + 40 + 120
    assert [(phase.kind, phase.steps) for phase in phases] == [
        ("bound", 260),
        ("energy", 4),
        ("cooperative", 12),
        ("settle", 0),
    ]
    assert phases[0].prior_from == 160
    few = in_steps(load_experiment("arrays"), 1).training.phases
    assert [phase.steps for phase in few] == [1, 1, 1, 0]
