"""The pages on methods: one for every row, a table that says what the code says, settings and links that exist."""

import ast
import re
import tomllib
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.main import get_command

import multiebm
from multiebm import testing
from multiebm.cli.main import app
from multiebm.data import DATASETS
from multiebm.distributions.fusion import FUSIONS
from multiebm.evaluation.metrics import METRICS
from multiebm.experiments.baselines import REFERENCES, ROWS, Baseline, baselines, lay_row
from multiebm.experiments.explain import all_keys
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.experiments.values import parse
from multiebm.modalities import MODALITIES
from multiebm.objectives.penalties import PENALTIES
from multiebm.priors import PRIORS
from multiebm.testing import DatasetContract, MetricContract, PhaseContract, PriorContract
from multiebm.training.phases import PHASES
from multiebm.training.phases.bound import Bound

ROOT = Path(__file__).resolve().parents[1]
ARCHITECTURE = ROOT / "docs" / "architecture.md"
METHODS = ROOT / "docs" / "methods"
EXTEND = ROOT / "docs" / "extend.md"
PAGES = sorted([*METHODS.glob("*.md"), ARCHITECTURE, EXTEND])
LINKING = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])

RENAMED = {"mohelvae": "helvae"}  # rows whose page does not begin their name
SECTIONS = "model|training|data|evaluation"
SPAN = re.compile(rf"`((?:{SECTIONS})\.[a-z][\w.*]*)(\()?[^`\n]*`")  # inline code; with a bracket it is a call
OVERRIDE = re.compile(rf"(?<![\w.])((?:{SECTIONS})\.[a-z][\w.]*)=\S")  # key=value of a command
ATTRIBUTES = {
    "model.generator.prior.tilt",
    "model.displacement",
    "model.data_step_size",
    "model.data_temperature",
}  # of a model in Python, in cooperative.md
FREE = ("data.settings.", "model.likelihood.weights.", "model.parts.")  # keys below these are names of the user's
EXAMPLE = "poe"  # a row that extend.md adds
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)


def by_name(paths: list[Path]):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


def page_of(row: str) -> Path:
    """The page whose name is the longest that the row begins with."""
    name = RENAMED.get(row, row)
    found = [page.stem for page in METHODS.glob("*.md") if name.startswith(page.stem)]
    assert found, f"{row}: no page in docs/methods"
    return METHODS / f"{max(found, key=len)}.md"


def settings_in(text: str) -> set[str]:
    spans = {path.removesuffix(".*").rstrip(".") for path, call in SPAN.findall(text) if not call}
    spans = {path for path in spans if not path.endswith(".json")}  # a file of a run folder
    return spans | set(OVERRIDE.findall(text))


def exists(path: str, keys: list[str]) -> bool:
    """Whether it is a setting or a section."""
    return path.startswith(FREE) or any(key == path or key.startswith(f"{path}.") for key in keys)


def line_of(row: str) -> str:
    """The row of the table in docs/methods/README.md that its settings ask for."""
    e = load_experiment(f"polydigits-{row}")
    m, i, b = e.model, e.model.inference, e.training.phase("bound")
    fusion = "-" if i.subsets == "single" else i.fusion
    if i.prior_expert != "none":
        fusion += f", prior in {i.prior_expert}"
    bound = ", ".join(
        [b.estimator if b.samples == 1 else f"{b.estimator} of {b.samples}", b.components]
        + (["learned"] if i.learned_weights else [])
    )
    penalty = b.penalty if not b.alpha else f"{b.penalty}, {b.alpha:.4g}"
    prior = m.prior.kind + (", learned scale" if getattr(m.prior, "learned_scale", False) else "")
    prior += f" ({m.family}, {m.prior.components})" if m.prior.kind == "clusters" else ""
    private = str(m.private) if m.private else "none"
    title = f"[{row}]({page_of(row).name})"
    cells = [title, i.subsets, fusion, bound, b.divergence, b.unseen, penalty, prior, private]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("row", ROWS)
def test_every_row_has_a_page_that_names_it_and_its_commands(row):
    text = page_of(row).read_text()
    assert re.search(rf"`(?:polydigits-|polymnist-)?{row}`|polydigits-{row}\b", text)
    train, show = re.findall(r"^multiebm (train|show) polydigits-([\w-]+)", text, re.MULTILINE)
    assert (train[0], show[0]) == ("train", "show")
    assert train[1] == show[1]


