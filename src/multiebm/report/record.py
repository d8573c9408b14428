"""What a run folder says about its run, read once: configuration, origin, curves, roll-backs, evaluation."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from multiebm.core.errors import OutputError
from multiebm.core.keys import CONFIG
from multiebm.evaluation.learning import Lines
from multiebm.evaluation.result import Evaluation, Result, load_evaluation
from multiebm.evaluation.verdict import CONFIDENCE
from multiebm.experiments.folder import EVALUATION, METRICS, read_run
from multiebm.experiments.load import load_experiment
from multiebm.experiments.schema import Experiment
from multiebm.training.hooks import read_log

_PAIR = re.compile(r"(?!robust)([^/]+)/(?:size1/(.+)->(.+)|self/(.+))")


class RollBack(NamedTuple):
    """The guard found step `diverged` diverging and returned to step `returned`."""

    diverged: int
    returned: int


class RunRecord(NamedTuple):
    """`config_text` is the file of the resolved `experiment`, `origin` is run.json, `lines` are those of metrics.jsonl:
    a step's number and the metrics' means since the line before (None where not finite).
    """

    name: str
    experiment: Experiment
    config_text: str
    origin: dict[str, Any]
    lines: list[dict[str, float | None]]
    rollbacks: list[RollBack]
    evaluation: Evaluation | None

    @property
    def session(self) -> dict[str, Any]:
        """The last session of training; the last line of metrics stands for it where run.json notes none."""
        last = self.lines[-1] if self.lines else {}
        sessions = self.origin.get("sessions") or [{}]
        return {"to_step": last.get("step"), "seconds": last.get("seconds")} | sessions[-1]

    @property
    def step(self) -> int:
        """The last step of training."""
        return int(self.session["to_step"] or 0)

    @property
    def log(self) -> Lines | None:
        """The lines, none where training made no step; None where nothing says how many it made."""
        return self.lines if self.lines or self.session["to_step"] == 0 else None

    @property
    def took(self) -> str:
        """How long training took; empty where nothing says so."""
        seconds = self.session["seconds"]
        return duration(seconds) if isinstance(seconds, int | float) else ""

    @property
    def phases(self) -> list[tuple[str, int]]:
        """Kind and planned steps of each phase of training, in order."""
        return self.experiment.training.lengths()


def read_record(folder: Path) -> RunRecord:
    """Read a run folder; OutputError names the file that is missing or damaged. Only config.yaml must be there."""
    if not (folder / CONFIG).is_file():
        raise OutputError(
            f"{folder}: got a folder without {CONFIG}, expected a run folder; "
            "give the folder named by --out of `multiebm train`"
        )
    lines, rollbacks = read_metrics(folder / METRICS)
    file = folder / EVALUATION
    evaluation = load_evaluation(file) if file.exists() else None
    config = (folder / CONFIG).read_text()
    return RunRecord(
        folder.resolve().name, load_experiment(folder), config, read_run(folder), lines, rollbacks, evaluation
    )


def read_metrics(file: Path) -> tuple[list[dict[str, float | None]], list[RollBack]]:
    """Return the lines of metrics and the guard's roll-backs; a last line torn by a kill is passed over, and damaged
    ones with a warning. Of a line what is no number is left out.
    """
    lines, rollbacks = list[dict[str, float | None]](), list[RollBack]()
    for values in (line.values for line in read_log(file).lines):
        if "event" not in values:
            lines.append({name: v for name, v in values.items() if v is None or isinstance(v, int | float)})
        elif values["event"] == "rollback":
            rollbacks.append(RollBack(values["from_step"], values["step"]))
    return lines, rollbacks


def with_interval(result: Result) -> str:
    """Return the value and half the width of its 95% interval, with digits that fit: "0.712 ± 0.020"."""
    digits = 1 if abs(result.value) >= 10 else 3
    return f"{result.value:.{digits}f} ± {CONFIDENCE * result.standard_error:.{digits}f}"


def duration(seconds: float) -> str:
    """Return seconds as "45 s", "5 min 02 s" or "1 h 05 min"."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def pair_tables(evaluation: Evaluation | None) -> dict[str, dict[tuple[str, str], Result]]:
    """Return conditional coherence by (source, target), self-reconstruction on the diagonal, for each way of completing
    that was measured: "cond", "cond_ebm", ...
    """
    tables: dict[str, dict[tuple[str, str], Result]] = {}
    for name, result in evaluation.results.items() if evaluation else ():
        if found := _PAIR.fullmatch(name):
            way, source, target, itself = found.groups()
            tables.setdefault(way, {})[source or itself, target or itself] = result
    return tables
