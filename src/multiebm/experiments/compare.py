"""Several methods on the same data with the same time to train: cells that survive a kill, and their table."""

import csv
import io
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from pydantic import TypeAdapter, ValidationError

from multiebm.core.errors import ConfigError, DataError, DivergenceError
from multiebm.core.files import read_json, try_output, write_json, write_output
from multiebm.core.keys import CONFIG
from multiebm.core.lock import locked
from multiebm.evaluation.regressions import AVERAGE, NEAREST, NEIGHBOURS, REGRESSION
from multiebm.evaluation.verdict import MEASURES
from multiebm.experiments.baselines import baselines
from multiebm.experiments.build import build_dataset, find_device, resolved
from multiebm.experiments.folder import check_folder, read_config, read_run
from multiebm.experiments.load import differences, load_experiment, located, say, to_dict
from multiebm.experiments.measure import measure_model
from multiebm.experiments.planning import planned, run_planned, with_steps_of
from multiebm.experiments.run import fresh_state, run_experiment
from multiebm.experiments.schema import Experiment
from multiebm.experiments.sizes import SIZED, sizes_for
from multiebm.experiments.sources import COMMON, OWN, data_names, preset_names, read_source
from multiebm.experiments.values import with_new_names

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
    Column("gen/robust_coherence", "robust coherence", 3, True),
    Column("ebm/robust_coherence", "robust coherence, EBM", 3, True),
    Column("cond/size1", "conditional coherence", 3, True),
    Column("cond_ebm/size1", "conditional coherence, EBM", 3, True),
    Column("gen/fcd", "fcd", 1, False),
    Column("ebm/fcd", "fcd, EBM", 1, False),
    Column("gen/label_entropy", "label entropy", 3, True),
    Column("gen/variety", "variety", 3, True),
    Column("latent_classification", "latent classification", 3, True),
    Column("fill/r2", "R2 of parts filled in", 3, True),
    Column("fill/over_regression", "error saved over regression", 3, True),
    Column("fill/coverage90", "within 90%", 3, True),
    Column("belong/match", "match", 3, True),
    Column("two_sample", "told from real rows", 3, False),
)
RIVALS = {REGRESSION: "regression", NEIGHBOURS: f"{NEAREST} neighbours", AVERAGE: "the mean"}  # rows beside methods


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

    Before anything is trained ConfigError names unknown rows and those that the settings do not suit; DataError the
    rows that the data does not suit, and cells or runs in `out` that are damaged or have other settings; OutputError an
    `out` that is in use or cannot be written.
    """
    sources = {row: source_of(row, data) for row in rows}
    folder, target, cells = Path(out), find_device(device), []
    plans = _plans(sources, [*with_new_names(overrides), f"training.seconds={budget}"], seeds, target)
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


def _plans(
    sources: Mapping[str, str], overrides: Sequence[str], seeds: int, device: torch.device
) -> dict[tuple[str, int], Experiment]:
    """Return the experiment of each row and seed; ConfigError names all rows with which the overrides do not go."""
    plans, problems, chosen = {}, [], list[str]()
    for seed in range(seeds):
        for row, source in sources.items():
            try:
                if source == SIZED and not chosen:
                    chosen = sizes_for(source, build_dataset(load_experiment(source, overrides).data), overrides)
                given = [*(chosen if source == SIZED else []), *overrides, f"seed={seed}"]
                plans[row, seed] = resolved(load_experiment(source, given), device)
            except ConfigError as error:
                problems += [f"{row}: {problem}" for problem in error.problems] if not seed else []
    if problems:
        raise ConfigError(["rows that do not go with these settings; leave them out, or change them:", *problems])
    return plans


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
                fresh_state(experiment, build_dataset(experiment.data), torch.device("cpu"), begins=False)
            except (ConfigError, DataError) as error:
                problems[row] = f"{row}: {error}"
    if found := [problem for problem in problems.values() if problem]:
        raise DataError("\n".join(["rows that cannot be trained on this data; leave them out:", *found]))


def source_of(row: str, data: str) -> str:
    """Return the preset of a row on some data; ConfigError where there is no such row or preset."""
    if row == COMBINED:
        read_source(data)
        return data
    if row == SIZED and read_source(data)["data"] == read_source(SIZED)["data"]:
        return SIZED  # of own data, beside their rows
    if f"{data}-{row}" in preset_names() and f"-{row}" != COMMON:
        return f"{data}-{row}"
    baselines()[row]
    if data not in data_names():
        raise ConfigError(f"data: got {data!r}, expected one of {', '.join(data_names())}; {OWN}")
    return f"{data}-{row}"


def read_cell(path: Path, experiment: Experiment) -> Cell | None:
    """Return the stored cell, None where there is none; DataError where it is damaged or of other settings."""
    if not path.is_file():
        return None
    run = run_of(path)
    try:
        stored = read_json(path)
        settings = stored.pop("settings")
        cell = TypeAdapter(Cell).validate_python(stored, strict=True)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        reason = "; ".join(str(error).split("\n")[:3])
        raise DataError(
            f"{path}: damaged ({reason}); restore it, or delete it: its run {run} is then measured again"
        ) from error
    try:  # settings younger than the cell count as their defaults
        other = [say(change) for change in differences(experiment, located(Experiment.model_validate(settings)))]
    except ValidationError:
        other = ["settings that there are no longer"]
    if other:
        raise DataError(
            f"{path}: got a cell of other settings (asked -> stored: {'; '.join(other)}), expected those asked for; "
            f"give another --out, or delete the cell and its run {run}"
        )
    return cell


def run_of(cell: Path) -> Path:
    """Return the run folder of a cell's file."""
    return cell.parent.parent / "runs" / cell.stem


