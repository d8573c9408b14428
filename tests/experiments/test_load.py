"""Configurations: what is accepted, what is refused, and that every refusal says what to do."""

import inspect
import json
import re
import subprocess
import sys
import tracemalloc
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import get_args

import numpy as np
import pytest

from multiebm.core.errors import ConfigError
from multiebm.core.keys import CONFIG
from multiebm.data import DATASETS
from multiebm.experiments import explain
from multiebm.experiments.build import build_dataset
from multiebm.experiments.explain import all_keys
from multiebm.experiments.load import (
    Difference,
    differences,
    dump_experiment,
    is_path,
    load_experiment,
    located,
    merge,
    say,
    to_dict,
)
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sizes import SIZED
from multiebm.experiments.sources import COMMON, PRESETS, preset_comment, preset_names
from multiebm.experiments.values import dump, parse, parse_file
from multiebm.modalities import MODALITIES


def problems_of(source: str | Path, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as raised:
        load_experiment(source, overrides)
    return raised.value.problems


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_resolves_to_a_file_that_loads_to_an_equal_object(name: str, tmp_path: Path):
    experiment = load_experiment(name)
    (tmp_path / CONFIG).write_text(dump_experiment(experiment))
    assert load_experiment(tmp_path / CONFIG) == experiment
    assert load_experiment(tmp_path) == experiment  # a run folder


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_begins_with_what_it_is_its_command_time_and_expectation(name: str):
    said = preset_comment(name)
    assert len(said[0]) > 10
    command = name.removesuffix(COMMON) + "-ROW" if name.endswith(COMMON) else name  # of one row or another
    command = "DATA" if name == SIZED else command  # which it is trained on without its name
    assert said[1].startswith(f"command: multiebm train {command} ")
    assert any(line.startswith("time: ") for line in said)
    assert any(line.startswith("expected: ") for line in said)


def test_overrides_are_yaml_values_under_dotted_keys():
    changed = load_experiment(
        "polydigits",
        ["training.batch_size=32", "model.likelihood.weights={m0: 2}", "training.optimiser.energy=3e-5", "seed=7"],
    )
    assert changed.training.batch_size == 32
    assert changed.model.likelihood.weights == {"m0": 2.0}
    assert changed.training.optimiser.energy == 3e-5
    assert changed.seed == 7
    back = ["training.batch_size=64", "training.optimiser.energy=2e-5", "seed=0"]
    assert {d.key for d in differences(load_experiment(changed, back), changed)} == {
        "training.batch_size",
        "training.optimiser.energy",
        "seed",
    }


def test_a_section_can_be_switched_off_and_on():
    off = load_experiment(
        "polydigits", ["model.energy=null", "training.phases.cooperative.steps=0", "training.phases.energy.steps=0"]
    )
    assert off.model.energy is None
    on = load_experiment(off, ["model.energy.width=24"])
    assert on.model.energy is not None
    assert on.model.energy.width == 24
    assert differences(off, on)[0].key == "model.energy"


def test_an_unknown_preset_is_told_the_nearest_and_all_others():
    (problem,) = problems_of("polydigit")
    assert "got 'polydigit'" in problem
    assert problem.endswith("Did you mean 'polydigits'?")
    assert all(name in problem for name in preset_names())


def test_an_unknown_key_is_told_its_siblings_and_the_nearest():
    (problem,) = problems_of("toy2d", "model.energy.widht=3")
    assert problem.startswith("model.energy.widht: unknown key; model.energy has width, fusion, penalty")
    assert problem.endswith("Did you mean 'width'?")


def test_a_key_in_the_wrong_section_is_told_where_it_belongs():
    (problem,) = problems_of("toy2d", "batch_size=3")
    assert problem.endswith("Did you mean 'training.batch_size'?")


def test_a_wrong_value_is_told_the_range_and_the_meaning():
    assert problems_of("toy2d", "training.batch_size=0") == [
        "training.batch_size: got 0, expected an integer > 0 (items per step)"
    ]
    assert problems_of("toy2d", "data.missing=1.5")[0].startswith(
        "data.missing: got 1.5, expected a number >= 0 and <= 1 (chance of each training part to be hidden"
    )
    assert "got -1, expected a number > 0 or null" in problems_of("toy2d", "training.seconds=-1")[0]
    assert 'got "lat", expected one of early, late, additive' in problems_of("toy2d", "model.energy.fusion=lat")[0]
    assert (
        "expected balance or a number >= 0" in problems_of("toy2d", "training.phases.cooperative.synthetic=balanced")[0]
    )
    assert problems_of("toy2d", "evaluation.sizes=[1, 0]") == ["evaluation.sizes.1: got 0, expected an integer > 0"]
    assert problems_of("toy2d", "data=5") == ["data: got 5, expected a section with name, settings, missing"]


@pytest.mark.parametrize("value", ["'32'", "yes", "1.5", "true", "null"])
def test_a_type_is_not_guessed(value: str):
    (problem,) = problems_of("toy2d", f"training.batch_size={value}")
    assert problem.startswith("training.batch_size: got ")
    assert "expected an integer > 0" in problem


def test_all_problems_are_reported_at_once():
    wrong = [
        "trainig.batch_size=3",
        "training.batch_size=x",
        "model.energy.widht=3",
        "training.optimiser.energie=1",
        "seed=-1",
        "no_value",
        "model.shared=",
        "model.private=[1",
    ]
    found = problems_of("toy2d", *wrong)
    assert len(found) == len(wrong)
    for said in (
        "trainig: unknown",
        "training.batch_size: got",
        "model.energy.widht: unknown",
        "training.optimiser.energie: unknown",
        "seed: got",
        "'no_value': got",
        "'model.shared=': got",
        "'model.private=[1': line 1",
    ):
        assert sum(problem.startswith(said) for problem in found) == 1, said


@pytest.mark.parametrize(
    ("row", "changes", "way_out"),
    [
        (
            "mopoe",
            ["model.prior.kind=laplace"],
            "training.phases.bound.divergence=component",
        ),
        ("mmvae", ["training.phases.bound.divergence=analytic"], "training.phases.bound.divergence=component"),
        (
            "mmvae-iwae",
            ["training.phases.bound.estimator=iwae_inside", "training.phases.bound.penalty=entropy"],
            "training.phases.bound.penalty=none",
        ),
        ("mmjsd", ["model.prior.learned_scale=true"], "model.prior.learned_scale=false"),
        ("mmjsd", ["model.prior.kind=energy", "model.prior.in_bound=true"], "model.prior.kind=normal"),
        (
            "mmvae",
            ["model.prior={kind: energy, learned_scale: true, in_bound: true}"],
            "model.prior.in_bound=false",
        ),
        ("mmjsd", ["model.prior.kind=clusters", "model.prior.components=4"], "model.prior.kind=normal"),
    ],
)
def test_combinations_that_no_theory_stands_behind_are_refused(row: str, changes: list[str], way_out: str):
    with pytest.raises(ConfigError, match=re.escape(way_out)):
        load_experiment(f"polydigits-{row}", changes)


def test_settings_that_contradict_each_other_are_refused_with_the_way_out():
    found = problems_of(
        "polydigits",
        "model.energy=null",
        "model.prior.kind=mixture",
        "data.missing=0.1",
        "model.inference.subsets=joint",
    )
    assert [problem.partition(":")[0] for problem in found] == [
        "model.inference.subsets",
        "model.energy",
        "model.energy",
        "training.phases.cooperative.steps",
        "training.phases.settle.widen_base",
    ]
    assert "set training.phases.energy.steps=0" in found[1]
    assert "training.phases.cooperative.steps=0" in found[2]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.prior.components=0", "model.prior.components: got 0, expected an integer >= 1"),
        ("model.data_chain.displacement_max=1e-4", "model.data_chain.displacement_max: got 0.0001, expected a number"),
        ("model.data_chain.step_size=1", "unknown key; model.data_chain of kind displaced has steps, noise_scale"),
    ],
)
def test_what_could_be_contradicted_formerly_cannot_be_written(setting: str, said: str):
    (problem,) = problems_of("polydigits-mixture", setting)
    assert said in problem


