"""Scripts and benchmarks, which pages give as commands: each says how it is called, and loads its settings."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import multiebm
from multiebm.data import load_dataset
from multiebm.evaluation.belonging import auroc
from multiebm.experiments.compare import source_of
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment

ROOT = Path(__file__).parents[1]
PLAIN = ("cells.py", "own_sets.py", "reference_step.py", "reference_vae.py")  # read by the others
SCRIPTS = sorted(p for folder in ("scripts", "benchmarks") for p in (ROOT / folder).glob("*.py") if p.name not in PLAIN)


def loaded(name: str) -> dict:
    """What a script defines, without running it."""
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        return runpy.run_path(str(ROOT / "scripts" / f"{name}.py"))
    finally:
        sys.path.pop(0)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_every_script_says_how_it_is_called(script: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [str(script.parent), *sys.path])  # as of a command
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert not ended.value.code
    assert capsys.readouterr().out.startswith("usage: ")


def test_a_script_is_a_command_of_a_process_of_its_own():
    script = ROOT / "scripts" / "matching.py"  # which reads another one
    done = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: ")


def test_other_models_of_the_same_data_stand_below_with_their_likelihood(tmp_path):
    """Of an untrained model the two ratings are what they are: the table has their areas under the curve."""
    matching, data = loaded("matching"), load_dataset("toy2d", {"train_items": 40, "test_items": 30})
    model = multiebm.build("toy2d-mopoe", data)
    model.save_pretrained(tmp_path / "mopoe")
    parts = {name: view[:] for name, view in data.test.views.items()}
    moved = {name: view.roll(i, 0) for i, (name, view) in enumerate(parts.items())}
    expected = {"match": auroc(model.match(parts), model.match(moved)).value}
    expected["likelihood"] = auroc(model.score(parts), model.score(moved)).value
    lines = matching["beside"]([tmp_path / "mopoe"], data, 0)
    assert [line.split(" | ")[:2] for line in lines] == [
        [f"| mopoe: {what}", f"{value:.3f}"] for what, value in expected.items()
    ]
    assert matching["beside"]([], data, 0) == []


def test_every_script_is_a_command_of_a_page_or_of_results():
    texts = [
        path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("results/**/*.md")]
    ]
    pages = "\n".join(texts)
    named = {name for folder, name in re.findall(r"(scripts|benchmarks)/(\w+\.(?:py|sh))", pages)}
    assert {path.name for path in SCRIPTS} - named <= {"remedies.py"}  # its table names it by folder


def test_the_runs_for_a_machine_with_a_gpu_load():
    runs = re.findall(r"^one \w+ +(\S+) (.*)$", (ROOT / "scripts" / "gpu_suite.sh").read_text(), re.MULTILINE)
    assert len(runs) == 3
    for preset, overrides in runs:
        assert load_experiment(preset, overrides.split()).training.seconds == 900


def test_the_three_energies_of_the_page_on_captions_load_and_differ_in_the_energy_alone():
    text = (ROOT / "docs" / "methods" / "text.md").read_text()
    runs = dict(reversed(found) for found in re.findall(r"^multiebm train shapes (.*) --out shapes-(\w+)$", text, re.M))
    of = {name: load_experiment("shapes", shlex.split(said.partition(" --init")[0])) for name, said in runs.items()}
    none = of.pop("none")
    assert none.model.energy is None
    assert [said.endswith("--init-from shapes-none") for said in runs.values()] == [False, True, True, True]
    energies = {name: (e.model.energy.fusion, e.model.interaction is not None) for name, e in of.items()}
    assert energies == {"interaction": ("late", True), "late": ("late", False), "additive": ("additive", False)}
    assert len({(e.model.inference, e.model.prior, e.training.optimiser) for e in (none, *of.values())}) == 1


def test_the_rows_of_every_table_load():
    tables = loaded("run_table")
    for rows in tables["TABLES"].values():
        for row in rows.values():
            assert isinstance(load_experiment(row.preset, row.overrides), Experiment)
    toy = loaded("toy2d_table")
    assert all(isinstance(toy["configure"](row, 0, 5), Experiment) for row in toy["ROWS"].values())
    for name, row in (("prior_ablation", "mvebm"), ("prior_reach", "mmvae-star")):
        script = loaded(name)
        changes = (
            [script["CHANGES"]] if "CHANGES" in script else [*script["GRID"].values(), *script["VARIANTS"].values()]
        )
        data = "toy2d" if "CHANGES" in script else "polydigits"
        assert all(isinstance(load_experiment(source_of(row, data), some), Experiment) for some in changes)
    assert all(isinstance(e, Experiment) for e in loaded("remedies")["experiments"](0).values())
    ablations = loaded("ablations")
    assert all(isinstance(ablations["configure"](row, 0, 5), Experiment) for row in ablations["ROWS"].values())
    missing = loaded("missing_table")
    assert all(load_experiment(source_of(row, "polydigits"), ["data.missing=0.5"]) for row in missing["ROWS"])