def test_the_table_of_methods_says_what_the_rows_set():
    lines = (METHODS / "README.md").read_text().splitlines()
    assert [line for line in lines if re.match(r"\| \[[\w-]+\]", line)] == [line_of(row) for row in ROWS]


@by_name(PAGES)
def test_settings_in_code_exist(path):
    keys = all_keys()
    unknown = [s for s in settings_in(path.read_text()) - ATTRIBUTES if not exists(s, keys)]
    assert not unknown, f"{path.name}: no such settings: {', '.join(sorted(unknown))}"


def test_an_unknown_setting_is_found_and_a_section_or_a_call_is_none():
    text = "`model.prior.kindd` `training.phases.bound` `data.settings.folder=X` `model.sample(8)` "
    text += "and training.phases.bound.sort=1"
    keys = all_keys()
    assert {s for s in settings_in(text) if not exists(s, keys)} == {"model.prior.kindd", "training.phases.bound.sort"}


@by_name(PAGES)
def test_presets_in_commands_exist(path):
    for name in re.findall(r"(?<!results/)\b(?:polydigits|polymnist16|polymnist)-[a-z][a-z-]*", path.read_text()):
        if not name.endswith(f"-{EXAMPLE}"):
            load_experiment(name)


@by_name(LINKING)
def test_relative_links_resolve(path):
    text = FENCE.sub("", path.read_text())
    targets = [link.partition("#")[0] for link in LINK.findall(text) if not re.match(r"\w+:", link)]
    missing = [target for target in targets if target and not (path.parent / target).exists()]
    assert not missing, f"{path.name}: {', '.join(missing)}"


def blocks_of_extend() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", EXTEND.read_text(), re.DOTALL | re.MULTILINE)


def shown(starts: str, name: str):
    """What a block of the page on extending, the first with this text, defines under a name."""
    found: dict = {"__name__": "shown"}
    exec(next(block for block in blocks_of_extend() if starts in block), found)
    return found[name]


def prove(contract: type, but: str = "", **attributes: object) -> None:
    """Run a contract of `multiebm.testing`; `but` is a test that needs a row of a table."""
    proof = type("TestShown", (contract,), attributes)()
    for method in dir(proof):
        if method.startswith("test_") and method != but:
            getattr(proof, method)()


def test_the_row_that_the_page_on_extending_writes_can_be_built():
    row = shown("POE = Baseline(", "POE")
    assert isinstance(row, Baseline)
    experiment = Experiment.model_validate(lay_row({}, row))
    assert contradictions(experiment) == []
    text = re.search(r"^```yaml\n(.*?)^```$", EXTEND.read_text(), re.DOTALL | re.MULTILINE)
    assert text is not None
    written = parse(text[1], "extend.md")[EXAMPLE]
    cells = {"model": written["model"], "training": {"phases": written["phases"]}}
    assert Experiment.model_validate(lay_row({}, Baseline(written["title"], cells))) == experiment
    assert set(written["references"]) <= set(REFERENCES)


def test_the_prior_on_the_page_on_extending_passes_its_contract():
    prove(PriorContract, settings=shown("class ShiftedPrior", "Shifted")(scale=2.0))


def test_the_phase_on_the_page_on_extending_trains():
    phase = shown("class Sleep", "Sleep")(steps=3)

    small = PhaseContract.experiment(type("Bounded", (PhaseContract,), {"phase": Bound(steps=3)})())
    alone = small.model_copy(update={"training": small.training.model_copy(update={"phases": [phase]})})
    own = {"phase": phase, "experiment": lambda self: alone}
    prove(PhaseContract, "test_it_is_a_row_of_the_table_whose_settings_do_not_contradict_themselves", **own)


def test_the_data_set_and_the_metric_on_the_page_on_extending_pass_their_contracts(monkeypatch):
    monkeypatch.setitem(DATASETS._entries, "lines", shown("-> MultimodalDataset", "load"))
    prove(DatasetContract, name="lines", settings={"items": 40})
    monkeypatch.setitem(METRICS._entries, "first_two", shown("FIRST_TWO", "FIRST_TWO"))
    prove(MetricContract, name="first_two")


