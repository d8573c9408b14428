"""Networks of the user's own: trained, used, saved by their names, asked for again; what does not fit is refused."""

import json
import logging
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import multiebm
from multiebm.cli.main import main
from multiebm.core.errors import CheckpointError, ConfigError
from multiebm.experiments.build import naming_own
from multiebm.experiments.fit_prior import fit_prior
from multiebm.experiments.load import load_experiment
from multiebm.experiments.run import run_experiment
from multiebm.models.own import OwnNetwork, handed_over, name_of
from multiebm.priors.energy import Energy
from multiebm.priors.prior import Settling
from multiebm.training.phases import settle

SHAPE = (2, 5, 7)
STEPS = {"bound": 3, "energy": 1, "cooperative": 2, "settle": 1}
SMALL = [f"training.phases.{kind}.steps={steps}" for kind, steps in STEPS.items()]
SMALL += ["training.batch_size=8", "model.prior.steps=2", "model.energy.width=4", "model.data_chain.steps=1"]
SMALL += ["training.phases.bound.prior_from=1", "training.checkpoint_every=2"]


class Photo(nn.Module):
    """As people write them: normalisation over the batch, dropout, `view`, a draw of the global generator."""

    width = 4

    def __init__(self, modality, n_out):
        super().__init__()
        channels, height, width = modality.shape
        layers = [nn.Conv2d(channels, self.width, 3, padding=1), nn.BatchNorm2d(self.width), nn.ReLU(), nn.Dropout(0.5)]
        self.net, self.last = nn.Sequential(*layers), nn.Linear(self.width * height * width, n_out)
        self.offset = nn.Parameter(0.1 * torch.randn(n_out))

    def forward(self, x):
        return self.last(self.net(x).view(x.size(0), -1)) + self.offset


class Renamed(Photo):
    pass


class Wider(Photo):
    width = 5


def photo_decoder(modality, n_in):
    layers = [nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.LazyLinear(modality.size)]
    return nn.Sequential(*layers, nn.Tanh(), nn.Unflatten(1, modality.shape))


NETWORKS = {"encoders": {"photo": Photo}, "decoders": {"photo": photo_decoder}}
HERE = Photo.__module__


@pytest.fixture(scope="module")
def data():
    """Photos of which a quarter is missing, and classes."""
    draws = np.random.default_rng(0)
    views = {"photo": draws.random((40, *SHAPE)), "class": draws.integers(3, size=(40, 1))}
    present = np.stack([draws.random(40) < 0.75, np.ones(40, bool)], 1)
    declared = {"photo": {"kind": "picture", "layout": "chw"}, "class": "category"}
    return multiebm.from_arrays(views, declared, present=present)


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    """A run of all phases."""
    folder = tmp_path_factory.mktemp("own") / "run"
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(settle, "REFIT_BATCHES", 8)
        multiebm.train(data, folder, SMALL, method="arrays", progress=False, **NETWORKS)
    return folder


@pytest.fixture
def model(run):
    return multiebm.from_pretrained(run, **NETWORKS)


def own_networks(model):
    return {name: part.net for name, part in model.named_modules() if isinstance(part, OwnNetwork)}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one | other)


def test_a_model_trains_with_networks_of_its_users_own_and_is_used_as_any_other(model, data, run):
    (encoder, decoder) = own_networks(model).values()
    assert isinstance(encoder, Photo)
    assert isinstance(decoder, nn.Sequential)
    fresh = multiebm.build("arrays", data, **NETWORKS)
    for trained, new in zip(own_networks(model).values(), own_networks(fresh).values(), strict=True):
        moved = {name: not torch.equal(value, new.state_dict()[name]) for name, value in trained.state_dict().items()}
        assert all(moved.values()), moved  # weights, running statistics, how many batches they are of
    given = {"class": np.ones((3, 1), int)}
    assert model.sample(2, data_steps=1)["photo"].shape == (2, *SHAPE)
    assert model.impute(given, latent_steps=1)["photo"].shape == (3, *SHAPE)
    assert model.score({"photo": np.zeros((3, *SHAPE)), **given}).isfinite().all()
    page = multiebm.write_report(run, dataset=data, progress=False, **NETWORKS)
    assert "Joint samples" in page.read_text()


def test_an_item_is_the_same_whatever_stands_beside_it_in_spite_of_dropout_and_batch_statistics(model):
    draws = np.random.default_rng(1)
    photos, seeds = draws.random((5, *SHAPE)), [3, 1, 4, 1, 5]
    model.train()  # as a user may leave it
    together = model.impute({"photo": photos}, latent_steps=2, seed=seeds)
    for i in range(5):
        alone = model.impute({"photo": photos[i : i + 1]}, latent_steps=2, seed=seeds[i : i + 1])
        for name in together:
            torch.testing.assert_close(alone[name][0], together[name][i], rtol=1e-4, atol=1e-5)
    assert model.training


