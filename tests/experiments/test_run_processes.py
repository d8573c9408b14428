"""Real processes in one run folder: two resumes at once, kills, and signals to the command line wherever it is."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from run_standins import TINY, CtrlC, tiny

from multiebm.core.lock import LOCK
from multiebm.experiments.folder import METRICS, RUN
from multiebm.experiments.run import run_experiment

RESUME = """
import sys
from pathlib import Path
from run_standins import tiny
from multiebm.core.errors import OutputError
from multiebm.experiments.run import run_experiment

class Waits:
    def on_step(self, state, metrics):
        if state.step == 4:
            print("training", flush=True)
            sys.stdin.readline()
    def on_end(self, state):
        pass

print("ready", flush=True)
sys.stdin.readline()
try:
    print(run_experiment(tiny(), Path(sys.argv[1]), resume=True, live=Waits()).fit.reason, flush=True)
except OutputError as error:
    print(error, flush=True)
"""


@pytest.fixture
def processes() -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(processes: list[subprocess.Popen[str]], *arguments: str) -> subprocess.Popen[str]:
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdin=pipe,
        stdout=pipe,
        stderr=pipe,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path},
    )
    processes.append(process)
    return process


def test_of_two_resumes_at_once_one_wins_and_what_a_kill_leaves_is_taken_over(
    processes: list[subprocess.Popen[str]], tmp_path: Path
):
    run_experiment(tiny(), tmp_path, live=CtrlC(2))
    pair = [start(processes, "-c", RESUME, str(tmp_path)) for _ in range(2)]
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    for process in pair:
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.stdout.readline().strip() for process in pair]
    winner, loser = (0, 1) if said[0] == "training" else (1, 0)
    assert said[winner] == "training"
    assert f"in use by process {pair[winner].pid} on " in said[loser]
    os.kill(pair[winner].pid, signal.SIGKILL)
    pair[winner].wait()
    assert (tmp_path / LOCK).exists()
    assert run_experiment(tiny(), tmp_path, resume=True).fit.step == 10
    sessions = json.loads((tmp_path / RUN).read_text())["sessions"]
    assert [session["from_step"] for session in sessions] == [0, 2, 2]
    steps = [json.loads(line)["step"] for line in (tmp_path / METRICS).read_text().splitlines()]
    assert steps == [2, 4, 6, 8, 10]
    assert not (tmp_path / LOCK).exists()


def train(processes: list[subprocess.Popen[str]], out: Path, *settings: str) -> subprocess.Popen[str]:
    return start(processes, "-m", "multiebm", "train", "toy2d", *TINY, *settings, "--out", str(out), "--device", "cpu")


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    for line in process.stdout:
        if text in line:
            return
    pytest.fail(f"{text!r} did not come: {process.stderr.read()}")


def test_sigterm_while_priors_settle_and_three_quick_ctrl_c_end_with_a_word_and_the_way_to_go_on(
    processes: list[subprocess.Popen[str]], tmp_path: Path
):
    settling = train(processes, tmp_path / "settling", "training.phases.settle.steps=1000000")
    training = train(processes, tmp_path / "training", "training.phases.cooperative.steps=1000000")
    wait_for(settling, "steps are over")
    settling.send_signal(signal.SIGTERM)
    wait_for(training, "cooperative 6/")
    for _ in range(3):
        training.send_signal(signal.SIGINT)
    out, err = settling.communicate(timeout=120)
    assert settling.returncode == 130
    assert "interrupted" in out + err
    assert "--resume" in out + err  # the whole command, unless the signal came between the last step and the settling
    assert "Traceback" not in err
    assert not (tmp_path / "settling" / "model").exists()
    out, err = training.communicate(timeout=120)
    assert training.returncode == 130
    assert "--resume" in out + err
    assert "interrupted" in out + err
    assert "Traceback" not in err
    assert not (tmp_path / "training" / LOCK).exists()


def test_sigterm_while_data_loads_says_that_nothing_was_written(processes: list[subprocess.Popen[str]], tmp_path: Path):
    slow = f"""
import sys, time
import multiebm.experiments.run as run
def build(section, run):
    print("loading", flush=True)
    time.sleep(600)
run.build_dataset = build
from multiebm.cli.main import main
main(["train", "toy2d", "--out", {str(tmp_path / "run")!r}])
"""
    process = start(processes, "-c", slow)
    wait_for(process, "loading")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted before training began; give the same command again" in err
    assert "Traceback" not in err
    assert not (tmp_path / "run").exists()
