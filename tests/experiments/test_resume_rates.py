"""A run goes on at another learning rate where that is asked for by name, and as ever otherwise."""

import json
import logging
from pathlib import Path

import pytest
import torch
from run_standins import TINY

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment

AT = 5  # a checkpoint; the energy has learned for one step
PARTS = ("generator", "inference", "energy", "prior")


class Rates:
    """A hook that writes down the rates of every step."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, float]] = {}

    def on_step(self, state, metrics):
        self.seen[state.step] = {name: of.param_groups[0]["lr"] for name, of in state.optimisers.items()}

    def on_end(self, state): ...


def go(folder: Path, *overrides: str, source: str = "toy2d", settings: list[str] = TINY, **more) -> Rates:
    rates = Rates()
    named = [text.partition("=")[0] for text in overrides]
    experiment = load_experiment(source, [*settings, *overrides])
    run_experiment(experiment, folder, live=rates, device="cpu", named=named, **more)
    return rates


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return multiebm.from_pretrained(folder).state_dict()


def test_the_new_rate_holds_from_that_step_on_and_is_noted(tmp_path, caplog):
    whole = go(tmp_path / "whole").seen
    go(tmp_path / "run", until=AT)
    changed = [f"training.optimiser.{part}={rate}" for part, rate in (("generator", 6e-5), ("prior", 2e-3))]
    with caplog.at_level(logging.WARNING):
        seen = go(tmp_path / "run", *changed, resume=True).seen
    assert sorted(seen) == list(range(AT + 1, 11))
    for step, rates in seen.items():
        assert rates["generator"] == pytest.approx(whole[step]["generator"] * 6e-5 / 3e-4)
        assert rates["prior"] == 2e-3
        assert [rates[name] for name in ("inference", "energy")] == [whole[step][n] for n in ("inference", "energy")]
    noted = {"training.optimiser.generator": [3e-4, 6e-5], "training.optimiser.prior": [1e-4, 2e-3]}
    first, second = json.loads((tmp_path / "run" / "run.json").read_text())["sessions"]
    assert "rates" not in first
    assert second["rates"] == noted
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    event = {"step": AT, "event": "rates", "from_step": AT, "rates": noted}
    assert [line for line in lines if "event" in line] == [event]
    assert [line["step"] for line in lines] == [2, 4, 5, 6, 8, 10]
    assert (
        f"{tmp_path / 'run'}: training.optimiser.generator is 6e-05 from step 5 on, where it was 0.0003" in caplog.text
    )
    assert load_experiment(tmp_path / "run").training.optimiser.generator == 6e-5


def test_a_rate_that_is_the_same_changes_nothing_bit_for_bit(tmp_path):
    go(tmp_path / "whole")
    go(tmp_path / "run", until=AT)
    go(tmp_path / "run", "training.optimiser.generator=3e-4", resume=True)
    before, after = weights(tmp_path / "whole"), weights(tmp_path / "run")
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert "rates" not in json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]
    assert "event" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_what_is_not_named_or_no_rate_is_refused_with_the_way_out(tmp_path):
    go(tmp_path / "run", "training.optimiser.generator=1e-4", until=AT)
    with pytest.raises(ConfigError, match="generator: 0.0001 -> 0.0003") as error:  # forgotten, not meant
        go(tmp_path / "run", resume=True)
    assert f"multiebm train {tmp_path / 'run'} --resume" in str(error.value)
    assert "rates given by name, training.optimiser.generator=1e-4, may change" in str(error.value)
    for other in ("training.optimiser.betas=[0.9, 0.5]", "training.batch_size=4"):
        with pytest.raises(ConfigError, match="cannot resume with another configuration"):
            go(tmp_path / "run", other, source=str(tmp_path / "run"), settings=[], resume=True)


def test_a_run_folder_goes_on_by_its_name_alone(tmp_path, capsys):
    go(tmp_path / "run", until=AT)
    with pytest.raises(SystemExit) as ended:
        main(["-q", "train", str(tmp_path / "run"), "training.optimiser.inference=1e-5", "--resume"])
    assert not ended.value.code
    assert "finished after step 10" in capsys.readouterr().out
    assert json.loads((tmp_path / "run" / "run.json").read_text())["sessions"][-1]["rates"] == {
        "training.optimiser.inference": [1e-3, 1e-5]
    }
    go(tmp_path / "again", until=AT)
    model = multiebm.train(tmp_path / "again", overrides=["training.optimiser.inference=1e-5"], resume=True)
    assert all(torch.equal(tensor, weights(tmp_path / "run")[name]) for name, tensor in model.state_dict().items())