def test_overrides_of_a_row_leave_the_table_of_rows_as_it_is():
    changed = load_experiment(
        "polydigits-mmvae", ["training.phases.bound.samples=1", "model.prior.learned_scale=false"]
    )
    again = load_experiment("polydigits-mmvae")
    assert (changed.training.phase("bound").samples, again.training.phase("bound").samples) == (1, 10)
    assert (changed.model.prior.learned_scale, again.model.prior.learned_scale) == (False, True)


def test_a_base_is_overlaid_key_by_key_and_a_section_of_another_name_replaced(tmp_path: Path):
    (tmp_path / "mine.yaml").write_text("base: toy2d-additive\ntraining: {batch_size: 16}\n")
    (tmp_path / "again.yaml").write_text("base: mine.yaml\nseed: 3\n")
    mine = load_experiment(tmp_path / "again.yaml")
    assert [d.key for d in differences(load_experiment("toy2d-additive"), mine)] == ["training.batch_size", "seed"]
    assert merge({"name": "a", "size": 1}, {"name": "b"}) == {"name": "b"}
    assert merge({"name": "a", "size": 1}, {"size": 2}) == {"name": "a", "size": 2}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("base: toy3d\n", "preset: got 'toy3d'"),
        ("base: [toy2d]\n", "expected one preset or file"),
        ("- 1\n", "got list, expected a mapping"),
        ("seed: 1\nseed: 2\n", "line 2, column 1 got 'seed' twice"),
        ("seed: [1\n", "line 2"),
    ],
)
def test_a_file_that_cannot_be_used_is_named_with_the_reason(text: str, said: str, tmp_path: Path):
    file = tmp_path / "x.yaml"
    assert problems_of(file) == [
        f"{file}: got no such file, expected a YAML file or one of {', '.join(preset_names())}."
    ]
    file.write_text(text)
    (problem,) = problems_of(file)
    assert said in problem
    assert problem.startswith(f"{file}:") or "toy3d" in said


