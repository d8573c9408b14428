from pathlib import Path

import pytest
import torch
from training_standin import assert_same_state, hooks, log_lines, make_state, step

from multiebm.core.metrics import GAP
from multiebm.training.checkpoint import CheckpointStore, read_checkpoint
from multiebm.training.guard import Guard
from multiebm.training.hooks import CheckpointEvery
from multiebm.training.loop import fit


@pytest.mark.parametrize("n", [5, 7])  # a multiple of the log's and the checkpoints' intervals, and neither
def test_training_2n_equals_training_n_saving_loading_into_a_fresh_state_and_n_more(tmp_path: Path, n: int):
    whole = make_state()
    fit(whole, step, 2 * n, hooks(tmp_path / "whole"))

    first = make_state()
    fit(first, step, n, hooks(tmp_path / "halves"))
    second = make_state(seed=7)  # other weights, other noise: all of it must be replaced
    second.stream = make_state().stream
    restored = CheckpointStore(tmp_path / "halves" / "checkpoints").resume(second)
    assert restored is not None
    assert restored.name == f"step-{n:09d}"
    assert_same_state(second, first)
    fit(second, step, 2 * n, hooks(tmp_path / "halves"))

    assert_same_state(second, whole)
    assert first.stream.seen + second.stream.seen == whole.stream.seen
    assert log_lines(tmp_path / "halves") == log_lines(tmp_path / "whole")
    assert [line["step"] for line in log_lines(tmp_path / "whole")] == list(range(3, 2 * n + 1, 3))


def test_moments_come_back_in_the_memory_layout_of_their_parameters(tmp_path: Path):
    state = make_state()
    fit(state, step, 2, hooks(tmp_path))
    weight = state.model.generator.weight
    fresh = make_state(seed=3)
    CheckpointStore(tmp_path / "checkpoints").resume(fresh)
    moments = fresh.optimisers["generator"].state[fresh.model.generator.weight]
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert moments["exp_avg"].stride() == fresh.average["generator.weight"].stride() == weight.stride()


def test_learning_rates_and_betas_come_back(tmp_path: Path):
    state = make_state()
    state.optimisers["energy"].param_groups[0]["lr"] = 0.125
    state.optimisers["energy"].param_groups[0]["betas"] = (0.25, 0.75)
    CheckpointStore(tmp_path).save(state)
    fresh = make_state()
    CheckpointStore(tmp_path).resume(fresh)
    group = fresh.optimisers["energy"].param_groups[0]
    assert (group["lr"], group["betas"]) == (0.125, (0.25, 0.75))


def test_a_log_that_ran_ahead_of_the_checkpoint_is_cut_back_on_resume(tmp_path: Path):
    """As after a kill: lines of steps that are lost, and one line torn in the middle."""
    whole, killed = make_state(), make_state()
    fit(whole, step, 12, hooks(tmp_path / "whole"))
    fit(killed, step, 5, hooks(tmp_path / "killed"))
    with (tmp_path / "killed" / "metrics.jsonl").open("a") as log:
        log.write('{"step": 6, "loss": 123.0}\n{"step": 9, "lo')
    resumed = make_state()
    CheckpointStore(tmp_path / "killed" / "checkpoints").resume(resumed)
    fit(resumed, step, 12, hooks(tmp_path / "killed"))
    assert log_lines(tmp_path / "killed") == log_lines(tmp_path / "whole")


def test_a_run_with_roll_backs_resumes_bit_exactly_from_before_and_from_after_them(tmp_path: Path):
    """The stand-in diverges in step 14 while the energy's rate is above half; checkpoints fall on snapshots."""

    def fragile(state, batch):
        metrics = step(state, batch)
        too_fast = state.optimisers["energy"].param_groups[0]["lr"] > 0.3e-2
        return metrics | ({"energy/gap": 1e6} if state.step == 13 and too_fast else {})

    def run(folder: str, *until: int):
        state = make_state()
        for steps in until:
            state = make_state()
            CheckpointStore(tmp_path / folder / "checkpoints").resume(state)
            fit(state, Guard(fragile, limits={GAP: 100.0}, snapshot_every=5), steps, hooks(tmp_path / folder))
        return state

    whole = run("whole", 30)
    assert whole.numbers["guard/retries"] == 2
    assert_same_state(run("before", 10, 30), whole)
    assert_same_state(run("after", 20, 30), whole)
    for folder in ("before", "after"):
        assert log_lines(tmp_path / folder) == log_lines(tmp_path / "whole")
    events = [line for line in log_lines(tmp_path / "whole") if "event" in line]
    assert events == [
        {"step": 10, "event": "rollback", "from_step": 14, "retries": 1},
        {"step": 10, "event": "rollback", "from_step": 14, "retries": 2},
    ]


class KillError(Exception):
    """The end of the process, as a hook that no other hook outlives."""


class Killed:
    """A hook that lets `steps` steps pass, however often the guard makes them again, and then kills."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def on_step(self, state, metrics):
        self.left -= 1
        if self.left < 0:
            raise KillError

    def on_end(self, state):
        pass


def restless(state, batch):
    """The stand-in's step, which diverges by chance in a fifth of all steps and is near the limit in a third."""
    metrics, chance = step(state, batch), torch.rand((), generator=state.rng).item()
    return metrics | {"energy/gap": 1e6 if chance > 0.8 else 60.0 if chance > 0.45 else 0.0}


def test_a_run_of_many_roll_backs_equals_the_uninterrupted_one_wherever_it_is_killed(tmp_path: Path):
    """Checkpoints every 4 steps and after every roll-back; the state to go back to is often none of them."""

    def run(folder: Path, *more):
        state = make_state()
        CheckpointStore(folder / "checkpoints").resume(state)
        guard = Guard(restless, limits={GAP: 100.0}, snapshot_every=6, retries=1000, factor=0.9, starts=[9])
        fit(state, guard, 40, [*hooks(folder), *more])
        return state

    whole = run(tmp_path / "whole")
    assert whole.numbers["guard/retries"] >= 8
    for kill in range(1, 45, 4):
        folder = tmp_path / f"killed-{kill}"
        with pytest.raises(KillError):
            run(folder, Killed(kill))
        assert_same_state(run(folder), whole)
        assert log_lines(folder) == log_lines(tmp_path / "whole")


def test_a_checkpoint_holds_the_good_state_only_where_that_is_another_one(tmp_path: Path):
    """Copied at 0, 4 and 8: the checkpoints of 4 and 8 are the copies themselves, that of 6 goes back to 4."""
    state, store = make_state(), CheckpointStore(tmp_path, keep_last=9)
    fit(state, Guard(step, limits={GAP: 100.0}, snapshot_every=4), 9, [CheckpointEvery(store, 2)])
    held = {}
    for at in store.steps():
        saved = read_checkpoint(store.path(at))
        held[at] = saved.numbers.get("good", {}).get("step")
        assert any(name.startswith("good.") for name in saved.tensors) == (held[at] is not None)
    assert held == {2: 0, 4: None, 6: 4, 8: None, 9: 8}
