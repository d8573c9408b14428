"""Several methods on the same data with the same time to train: cells that survive a kill, and their table."""

import csv
import io
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError

from multiebm.core.errors import ConfigError, DataError, DivergenceError
from multiebm.core.files import read_json, try_output, write_json, write_output
from multiebm.core.keys import CONFIG
from multiebm.core.lock import locked
from multiebm.experiments.baselines import baselines
from multiebm.experiments.build import resolved
from multiebm.experiments.data import build_dataset, find_device
from multiebm.experiments.folder import check_folder, read_config, read_run
from multiebm.experiments.load import differences, load_experiment, located, say, to_dict
from multiebm.experiments.measure import measure_model
from multiebm.experiments.planning import planned, run_planned, with_steps_of
from multiebm.experiments.run import RunResult, fresh_state, run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sources import COMMON, preset_names, read_source

COMBINED = "combined"  # the row that is the preset of the data itself


class Column(NamedTuple):
    """A metric of the table: its heading, decimals, and whether more is better."""

    metric: str
    title: str
    digits: int
    more: bool


COLUMNS = (
    Column("steps", "steps", 0, True),
    Column("gen/joint_coherence", "joint coherence", 3, True),
    Column("ebm/joint_coherence", "joint coherence, EBM", 3, True),
    Column("cond/size1", "conditional coherence", 3, True),
    Column("cond_ebm/size1", "conditional coherence, EBM", 3, True),
    Column("gen/fcd", "fcd", 1, False),
    Column("ebm/fcd", "fcd, EBM", 1, False),
    Column("gen/label_entropy", "label entropy", 3, True),
    Column("gen/variety", "variety", 3, True),
    Column("latent_classification", "latent classification", 3, True),
)


class Cell(NamedTuple):
    """One row with one seed: steps, seconds of training with the settling of priors, and every metric by name.

    A run that diverged has nothing measured, and `diverged` says where it was.
    """

    row: str
    seed: int
    steps: int
    seconds: float
    measured: dict[str, float]
    diverged: str = ""

    def values(self) -> dict[str, float]:
        """Return what a table may show of it, by the columns' names."""
        return {} if self.diverged else {"steps": float(self.steps), **self.measured}

    def message(self) -> str:
        """Return how its training ended, as a line."""
        return f"{self.row}, seed {self.seed}: {self.diverged or f'{self.steps} steps in {self.seconds:.0f} s'}"


def compare(
    rows: Sequence[str],
    data: str,
    budget: float,
    seeds: int,
    out: str | Path,
    overrides: Sequence[str] = (),
    tell: Callable[[str], None] = print,
    device: str = "auto",
) -> list[Cell]:
    """Train and measure every row with seeds 0 to `seeds` - 1 for `budget` seconds each, one at a time, in `out`.

    `data` is a preset; a row is one of `baselines()`, "combined", the preset itself, or the end of a preset's name,
    DATA-ROW. Steps are planned from the time of a few, and again on the way (`planning.py`), so that rates fall to
    their end within the budget and no phase is cut. What `out` holds is not made again, and a run that was killed goes
    on from its last checkpoint as it was planned then; one that diverged is a cell that says so.

    Before anything is trained ConfigError names unknown rows; DataError the rows that the data does not suit, and cells
    or runs in `out` that are damaged or have other settings; OutputError an `out` that is in use or cannot be written.
    """
    sources = {row: source_of(row, data) for row in rows}
    plans = {
        (row, seed): load_experiment(source, [*overrides, f"training.seconds={budget}", f"seed={seed}"])
        for seed in range(seeds)
        for row, source in sources.items()
    }
    folder, target, cells = Path(out), find_device(device), []
    plans = {key: resolved(experiment, target) for key, experiment in plans.items()}
    paths = {key: folder / "cells" / "{}-{}.json".format(*key) for key in plans}
    with locked(folder):
        stored = {key: read_cell(paths[key], experiment) for key, experiment in plans.items()}
        _check({key: experiment for key, experiment in plans.items() if stored[key] is None}, paths)
        for (row, seed), experiment in plans.items():
            path, cell = paths[row, seed], stored[row, seed]
            if cell is None:
                tell(f"{row}, seed {seed}: training for {budget:.0f} s")
                cell = _make_cell(row, experiment, run_of(path), sources[row], target)
                write_json(path, {**cell._asdict(), "settings": to_dict(experiment)})
            else:
                tell(f"{row}, seed {seed}: here already")
            tell(cell.message())
            cells.append(cell)
            write_tables(cells, folder)
    return cells


def _check(plans: dict[tuple[str, int], Experiment], paths: dict[tuple[str, int], Path]) -> None:
    """Raise what would stop any of these cells: where it is written, what it was begun as, whether it suits the data.

    Every row is built once on its data, with its first seed, as training does.
    """
    problems: dict[str, str] = {}
    for (row, seed), experiment in plans.items():
        path = paths[row, seed]
        try_output(path, "free space, or give another --out")
        if (run_of(path) / CONFIG).is_file():
            _begun(run_of(path), experiment)
            read_run(run_of(path))
        else:
            check_folder(run_of(path), experiment, resume=False, overwrite=False)
        if row not in problems:
            try:
                problems[row] = ""
                fresh_state(experiment, build_dataset(experiment.data), torch.device("cpu"))
            except (ConfigError, DataError) as error:
                problems[row] = f"{row}: {error}"
    if found := [problem for problem in problems.values() if problem]:
        raise DataError("\n".join(["rows that cannot be trained on this data; leave them out:", *found]))


