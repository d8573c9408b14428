"""Where evaluation meets configurations: how a run is measured while it trains and when it is done."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch

from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.progress import listening
from multiebm.core.random import make_generator
from multiebm.data import MultimodalDataset
from multiebm.data.cache import cache_root
from multiebm.data.dataset import content_fingerprint
from multiebm.evaluation.frechet import load_inception
from multiebm.evaluation.judges import Judges, JudgeSettings, RobustSettings, readable
from multiebm.evaluation.lite0 import load_lite0
from multiebm.evaluation.measurement import JudgesLike, Measurement
from multiebm.evaluation.metrics import measured, quick_look
from multiebm.evaluation.pairs import load_pairs
from multiebm.evaluation.result import TRUSTED_ACCURACY, Evaluation, EvaluationSettings
from multiebm.evaluation.stored_judges import load_sets
from multiebm.experiments.build import settling_of
from multiebm.experiments.saved import unlike
from multiebm.experiments.schema import Experiment
from multiebm.models.model import MultimodalModel
from multiebm.models.own import evaluating
from multiebm.training.phases.settle import settle_priors, settle_step_size
from multiebm.training.state import TrainState, averaged
from multiebm.training.weights import weigh_interaction

SETTLING_ITEMS, BATCH = 8192, 64  # training items that mixtures are fitted to before a measurement, and at a time
PLAIN_SETS, ROBUST_SETS = 3, 1  # of judges, of different seeds; each is trained once for a data set
BEST = "validate/gen/fcd"  # the metric, lower is better, whose checkpoint is kept as the best
_WATCHED = ("gen/joint_coherence", "gen/fcd", "gen/label_entropy", "ebm/joint_coherence", "ebm/fcd", "cond/size1")

logger = logging.getLogger(__name__)


def measure_model(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    settings: EvaluationSettings,
    seed: int = 0,
    inception: Path | None = None,
    plain: int | None = None,
    robust: int | None = None,
) -> Evaluation:
    """Return every metric defined for model and data; the judges are trained once per data set, then read from a cache.

    Without labels, what needs judges is left out and `Evaluation.skipped` says so; likewise FID without the weights
    `inception`, a file, and FD lite0 without the extra `judges`. `plain` and `robust`: sets of judges, as in `sets_of`.
    """
    return measured(measurement_of(model, dataset, settings, seed, inception, plain, robust))


def measurement_of(
    model: MultimodalModel,
    dataset: MultimodalDataset,
    settings: EvaluationSettings,
    seed: int = 0,
    inception: Path | None = None,
    plain: int | None = None,
    robust: int | None = None,
) -> Measurement:
    """Return what `measure_model` measures: model and data with all readers of samples that there are."""
    dataset, device = in_units_of(model, dataset), str(model.device)
    reader = None if inception is None else load_inception(inception, device)
    first, others, of_robust = sets_of(dataset, device, plain, robust)
    lite0 = load_lite0(cache_root() / "judges", device)
    pairs, more = load_pairs(dataset, lite0, cache_root()), tuple(of_robust)
    return Measurement(
        model, dataset, first, settings, seed, reader, robust=more, lite0=lite0, pairs=pairs, others=tuple(others)
    )


def in_units_of(model: MultimodalModel, dataset: MultimodalDataset) -> MultimodalDataset:
    """Return the data set with the model's parts, which standardise as it learned; ConfigError if they are others."""
    own, given = model.modalities, dataset.modalities
    if list(own.items()) == list(given.items()):
        return dataset
    alike = {
        n: replace(m, missing=own[n].missing) if n in own and m.missing is None else m  # type: ignore[type-var]
        for n, m in given.items()
    }
    if list(own) != list(given) or (problems := unlike(own, alike)):
        listed = [f"parts {', '.join(given)}, expected {', '.join(own)}"] if list(own) != list(given) else problems
        raise ConfigError(
            [
                f"data set {dataset.name!r}: got other parts than those of the model, expected parts read as those of "
                "training were, of the same columns, kinds and classes; to measure on other rows hand them over beside "
                "those of training, multiebm.from_arrays(..., test=multiebm.Rows({'name': values}))",
                *listed,
            ]
        )
    fingerprint = content_fingerprint(own, dataset.train, dataset.test)
    return replace(dataset, modalities=own, fingerprint=fingerprint)


