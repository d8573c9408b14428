import logging
import math
from pathlib import Path

import pytest
import torch
from training_standin import assert_same_state, hooks, log_lines, make_state, step

from multiebm.core.errors import DivergenceError
from multiebm.core.keys import ELAPSED
from multiebm.core.metrics import GAP, find_problem
from multiebm.priors.energy import LIMITS
from multiebm.priors.mixture import MixturePrior
from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.guard import Guard
from multiebm.training.hooks import CheckpointEvery, MetricsLog
from multiebm.training.loop import fit
from multiebm.training.state import TrainState

RUNAWAY = {"energy/gap": -101.0}


def limits(gap: float) -> dict[str, float]:
    return {GAP: gap, **LIMITS}


class Diverging:
    """The stand-in's step; the given calls (1, 2, ...) return other metrics. Keeps the state before every call."""

    def __init__(self, at: dict[int, dict[str, float]]) -> None:
        self.at = at
        self.before: list[TrainState] = []
        self.items: list[list[int]] = []

    def __call__(self, state, batch):
        copy = make_state()
        copy.restore(state.snapshot())
        self.before.append(copy)
        self.items.append(batch.labels.tolist())
        return step(state, batch) | self.at.get(len(self.before), {})


def energy_rate(state: TrainState) -> float:
    return state.optimisers["energy"].param_groups[0]["lr"]


def without_counts(state: TrainState) -> TrainState:
    for key in [key for key in state.numbers if key.startswith("guard/")]:
        del state.numbers[key]
    state.good = None
    return state


def test_a_gap_over_the_limit_brings_back_exactly_the_state_of_the_snapshot():
    """Snapshots at 0 and 4, the sixth step diverges: all but noise, the energy's rate and the counts is as at 4."""
    diverging, state = Diverging({6: RUNAWAY}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), snapshot_every=4), 7)
    assert [s.step for s in diverging.before] == [0, 1, 2, 3, 4, 5, 4, 5, 6]
    assert diverging.items[6:8] == diverging.items[4:6]
    good, retried = diverging.before[4], diverging.before[6]
    assert (retried.numbers["guard/retries"], retried.numbers["guard/in_a_row"]) == (1.0, 1.0)
    assert energy_rate(retried) == 0.5 * energy_rate(good)
    assert not torch.equal(retried.rng.get_state(), good.rng.get_state())
    retried.optimisers["energy"].param_groups[0]["lr"] *= 2
    assert_same_state(without_counts(retried), without_counts(good), leaving_out=("generator",))


def test_a_step_within_the_limit_is_left_alone():
    guarded, plain = make_state(), make_state()
    fit(guarded, Guard(step, limits=limits(100.0), snapshot_every=2), 5)
    fit(plain, step, 5)
    assert guarded.numbers["guard/healthy_steps"] == 5
    assert_same_state(without_counts(guarded), plain)


def test_every_roll_back_lowers_the_rate_once_more_and_draws_other_noise():
    diverging, state = Diverging({3: RUNAWAY, 4: RUNAWAY, 5: RUNAWAY}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), factor=0.5), 3)
    retries = diverging.before[3:6]
    assert [energy_rate(s) for s in retries] == [0.005, 0.0025, 0.00125]
    assert energy_rate(state) == 0.00125
    assert state.numbers["guard/rate"] == 0.125
    assert len({tuple(s.rng.get_state().tolist()) for s in [diverging.before[0], *retries]}) == 4


def test_the_same_divergence_is_answered_the_same_way_twice():
    first, second = make_state(), make_state()
    for state in (first, second):
        fit(state, Guard(Diverging({3: RUNAWAY, 6: RUNAWAY}), limits=limits(100.0)), 8)
    assert_same_state(first, second)


def test_a_prior_that_runs_away_is_rolled_back_and_learns_more_slowly_alone(caplog):
    """Its rate is halved for good, the energy's is not; a later roll-back of the energy leaves the prior's halved."""
    calls, state = iter([{}, {"prior/escape": 9.0}, {}, {}, RUNAWAY, *[{}] * 9]), make_state()
    state.optimisers["prior"] = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    rate = energy_rate(state)
    with caplog.at_level(logging.WARNING):
        fit(state, Guard(lambda s, batch: step(s, batch) | next(calls), limits=limits(100.0)), 4)
    assert state.optimisers["prior"].param_groups[0]["lr"] == 0.5
    assert energy_rate(state) == 0.5 * rate
    assert (state.numbers["guard/prior_rate"], state.numbers["guard/rate"]) == (0.5, 0.5)
    assert "the prior's learning rate is now 0.5 of its setting" in caplog.text


