"""What latents know: is the shared code used at all, and can a linear probe read the class off it?"""

import warnings

import torch
from torch import Tensor

from multiebm.core.progress import track
from multiebm.core.random import item_generators
from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.base import (
    ModelUnderTest,
    Result,
    bootstrap_deviation,
    mean_of_items,
    proportion,
    stream_seed,
)
from multiebm.evaluation.draws import Plan, chosen_items, codes, complete_items, labelled_items
from multiebm.priors.energy import EnergyPrior

KL, ACTIVE, LATENTS = "latent/kl", "latent/active_units", "latent/units"
_ACTIVE_VARIANCE = 0.01  # over items, of a coordinate's posterior mean: Burda et al. 2016, arXiv 1509.00519
_DRAWS = 16  # of an item's posterior, for the divergence
_MAX_ITERATIONS = 1000  # of lbfgs, as in the MMVAE+ protocol


def latent_use(
    model: ModelUnderTest, dataset: MultimodalDataset, n: int, plan: Plan, skipped: dict[str, str]
) -> dict[str, Result]:
    """Return how much the shared code z says of an item, from up to `n` test items by all parts that they have.

    "latent/kl": KL(q(z | x) || p(z)) in nats an item, by 16 draws of q; of an energy prior, whose density is not
    normalised, to its base. "latent/active_units": how many of the "latent/units" coordinates of E_q[z] vary over items
    (Burda et al. 2016). Near 0, the code has collapsed: parts share nothing.
    """
    items = chosen_items(dataset, n, dataset.test.present.any(1).nonzero()[:, 0])
    if not len(items):
        skipped["latent"] = "no test item has a part"
        return {}
    prior = model.generator.prior.base if isinstance(model.generator.prior, EnergyPrior) else model.generator.prior
    seed, divergences, means = stream_seed(plan.seed, "latent"), [], []
    for i, rows in enumerate(track(items.split(plan.batch_size), "latents")):
        q = model.inference.given(dataset.batch("test", rows).to(model.device)).shared
        draws = item_generators(seed, len(rows), i * plan.batch_size)
        ratios = []
        for _ in range(_DRAWS):
            z = q.component(q.assign(draws)).rsample(draws)
            ratios.append(q.log_prob(z) - prior.log_prob(z))
        divergences.append(torch.stack(ratios).double().mean(0).cpu())
        means.append(q.mean.double().cpu())
    mean = torch.cat(means)
    results = {KL: mean_of_items(torch.cat(divergences)[:, None])}
    if len(items) < 2:
        skipped[ACTIVE] = "one test item has no variance"
        return results

    def active(rows: Tensor) -> Tensor:
        return (mean[rows].var(0) > _ACTIVE_VARIANCE).sum()

    error = bootstrap_deviation(active, len(items), torch.Generator().manual_seed(seed))
    units = Result(mean.shape[1], 0.0, len(items))
    return results | {ACTIVE: Result(int(active(torch.arange(len(items)))), float(error), len(items)), LATENTS: units}


def linear_hits(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Tensor:
    """Fit multinomial logistic regression to codes [N, D] and return bool [N_test]: read correctly.

    Both are standardised by the training codes.
    """
    from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

    loc, scale = train.double().mean(0), train.double().std(0).clamp_min(1e-12)
    probe = LogisticRegression(max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():  # that classes are many is for the reader of the accuracy to judge
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        probe.fit(((train - loc) / scale).numpy(), train_labels.numpy())
    return torch.from_numpy(probe.predict(((test - loc) / scale).numpy())) == test_labels


def latent_classification(
    model: ModelUnderTest, dataset: MultimodalDataset, n_codes: int, plan: Plan, skipped: dict[str, str] | None = None
) -> dict[str, Result]:
    """Return test accuracy of a probe fitted to up to `n_codes` training codes, z ~ q_i(z | x_i), one per modality.

    "latent_classification" and, where there are private latents, "private_leakage" (high: the class leaks into w), each
    averaged over modalities and, with "/modality", alone. Needs labels in both splits; items whose class is not known
    are left out, and modalities without enough of them are named in `skipped`. The protocol of MMVAE+ (Palumbo et al.
    2023), here on at most `n_codes` codes, standardised.
    """
    assert dataset.train.labels is not None
    assert dataset.test.labels is not None
    skipped = {} if skipped is None else skipped
    generator = torch.Generator().manual_seed(plan.seed)
    known, test_items = labelled_items(dataset.train), labelled_items(dataset.test)
    train_items = known[torch.randperm(len(known), generator=generator)[:n_codes]]
    hits: dict[str, dict[str, Tensor]] = {"latent_classification": {}, "private_leakage": {}}
    for name in track(list(dataset.modalities), "codes"):
        train_rows = complete_items(dataset, "train", train_items, (name,))
        test_rows = complete_items(dataset, "test", test_items, (name,))
        classes = len(dataset.train.labels[train_rows].unique())
        if len(test_rows) == 0 or classes < 2:
            counts = (
                f"{classes} class(es) in its training rows with a known label and {len(test_rows)} such test row(s)"
            )
            skipped[f"latent_classification/{name}"] = f"{counts}; a probe needs 2 and 1"
            continue
        train = codes(model, dataset, "train", train_rows, name, plan)
        test = codes(model, dataset, "test", test_rows, name, plan)
        for metric, key in (("latent_classification", "shared"), ("private_leakage", name)):
            if key in train:
                full = torch.full((len(dataset.test),), torch.nan, dtype=torch.float64)
                truth = dataset.train.labels[train_rows], dataset.test.labels[test_rows]
                full[test_rows] = linear_hits(train[key], truth[0], test[key], truth[1]).double()
                hits[metric][name] = full
    results: dict[str, Result] = {}
    for metric, by_modality in hits.items():
        if by_modality:
            results[metric] = mean_of_items(torch.stack(list(by_modality.values()), 1))
            results |= {f"{metric}/{name}": proportion(hit[~hit.isnan()]) for name, hit in by_modality.items()}
    if not hits["private_leakage"]:
        skipped["private_leakage"] = (
            "the model has no private latents" if hits["latent_classification"] else "no probe could be fitted"
        )
    return results
