"""How much is measured, what came of it, and what was left out and why: the content of evaluation.json."""

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, PositiveInt, TypeAdapter, ValidationError

from multiebm.core.errors import CheckpointError, ConfigError
from multiebm.core.files import read_json, write_json
from multiebm.core.store import said
from multiebm.evaluation.names import ACTIVE, KL, UNITS
from multiebm.evaluation.result import Result, is_trustworthy

FORMAT = 2
COLLAPSED_KL = 0.1  # nats between posterior and prior of the shared code, below which it says next to nothing
PROVISIONAL_BELOW = 5000  # joint samples; a Frechet distance of fewer is biased upwards by more than its error
_REFINED_SHARE = 5  # one of so many test items where a chain runs, which takes far longer


@dataclass(frozen=True)
class EvaluationSettings:
    """How the trained model is measured; counts are capped by what the data set has."""

    __pydantic_config__ = {"extra": "forbid"}

    samples: Annotated[int, Field(ge=2, description="joint samples")] = 2000
    items: Annotated[
        int, Field(ge=0, description="test items per observed subset, a fifth of them where a chain runs; 0 = none")
    ] = 2000
    sizes: Annotated[tuple[PositiveInt, ...], Field(description="sizes of observed subsets")] = (1,)
    latent_steps: Annotated[int, Field(ge=0, description="latent chain steps of refined conditionals; 0 = none")] = 0
    temperature: Annotated[
        Annotated[float, Field(gt=0, le=1)] | None,
        Field(description="T of p(z)^(1/T) that joint samples are drawn from; null = model.temperature"),
    ] = None

    def __post_init__(self) -> None:
        checks = (
            ("samples", self.samples >= 2, "at least 2; 1000 is a quick look"),
            ("items", self.items >= 0, "0 or more; 0 leaves it out"),
            ("latent_steps", self.latent_steps >= 0, "0 or more; 0 leaves it out"),
            ("temperature", self.temperature is None or 0 < self.temperature <= 1, "0 < T <= 1 (1 = the prior)"),
        )
        got = {key: (getattr(self, key), told) for key, fits, told in checks if not fits}
        problems = [f"evaluation.{key}: got {value:g}, expected {told}" for key, (value, told) in got.items()]
        if problems:
            raise ConfigError(problems)

    @property
    def refined_items(self) -> int:
        """Test items per observed subset where a chain runs."""
        return self.items // _REFINED_SHARE


@dataclass(frozen=True)
class Evaluation:
    """`results` by name; `skipped`: name -> reason; `accuracy` of the judges by modality, None without judges."""

    results: dict[str, Result]
    skipped: dict[str, str]
    accuracy: dict[str, float] | None
    dataset: str
    seed: int
    seconds: float
    settings: EvaluationSettings = EvaluationSettings()

    @property
    def trustworthy(self) -> bool | None:
        """Whether every judge reads at least 95 % of real test items correctly; None without judges."""
        return None if self.accuracy is None else is_trustworthy(self.accuracy)

    @property
    def collapse(self) -> str | None:
        """The sentence that says that the shared code has collapsed; None where it is used, or was not looked at."""
        kl, active, units = map(self.results.get, (KL, ACTIVE, UNITS))
        if kl is None or not (kl.value < COLLAPSED_KL or (active is not None and active.value == 0)):
            return None
        used = "" if active is None or units is None else f", {active.value:.0f} of {units.value:.0f} latents are used"
        return (
            f"The shared code has collapsed ({kl.value:.2g} nats an item{used}): it says nothing of an item, so parts "
            "share nothing; lower training.phases.bound.beta, or train longer."
        )

    @property
    def provisional(self) -> bool:
        """Whether too few samples were drawn for a Frechet distance to be compared with others."""
        return self.settings.samples < PROVISIONAL_BELOW

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

    def save(self, file: str | Path) -> None:
        """Write the JSON file whole or not at all; OutputError when it cannot be written."""
        write_json(Path(file), self.to_json(), "free space, or give another file")


def load_evaluation(file: Path) -> Evaluation:
    """Read what `Evaluation.save` wrote; CheckpointError naming the file where it is damaged or of another format."""
    try:
        values = read_json(file)
        if values["format"] != FORMAT:
            raise CheckpointError(
                f"{file}: got an evaluation of format {values['format']!r:.80}, expected {FORMAT}, that of this "
                "release; evaluate the run again"
            )
        own = {key.name: values[key.name] for key in fields(Evaluation) if key.name != "accuracy"}
        own["accuracy"] = None if values["judges"] is None else values["judges"]["accuracy"]
        return TypeAdapter(Evaluation).validate_python(own)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        why = said(error) if isinstance(error, ValidationError) else repr(error)
        raise CheckpointError(f"{file}: not an evaluation ({why}); evaluate the run again") from error
