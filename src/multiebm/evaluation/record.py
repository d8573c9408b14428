"""What was measured, how, and what was left out and why: the content of evaluation.json."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multiebm.core.errors import CheckpointError, ConfigError
from multiebm.core.files import write_output
from multiebm.evaluation.base import Result, is_trustworthy

FORMAT = 1
COLLAPSED_KL = 0.1  # nats between posterior and prior of the shared code, below which it says next to nothing
PROVISIONAL_BELOW = 5000  # joint samples; a Frechet distance of fewer is biased upwards by more than its error


@dataclass(frozen=True)
class EvaluationSettings:
    """How much to measure; counts are capped by what the data set has, and 0 or () leaves a metric out."""

    n_samples: int = 10_000  # joint samples
    n_items: int = 10_000  # test items per subset, amortised conditionals
    n_refined: int = 1_000  # test items per subset where a chain runs
    sizes: tuple[int, ...] | None = None  # of observed subsets; None: 1 .. M - 1
    refine_steps: int = 5  # of the latent chain in "cond_refined"
    clamped_sizes: tuple[int, ...] = (1,)  # of observed subsets in "cond_ebm"
    n_codes: int = 4_000  # training codes the probe is fitted to
    batch_size: int = 500  # items; changes memory and speed, never a number
    temperature: float | None = None  # of the prior that joint samples are drawn from; None: the model's own

    def __post_init__(self) -> None:
        counts = {key: getattr(self, key) for key in ("n_items", "n_refined", "refine_steps", "n_codes")}
        problems = [
            f"evaluation.{key}: got {count}, expected 0 or more; 0 leaves it out"
            for key, count in counts.items()
            if count < 0
        ]
        if self.n_samples < 2:
            problems.append(f"evaluation.n_samples: got {self.n_samples}, expected at least 2; 1000 is a quick look")
        if self.batch_size < 1:
            problems.append(f"evaluation.batch_size: got {self.batch_size}, expected at least 1; try 500")
        if self.temperature is not None and not 0 < self.temperature <= 1:
            problems.append(f"evaluation.temperature: got {self.temperature:g}, expected 0 < T <= 1 (1 = the prior)")
        if problems:
            raise ConfigError(problems)


def quick_settings(n: int = 1_000, batch_size: int = 500) -> EvaluationSettings:
    """Return settings for validation during training: n samples, subsets of size 1, no refinement, no probe."""
    return EvaluationSettings(n, n, 0, (1,), 0, (), 0, batch_size)


@dataclass(frozen=True)
class Evaluation:
    """`results` by name; `skipped`: name -> reason; `accuracy` of the judges by modality, None without judges."""

    results: dict[str, Result]
    skipped: dict[str, str]
    accuracy: dict[str, float] | None
    dataset: str
    seed: int
    seconds: float
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)

    @property
    def trustworthy(self) -> bool | None:
        """Whether every judge reads at least 95 % of real test items correctly; None without judges."""
        return None if self.accuracy is None else is_trustworthy(self.accuracy)

    @property
    def collapse(self) -> str | None:
        """The sentence that says that the shared code has collapsed; None where it is used, or was not looked at."""
        kl, active, units = (self.results.get(f"latent/{name}") for name in ("kl", "active_units", "units"))
        if kl is None or not (kl.value < COLLAPSED_KL or (active is not None and active.value == 0)):
            return None
        used = "" if active is None or units is None else f", {active.value:.0f} of {units.value:.0f} latents are used"
        return (
            f"The shared code has collapsed ({kl.value:.2g} nats an item{used}): it says nothing of an item, so parts "
            "share nothing; lower training.warmup.beta and training.cooperative.beta, or train longer."
        )

    @property
    def provisional(self) -> bool:
        """Whether too few samples were drawn for a Frechet distance to be compared with others."""
        return self.settings.n_samples < PROVISIONAL_BELOW

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with the flags `trustworthy`, `provisional` and `collapsed` for readers of the file."""
        return {
            "format": FORMAT,
            "dataset": self.dataset,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "provisional": self.provisional,
            "collapsed": self.collapse is not None,
            "judges": None if self.accuracy is None else {"trustworthy": self.trustworthy, "accuracy": self.accuracy},
            "results": {name: result._asdict() for name, result in self.results.items()},
            "skipped": self.skipped,
            "settings": asdict(self.settings),
        }

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "Evaluation":
        """Rebuild an equal object from `to_json`; CheckpointError for another format."""
        if values.get("format") != FORMAT:
            raise CheckpointError(f"evaluation: got format {values.get('format')!r}, expected {FORMAT}; evaluate again")
        settings: dict[str, Any] = {
            key: tuple(v) if isinstance(v, list) else v for key, v in values["settings"].items()
        }
        return cls(
            results={name: Result(**result) for name, result in values["results"].items()},
            skipped=dict(values["skipped"]),
            accuracy=None if values["judges"] is None else dict(values["judges"]["accuracy"]),
            dataset=values["dataset"],
            seed=values["seed"],
            seconds=values["seconds"],
            settings=EvaluationSettings(**settings),
        )

    def save(self, file: str | Path) -> None:
        """Write the JSON file whole or not at all; OutputError when it cannot be written."""
        write_output(
            Path(file), (json.dumps(self.to_json(), indent=2) + "\n").encode(), "free space, or give another file"
        )


def load_evaluation(file: Path) -> Evaluation:
    """Read what `Evaluation.save` wrote; CheckpointError naming the file where it is damaged."""
    try:
        return Evaluation.from_json(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{file}: not an evaluation ({error!r}); evaluate the run again") from error
