import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from kill_child import WIDTH
from training_standin import log_lines, make_state

from multiebm.training.checkpoint import CheckpointStore, read_checkpoint

STEPS, EVERY, KILLS = 120, 4, 16


class Trainer:
    """The training process of kill_child.py and what it says."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("kill_child.py"))]
        single = os.environ | {"OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=single)

    def run(self, folder: Path, kill_after: int = 0, wait_seconds: float = 0.0, hold: int = 0) -> tuple[int, int]:
        """Make one attempt and return its exit code and the last step it reported.

        It is killed so many seconds after so many reported steps, or where it holds inside a save, or not at all.
        """
        self.process.stdin.write(f"{folder} {STEPS} {EVERY} {hold}\n")
        pid, reported, last = None, 0, 0
        kill = False
        while True:
            word, number = self.process.stdout.readline().split()
            if word == "ended":
                return int(number), last
            if word == "pid":  # may come after the first steps
                pid = int(number)
            elif word == "step":
                reported, last = reported + 1, int(number)
            kill = kill or word == "holding" or reported == kill_after > 0
            if kill and pid is not None:
                time.sleep(wait_seconds)
                os.kill(pid, signal.SIGKILL)
                kill, kill_after = False, 0

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    trainer = Trainer()
    yield trainer
    trainer.close()


def test_killed_at_random_moments_and_resumed_it_loses_no_more_than_the_steps_since_the_last_save(
    trainer: Trainer, tmp_path: Path
):
    """Half of the kills come after a random number of steps and a random time, half at a random fsync of a save."""
    assert trainer.run(tmp_path / "whole") == (0, STEPS)

    folder, rng = tmp_path / "killed", random.Random(0)
    store = CheckpointStore(folder / "checkpoints")
    half_written, before = 0, 0
    for kill in range(KILLS):
        if kill % 2:
            code, last = trainer.run(folder, hold=rng.randint(1, 10))
        else:
            code, last = trainer.run(folder, kill_after=rng.randint(1, 8), wait_seconds=rng.uniform(0, 0.01))
        assert code == -signal.SIGKILL
        half_written += len(list(store.folder.glob(".aside-*")))
        for step in store.steps():
            read_checkpoint(store.path(step))  # every folder that can be picked up is whole
        saved = store.steps()[-1] if store.steps() else 0
        assert saved >= max(last - EVERY, before)
        state = make_state(WIDTH)
        resumed = store.resume(state)
        assert state.step == saved
        assert resumed == (store.path(saved) if saved else None)
        before = saved
    assert half_written >= KILLS // 4  # many kills did fall into a save

    assert trainer.run(folder) == (0, STEPS)
    tensors = Path("checkpoints") / f"step-{STEPS:09d}" / "tensors.safetensors"
    assert (folder / tensors).read_bytes() == (tmp_path / "whole" / tensors).read_bytes()
    assert log_lines(folder) == log_lines(tmp_path / "whole")
