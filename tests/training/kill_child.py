"""Trains the stand-in for the kill test: torch is imported once, then there is one forked process per attempt.

Reads lines "FOLDER STEPS EVERY HOLD" from stdin. Writes "pid N", "step N" after every completed step, "ended STATUS".
At the call of fsync number HOLD (0: never) it writes "holding HOLD" and waits there, inside a save, to be killed.
"""

import os
import sys
import time
from pathlib import Path

import torch
from training_standin import hooks, make_state, step

from multiebm.training.checkpoint import CheckpointStore
from multiebm.training.loop import fit

WIDTH = 390  # 0.6 MB of parameters, 2.4 MB with moments and average


class Report:
    def on_step(self, state, metrics) -> None:
        os.write(1, f"step {state.step}\n".encode())

    def on_end(self, state) -> None:
        pass


def attempt(folder: Path, steps: int, every: int, hold: int) -> None:
    sync, calls = os.fsync, 0

    def holding(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls == hold:
            os.write(1, f"holding {hold}\n".encode())
            time.sleep(600)
        sync(handle)

    os.fsync = holding
    state = make_state(WIDTH)
    CheckpointStore(folder / "checkpoints").resume(state)
    fit(state, step, steps, [*hooks(folder, every), Report()])


def main() -> None:
    torch.set_num_threads(1)  # a forked process must not wait for threads it does not have
    fit(make_state(), step, 1)  # what torch imports at first use is then there before the forks
    for line in sys.stdin:
        folder, steps, every, hold = line.split()
        pid = os.fork()
        if pid == 0:
            attempt(Path(folder), int(steps), int(every), int(hold))
            os._exit(0)
        os.write(1, f"pid {pid}\n".encode())
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