def source_of(row: str, data: str) -> str:
    """Return the preset of a row on some data; ConfigError where there is no such row or preset."""
    if row == COMBINED:
        read_source(data)
        return data
    if f"{data}-{row}" in preset_names() and f"-{row}" != COMMON:
        return f"{data}-{row}"
    baselines()[row]
    if f"{data}-vae" not in preset_names():
        known = [name.removesuffix("-vae") for name in preset_names() if name.endswith("-vae")]
        raise ConfigError(f"data: got {data!r}, expected one of {', '.join(known)}")
    return f"{data}-{row}"


def read_cell(path: Path, experiment: Experiment) -> Cell | None:
    """Return the stored cell, None where there is none; DataError where it is damaged or of other settings."""
    if not path.is_file():
        return None
    try:
        stored = read_json(path)
        settings = stored.pop("settings")
        cell = TypeAdapter(Cell).validate_python(stored, strict=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = "; ".join(str(error).split("\n")[:3])
        raise DataError(
            f"{path}: damaged ({reason}); restore it, or delete it: its run {run_of(path)} is then measured again"
        ) from error
    if other := _other_settings(experiment, settings):
        raise DataError(
            f"{path}: got a cell of other settings (asked -> stored: {'; '.join(other)}), expected those asked for; "
            f"give another --out, or delete the cell and its run {run_of(path)}"
        )
    return cell


def run_of(cell: Path) -> Path:
    """Return the run folder of a cell's file."""
    return cell.parent.parent / "runs" / cell.stem


def _other_settings(experiment: Experiment, stored: dict[str, Any]) -> list[str]:
    """Return a line for each difference; settings younger than what is stored count as their defaults."""
    try:
        return [say(change) for change in differences(experiment, located(Experiment.model_validate(stored)))]
    except ValidationError:
        return ["settings that there are no longer"]


def _make_cell(row: str, experiment: Experiment, run: Path, preset: str, device: torch.device) -> Cell:
    try:
        result = _train(experiment, run, preset, device)
    except DivergenceError as error:
        session = read_run(run)["sessions"][-1]
        return Cell(row, experiment.seed, session["to_step"], session["seconds"], {}, str(error))
    if result.fit.reason == "interrupted":
        raise KeyboardInterrupt(result.fit.message())
    dataset = build_dataset(experiment.data)
    measured = measure_model(result.model, dataset, experiment.evaluation, experiment.seed).results
    session = read_run(run)["sessions"][-1]
    values = {name: found.value for name, found in measured.items()}
    return Cell(row, experiment.seed, session["to_step"], session["seconds"] + session["settling"], values)


def _train(experiment: Experiment, run: Path, preset: str, device: torch.device) -> RunResult:
    """Train in the folder `run` with as many steps as fit; one that was begun goes on as it was last planned."""
    if not (run / CONFIG).is_file():
        return run_planned(planned(experiment, device), run, preset, str(device))
    return run_experiment(_begun(run, experiment), run, resume=True, preset=preset, device=str(device))


def _begun(run: Path, experiment: Experiment) -> Experiment:
    """Return the experiment as the run in the folder `run` was last planned; DataError where it is another one."""
    plan = read_config(run)
    other = [say(change) for change in differences(with_steps_of(experiment, plan), plan)]
    if other:
        raise DataError(
            f"{run}: got a run begun with other settings (asked -> begun: {'; '.join(other)}), expected those asked "
            "for; give another --out, or delete the run"
        )
    return plan


def summary(cells: Sequence[Cell]) -> tuple[list[Column], dict[str, list[list[float]]]]:
    """Return the columns that any cell has, and by row the values of every seed in each of them."""
    found = [column for column in COLUMNS if any(column.metric in cell.values() for cell in cells)]
    rows: dict[str, list[list[float]]] = {}
    for cell in cells:
        values = rows.setdefault(cell.row, [[] for _ in found])
        for seeds, column in zip(values, found, strict=True):
            if column.metric in cell.values():
                seeds.append(cell.values()[column.metric])
    return found, rows


def entry(values: Sequence[float], digits: int = 3) -> str:
    """Return "mean ± standard deviation over seeds", the mean alone for one seed, a dash for none."""
    if not values:
        return "—"
    mean = f"{statistics.mean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def write_tables(cells: Sequence[Cell], folder: Path) -> None:
    """Write table.md, table.csv (one line a cell) and table.tex into `folder`, each whole or not at all.

    Means are of the runs that did not diverge; table.md names those that did.
    """
    columns, rows = summary(cells)
    titles = [column.title for column in columns]
    body = [
        [row, *(entry(seeds, column.digits) for seeds, column in zip(values, columns, strict=True))]
        for row, values in rows.items()
    ]
    failed = [f"\n{cell.message()}\n" for cell in cells if cell.diverged]
    write_output(folder / "table.md", (_markdown(["row", *titles], body) + "".join(failed)).encode())
    write_output(folder / "table.tex", _latex(["row", *titles], body).encode())
    text = io.StringIO()
    lines = csv.writer(text)
    metrics = [column.metric for column in columns if column.metric != "steps"]
    lines.writerow(["row", "seed", "steps", "seconds", *metrics, "diverged"])
    for c in cells:
        lines.writerow([c.row, c.seed, c.steps, c.seconds, *(c.measured.get(m, "") for m in metrics), c.diverged])
    write_output(folder / "table.csv", text.getvalue().encode())


def _markdown(head: list[str], body: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _latex(head: list[str], body: list[list[str]]) -> str:
    lines = [" & ".join(line).replace("±", r"$\pm$").replace("—", "--").replace("_", r"\_") + r" \\" for line in body]
    rule = r"\hline"
    top = [rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", rule, " & ".join(head) + r" \\", rule]
    return "\n".join([*top, *lines, rule, r"\end{tabular}"]) + "\n"