def test_bases_that_go_in_a_circle_are_refused(tmp_path: Path):
    file = tmp_path / "x.yaml"
    file.write_text(f"base: {file}\n")
    assert "a chain of more than 3 bases" in problems_of(file)[0]


def test_yaml_values_are_those_of_version_1_2():
    text = "{a: no, b: 1e-4, c: 010, d: 0x1F, e: 12:30, f: 2001-01-01, g: ~, h: true, i: .5, j: .inf}"
    assert parse(text, "") == {
        "a": "no",
        "b": 1e-4,
        "c": 10,
        "d": 31,
        "e": "12:30",
        "f": "2001-01-01",
        "g": None,
        "h": True,
        "i": 0.5,
        "j": float("inf"),
    }
    strings = {
        str(i): s for i, s in enumerate(["1e3", "010", "no", "null", "~", "", "true", ".5", "0o7", "a: b", "<<"])
    }
    assert parse(dump(strings), "") == strings


LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in pairwise("abcdefghij")
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (LAUGHS, "line 1, column 4 got an anchor (&) or an alias (*)"),
        ("a: [x, *x]", "line 1, column 8 got an anchor (&) or an alias (*)"),
        ("a: !!binary aGk=", "line 1, column 4 got the tag tag:yaml.org,2002:binary"),
        ("!!python/object:os.system x", "got the tag tag:yaml.org,2002:python/object:os.system"),
        ("a: !mine x", "got the tag !mine"),
        ("[" * 100_000, "line 1, column 33 got more than 32 sections in one another"),
        ("{a: " * 30_000, "got more than 32 sections in one another"),
        ("".join(" " * i + "a:\n" for i in range(400)), "line 32, column 32 got more than 32 sections"),
        ("- " * 60_000, "got more than 32 sections in one another"),
        (f"a: {'9' * 5000}", "line 1, column 4 got an integer of more than 20 digits"),
        (f"a: 0x{'f' * 5000}", "got an integer of more than 20 digits"),
        ("a: " + "x" * 200_000, "got more than 131,072 characters, expected a configuration"),
        ("a: \0", "not readable as YAML"),
    ],
)
def test_yaml_that_is_made_to_do_damage_is_refused_soon_and_in_little_memory(text: str, said: str):
    tracemalloc.start()
    began = process_time()
    try:
        with pytest.raises(ConfigError) as raised:
            parse(text, "hostile.yaml")
        assert tracemalloc.get_traced_memory()[1] < 16 << 20  # bytes
    finally:
        tracemalloc.stop()
    assert process_time() - began < 5
    assert str(raised.value).startswith("hostile.yaml: ")
    assert said in str(raised.value)


