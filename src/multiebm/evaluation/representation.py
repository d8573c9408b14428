"""What latents know: can a linear probe read the class off shared codes, and off private ones, where it should not?"""

import torch
from torch import Tensor

from multiebm.data.dataset import MultimodalDataset
from multiebm.evaluation.base import ModelUnderTest, Result, mean_of_items, proportion
from multiebm.evaluation.draws import Plan, codes, complete_items

_MAX_ITERATIONS = 1000  # of lbfgs, as in the MMVAE+ protocol


def linear_hits(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Tensor:
    """Fit multinomial logistic regression to codes [N, D] (standardised) and return bool [N_test]: read correctly."""
    from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

    loc, scale = train.double().mean(0), train.double().std(0).clamp_min(1e-12)
    probe = LogisticRegression(max_iter=_MAX_ITERATIONS)
    probe.fit(((train - loc) / scale).numpy(), train_labels.numpy())
    return torch.from_numpy(probe.predict(((test - loc) / scale).numpy())) == test_labels


def latent_classification(
    model: ModelUnderTest, dataset: MultimodalDataset, n_codes: int, plan: Plan
) -> dict[str, Result]:
    """Return test accuracy of a probe fitted to up to `n_codes` training codes, z ~ q_i(z | x_i), one per modality.

    "latent_classification" and, where there are private latents, "private_leakage" (high: the class leaks into w), each
    averaged over modalities and, with "/modality", alone. Needs labels in both splits. The protocol of MMVAE+ (Palumbo
    et al. 2023), here on at most `n_codes` codes, standardised.
    """
    assert dataset.train.labels is not None
    assert dataset.test.labels is not None
    generator = torch.Generator().manual_seed(plan.seed)
    train_items = torch.randperm(len(dataset.train), generator=generator)[:n_codes]
    test_items = torch.arange(len(dataset.test))
    hits: dict[str, dict[str, Tensor]] = {"latent_classification": {}, "private_leakage": {}}
    for name in dataset.modalities:
        train_rows = complete_items(dataset, "train", train_items, (name,))
        test_rows = complete_items(dataset, "test", test_items, (name,))
        if len(test_rows) == 0 or len(dataset.train.labels[train_rows].unique()) < 2:
            continue  # nothing to fit or to read
        train = codes(model, dataset, "train", train_rows, name, plan)
        test = codes(model, dataset, "test", test_rows, name, plan)
        for metric, key in (("latent_classification", "shared"), ("private_leakage", name)):
            if key in train:
                full = torch.full((len(test_items),), torch.nan, dtype=torch.float64)
                truth = dataset.train.labels[train_rows], dataset.test.labels[test_rows]
                full[test_rows] = linear_hits(train[key], truth[0], test[key], truth[1]).double()
                hits[metric][name] = full
    results: dict[str, Result] = {}
    for metric, by_modality in hits.items():
        if by_modality:
            results[metric] = mean_of_items(torch.stack(list(by_modality.values()), 1))
            results |= {f"{metric}/{name}": proportion(hit[~hit.isnan()]) for name, hit in by_modality.items()}
    return results
