"""Are parts that were held out filled in well? Beside the mean, regression and neighbours, on the same rows, no labels.

A part is predicted by the mean over DRAWS completions. How far off that is, its kind says (`Modality.errors`).
"""

from collections.abc import Sequence
from math import log, sqrt
from typing import NamedTuple

import torch
from torch import Tensor

from multiebm.core.batch import Batch
from multiebm.core.progress import task
from multiebm.data.dataset import SplitName
from multiebm.evaluation.measurement import NOT_ASKED, Measurement, chosen_items
from multiebm.evaluation.regressions import AVERAGE, predictions
from multiebm.evaluation.result import FILL, Result, with_mean

DRAWS = 20  # completions of an item; their mean is the prediction
PLACES = DRAWS - 1  # one more than so many draws leave that many intervals, in which a value lies equally often
INSIDE = {"coverage50": (5, 14), "coverage90": (1, 18)}  # first and last of the 20 intervals, 0 to 19, that count
OVER = "over_"  # before the name of what a model is compared with
ALIKE = (OVER, "r2", "coverage")  # numbers that mean the same of all kinds
MOST = 1000  # items
WORK = 2**23  # pixels of pictures and coordinates of vectors that are decoded for one sort of numbers
FEWEST = 16  # items, whatever they cost


class Filled(NamedTuple):
    """A part of N items, filled in: `errors` [N, K] by name, those of `beside` by what predicts, which are the first
    of these, `log_likelihood` [N] in nats, and `inside` [N, K], the share of a value in a central interval. `learned`
    are the first errors on rows of training, [L, K]; none where a single one of several parts is given.
    """

    errors: dict[str, Tensor]
    beside: dict[str, Tensor]
    log_likelihood: Tensor
    inside: dict[str, Tensor]
    learned: Tensor

    @property
    def judge(self) -> str:
        """The name of the error that is compared."""
        return next(iter(self.errors))


