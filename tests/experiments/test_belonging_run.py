"""A run whose last phase teaches an energy of interaction: resumed bit for bit, taught later, used by the commands."""

import json

import numpy as np
import pytest
import torch
from run_standins import tiny, tiny_data

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import ConfigError
from multiebm.evaluation.belonging import auroc
from multiebm.evaluation.measurement import Measurement
from multiebm.evaluation.metrics import measured
from multiebm.evaluation.result import EvaluationSettings
from multiebm.experiments.run import run_experiment
from multiebm.training import weights

SETTINGS = (
    "model.interaction.kind=pair",
    "training.phases=[{kind: bound, steps: 3, prior_from: 1}, {kind: energy, steps: 2}, {kind: belonging, steps: 6}]",
)


@pytest.fixture(scope="module", autouse=True)
def few_steps_are_enough():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "FEWEST", 1)
        yield


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("runs")
    return folder, run_experiment(tiny(*SETTINGS), folder / "whole", tiny_data()).model


def test_a_run_saves_f_and_says_what_it_learned(trained):
    folder, model = trained
    again = multiebm.from_pretrained(folder / "whole")
    assert int(again.interaction.steps) == 6
    assert 0 < float(again.interaction.weight) == float(model.interaction.weight)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in again.state_dict().items())
    lines = [json.loads(line) for line in (folder / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert "loss/belonging" not in lines[0]
    assert {"loss/belonging", "grad_norm/interaction", "belonging/information/a"} <= set(lines[-1])
    assert json.loads((folder / "whole" / "run.json").read_text())["parameters"]["interaction"] == sum(
        p.numel() for p in model.interaction.parameters()
    )


def test_a_run_that_stops_within_the_phase_goes_on_as_if_it_had_not(trained, tmp_path):
    _, model = trained
    stopped = run_experiment(tiny(*SETTINGS), tmp_path / "run", tiny_data(), until=8)
    assert stopped.fit.reason == "stopped"
    resumed = run_experiment(tiny(*SETTINGS), tmp_path / "run", tiny_data(), resume=True).model
    assert all(torch.equal(value, resumed.state_dict()[name]) for name, value in model.state_dict().items())


def test_a_phase_of_no_steps_and_the_setting_alone_move_nothing(trained, tmp_path):
    """The other weights of a run that has neither, and of one whose f never learns."""
    del trained
    phases = "[{kind: bound, steps: 3, prior_from: 1}, {kind: energy, steps: 2}, {kind: belonging, steps: 0}]"
    found = []
    for name, setting in (("without", "null"), ("beside", "{kind: mlp}")):
        chosen = (f"model.interaction={setting}", f"training.phases={phases}")
        found.append(run_experiment(tiny(*chosen), tmp_path / name, tiny_data()).model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    assert {name.partition(".")[0] for name in found[1].keys() - found[0].keys()} == {"interaction"}


def test_a_finished_model_can_be_taught_it(tmp_path):
    first = multiebm.train(tiny(), tmp_path / "first", dataset=tiny_data(), progress=False)
    later = ("model.interaction.kind=mlp", "training.phases=[{kind: belonging, steps: 4}]")
    model = run_experiment(tiny(*later), tmp_path / "second", tiny_data(), init_from=tmp_path / "first").model
    own = dict(first.named_parameters())
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters() if not n.startswith("interaction."))
    assert int(model.interaction.steps) == 4
    assert float(model.interaction.weight) > 0
    with pytest.raises(ConfigError, match="interaction"):  # weights that are there have to fit
        run_experiment(tiny("model.interaction.kind=pair"), tmp_path / "x", tiny_data(), init_from=tmp_path / "second")


@pytest.mark.parametrize("fusion", ["additive", "late"])
def test_a_finished_model_without_an_energy_can_be_taught_one(fusion, tmp_path):
    without = ("model.energy=null", "training.phases=[{kind: bound, steps: 3}]")
    first = multiebm.train(tiny(*without), tmp_path / "first", dataset=tiny_data(), progress=False)
    assert first.energy is None
    later = (f"model.energy.fusion={fusion}", "training.phases=[{kind: energy, steps: 4}]")
    model = run_experiment(tiny(*later), tmp_path / "second", tiny_data(), init_from=tmp_path / "first").model
    own, kept = dict(first.named_parameters()), ("generator.decoders.", "inference.")
    assert all(torch.equal(p, own[n]) for n, p in model.named_parameters() if n.startswith(kept))
    assert int(model.energy_steps) == 4
    with pytest.raises(ConfigError, match="energy"):  # nor is an energy that was learned dropped
        run_experiment(tiny(*without), tmp_path / "x", tiny_data(), init_from=tmp_path / "second")


def test_the_commands_ask_it(trained, tmp_path):
    folder, model = trained

    def command(*arguments: str) -> None:
        with pytest.raises(SystemExit) as raised:
            main(arguments)
        assert not raised.value.code

    run, parts, out = str(folder / "whole"), tmp_path / "a.npz", tmp_path / "out.npz"
    command("sample", run, "--number", "3", "--latent-steps", "4", "--seed", "5", "--out", str(out))
    expected = model.sample(3, seed=5, latent_steps=4)
    assert all(np.array_equal(np.load(out)[name], view.numpy()) for name, view in expected.items())
    np.savez(parts, a=expected["a"].numpy())
    command("impute", run, "--parts", str(parts), "--best-of", "3", "--out", str(out))
    best = model.impute({"a": expected["a"]}, best_of=3)
    assert all(np.array_equal(np.load(out)[name], view.numpy()) for name, view in best.items())
    assert not np.array_equal(best["b"], model.impute({"a": expected["a"]})["b"])


def test_match_says_which_part_does_not_belong_and_marks_what_is_suspect(trained, tmp_path):
    """A column of each part; beside held-out items a mark where a value is at or below their threshold."""
    folder, model = trained
    model.eval()
    names = list(tiny_data().modalities)
    parts = {name: view.numpy() for name, view in model.sample(12, seed=5).items()}
    known = {name: view.numpy() for name, view in model.sample(39, seed=6).items()}
    files = [tmp_path / "parts.npz", tmp_path / "known.npz"]
    for file, views in zip(files, (parts, known), strict=True):
        np.savez(file, **views)
    out = tmp_path / "out.csv"
    asked = ["match", str(folder / "whole"), "--parts", str(files[0]), "--by-part", "--out", str(out)]
    with pytest.raises(SystemExit):
        main(asked)
    found = np.genfromtxt(out, delimiter=",", names=True)
    expected = {"match": model.match(parts)} | model.score_parts(parts)
    assert found.dtype.names == ("row", "match", *names)
    assert all(np.allclose(found[name], of, atol=1e-5) for name, of in expected.items())
    with pytest.raises(SystemExit):
        main([*asked, "--held-out", str(files[1]), "--rate", "0.5"])
    found = np.genfromtxt(out, delimiter=",", names=True)
    assert found.dtype.names == ("row", *(f"{n}{end}" for n in ("match", *names) for end in ("", "_odd")))
    ends = {"match": model.threshold(known, 0.5)} | model.threshold(known, 0.5, "score_parts")
    assert all(np.array_equal(found[f"{n}_odd"], expected[n].numpy() <= ends[n]) for n in expected)
    assert 0 < found["match_odd"].sum() < 12


def test_evaluation_judges_match_and_score_by_it(trained):
    """The areas are those of f, and of minus the energy and weighted f, of the items that the metric moves."""
    _, model = trained
    m = Measurement(model.eval(), tiny_data(), None, EvaluationSettings(20, 20))
    found = measured(m, ("belong/match", "belong/score")).results
    batch = tiny_data().batch("test", torch.arange(20))
    batch = batch.select(torch.randperm(20, generator=m.rng("belong/match")))
    foreign = batch._replace(views=batch.views | {"b": batch.views["b"].roll(1, 0)})
    with torch.no_grad():
        assert found["belong/match/b"] == auroc(model.interaction(batch.views), model.interaction(foreign.views))
    assert {"belong/score/a", "belong/score/b"} <= set(found)