def test_depth_is_what_is_open_and_integers_of_64_bits_are_read():
    assert parse("[" * 32 + "]" * 32, "") == json.loads("[" * 32 + "]" * 32)
    assert parse(", ".join(["[[[1]]]"] * 20).join("[]"), "") == [[[[1]]]] * 20
    assert parse(f"[{2**64 - 1}, {-(2**63)}]", "") == [2**64 - 1, -(2**63)]


def test_no_more_of_a_file_is_read_than_a_configuration_has(tmp_path: Path):
    with (tmp_path / "huge.yaml").open("wb") as stream:
        stream.truncate(1 << 33)  # 8 GiB of zeros that take no room on the disk
    assert "got more than 131,072 characters" in problems_of(tmp_path / "huge.yaml")[0]
    (tmp_path / "latin.yaml").write_bytes(b"seed: 1 # \xe9")
    assert "latin.yaml: cannot be read" in problems_of(tmp_path / "latin.yaml")[0]


ODD_PATHS = (
    *("/a#b.npz", "/a #b.npz", "/{x}.npz", "{x}.npz", "100%.npz", "%a.npz", "null", "true", "5", "1e3", "~x/a: b.npz"),
    *("[x].npz", "/*.npz", "*x.npz", "&x.npz", "!x.npz", "|x.npz", "@x.npz", "a, b.npz", "it's.npz", '"a.npz', "- a"),
    *("a=b.npz", "? x", ".", "..", "a/../b.npz", "ü ñ.npz", "a  b   c.npz", "/x" * 120 + "/a b c.npz", ""),
)