def test_a_prior_that_keeps_running_away_ends_in_advice_on_the_prior():
    always = Diverging({call: {"prior/gap": 1e4} for call in range(1, 100)})
    with pytest.raises(DivergenceError, match=r"model\.prior\.penalty"):
        fit(make_state(), Guard(always, limits=limits(100.0), retries=2), 3)


def test_without_an_energy_optimiser_every_rate_is_lowered():
    state = make_state()
    state.optimisers["other"] = state.optimisers.pop("energy")
    snapshot_rates = {name: o.param_groups[0]["lr"] for name, o in state.optimisers.items()}
    diverging = Guard(
        lambda s, b: {"loss": math.nan if s.numbers.get("guard/rate", 1.0) == 1.0 else 0.0}, limits=limits(1.0)
    )
    fit(state, diverging, 1)
    assert {name: o.param_groups[0]["lr"] for name, o in state.optimisers.items()} == {
        name: rate / 2 for name, rate in snapshot_rates.items()
    }


@pytest.mark.parametrize(
    ("metrics", "problem"),
    [
        ({"loss/energy": math.nan}, "loss/energy is nan, expected a finite number"),
        ({"loss": -math.inf}, "loss is -inf, expected a finite number"),
        ({"grad_norm/prior": math.inf}, "grad_norm/prior is inf, expected a finite number"),
        ({"energy/gap": math.nan}, "energy/gap is nan, expected a finite number"),
        ({"energy/gap": -10.5}, "energy/gap is -10.5, expected within +-10"),
        ({"prior/gap": 201.0}, "prior/gap is 201, expected within +-200"),
        ({"prior/escape": 5.5}, "prior/escape is 5.5, expected within +-5"),
        ({"prior/escape": math.nan}, "prior/escape is nan, expected within +-5"),
        (
            {"loss/generator": math.nan, "prior/negative_max": math.nan, "prior/escape": math.nan},
            "prior/negative_max is nan, expected a finite number",
        ),
        (  # nor a learned scale of the base, which the bound takes along
            {"loss/elbo": math.nan, "prior/negative_max": math.nan, "prior/base_max": math.nan},
            "loss/elbo is nan, expected a finite number",
        ),
        (  # codes that are not finite are no fault of the tilt
            {"loss/generator": math.nan, "prior/gap": math.nan, "prior/negative_max": 3.0},
            "loss/generator is nan, expected a finite number",
        ),
        ({"prior/gap": 199.0, "prior/escape": 4.9}, None),
        ({"energy/gap": 10.0, "loss": 1e9, "energy/data_std": math.nan}, None),  # one item has no standard deviation
    ],
)
def test_what_counts_as_divergence(metrics: dict[str, float], problem: str | None):
    assert find_problem(metrics, limits(10.0)) == problem


def test_nan_in_a_loss_is_rolled_back_like_a_runaway_energy(caplog):
    state = make_state()
    with caplog.at_level(logging.WARNING):
        fit(state, Guard(Diverging({2: {"loss": math.nan}}), limits=limits(100.0)), 3)
    assert state.numbers["guard/retries"] == 1
    assert "step 2 diverged (loss is nan, expected a finite number): back to step 0" in caplog.text


def test_weights_that_are_not_finite_never_become_a_snapshot():
    """Step 4 writes NaN unnoticed; a snapshot is due just then, but the one of step 2 must be what is restored."""
    poisoned = []

    def poison(state, batch):
        metrics = step(state, batch)
        if state.step == 3 and not poisoned:
            poisoned.append(True)
            torch.nn.init.constant_(state.model.generator.bias, math.nan)
        return metrics

    state = make_state()
    fit(state, Guard(poison, limits=limits(100.0), snapshot_every=2), 6)
    assert state.numbers["guard/retries"] == 1
    assert all(bool(torch.isfinite(p).all()) for p in state.model.parameters())


def test_a_state_close_to_the_limit_is_not_kept_as_good():
    """The second step's gap is 60 of 100, so the snapshot due at 2 is not taken and step 3 goes back to 0."""
    diverging, state = Diverging({2: {"energy/gap": 60.0}, 3: RUNAWAY}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), snapshot_every=2), 3)
    assert [s.step for s in diverging.before] == [0, 1, 2, 0, 1, 2]


def test_nor_is_a_state_close_to_a_limit_of_the_prior():
    diverging, state = Diverging({2: {"prior/escape": 4.0}, 3: {"prior/escape": 6.0}}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), snapshot_every=2), 3)
    assert [s.step for s in diverging.before] == [0, 1, 2, 0, 1, 2]


