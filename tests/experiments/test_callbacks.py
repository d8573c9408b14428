"""Functions of the user's beside training, and weights of a saved model as its start."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from run_standins import tiny

import multiebm
from multiebm.core.errors import ConfigError
from multiebm.experiments.build import build_model
from multiebm.experiments.run import run_experiment
from multiebm.experiments.saved import start_from
from multiebm.training.checkpoint import CheckpointStore


def weights(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@pytest.mark.parametrize("raises", [False, True])
def test_a_callback_sees_every_step_and_ends_training_in_order(raises, tmp_path):
    seen = []

    def enough(metrics, step):
        seen.append((step, metrics["loss/elbo"] if step <= 4 else None))
        metrics.clear()  # its own copy
        if step == 6 and raises:
            raise multiebm.StopTraining
        return step == 6

    model = multiebm.train(tiny(), tmp_path / "run", progress=False, callbacks=[enough, lambda metrics, step: None])
    assert [step for step, _ in seen] == [1, 2, 3, 4, 5, 6]
    assert all(np.isfinite(loss) for step, loss in seen if step <= 4)
    session = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]
    assert (session["reason"], session["to_step"]) == ("callback", 6)
    assert "settling" in session
    saved = multiebm.from_pretrained(tmp_path / "run")
    assert all(torch.equal(tensor, saved.state_dict()[name]) for name, tensor in weights(model).items())
    assert CheckpointStore(tmp_path / "run" / "checkpoints").latest().name == "step-000000006"
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6]


def test_a_run_that_a_callback_ended_goes_on_to_what_it_would_have_been(tmp_path):
    multiebm.train(tiny(), tmp_path / "a", progress=False, callbacks=[lambda metrics, step: step == 3])
    resumed = multiebm.train(tiny(), tmp_path / "a", progress=False, resume=True)
    whole = multiebm.train(tiny(), tmp_path / "b", progress=False)
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in weights(resumed).items())


def test_what_a_callback_raises_else_is_raised_and_only_true_ends_training(tmp_path):
    model = multiebm.train(tiny(), tmp_path / "run", progress=False, callbacks=[lambda metrics, step: 1])
    assert model is not None
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]["reason"] == "finished"

    def broken(metrics, step):
        raise KeyError("no such metric")

    with pytest.raises(KeyError, match="no such metric"):
        multiebm.train(tiny(), tmp_path / "again", progress=False, callbacks=[broken])


class Patience:
    """Ends training when a loss has not fallen for so many steps; NumPy's truth is truth."""

    def __init__(self, patience: int) -> None:
        self.patience, self.losses = patience, []

    def on_step(self, metrics, step):
        self.losses.append(step if step < 4 else 3)
        return np.bool_(len(self.losses) > self.patience and len(set(self.losses[-self.patience :])) == 1)


def test_an_object_is_told_by_its_method(tmp_path):
    watcher = Patience(3)
    multiebm.train(tiny(), tmp_path / "run", progress=False, callbacks=[watcher])
    assert watcher.losses == [1, 2, 3, 3, 3]
    session = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]
    assert (session["reason"], session["to_step"]) == ("callback", 5)


def test_what_cannot_be_called_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ConfigError, match=r"callbacks: got 3, expected functions f\(metrics, step\), or objects with"):
        multiebm.train(tiny(), tmp_path / "run", progress=False, callbacks=[3])
    assert not (tmp_path / "run").exists()


def table(shift: float, width: int = 3, rows: int = 40):
    draws = np.random.default_rng(int(shift)).normal(shift, 1 + shift, (rows, width))
    return multiebm.from_arrays({"x": draws, "y": draws[:, :2] ** 2}, {n: {"kind": "vector"} for n in "xy"})


def test_training_begins_with_the_weights_of_a_saved_model(tmp_path):
    """New data keep their own standardisation, so what lies a deviation above its mean is read alike."""
    first = multiebm.train(tiny(), tmp_path / "first", dataset=table(0.0), progress=False)
    data = table(3.0)
    slow = [f"training.optimiser.{part}=1e-12" for part in ("generator", "inference", "energy", "prior")]
    result = run_experiment(tiny(*slow), tmp_path / "second", data, init_from=tmp_path / "first")
    for name, parameter in first.named_parameters():
        torch.testing.assert_close(result.model.get_parameter(name), parameter, rtol=0, atol=1e-8)
    assert result.model.modalities == data.modalities != first.modalities
    assert json.loads((tmp_path / "second" / "run.json").read_text())["init_from"] == str(tmp_path / "first")
    fresh = run_experiment(tiny(*slow), tmp_path / "third", data)
    assert any(
        not torch.allclose(fresh.model.get_parameter(name), parameter) for name, parameter in first.named_parameters()
    )


def test_columns_that_are_constant_in_new_data_alone_are_no_hindrance(tmp_path):
    multiebm.train(tiny(), tmp_path / "first", dataset=table(0.0), progress=False)
    parts = {"x": np.ones((40, 3)), "y": np.random.default_rng(0).normal(size=(40, 2))}
    data = multiebm.from_arrays(parts, {n: {"kind": "vector"} for n in "xy"})
    model = run_experiment(tiny(), tmp_path / "second", data, init_from=tmp_path / "first").model
    assert model.modalities["x"].same == (0, 1, 2)


def test_weights_that_do_not_fit_are_refused_with_the_differences_before_anything_is_written(tmp_path):
    multiebm.train(tiny(), tmp_path / "first", dataset=table(0.0), progress=False)

    def begin(dataset, *overrides):
        multiebm.train(
            tiny(*overrides), tmp_path / "new", dataset=dataset, progress=False, init_from=tmp_path / "first" / "model"
        )

    with pytest.raises(ConfigError, match=r"modality 'x': got .*'shape': \(3,\).*, expected .*'shape': \(4,\)"):
        begin(table(0.0, width=4))
    with pytest.raises(
        ConfigError, match=r"got float32 \[.*\], expected float32 \[.*\]\n(.|\n)*Train with the settings"
    ):
        begin(table(0.0), "model.shared=5")
    other = table(0.0)
    renamed = {f"{name}2": replace(m, name=f"{name}2") for name, m in other.modalities.items()}
    with pytest.raises(ConfigError, match="got a model of x, y, expected one of x2, y2, in that order"):
        start_from(build_model(tiny().model, renamed, 0), tmp_path / "first")
    assert not (tmp_path / "new" / "config.yaml").exists()