@pytest.mark.parametrize("name", ODD_PATHS[:-1])
def test_a_path_is_taken_as_it_is_given_and_saved_so_that_it_reads_back(name: str, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    expected = name if name.startswith("/") else f"{tmp_path}/{name}" if name != "." else str(tmp_path)
    for key in ("path", "folder", "cache_folder"):
        experiment = load_experiment("arrays", [f"data.settings.{key}={name}"])
        assert experiment.data.settings[key] == expected
        (tmp_path / CONFIG).write_text(dump_experiment(experiment), encoding="utf-8")
        assert load_experiment(tmp_path / CONFIG) == experiment


def test_a_path_in_quotes_is_yaml_and_other_settings_stay_so():
    settings = load_experiment(
        "arrays", ["data.settings.path='/a ''b'' #c.npz'", "data.settings.seed=null"]
    ).data.settings
    assert settings["path"] == "/a 'b' #c.npz"
    assert settings["seed"] is None
    assert load_experiment("arrays", ['data.settings.path="/a\\tb"']).data.settings["path"] == "/a\tb"
    assert "got no key=value" in problems_of("arrays", "data.settings.path= ")[0]


def test_settings_that_are_paths_are_known_by_their_names():
    """The rule reads names alone, because configurations are read without the loaders; it must agree with them."""
    for name in DATASETS:
        for setting, parameter in inspect.signature(DATASETS[name]).parameters.items():
            assert is_path(["data", "settings", setting]) == (Path in get_args(parameter.annotation)), setting
    assert not is_path(["data", "path"])
    assert not is_path(["model", "settings", "path"])


def test_a_relative_path_of_data_means_the_same_from_any_folder(tmp_path: Path, monkeypatch):
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    np.savez(work / "mine.npz", x=np.arange(20.0).reshape(10, 2))
    parts = "data.settings.modalities={x: {kind: vector}}"
    monkeypatch.setenv("HOME", str(work))
    monkeypatch.chdir(work)
    saved = load_experiment("arrays", ["data.settings.path=mine.npz", parts])
    assert load_experiment("arrays", ["data.settings.path=~/mine.npz", parts]) == saved
    (work / CONFIG).write_text(dump_experiment(saved))
    old = dump_experiment(saved).replace(str(work / "mine.npz"), "mine.npz")  # as it was written formerly
    (work / "old.yaml").write_text(old)
    assert "path: mine.npz" in old
    assert differences(load_experiment(work / "old.yaml"), saved) == []
    assert located(Experiment.model_validate(parse(old, ""))) == saved
    monkeypatch.chdir(elsewhere)
    assert len(build_dataset(load_experiment(work / CONFIG).data).train) == 8


def test_a_difference_names_both_values_and_a_whole_section_once():
    changes = differences(load_experiment("polydigits"), load_experiment("polydigits-warmup"))
    by_key = {change.key: change for change in changes}
    assert say(by_key["model.prior.kind"]) == 'model.prior.kind: "energy" -> "normal"'
    assert say(by_key["model.energy"]) == "model.energy: {...} -> null"
    assert not any(key.startswith("model.energy.") for key in by_key)
    assert differences(Experiment(), Experiment()) == []
    assert say(Difference("seed", 1, 2)) == "seed: 1 -> 2"


def test_the_package_is_imported_without_torch():
    code = (
        "import sys, json, multiebm\nprint(json.dumps([name in sys.modules for name in ('torch', 'numpy', 'sklearn')]))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert json.loads(out) == [False, False, False]


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("model.data_chain={kind: langevin, step_size: 0}", "model.data_chain.step_size"),
        ("model.data_chain={kind: langevin, step_size: 11}", "model.data_chain.step_size"),
        ("model.data_chain.steps=10001", "model.data_chain.steps"),
        ("model.latent_chain.step_size=1.5", "model.latent_chain.step_size"),
        ("model.latent_chain.steps=-1", "model.latent_chain.steps"),
        ("model.prior.step_size=3", "model.prior.step_size"),
    ],
)
def test_steps_and_step_sizes_of_chains_have_ranges(setting: str, said: str):
    with pytest.raises(ConfigError, match=rf"{said}.*got .*expected"):
        load_experiment("polydigits", [setting])


@pytest.mark.parametrize("given", ["training.batch_size=32", {"training.batch_size": 32}, [32]])
def test_overrides_that_are_no_list_of_texts_are_refused_in_one_line(given):
    with pytest.raises(ConfigError, match="^overrides: got .*expected a list of texts, such as") as raised:
        load_experiment("toy2d", given)
    assert len(raised.value.problems) == 1


def test_there_are_fewer_than_ninety_settings():
    """Those of a union are counted once by their name, as are those of the networks of kinds of parts; kinds are not.

    By their keys there are ten more: `model.parts`, the widths of the networks of counts and of categories,
    `model.linear`, what the bound has `hidden`, what the energy of interaction chooses before the data chain, and what
    the phase has that teaches it: steps, rate and ratio.
    """
    keys = [key for key in all_keys() if not key.endswith(".kind")]
    names = {re.sub(rf"^model\.networks\.({'|'.join(MODALITIES)})\.", "model.networks.", key) for key in keys}
    names = {".".join(p for i, p in enumerate(key.split(".")) if not ("phases" in key and i == 2)) for key in names}
    assert len(names) < 90, len(names)
    assert len(keys) < 90 + 10, len(keys)