def test_bounded_retries_end_in_an_error_that_says_what_and_where_and_what_to_try(tmp_path: Path):
    state, always = make_state(), Diverging({call: {"energy/gap": 312.44} for call in range(8, 100)})
    store = CheckpointStore(tmp_path / "checkpoints")
    guard = Guard(always, limits=limits(100.0), snapshot_every=5, retries=3, last_checkpoint=store.latest)
    with pytest.raises(DivergenceError) as caught:
        fit(state, guard, 50, hooks(tmp_path))
    message = str(caught.value)
    # the eighth call is step 8; the three retries fail at once, in step 6
    assert "training diverged at step 6: energy/gap is 312.4, expected within +-100." in message
    assert "3 roll-backs in a row" in message
    assert f"Last good checkpoint: {store.path(5)}." in message
    assert "Try a lower learning rate of the energy" in message
    assert len(always.before) == 8 + 3


def test_a_healthy_stretch_with_a_newer_snapshot_makes_the_retries_count_anew():
    at_every_tenth_call = dict.fromkeys(range(10, 100, 10), RUNAWAY)
    state = make_state()
    fit(
        state,
        Guard(Diverging(at_every_tenth_call), limits=limits(100.0), snapshot_every=2, retries=1, healthy_steps=4),
        30,
    )
    assert state.numbers["guard/retries"] >= 3
    with pytest.raises(DivergenceError):
        fit(make_state(), Guard(Diverging(at_every_tenth_call), limits=limits(100.0), snapshot_every=2, retries=1), 30)


def test_retries_and_the_lowered_rate_survive_a_resume(tmp_path: Path):
    """Two roll-backs in a row before the checkpoint; after it a third is allowed and the fourth is one too many."""
    first = make_state()
    guarded = {"limits": limits(100.0), "retries": 3, "snapshot_every": 5}
    fit(first, Guard(Diverging({2: RUNAWAY, 3: RUNAWAY}), **guarded), 5, hooks(tmp_path))
    resumed = make_state()
    CheckpointStore(tmp_path / "checkpoints").resume(resumed)
    assert resumed.numbers["guard/in_a_row"] == 2
    assert energy_rate(resumed) == 0.0025
    with pytest.raises(DivergenceError, match=r"diverged at step 6"):
        fit(resumed, Guard(Diverging({1: RUNAWAY, 2: RUNAWAY}), **guarded), 9)
    assert energy_rate(resumed) == 0.00125
    assert resumed.numbers["guard/retries"] == 3


def test_lines_of_rolled_back_steps_leave_the_log_and_the_roll_back_is_noted(tmp_path: Path):
    state = make_state()
    fit(
        state,
        Guard(Diverging({6: RUNAWAY}), limits=limits(100.0), snapshot_every=4),
        8,
        [MetricsLog(tmp_path / "l", 1)],
    )
    (tmp_path / "l").rename(tmp_path / "metrics.jsonl")
    lines = log_lines(tmp_path)
    assert [(line["step"], line.get("event")) for line in lines] == [
        *((n, None) for n in (1, 2, 3, 4)),
        (4, "rollback"),
        *((n, None) for n in (5, 6, 7, 8)),
    ]
    assert lines[4] == {"step": 4, "event": "rollback", "from_step": 6, "retries": 1}
    assert not any("guard/rolled_back_from" in line for line in lines)


def test_a_roll_back_is_saved_at_once_so_that_no_checkpoint_of_the_lost_steps_is_resumed(tmp_path: Path):
    """Checkpoints at 4 and 8; call 10, of step 10, falls back to 0 and then makes step 1."""
    store, diverging, found = CheckpointStore(tmp_path), Diverging({10: RUNAWAY}), []

    def look() -> bool:
        found.append(store.steps())
        return len(diverging.before) == 11

    guard = Guard(diverging, limits=limits(100.0), snapshot_every=100)
    fit(make_state(), guard, 20, [CheckpointEvery(store, 4)], should_stop=look)
    assert found[-2:] == [[4, 8], [1]]