def test_a_saved_model_names_its_networks_and_holds_no_code(run, model, tmp_path):
    parts = json.loads((run / "model" / "model.json").read_text())["model"]["parts"]
    assert parts["photo"]["encoder"] == f"{HERE}.Photo"
    assert parts["photo"]["decoder"] == f"{HERE}.photo_decoder"
    assert {file.suffix for file in (run / "model").iterdir()} == {".json", ".safetensors"}
    assert load_experiment(run).model.parts["photo"].encoder == f"{HERE}.Photo"
    model.save_pretrained(tmp_path / "again")
    again = multiebm.from_pretrained(tmp_path / "again", **NETWORKS)
    assert same(again.state_dict(), model.state_dict())
    assert same(again.sample(3), model.sample(3))


def test_without_its_networks_a_model_is_refused_with_their_names_and_the_way_out(run, capsys):
    lines = (
        f"{run / 'model' / 'model.json'}: model.parts.photo.{kind}: got the name {HERE}.{name} and not its code, "
        f"expected that to be handed over in Python: {kind}s={{'photo': {name}}} of multiebm.train"
        for kind, name in (("encoder", "Photo"), ("decoder", "photo_decoder"))
    )
    with pytest.raises(ConfigError) as caught:
        multiebm.from_pretrained(run)
    for line, said in zip(lines, caught.value.problems, strict=True):
        assert said.startswith(line)
    with pytest.raises(ConfigError, match=r"photo.encoder: got the name"):
        multiebm.write_report(run)
    for command in (["sample", str(run), "--out", str(run / "x.npz")], ["train", str(run), "--resume"]):
        with pytest.raises(SystemExit) as ended:
            main(command)
        assert ended.value.code == 2
        assert "the command line cannot have it" in capsys.readouterr().err


def test_code_of_another_name_is_taken_where_the_weights_fit_and_said(run, model, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        renamed = multiebm.from_pretrained(run, encoders={"photo": Renamed}, decoders=NETWORKS["decoders"])
    assert f"encoder photo: {HERE}.Photo" in caplog.text
    assert f"loaded with encoder photo: {HERE}.Renamed" in caplog.text
    assert same(renamed.sample(2), model.sample(2))
    renamed.save_pretrained(tmp_path / "renamed")
    caplog.clear()
    multiebm.from_pretrained(tmp_path / "renamed", encoders={"photo": Renamed}, decoders=NETWORKS["decoders"])
    assert caplog.text == ""
    with pytest.raises(CheckpointError, match=rf"last.weight: got [\s\S]*hand over .*: encoder photo: {HERE}.Photo"):
        multiebm.from_pretrained(run, encoders={"photo": Wider}, decoders=NETWORKS["decoders"])
    with pytest.raises(ConfigError, match="encoders: got .*Photo for 'class', expected none, as the model has none"):
        multiebm.from_pretrained(run, encoders={"photo": Photo, "class": Photo}, decoders=NETWORKS["decoders"])


@pytest.mark.parametrize("first", [2, 4])
def test_a_run_resumes_bit_exactly_and_leaves_the_global_generator_alone(data, first, tmp_path, monkeypatch):
    """Validation in between, which asks the networks too, leaves no trace."""
    monkeypatch.setattr(settle, "REFIT_BATCHES", 4)
    own = handed_over(**NETWORKS)
    experiment = load_experiment("arrays", SMALL)
    experiment = experiment.model_copy(update={"model": naming_own(experiment.model, own)})
    before = torch.get_rng_state()
    whole = run_experiment(experiment, tmp_path / "whole", data, own=own)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)  # of no consequence
    watched = experiment.changed("training", {"validate_every": 1})
    run_experiment(watched, tmp_path / "halves", data, until=first, own=own)
    torch.manual_seed(100)
    with pytest.raises(ConfigError, match=r"photo.encoder: got the name .*Photo and not its code"):
        run_experiment(experiment, tmp_path / "halves", data, resume=True)
    resumed = run_experiment(experiment, tmp_path / "halves", data, resume=True, own=own)
    assert resumed.fit.step == whole.fit.step == 6
    assert same(resumed.model.state_dict(), whole.model.state_dict())


def test_a_run_does_not_go_on_with_code_of_another_name(run, data):
    with pytest.raises(ConfigError, match=rf'photo.encoder: "{HERE}.Photo" -> "{HERE}.Renamed"'):
        multiebm.train(
            "arrays", run, SMALL, data, True, progress=False, encoders={"photo": Renamed}, decoders=NETWORKS["decoders"]
        )


@pytest.mark.parametrize(("row", "second"), [("mmvaeplus", 2 * 7), ("jmvae", 128)])
def test_each_network_is_told_its_size(row, second, data):
    """One apart for private latents, or one of a joint encoder."""
    asked = []

    def encoder(modality, n_out):
        asked.append((modality.name, n_out))
        return nn.Sequential(nn.Flatten(), nn.Linear(modality.size, n_out))

    settings = ["model.shared=5", *(["model.private=7"] if row == "mmvaeplus" else [])]
    multiebm.build(load_experiment(f"arrays-{row}", settings), data, encoders={"photo": encoder})
    assert asked == [("photo", 2 * 5), ("photo", second)]


