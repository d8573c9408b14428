"""The ablations as presets: what they change, that they train, sample, save and load, and what they refuse."""

import numpy as np
import pytest
import torch

import multiebm
from multiebm.core.errors import ConfigError
from multiebm.evaluation.result import EvaluationSettings
from multiebm.experiments.load import differences, load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.experiments.saved import from_pretrained

ABLATIONS = ("mle-noise", "indep-gen", "indep-inf")
SETTINGS = {  # that make any preset with cooperative steps an ablation
    "mle-noise": ["model.data_chain={kind: short_run, steps: 3}", "training.phases=[{kind: energy, steps: 2}]"],
    "indep-gen": ["model.shared=0", "model.private=2", "model.prior={kind: normal}", "model.private_components=0"],
    "indep-inf": ["training.phases.cooperative.positive_phase=own_part"],
}


@pytest.mark.parametrize("data", ["toy2d", "polydigits"])
@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mle-noise", {"model.data_chain", "training.phases"}),
        ("indep-gen", {"model.shared", "model.private"}),
        ("indep-inf", {"training.phases"}),
    ],
)
def test_an_ablation_differs_from_the_whole_method_in_what_it_is_named_for(data, name, changed):
    full, one = (load_experiment(source) for source in ({"toy2d": data}.get(data, f"{data}-plain"), f"{data}-{name}"))
    keys = {change.key for change in differences(full, one)}
    assert {next((c for c in changed if key.startswith(c)), key) for key in keys} == changed
    assert one.training.phase("cooperative").positive_phase == ("own_part" if name == "indep-inf" else "random_expert")


def parts():
    draws = np.random.default_rng(0)
    classes = np.array(["x", "y", "z"])[draws.integers(0, 3, 40)]
    return {"v": draws.normal(size=(40, 3)).astype("float32"), "p": draws.random((40, 6, 6, 1)), "c": classes}


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_trains_on_own_arrays_and_is_the_same_when_it_is_loaded(name, tmp_path):
    data = multiebm.from_arrays(
        parts(), {"v": "vector", "p": {"kind": "picture", "layout": "hwc"}, "c": {"kind": "category"}}
    )
    short = [] if name == "mle-noise" else [f"training.phases.{p}.steps=0" for p in ("bound", "energy", "settle")]
    short += [] if name == "mle-noise" else ["training.phases.cooperative.steps=2", "model.data_chain.steps=2"]
    settings = [*short, *SETTINGS[name], "training.batch_size=8", "training.precision=fp32"]
    settings += ["training.phases.cooperative.anchor=0"] if name != "mle-noise" else []
    result = run_experiment(load_experiment("arrays", settings), tmp_path / "run", data, device="cpu")
    assert result.fit.step == 2
    model, again = result.model, from_pretrained(tmp_path / "run" / "model")
    one, other = (m.sample(4, data_steps=None, seed=3) for m in (model, again))
    for part, values in one.items():
        assert values.shape[0] == 4
        assert np.array_equal(np.asarray(values), np.asarray(other[part])), part
    given = {"v": parts()["v"][:3]}
    filled = again.impute(given, data_steps=None, seed=1)
    assert np.array_equal(np.asarray(filled["v"]), given["v"])


@pytest.mark.parametrize("name", ABLATIONS)
def test_an_ablation_is_measured(name, tmp_path):
    phase = "energy" if name == "mle-noise" else "cooperative"
    small = [f"training.phases.{phase}.steps=2", "data.settings.train_items=64", "data.settings.test_items=40"]
    experiment = load_experiment(f"toy2d-{name}", [*small, "model.data_chain.steps=2"])
    model = run_experiment(experiment, tmp_path / "run", device="cpu").model
    dataset = multiebm.load_dataset("toy2d", experiment.data.settings)
    found = multiebm.evaluation.metrics.evaluate(model, dataset, None, EvaluationSettings(20, 20))
    assert {"gen/variety", "ebm/variety", "belong/score"} <= found.results.keys()
    alone = {"latent/kl", "latent_classification"} & found.results.keys()
    if name == "indep-gen":
        assert not alone
        assert "no shared latent" in found.skipped["latent"]
        assert "no shared latent" in found.skipped["latent_classification"]
    else:
        assert alone == {"latent/kl", "latent_classification"}


def test_a_model_without_a_shared_latent_has_private_codes_alone():
    model = multiebm.build("toy2d-indep-gen")
    x = {"a": torch.randn(3, 2), "b": torch.randn(3, 2)}
    with pytest.raises(ConfigError, match=r"encode: got a model without a shared latent .*private=True"):
        model.encode(x)
    codes = model.encode(x, private=True)
    assert {key: tuple(code.shape) for key, code in codes.items()} == {"shared": (3, 0), "a": (3, 4), "b": (3, 4)}
    assert model.match(x).tolist() == [0, 0, 0]
    # completions of a part do not depend on the others
    one, other = (model.impute({"a": a}, seed=2)["b"] for a in (x["a"], x["a"] + 1))
    assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("source", "setting", "said"),
    [
        ("toy2d", "model.shared=0", r"model.private: got 0 with model.shared 0"),
        ("toy2d-indep-gen", "model.prior={kind: energy}", r"model.prior.kind: got energy with model.shared 0"),
        ("toy2d-indep-gen", "model.inference.subsets=full", r"model.inference.subsets: got full with model.shared 0"),
        ("toy2d-indep-gen", "model.inference.separate_trunks=true", r"separate_trunks: got true with model.shared 0"),
        ("toy2d", "model.data_chain={kind: short_run}", r"got short_run with .*cooperative.steps 1500"),
    ],
)
def test_what_does_not_go_with_an_ablation_is_refused(source, setting, said):
    with pytest.raises(ConfigError, match=said):
        load_experiment(source, [setting])