def test_a_roll_back_gives_no_training_time_back(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("multiebm.training.loop.perf_counter", lambda: next(clock))
    state = make_state()
    fit(state, Guard(Diverging({4: RUNAWAY}), limits=limits(100.0)), 4)
    assert state.numbers[ELAPSED] == 3 + 1 + 3  # three steps, one call that fell back and made step 1, three more


def rates_of(state: TrainState) -> dict[str, float]:
    return {name: optimiser.param_groups[0]["lr"] for name, optimiser in state.optimisers.items()}


def lowered(metrics: dict[str, float], *, energy: bool = True) -> dict[str, float]:
    """The factors on the rates after one roll-back because of these metrics."""
    state, calls = make_state(), iter([metrics])
    for name in ("inference", "prior"):
        state.optimisers[name] = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if not energy:
        state.optimisers["other"] = state.optimisers.pop("energy")
    before = rates_of(state)
    good = state.snapshot()
    fit(state, Guard(lambda s, batch: next(calls, {}), limits=limits(100.0)), 1)
    assert state.numbers["guard/retries"] == 1
    assert good.numbers["step"] == 0
    return {name: rate / before[name] for name, rate in rates_of(state).items() if rate != before[name]}


HALF = 0.5
NETWORKS = {"generator": HALF, "inference": HALF}


@pytest.mark.parametrize(
    ("metrics", "factors"),
    [
        (RUNAWAY, {"energy": HALF}),
        ({"energy/gap": 0.0, "grad_norm/energy": math.inf}, {"energy": HALF}),
        ({"loss/elbo": math.nan}, NETWORKS),  # a warm-up step has no energy that could be at fault
        ({"grad_norm/inference": math.inf}, NETWORKS),
        ({"loss/generator": math.nan, "energy/gap": 0.0}, {"energy": HALF, **NETWORKS}),  # whose samples it learns from
        ({"prior/gap": 1e4, "prior/positive_max": 4.0, "prior/base_max": 3.0}, {"prior": HALF}),
        ({"prior/gap": 1e4, "prior/positive_max": 16.0, "prior/base_max": 3.0}, {"prior": HALF, **NETWORKS}),
        ({"prior/gap": 1e4, "prior/positive_max": 4e5, "prior/base_max": 3e5}, {"prior": HALF, **NETWORKS}),
    ],
)
def test_the_rates_of_what_is_at_fault_are_lowered(metrics, factors):
    assert lowered(metrics) == factors


def test_without_an_energy_a_loss_that_is_not_finite_lowers_every_rate():
    assert lowered({"loss/elbo": math.nan}, energy=False) == {"other": HALF, "prior": HALF, **NETWORKS}


def on_a_line(scale: float) -> torch.Tensor:
    draws = torch.Generator().manual_seed(0)
    return torch.randn(64, 1, generator=draws) * torch.randn(1, 8, generator=draws) * scale


def test_a_mixture_that_cannot_be_fitted_is_answered_like_any_other_divergence(caplog):
    """The second call's codes lie on a line as far out as 1e6, where single precision has no room for the ridge."""
    mixture, calls = MixturePrior(8, 4), []

    def follow(state, batch):
        calls.append(state.step)
        mixture.fit(on_a_line(1e6) if len(calls) == 2 else torch.randn(64, 8, generator=state.rng), 0.0)
        return {"loss": 0.0}

    state = make_state()
    with caplog.at_level(logging.WARNING):
        fit(state, Guard(follow, limits=limits(100.0)), 3)
    assert calls == [0, 1, 0, 1, 2]
    assert "step 2 diverged (a mixture of 4 Gaussian(s) in 8 dimensions cannot be fitted to codes" in caplog.text


def test_advice_names_an_energy_only_where_there_is_one():
    state = make_state()
    state.optimisers["inference"] = state.optimisers.pop("energy")
    with pytest.raises(DivergenceError) as caught:
        fit(state, Guard(lambda s, batch: {"loss": math.nan}, limits=limits(100.0), retries=2), 3)
    message = str(caught.value)
    assert "each with every learning rate multiplied by 0.5" in message
    assert "training.optimiser.generator" in message
    assert "energy" not in message


def test_a_part_that_diverges_when_it_begins_to_learn_is_retried_from_there():
    """Not from step 0: the steps before it were made without it."""
    diverging, state = Diverging({7: {"prior/gap": 1e4}}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), snapshot_every=200, starts=[5]), 8)
    assert [s.step for s in diverging.before] == [0, 1, 2, 3, 4, 5, 6, 5, 6, 7]


def test_where_a_state_is_near_a_limit_the_first_that_is_not_is_kept():
    """Due at 2, but steps 2 and 3 are near the limit: the copy is of 4, and the next one of 6 again."""
    near = {"energy/gap": 60.0}
    diverging, state = Diverging({2: near, 3: near, 6: RUNAWAY, 9: RUNAWAY}), make_state()
    fit(state, Guard(diverging, limits=limits(100.0), snapshot_every=2), 7)
    assert [s.step for s in diverging.before] == [0, 1, 2, 3, 4, 5, 4, 5, 6, 6]
