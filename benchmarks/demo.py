"""What `make demo` takes from nothing: a fresh clone in a temporary folder, an empty cache, every share timed.

    python benchmarks/demo.py [--python python3] [--keep] [TRAIN_SETTING ...]

Clones the commit that is checked out (HEAD; changes that are not committed are not in it), installs the locked
packages, and runs the commands of `make demo` one by one. Expected: at most 8 minutes on two otherwise idle cores.
Settings such as training.phases.bound.steps=5 go to the training command: for trying this script, not for its figure.
"""

import argparse
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from loading import machine

TARGET_MINUTES = 8.0
# data and judges, timed on their own so that they can be told apart; the judges stay in the cache for `evaluate`
PREPARE = """
import json, time
from multiebm.data import load_dataset
from multiebm.experiments.load import load_experiment
from multiebm.experiments.measure import sets_of
experiment = load_experiment("polydigits", [])
start = time.perf_counter()
dataset = load_dataset(experiment.data.name, experiment.data.settings)
loaded = time.perf_counter()
sets_of(dataset, "cpu")
print(json.dumps({"data": loaded - start, "judges": time.perf_counter() - loaded}))
"""


def timed(command: list[str], folder: Path, environment: dict[str, str]) -> tuple[float, str]:
    """Run a command to its end; seconds and what it printed. RuntimeError with its last lines if it fails."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stdout + done.stderr)[-2000:]
        raise RuntimeError(f"{' '.join(command)[:200]}: got exit status {done.returncode}, expected 0:\n{tail}")
    return time.perf_counter() - start, done.stdout


def environment_of(folder: Path, python: str) -> dict[str, str]:
    """The caller's environment with an empty cache and without the virtual environment it may be in."""
    inherited = {key: value for key, value in os.environ.items() if key not in ("VIRTUAL_ENV", "PYTHONPATH")}
    return inherited | {"MULTIEBM_CACHE": str(folder / "cache"), "PYTHON": python}


def shares(clone: Path, environment: dict[str, str], python: str, settings: list[str]) -> dict[str, float]:
    """Seconds of every share of `make demo`; they add up to its total."""
    program = str(clone / ".venv" / "bin" / "multiebm")
    install, _ = timed(["make", f"PYTHON={python}", ".venv/.installed"], clone, environment)
    _, printed = timed([str(clone / ".venv" / "bin" / "python"), "-c", PREPARE], clone, environment)
    prepared = json.loads(printed.splitlines()[-1])
    train, _ = timed([program, "train", "polydigits", *settings, "--out", "demo", "--overwrite"], clone, environment)
    evaluate, _ = timed([program, "evaluate", "demo"], clone, environment)
    report, _ = timed([program, "report", "demo"], clone, environment)
    run = json.loads((clone / "demo" / "run.json").read_text())
    steps = float(run["sessions"][-1]["seconds"])
    return {
        "install": install,
        "data": prepared["data"],
        "training: steps": steps,
        "training: start, checkpoints, saving": train - steps - prepared["data"],
        "judges": prepared["judges"],
        "evaluation": evaluate,
        "report": report,
    }


def table(seconds: dict[str, float]) -> str:
    """The shares and their total as a Markdown table."""
    total = sum(seconds.values())
    rows = [f"| {name} | {value:.1f} | {100 * value / total:.0f} % |" for name, value in seconds.items()]
    return "\n".join(["| share | seconds | of total |", "|---|---|---|", *rows, f"| total | {total:.1f} | 100 % |"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("settings", nargs="*", help="key=value for the training command, to try this script")
    parser.add_argument("--python", default="python3", help="interpreter that makes the virtual environment")
    parser.add_argument("--keep", action="store_true", help="keep the clone and say where it is")
    args = parser.parse_args()
    root = Path(__file__).resolve().parents[1]
    folder = Path(tempfile.mkdtemp(prefix="multiebm-demo-"))
    try:
        environment = environment_of(folder, args.python)
        timed(["git", "clone", "--quiet", str(root), str(folder / "clone")], folder, environment)
        seconds = shares(folder / "clone", environment, args.python, args.settings)
    finally:
        if args.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    minutes = sum(seconds.values()) / 60
    print(f"{machine()}\n\n{table(seconds)}\n")
    reached = minutes <= TARGET_MINUTES
    print(f"target {TARGET_MINUTES:g} minutes: {'reached' if reached else 'MISSED'}, took {minutes:.1f}")


if __name__ == "__main__":
    main()