def judges_of(dataset: MultimodalDataset, device: str) -> JudgesLike | None:
    """Return what reads generated parts: the exact reader of data that have one, else classifiers from the user's
    cache; None without labels of two classes.
    """
    if dataset.exact is not None:
        return dataset.exact
    return load_sets(dataset, cache_root() / "judges", [(0, JudgeSettings())], device)[0] if readable(dataset) else None


def sets_of(
    dataset: MultimodalDataset, device: str, plain: int | None = None, robust: int | None = None
) -> tuple[JudgesLike | None, list[Judges], list[Judges]]:
    """Return what reads generated parts, and if these are judges, others of other seeds, `plain` in all; and `robust`
    sets of judges that learn and read under noise and blur.

    None: PLAIN_SETS and ROBUST_SETS where the first set reads real items well enough to be trusted, else it alone.
    More judges that misread would say no more.
    """
    first = judges_of(dataset, device)
    usual = dataset.exact is None and first is not None and min(first.accuracy.values()) >= TRUSTED_ACCURACY
    more = (PLAIN_SETS if usual else 1) if plain is None else plain
    sets = (ROBUST_SETS if usual else 0) if robust is None else robust
    wanted: list[tuple[int, JudgeSettings]] = []
    if first is not None and readable(dataset):
        wanted += [(seed, JudgeSettings()) for seed in range(1, more) if dataset.exact is None]
        wanted += [(seed, RobustSettings()) for seed in range(sets)]
    made = load_sets(dataset, cache_root() / "judges", wanted, device)
    return first, made[: len(made) - sets], made[len(made) - sets :]


@contextmanager
def settled(state: TrainState, train: MultimodalDataset, experiment: Experiment) -> Iterator[None]:
    """Inside: the model as it would be saved now, averaged weights and priors of their codes; then as it was."""
    seed = experiment.seed
    model = state.model
    with averaged(model, state.average), evaluating(model.inference):
        whole = model.generator.state_dict()
        own = {key: value.clone() for key, value in whole.items() if key.startswith(("prior.", "private_priors."))}
        kept = {k: v.clone() for k, v in model.named_buffers() if k in ("step_size", "interaction.weight")}
        order = torch.randperm(len(train.train), generator=torch.Generator().manual_seed(seed))[:SETTLING_ITEMS]
        batches = (train.batch("train", rows).to(model.device) for rows in order.split(BATCH))
        try:
            rng = make_generator(seed, model.device)
            settle_priors(model, batches, rng, settling_of(experiment, state.numbers))
            settle_step_size(model, rng)
            weigh_interaction(model, seed)
            yield
        finally:
            model.generator.load_state_dict(own, strict=False)
            model.load_state_dict(kept, strict=False)


def validation(
    dataset: MultimodalDataset, train: MultimodalDataset, device: str, experiment: Experiment
) -> Callable[[TrainState], dict[str, float]]:
    """Return a quick measurement of the averaged weights for use in training; its draws do not touch the run's.

    `train`: the data as training sees them, hidden parts hidden. A state that cannot be measured, because its values or
    codes are not finite, has no metrics, with a warning: whether it has diverged is for the guard to say.
    """
    judges = judges_of(dataset, device)

    def measure(state: TrainState) -> dict[str, float]:
        try:
            with listening(None), settled(state, train, experiment):  # training shows its own progress
                results = quick_look(state.model, dataset, judges, experiment.seed).results
        except DivergenceError as error:
            logger.warning("no validation at step %d: %s", state.step, error)
            return {}
        return {f"validate/{name}": results[name].value for name in _WATCHED if name in results}

    return measure