def test_batches_in_which_one_item_or_none_has_a_part_are_trained_on(data, tmp_path, monkeypatch):
    """torch refuses batch statistics of one row, and `view` the rows of an empty batch."""
    monkeypatch.setattr(settle, "REFIT_BATCHES", 4)
    present = np.ones((12, 2), bool)
    present[2:, 0] = False
    views = {"photo": np.random.default_rng(0).random((12, *SHAPE)), "class": np.arange(12)[:, None] % 2}
    few = multiebm.from_arrays(
        views, {"photo": {"kind": "picture", "layout": "chw"}, "class": "category"}, None, present
    )
    model = multiebm.train(
        few, tmp_path / "few", [*SMALL, "training.batch_size=2"], method="arrays", progress=False, **NETWORKS
    )
    assert all(value.isfinite().all() for value in model.state_dict().values())


def test_an_energy_prior_is_fitted_to_a_model_with_networks_of_its_own(model, data, monkeypatch):
    monkeypatch.setattr("multiebm.experiments.fit_prior.CODES_BATCHES", 2)
    monkeypatch.setattr("multiebm.experiments.fit_prior.CODES_BATCH", 8)
    fitted = fit_prior(model, data, Energy(steps=1), Settling(1, rate=1e-3))
    encoders = [own_networks(m) for m in (model, fitted)]
    assert len(encoders[0]) == 2
    assert all(same(a.state_dict(), b.state_dict()) for a, b in zip(*(e.values() for e in encoders), strict=True))


class HalfInside(nn.Module):
    def __init__(self, m, n):
        super().__init__()
        self.last, self.inside = nn.Linear(m.size, n), nn.Linear(2, 2).half()

    def forward(self, x):
        return self.last(x.flatten(1))


class Mixing(nn.Module):
    def __init__(self, modality, n_out):
        super().__init__()
        self.last = nn.Linear(modality.size, n_out)

    def forward(self, x):
        return self.last((x - x.mean(0)).flatten(1))


def linear(n_more=0, dtype=torch.float32):
    return lambda m, n: nn.Sequential(nn.Flatten(), nn.Linear(m.size, n + n_more).to(dtype))


WRONG = {
    "a network": (
        nn.Linear(70, 4),
        r"encoders, part 'photo': got a network, expected the class or function that makes",
    ),
    "text": ("resnet", r"encoders, part 'photo': got 'resnet', expected the class or function"),
    "one argument": (
        lambda m: nn.Flatten(),
        r"does not take two arguments, expected \(modality, n_out\), of a network",
    ),
    "no network": (
        lambda m, n: print,
        r"part 'photo': .*lambda>: got builtin_function_or_method, expected a torch.nn.Mod",
    ),
    "more outputs": (
        linear(1),
        r"part 'photo': .* got shape \[2, \d+\] for inputs of shape \[2, 2, 5, 7\], expected a t",
    ),
    "two outputs": (lambda m, n: nn.LSTM(7, n, batch_first=True), r"part 'photo': .*expected .* shape \[2, \d+\]"),
    "an error": (lambda m, n: nn.Linear(3, n), r"got an error \(mat1 and mat2 .*expected outputs of shape \[2, \d+\]"),
    "rows mixed": (Mixing, r"got another output for an item beside another than for it alone, expected rows"),
    "half": (HalfInside, r"got weights \(inside.weight\) that are not float32"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_encoder_is_refused_before_training_with_part_and_shape(case, data, tmp_path):
    maker, said = WRONG[case]
    with pytest.raises(ConfigError, match=said):
        multiebm.train(data, tmp_path / "run", SMALL, method="arrays", progress=False, encoders={"photo": maker})
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_decoders_parts_and_missing_cells_are_checked_too(data):
    with pytest.raises(
        ConfigError, match=r"decoders, part 'photo': .* got shape \[2, 70\] .* expected .* \[2, 2, 5, 7\]"
    ):
        multiebm.build("arrays", data, decoders={"photo": lambda m, n: nn.Linear(n, m.size)})
    with pytest.raises(
        ConfigError, match=r"encoders: got one for 'photos', expected some of photo, class. Did you mean"
    ):
        multiebm.build("arrays", data, encoders={"photos": Photo})
    gaps = {"table": np.where(np.eye(6, 3) > 0, np.nan, np.random.default_rng(0).normal(size=(6, 3)))}
    some = multiebm.from_arrays(gaps, {"table": {"kind": "vector", "missing": "nan"}})
    with pytest.raises(ConfigError, match=r"part 'table': .* got NaN or infinite outputs .* WithGaps\(\)"):
        multiebm.build("arrays", some, encoders={"table": lambda m, n: nn.Linear(3, n)})


def test_the_name_of_what_makes_a_network_is_that_of_what_a_partial_calls():
    assert name_of(partial(Photo, n_out=3)) == name_of(Photo) == f"{HERE}.Photo"
    assert name_of(Path("x").exists) == "pathlib.Path.exists"
