"""A number, how each sort of number gets its standard error, and the content of evaluation.json: how much was measured,
what came of it, and what was left out and why.
"""

import hashlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from math import sqrt
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
from pydantic import Field, PositiveInt, TypeAdapter, ValidationError
from torch import Tensor

from multiebm.core.errors import CheckpointError, ConfigError, DataError
from multiebm.core.files import read_json, write_json
from multiebm.core.store import said

# Names of results. Those of joint samples begin with their source, as in "gen/fcd": test items, decoder means of prior
# draws, and these after the data chain, and after a diffusion refiner
REAL, GEN, EBM, DIFFUSION = SOURCES = ("real", "gen", "ebm", "diffusion")
COHERENCE, ENTROPY, VARIETY, FCD, FID = "joint_coherence", "label_entropy", "variety", "fcd", "fid"
COND, REFINED, CLAMPED = "cond", "cond_refined", "cond_ebm"  # completed by the posterior, latent chain, data chain
COND_DIFFUSION = "cond_diffusion"  # by the posterior, and the pictures by a diffusion refiner
FD_LITE0 = "fd-lite0"  # on natural pictures
COMPLETED, COMPLETED_EBM = "completed", "completed_ebm"  # from all parts of other kinds, by one draw, or with chains
PAIR_SCORE, PAIR_AUROC, RETRIEVAL = "pair_score", "pair_auroc", "retrieval"  # by a judge of pictures and captions
FLUENT, FLUENT_REAL, FLUENT_RATIO = "fluency/generated", "fluency/real", "fluency/ratio"
KL, ACTIVE, UNITS = "latent/kl", "latent/active_units", "latent/units"
FILL = "fill"  # held-out parts filled in from all others, and from each of them alone
MATCH, SCORE, TWO_SAMPLE = "belong/match", "belong/score", "two_sample"
PART, FOUND = "belong/part", "belong/found"  # which part of an item does not belong
# Read by robust judges, which learn and read under noise and blur
ROBUST_COHERENCE, ROBUST_ACCURACY = "robust_coherence", "judge/robust"
ROBUST_COND, ROBUST_CLAMPED = "robust_cond", "robust_cond_ebm"
ROBUST = (ROBUST_COHERENCE, ROBUST_ACCURACY, ROBUST_COND, ROBUST_CLAMPED)
PROBE, LEAKAGE, ACCURACY = "latent_classification", "private_leakage", "judge/accuracy"

FORMAT = 2  # of evaluation.json
TRUSTED_ACCURACY = 0.95  # a coherence read by a classifier that is worse than this on real test data says little
RESAMPLES = 5  # as the Frechet distances of the literature are usually reported
COLLAPSED_KL = 0.1  # nats between posterior and prior of the shared code, below which it says next to nothing
ONE_PART = "one modality only, nothing to complete"  # why a measure of several parts is left out
PROVISIONAL_BELOW = 5000  # joint samples; a Frechet distance of fewer is biased upwards by more than its error
_REFINED_SHARE = 5  # one of so many test items where a chain runs, which takes far longer


class Result(NamedTuple):
    """A number, its standard error (same unit; of one item 0) and the number of items it was computed from."""

    value: float
    standard_error: float
    n: int


def proportion(hits: Tensor) -> Result:
    """Return the share of true entries of `hits`, shape [N], and its binomial standard error sqrt(p (1 - p) / N)."""
    n = hits.numel()
    if n == 0:
        raise DataError(f"a proportion of no items: got hits of shape {tuple(hits.shape)}, expected at least one item")
    p = float(hits.double().mean())
    return Result(p, sqrt(p * (1 - p) / n), n)


def mean_of_items(values: Tensor) -> Result:
    """Return the mean over columns of the column means of `values` [N, K], NaN where an entry does not exist; of values
    [N, K, S], read by S judges, the mean over these too, who lack the same entries.

    Rows are independent, the entries of a row are not. With x_is = mu + a_i + b_s + e_is, the mean of a row's entries
    by one judge, the variance is v_a / N + v_b / S + v_e / (N S): that of the row means over N, and over S what judges
    differ by beyond v_e / N (crossed random effects, Owen 2007, https://doi.org/10.1214/07-AOAS122). So the error
    stands for other items and other judges; of few judges v_b is a rough estimate. One judge says nothing of it.
    """
    values = values.double()
    values = values[:, :, None] if values.dim() == 2 else values
    each, rows = values.nanmean(0).nanmean(0), values.nanmean(1)  # [S], [N, S]
    rows = rows[~rows.isnan().any(1)]
    n, judges = rows.shape
    if not n:
        raise DataError(f"a mean of no items: got values of shape {tuple(values.shape)}, all undefined")
    variance = float(rows.mean(1).var(correction=0)) / n
    if judges > 1 and n > 1:
        rest = rows - rows.mean(1, keepdim=True) - rows.mean(0) + rows.mean()
        within = float(rest.square().sum()) / ((n - 1) * (judges - 1))  # v_e
        variance += max(0.0, float(each.var()) - within / n) / judges
    return Result(float(each.mean()), sqrt(variance), n)


def mean_and_columns(name: str, hits: dict[str, Tensor]) -> dict[str, Result]:
    """Return `name`, the mean over columns, and "name/column" of `hits`, 0 or 1 by column [N] or, by S judges, [N, S];
    NaN where undefined.
    """
    defined = {column: hit for column, hit in hits.items() if not hit.isnan().all()}
    if not defined:
        return {}
    each = {f"{name}/{column}": mean_of_items(hit[:, None]) for column, hit in defined.items()}
    return {name: mean_of_items(torch.stack(list(defined.values()), 1))} | each