def test_the_networks_on_the_page_on_extending_train_and_are_loaded_again(tmp_path, monkeypatch):
    """The script as it stands, its training shortened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("multiebm.training.phases.settle.REFIT_BATCHES", 4)
    code = next(block for block in blocks_of_extend() if "class PhotoEncoder" in block)
    short = ["training.phases.bound.steps=3"]
    assert '"my-run", **own)' in code
    found: dict = {"__name__": "my_script"}
    exec(code.replace('"my-run", **own)', f'"my-run", {short}, progress=False, **own)', 1), found)
    assert found["photos"].shape == (5, 3, 24, 18)
    config = (tmp_path / "my-run" / "config.yaml").read_text()
    assert "encoder: my_script.PhotoEncoder" in config
    assert "decoder: my_script.photo_decoder" in config


def test_the_code_on_the_page_on_extending_is_python():
    blocks = blocks_of_extend()
    assert len(blocks) >= 5
    for block in blocks:
        ast.parse(block)


def test_the_page_on_extending_names_every_table_and_every_file_it_sends_to():
    text = EXTEND.read_text()
    groups = [table.group for table in (DATASETS, METRICS, MODALITIES, PHASES, PRIORS, baselines())]
    contracts = [name for name in testing.__all__ if name != "JudgesContract"]  # of a table
    for what in (FUSIONS.what, PENALTIES.what, *groups, *contracts):
        assert what in text
    for file in re.findall(r"`((?:src|tests|docs)/[\w/.]+\.\w+)`", text):
        assert (ROOT / file).exists() or file.endswith(f"{EXAMPLE}.md"), file


def test_the_page_on_the_layout_names_every_floor_every_contract_and_files_that_exist():
    text = ARCHITECTURE.read_text()
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    drawn = re.findall(r"^\d  (\w+(?: \| \w+)*)", text, re.MULTILINE)
    assert drawn == layers
    assert [name for name in testing.__all__ if name not in text] == []
    for file in re.findall(r"`((?:\w+/)+[\w.-]+\.\w+)", text):
        inside = ROOT if file.startswith("tests/") else ROOT / "src" / "multiebm"
        assert "NAME" in file or (inside / file).exists(), file


def test_the_python_of_the_readme_runs_as_it_stands(tmp_path, monkeypatch):
    """On a stranger's data with gaps, its training shortened."""
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    assert len([line for line in code.splitlines() if line]) <= 10
    draws = np.random.default_rng(0)
    found: dict = {
        "photos": draws.integers(0, 256, (160, 8, 8, 3), dtype=np.uint8),
        "readings": np.where(draws.random((160, 3)) < 0.9, draws.normal(size=(160, 3)), np.nan),
        "has_photo": draws.random(160) < 0.9,
    }
    short = ["training.phases.bound.steps=3"]
    assert '"my-run")' in code
    exec(code.replace('"my-run")', f'"my-run", {short}, progress=False)'), found)
    assert found["photos_of_sensors"]["photo"].shape == (3, 3, 8, 8)
    assert (tmp_path / "my-run" / "model").is_dir()


def test_the_data_frame_of_the_readme_is_read_and_filled_in_whole(tmp_path):
    (code,) = re.findall(r"`(multiebm.read_data\(frame, parts=.*?\))`, then", (ROOT / "README.md").read_text())
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=["temp", "hum1", "salt"])
    data = eval(code, {"multiebm": multiebm, "frame": frame})
    assert data.modalities["sensor"].columns == ("temp", "hum1")
    model = multiebm.train(data, tmp_path / "run", ["training.phases.bound.steps=2"], progress=False)
    filled = model.impute(frame)
    np.testing.assert_array_equal(filled["sensor"], frame[["temp", "hum1"]])


def test_the_readme_is_short_before_it_sends_on():
    assert len((ROOT / "README.md").read_text().partition("## Read on")[0].split()) <= 500


def test_every_command_of_the_readme_is_one():
    known = set(get_command(app).commands)
    code = re.findall(r"`([^`\n]+)`|^((?:multiebm|make) .*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    named = {name for both in code for text in both for name in re.findall(r"multiebm ([a-z][a-z-]+)", text)}
    assert {"train", "impute", "report"} <= named <= known


def test_what_a_message_says_to_install_is_declared():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    said = [
        name for file in (ROOT / "src").rglob("*.py") for name in re.findall(r"multiebm\[(\w+)\]", file.read_text())
    ]
    assert {"tables", "metrics", "tensorboard"} <= set(said) <= set(extras)
    assert not [
        file for file in (ROOT / "src").rglob("*.py") if re.search(r"pip install (?!\W*multiebm)", file.read_text())
    ]