def _make_cell(row: str, experiment: Experiment, run: Path, preset: str, device: torch.device) -> Cell:
    """Train with as many steps as fit, or go on as the run was last planned; then measure."""
    try:
        if (run / CONFIG).is_file():
            result = run_experiment(_begun(run, experiment), run, resume=True, preset=preset, device=str(device))
        else:
            result = run_planned(planned(experiment, device), run, preset, str(device))
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
    """Return the columns that any cell has, and by row the values of every seed in each of them.

    Without labels each part has a column, how far off it is filled in, and below the methods there are rows of what
    regression, neighbours and the mean of training make of the same held-out rows.
    """
    known = {name: value for cell in cells for name, value in cell.values().items()}
    found = [column for column in COLUMNS if column.metric in known]
    parts: dict[str, tuple[str, str]] = {}  # by column: part, error
    if not any(name.endswith("/joint_coherence") for name in known):
        for name in known:
            key, _, part = name.removeprefix("fill/").partition("/")
            if name.startswith("fill/") and key in MEASURES and part and "/" not in part:
                parts[name] = part, MEASURES[key].title
    errors = [Column(name, f"{part}, {title}", 3, False) for name, (part, title) in parts.items()]
    found = [*found[:1], *errors, *found[1:]]
    rows: dict[str, list[list[float]]] = {}
    for row in dict.fromkeys(cell.row for cell in cells):
        values = [cell.values() for cell in cells if cell.row == row]
        rows[row] = [[of[column.metric] for of in values if column.metric in of] for column in found]
    for rival, title in RIVALS.items():
        beside = {name: f"fill/{rival}/{part}" for name, (part, _) in parts.items()}
        if any(name in known for name in beside.values()):
            rows[title] = [[known[name] for name in [beside.get(c.metric, "")] if name in known] for c in found]
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
    head = ["row", *(column.title for column in columns)]
    digits = [column.digits for column in columns]
    body = [[row, *map(entry, values, digits)] for row, values in rows.items()]
    failed = "".join(f"\n{cell.message()}\n" for cell in cells if cell.diverged)
    markdown = "".join(f"| {' | '.join(line)} |\n" for line in [head, ["---"] * len(head), *body])
    write_output(folder / "table.md", (markdown + failed).encode())

    latex, rule = [" & ".join(line) + r" \\" for line in body], r"\hline"
    latex = [line.replace("±", r"$\pm$").replace("—", "--").replace("_", r"\_") for line in latex]
    top = [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", rule, " & ".join(head) + r" \\", rule]
    write_output(folder / "table.tex", "".join(f"{x}\n" for x in [*top, *latex, rule, r"\end{tabular}"]).encode())

    text = io.StringIO()
    lines = csv.writer(text)
    metrics = [column.metric for column in columns if column.metric != "steps"]
    lines.writerow(["row", "seed", "steps", "seconds", *metrics, "diverged"])
    for c in cells:
        lines.writerow([c.row, c.seed, c.steps, c.seconds, *(c.measured.get(m, "") for m in metrics), c.diverged])
    write_output(folder / "table.csv", text.getvalue().encode())