def test_phases_are_addressed_by_their_kind_or_their_place():
    by_kind = load_experiment(
        "polydigits", ["training.phases.cooperative.steps=7", "training.phases.settle={steps: 3}"]
    )
    assert [phase.steps for phase in by_kind.training.phases] == [2600, 40, 7, 3, 300]
    assert by_kind.training.phases[2].rate == 0.1  # the rest of a section stays, but of one that is given whole
    assert by_kind.training.phases[3].widen_base == 1
    assert load_experiment("polydigits", ["training.phases.2.steps=7"]).training.phases[2].steps == 7
    (problem,) = problems_of("polydigits-warmup", "training.phases.energy.steps=5")
    assert "got energy, expected one of bound, or the place of one from 0" in problem
    (problem,) = problems_of("polydigits", "training.phases.5.steps=5")
    assert "got 5, expected one of bound, energy, cooperative, settle, belonging" in problem


def test_a_mapping_is_laid_on_the_phases_of_a_base_and_a_list_replaces_them(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("base: polydigits\ntraining: {phases: {bound: {steps: 9}}}\n")
    assert [phase.steps for phase in load_experiment(file).training.phases] == [9, 40, 120, 500, 300]
    file.write_text("base: polydigits\ntraining: {phases: [{kind: bound}]}\n")
    assert [phase.kind for phase in load_experiment(file).training.phases] == ["bound"]
    file.write_text("base: polydigits-warmup\ntraining: {phases: {energy: {steps: 5}}}\n")
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}: phases: got energy, expected one of those there are: bound")


def test_a_changed_kind_begins_its_section_anew_whatever_the_order():
    settings = ["model.prior.components=7", "model.prior.kind=mixture", "training.phases.settle.steps=0"]
    for order in (settings, settings[::-1]):
        assert to_dict(load_experiment("polydigits", order))["model"]["prior"] == {"kind": "mixture", "components": 7}
    assert load_experiment("polydigits", ["model.prior.kind=energy"]) == load_experiment("polydigits")


def test_a_setting_of_another_kind_is_told_whose_it_is():
    assert problems_of("polydigits-mixture", "model.prior.width=9") == [
        "model.prior.width: unknown key; model.prior of kind mixture has components. Kind energy has it."
    ]
    (problem,) = problems_of("polydigits", "model.prior.kind=mixtur")
    assert problem == (
        'model.prior.kind: got "mixtur", expected one of normal, laplace, clusters, mixture, energy. '
        "Did you mean 'mixture'?"
    )


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("training.cooperative={steps: 5}", "it is training.phases.cooperative.steps now"),
        ("model.inference.joint=true", "it is model.inference.subsets (joint) now"),
        ("training.phases.settle.prune=1", "it is training.phases.settle.steps (with any, clusters are pruned) now"),
        ("training.tensorboard=true", "it is the argument tensorboard of train, --tensorboard in the command now"),
        ("training.phases.cooperative.start=aggregate", "there is none like it any more; leave it out"),
        ("training.cooperative.revision=all", "there is none like it any more; leave it out"),
    ],
)
def test_a_setting_that_has_another_name_now_is_told_it(old: str, now: str):
    (problem,) = problems_of("polydigits", old)
    assert problem.endswith(f"unknown key; {now}")