def with_mean(name: str, results: dict[str, Result]) -> dict[str, Result]:
    """Return the mean of results as `name`, before them; nothing where there are none. Its error is the mean error, at
    most that of the mean: parts are of the same items.
    """
    if not results:
        return {}
    found = list(results.values())
    value, error = (sum(result[i] for result in found) / len(found) for i in range(2))
    return {name: Result(value, error, max(result.n for result in found))} | results


def bootstrap_deviation(
    statistic: Callable[[Tensor], Tensor], n: int, rng: torch.Generator, resamples: int = RESAMPLES
) -> Tensor:
    """Return the bootstrap deviation of `statistic(rows [n])`: Efron (1979), https://doi.org/10.1214/aos/1176344552."""
    draws = [statistic(torch.randint(n, (n,), generator=rng)) for _ in range(resamples)]
    return torch.stack(draws).double().std(0)


def mean_and_parts(
    name: str, samples: dict[str, Tensor], statistic: Callable[[str, Tensor], Tensor], rng: torch.Generator
) -> dict[str, Result]:
    """Return `name`, the mean over parts, and "name/part": `statistic(part, samples[part])`, of shape [].

    Samples are [N, ...] by part. Standard errors are deviations over 5 resamples, of all parts the same items.
    """
    if not samples:
        return {}

    def values(rows: Tensor) -> Tensor:
        each = torch.stack([statistic(part, own[rows]) for part, own in samples.items()])
        return torch.cat([each.mean().reshape(1), each])

    n = len(next(iter(samples.values())))
    numbers = zip(values(torch.arange(n)).tolist(), bootstrap_deviation(values, n, rng).tolist(), strict=True)
    names = (name, *(f"{name}/{part}" for part in samples))
    return {key: Result(value, error, n) for key, (value, error) in zip(names, numbers, strict=True)}


def stream_seed(seed: int, name: str) -> int:
    """Return the seed of the random stream called `name`, so that no two metrics share draws."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:5], "big")


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
        wrong = [(key, told) for key, fits, told in checks if not fits]
        if wrong:
            raise ConfigError([f"evaluation.{key}: got {getattr(self, key):g}, expected {told}" for key, told in wrong])

    @property
    def refined_items(self) -> int:
        """Test items per observed subset where a chain runs."""
        return self.items // _REFINED_SHARE


@dataclass(frozen=True)
class Evaluation:
    """`results` by name; `skipped`: name -> reason; `accuracy` of the judges by modality, None without judges;
    `temperature` of the prior at which joint samples were drawn, None where that was not noted; `learned_noise`: the
    parts whose scale of noise the model has learned. `judge_sets`: of how many sets of judges, plain and robust, what
    they read is a mean; None in files that did not note it, whose plain judges were one set.
    """

    results: dict[str, Result]
    skipped: dict[str, str]
    accuracy: dict[str, float] | None
    dataset: str
    seed: int
    seconds: float
    settings: EvaluationSettings = EvaluationSettings()
    temperature: float | None = None
    learned_noise: tuple[str, ...] = ()
    judge_sets: tuple[int, int] | None = None

    def __str__(self) -> str:
        """Return the main figures with their errors, and the verdict below, as text to be read."""
        from multiebm.evaluation.words import told  # late: that reads evaluations

        return told(self)

    @property
    def verdict(self) -> list[str]:
        """Whether the model works, in sentences as the report begins with: what came of it, and what to try next."""
        from multiebm.evaluation.verdict import verdict  # late: that reads evaluations

        return [words for _, words in verdict(self)]

    @property
    def trustworthy(self) -> bool | None:
        """Whether every judge reads at least 95 % of real test items correctly; None without judges."""
        return None if self.accuracy is None else min(self.accuracy.values()) >= TRUSTED_ACCURACY

    @property
    def collapse(self) -> str | None:
        """The sentence that says that the shared code has collapsed; None where it is used, or was not looked at."""
        kl, active, units = map(self.results.get, (KL, ACTIVE, UNITS))
        if kl is None or not (kl.value < COLLAPSED_KL or (active is not None and active.value == 0)):
            return None
        used = "" if active is None or units is None else f", {active.value:.0f} of {units.value:.0f} latents are used"
        return (
            f"The shared code has collapsed ({max(kl.value, 0.0):.2g} nats an item{used}): it says nothing of an item"
            f"{'' if self.of_one_part else ', so parts share nothing'}; lower training.phases.bound.beta, or train "
            "longer."
        )

    @property
    def of_one_part(self) -> bool:
        """Whether the data has one part alone, so that nothing is shared or filled in."""
        return ONE_PART in self.skipped.values()

    @property
    def provisional(self) -> bool:
        """Whether too few samples were drawn for a Frechet distance to be compared with others."""
        return self.settings.samples < PROVISIONAL_BELOW

    @property
    def has_distances(self) -> bool:
        """Whether there is a Frechet distance among the results."""
        return any(name.split("/")[-1] in (FCD, FID) for name in self.results)

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
            "temperature": self.temperature,
            "learned_noise": list(self.learned_noise),
            "judge_sets": self.judge_sets,
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
        values = {"temperature": None, "learned_noise": [], "judge_sets": None} | values  # which older files have not
        own = {key.name: values[key.name] for key in fields(Evaluation) if key.name != "accuracy"}
        own["accuracy"] = None if values["judges"] is None else values["judges"]["accuracy"]
        return TypeAdapter(Evaluation).validate_python(own)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        why = said(error) if isinstance(error, ValidationError) else repr(error)
        raise CheckpointError(f"{file}: not an evaluation ({why}); evaluate the run again") from error
