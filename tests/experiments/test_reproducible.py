"""The same run again: after roll-backs, in a process of another hash seed, and what is said where it differs."""

import hashlib
import json
import logging
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from run_standins import CtrlC, tiny, tiny_data

import multiebm
from multiebm.cli.main import main
from multiebm.experiments import run as run_module
from multiebm.experiments.run import run_experiment
from multiebm.training import guard

RESTLESS = ["training.optimiser.energy=0.003"]


def digest(model) -> str:
    return hashlib.sha256(b"".join(t.contiguous().numpy().tobytes() for t in model.state_dict().values())).hexdigest()


def test_a_run_interrupted_after_roll_backs_equals_the_uninterrupted_one(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(guard, "LIMIT", 0.02)
    monkeypatch.setattr(run_module, "Guard", partial(guard.Guard, retries=1000))
    experiment = tiny(*RESTLESS, "training.checkpoint_every=4", "training.log_every=1")
    whole = run_experiment(experiment, tmp_path / "whole", tiny_data(), device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert any("event" in line for line in lines)
    for at in (6, 7, 9):
        folder = tmp_path / str(at)
        assert run_experiment(experiment, folder, tiny_data(), live=CtrlC(at), device="cpu").fit.reason == "interrupted"
        assert digest(run_experiment(experiment, folder, tiny_data(), resume=True, device="cpu").model) == digest(
            whole.model
        )


def test_a_steered_langevin_chain_resumes_bit_for_bit_with_the_step_size_that_it_had(tmp_path: Path):
    """Steps 5 to 10 run the chain; the run is cut in the cooperative phase, between two checkpoints."""
    settings = "model.data_chain={kind: langevin, step_size: steered, steps: 2, noise_scale: 0.05}"
    whole = run_experiment(tiny(settings), tmp_path / "whole", tiny_data(), device="cpu").model
    stopped = run_experiment(tiny(settings), tmp_path / "part", tiny_data(), until=7, device="cpu")
    assert stopped.fit.reason == "stopped"
    rest = run_experiment(tiny(settings), tmp_path / "part", tiny_data(), resume=True, device="cpu").model
    saved = multiebm.from_pretrained(tmp_path / "part")
    assert 0.5 != whole.data_step_size == rest.data_step_size == saved.data_step_size
    assert digest(rest) == digest(whole) == digest(saved)
    logs = [(tmp_path / name / "metrics.jsonl").read_text().splitlines() for name in ("whole", "part")]
    kept = [[{k: v for k, v in json.loads(line).items() if "second" not in k} for line in log] for log in logs]
    assert kept[0] == kept[1]
    assert {"data_chain/temperature", "data_chain/acceptance", "energy/data_std_over_T"} <= set(kept[0][-1])


def test_the_hash_seed_of_the_process_changes_nothing(tmp_path: Path):
    whole = run_experiment(tiny(), tmp_path / "here", tiny_data(), device="cpu")
    code = (
        "import sys, torch; torch.set_num_threads(int(sys.argv[2])); from run_standins import tiny, tiny_data; "
        "from multiebm.experiments.run import run_experiment; from test_reproducible import digest; "
        "print('digest', digest(run_experiment(tiny(), sys.argv[1], tiny_data(), device='cpu').model))"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    found = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "there"), str(torch.get_num_threads())],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": path},
    )
    assert found.stdout.split()[-1] == digest(whole.model)


def test_resuming_with_another_number_of_threads_is_said(tmp_path: Path, caplog):
    run_experiment(tiny(), tmp_path / "run", tiny_data(), until=5, device="cpu")
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    with caplog.at_level(logging.WARNING):
        run_experiment(tiny(), tmp_path / "run", tiny_data(), resume=True, until=6, device="cpu")
    assert "bit for bit" not in caplog.text
    run["hardware"]["threads"] = 7
    (tmp_path / "run" / "run.json").write_text(json.dumps(run))
    with caplog.at_level(logging.WARNING):
        run_experiment(tiny(), tmp_path / "run", tiny_data(), resume=True, until=7, device="cpu")
    assert "begun with 7 thread(s) on cpu" in caplog.text
    assert "OMP_NUM_THREADS=7" in caplog.text


def test_every_way_in_gives_the_same_model(tmp_path: Path):
    """Arrays, tensors, masked arrays, data frames, an .npz, a CSV with parts, from Python and the command line."""
    draws = np.random.default_rng(0)
    table = pd.DataFrame(draws.normal(size=(40, 4)), columns=["temp", "hum", "ph", "salt"])
    parts = {"sensors": ["temp", "hum"], "lab": ["ph", "salt"]}
    arrays = {name: table[columns].to_numpy() for name, columns in parts.items()}
    np.savez(tmp_path / "rows.npz", **arrays)
    table.to_csv(tmp_path / "rows.csv", index=False, float_format="%.17g")
    short = ["training.phases.bound.steps=3", "training.batch_size=16", "model.shared=4"]
    ways = {
        "arrays": arrays,
        "tensors": {name: torch.from_numpy(values.copy()) for name, values in arrays.items()},
        "masked": {name: np.ma.MaskedArray(values) for name, values in arrays.items()},
        "frames": {name: table[columns] for name, columns in parts.items()},
        "npz": tmp_path / "rows.npz",
        "csv": multiebm.read_data(tmp_path / "rows.csv", parts=parts),
    }
    settings = {"progress": False, "device": "cpu"}
    found = {name: digest(multiebm.train(way, tmp_path / name, short, **settings)) for name, way in ways.items()}
    cut = [f"--part={name}={','.join(columns)}" for name, columns in parts.items()]
    for name, given in {"npz": [], "csv": cut}.items():
        out = tmp_path / f"by command {name}"
        with pytest.raises(SystemExit) as ended:
            main(["train", str(tmp_path / f"rows.{name}"), *given, *short, "--out", str(out), "--device", "cpu"])
        assert ended.value.code == 0
        found[out.name] = digest(multiebm.from_pretrained(out))
    assert len(found) == 8
    assert set(found.values()) == {found["arrays"]}