@pytest.mark.parametrize(
    ("old", "now"),
    [
        ("training.warmup.steps=5", "training.phases.bound.steps=5"),
        ("model.prior.settle=5", "training.phases.settle.steps=5"),
        ("model.prior.temperature=0.5", "model.temperature=0.5"),
        ("model.networks.vector.separate_trunks=true", "model.inference.separate_trunks=true"),
        (" training.cooperative.energy_first = 3", "training.phases.energy.steps=3"),
        ("model.networks.kind=mmvaeplus", "model.networks.picture.kind=mmvaeplus"),
    ],
)
def test_an_older_name_of_a_setting_is_read_as_its_name_now_which_is_said(old: str, now: str, caplog):
    assert load_experiment("polydigits", [old]) == load_experiment("polydigits", [now])
    before, after = old.partition("=")[0].strip(), now.partition("=")[0]
    said = f"{before}: an older name of {after}, and read as that; write the new one"
    assert [record.message for record in caplog.records] == [said]


def test_a_file_with_older_names_is_read_as_one_with_those_of_now(tmp_path: Path, caplog):
    before, after = tmp_path / "before.yaml", tmp_path / "after.yaml"
    before.write_text("base: polydigits\nmodel: {networks: {hidden: 9}}\ntraining: {warmup: {steps: 5, beta: 0.5}}\n")
    after.write_text(
        "base: polydigits\nmodel: {networks: {vector: {width: 9}}}\n"
        "training: {phases: {bound: {steps: 5, beta: 0.5}}}\n"
    )
    assert load_experiment(before) == load_experiment(after) != load_experiment("polydigits")
    assert f"{before}: training.warmup.steps is an older name of training.phases.bound.steps" in caplog.text


def test_an_older_name_beside_the_present_one_and_one_of_a_phase_that_is_not_there_are_refused(tmp_path: Path):
    file = tmp_path / "both.yaml"
    file.write_text("base: polydigits\ntraining: {warmup: {steps: 5}, phases: {bound: {steps: 6}}}\n")
    both = "training.warmup.steps and training.phases.bound.steps, its name now"
    assert problems_of(file) == [f"{file}: got {both}, expected one; leave the first out"]
    (problem,) = problems_of("own", "training.cooperative.steps=5")
    assert problem.startswith("training.phases.cooperative.steps: got cooperative, expected one of bound")


def test_a_whole_configuration_of_an_older_run_is_read_under_the_names_of_now(tmp_path: Path):
    now = load_experiment("polydigits", ["training.optimiser.betas=[0.25, 0.75]", "model.interaction.ratio=3"])
    raw = to_dict(now)
    raw["training"]["optimiser"] |= {"beta1": 0.25, "beta2": 0.75}
    del raw["training"]["optimiser"]["betas"], raw["model"]["interaction"]["ratio"]
    raw["training"]["phases"][-1]["ratio"] = 3.0
    (tmp_path / "config.yaml").write_text(dump(raw))
    assert load_experiment(tmp_path) == now


@pytest.mark.parametrize("given", ["[0.5]", "[0.5, 0.9, 0.9]", "0.5", "[0.5, 2]"])
def test_what_is_no_pair_of_decays_is_refused_with_what_one_is(given: str):
    (problem,) = problems_of("toy2d", f"training.optimiser.betas={given}")
    assert problem.startswith("training.optimiser.betas")
    assert "expected" in problem


def test_every_new_name_of_an_old_setting_exists_and_no_old_name_does():
    renamed = parse_file(Path(explain.__file__).with_name("renamed.yaml"))
    assert not set(renamed) & set(all_keys())
    for now in filter(None, renamed.values()):
        for key in re.findall(r"[a-z]+\.[\w.]+", re.sub(r"\(.*\)", "", now)):
            assert key in all_keys(), key


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_fits_a_screen_and_says_what_each_line_means(name: str):
    lines = (PRESETS / f"{name}.yaml").read_text().splitlines()
    assert len([line for line in lines if not line.startswith("#")]) <= 25
    body = "\n".join(line for line in lines if not line.startswith("#"))
    unsaid = [
        line
        for line, after in pairwise([*body.splitlines(), ""])
        if ":" in line and " # " not in line and not line.endswith(":") and " # " not in after
    ]
    assert unsaid == []