def affordable(m: Measurement, items: Tensor, each: int) -> Tensor:
    """Return the items [N] that are looked at where one takes `each` places to decode: not more than settings say."""
    return chosen_items(items, min(m.settings.items, MOST, max(FEWEST, WORK // max(each, 1))))


def rows_with(m: Measurement, split: SplitName, part: str, observed: Sequence[str]) -> Tensor:
    """Return the items [N] of a split that have a part and any of those observed."""
    rows = m.dataset.split(split)
    return (rows.there(part) & torch.stack([rows.there(other) for other in observed]).any(0)).nonzero()[:, 0]


def filled(m: Measurement) -> dict[tuple[str, tuple[str, ...]], Filled]:
    """Return every part filled in from all others together and from every single one, by part and what is observed."""
    names = list(m.dataset.modalities)
    asked = []
    for part in names:
        others = tuple(name for name in names if name != part)
        asked += [(part, given) for given in dict.fromkeys((others, *((name,) for name in others)))]
    each = DRAWS * sum(m.dataset.modalities[part].places for part in [*names, *(part for part, _ in asked)])
    found = {}
    with task("filling in", len(asked)) as advance:
        for part, observed in asked:
            items = affordable(m, rows_with(m, "test", part, observed), each)
            if len(items):
                found[part, observed] = fill(m, part, observed, items, each)
            else:
                m.skipped[f"{FILL} {part} given {'+'.join(observed)}"] = "no test item has these"
            advance(1)
    return found


def fill(m: Measurement, part: str, observed: tuple[str, ...], items: Tensor, each: int) -> Filled:
    """Fill in a part of test `items` [N] from what is observed, and of as many training items where all others are."""
    modality, whole = m.dataset.modalities[part], m.dataset.batch("test", items)
    own = completions(m, "test", part, observed, items)
    beside, spread = predictions(m, part, observed, _hidden(whole, observed))
    true = modality.judged(whole.views[part])
    errors = modality.errors(true, own["predicted"], spread)
    judge = next(iter(errors))
    if "said" in own:
        errors = modality.errors(true, own["said"], spread) | {judge: errors[judge]}
    others = {name: modality.errors(true, of, spread)[judge] for name, of in beside.items()}
    inside, learned = {name: own[name].flatten(1) for name in INSIDE if name in own}, errors[judge][:0]
    known = affordable(m, rows_with(m, "train", part, observed), each)
    if len(known) and len(observed) == len(m.dataset.modalities) - 1:
        again = completions(m, "train", part, observed, known)["predicted"]
        true = modality.judged(m.dataset.batch("train", known).views[part])
        learned = modality.errors(true, again, spread)[judge]
    return Filled(errors, others, own["nats"], inside, learned)


def completions(
    m: Measurement, split: SplitName, part: str, observed: tuple[str, ...], items: Tensor
) -> dict[str, Tensor]:
    """Return of one part of `items` [N] what is `predicted` [N, ...], its log density, `nats` [N], and of test items of
    kinds that have intervals the share [N, ...] of each value within them, by name. Of captions whose words depend on
    those before them probabilities are predicted that do not; what is `said` [N, ...] are whole captions.
    """
    modality, column = m.dataset.modalities[part], list(m.dataset.modalities).index(part)
    likelihood, whole = m.model.generator.likelihoods[part], m.dataset.batch(split, items)
    # a missing cell stays NaN, and what is not observed hides behind the mask
    wanted = torch.zeros_like(whole.present)
    wanted[:, column] = True
    kept, first, use = list[dict[str, Tensor]](), 0, f"{FILL}/{part}" if split == "test" else f"{FILL}/{part}/{split}"
    for batch, rng in m.given(split, items, observed, use):
        rows = slice(first, first + len(batch.present))
        state, own = whole.views[part][rows].to(m.model.device), wanted[rows].to(m.model.device)
        true, first = modality.judged(state), rows.stop
        with torch.no_grad():
            q = m.model.inference.given(batch)  # once for all draws
        means = [m.model.decode(m.model.infer_latents(batch, rng, posterior=q), own)[part] for _ in range(DRAWS)]
        m.shown({part: torch.cat(means)}, f"{part} given {'+'.join(observed)}")
        said = torch.stack([modality.expected(m.model.likeliest({part: mean})[part]) for mean in means]).mean(0)
        nats = torch.stack([likelihood.log_density(state, mean) for mean in means]).logsumexp(0) - log(DRAWS)
        found = {"predicted": said, "nats": nats}
        if (marginal := getattr(likelihood, "marginal", None)) is not None:
            with torch.no_grad():
                each = [modality.expected(marginal(mean, rng)) for mean in means]
            found |= {"predicted": torch.stack(each).mean(0), "said": said}
        if modality.intervals and split == "test":
            drawn = torch.stack([modality.judged(likelihood.sample(mean, rng)) for mean in means[:PLACES]])
            found |= {name: share_inside(true, drawn, *INSIDE[name]) for name in INSIDE}
        kept.append({name: value.cpu() for name, value in found.items()})
    return {name: torch.cat([of[name] for of in kept]) for name in kept[0]}


def _hidden(batch: Batch, observed: Sequence[str]) -> Batch:
    """Return a batch of which `observed` parts alone are there."""
    return batch._replace(present=batch.present & torch.tensor([name in observed for name in batch.views]))


def share_inside(true: Tensor, drawn: Tensor, low: int, high: int) -> Tensor:
    """Return the share of values [B, ...] within quantiles `low` to `high` of draws [D, B, ...]; NaN: missing.

    The place of a value among D draws of the same distribution is uniform over D + 1 places, so the share is exactly
    (high - low + 1) / (D + 1). A value that ties with draws, as a count does, lies in all of their places alike.
    """
    below, above = (drawn < true).sum(0), (drawn <= true).sum(0)
    share = (above.clamp_max(high) - below.clamp_min(low) + 1).clamp_min(0) / (above - below + 1)
    return torch.where(true.isnan(), torch.nan, share)


def average(values: Tensor, root: bool = False) -> Result | None:
    """Return the mean of values [N, K] over what there is, NaN is not, or its root; None where nothing is.

    Rows are independent, the entries of a row are not: the delta method, of total by item and number of its entries.
    """
    count = (~values.isnan()).sum(1).double()
    total, cells = values.double().nan_to_num(nan=0.0).sum(1), float(count.sum())
    if not cells:
        return None
    mean = float(total.sum()) / cells
    error, n = float((total - mean * count).square().sum().sqrt()) / cells, int((count > 0).sum())
    if not root:
        return Result(mean, error, n)
    return Result(sqrt(mean), error / (2 * sqrt(mean)) if mean > 0 else 0.0, n)


def share_saved(own: Tensor, other: Tensor, root: bool = False) -> Result | None:
    """Return by what share errors [N, K] of the one are smaller than those of the other on the same items; None where
    the other has none. With its error by the delta method, of a ratio of sums over items.
    """
    a, b = (of.double().nan_to_num(nan=0.0).sum(1) for of in (own, other))
    n, whole = int((~own.isnan()).any(1).sum()), float(b.sum())
    if not whole > 0:
        return None
    ratio = float(a.sum()) / whole
    error = float((a - ratio * b).square().sum().sqrt()) / whole
    if not root:
        return Result(1 - ratio, error, n)
    return Result(1 - sqrt(ratio), error / (2 * sqrt(ratio)) if ratio > 0 else 0.0, n)


def filling(m: Measurement, name: str) -> dict[str, Result]:
    """Return a number by part that is filled in from all others, "name/part", and from each of these alone where they
    are several, "name/part/other"; and `name`, the mean of the former where all parts are judged alike.
    """
    if not m.settings.items:
        return m.skip(name, NOT_ASKED)
    which, judges, whole, alone = name.removeprefix(f"{FILL}/"), set[str](), dict[str, Result](), dict[str, Result]()
    for (part, observed), own in m.once(filled).items():
        if (result := _number(own, which)) is None:
            if which == "r2":
                m.skipped[f"{FILL} {part} given {'+'.join(observed)}"] = "it does not vary, so there is nothing to tell"
        elif len(observed) == len(m.dataset.modalities) - 1:
            whole[f"{name}/{part}"] = result
            judges.add(own.judge)
        else:
            alone[f"{name}/{part}/{observed[0]}"] = result
    return (whole if len(judges) > 1 and not which.startswith(ALIKE) else with_mean(name, whole)) | alone


def _number(own: Filled, which: str) -> Result | None:
    """Return one number of a part that was filled in; None where its kind has none such."""
    errors, root = own.errors[own.judge], own.judge == "rmse"
    if which in own.errors:
        return average(own.errors[which], which == "rmse")
    if which == "learned":
        return average(own.learned, root)
    if which in own.beside:
        return average(own.beside[which], root)
    if which in own.inside:
        return average(own.inside[which])
    if which.startswith(OVER):
        other = own.beside.get(which.removeprefix(OVER))
        return None if other is None else share_saved(errors, other, root)
    if which == "r2":
        return share_saved(errors, own.beside[AVERAGE])
    return average(own.log_likelihood[:, None]) if which == "log_likelihood" else None
