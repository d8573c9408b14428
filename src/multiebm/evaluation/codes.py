"""What latents know: is the shared code used at all, and can a linear probe read the class off it?"""

import warnings

import torch
from torch import Tensor

from multiebm.core.progress import track
from multiebm.data.dataset import SplitName
from multiebm.evaluation.measurement import Measurement, chosen_items, complete_items, joined, labelled_items
from multiebm.evaluation.result import (
    ACTIVE,
    LEAKAGE,
    PROBE,
    UNITS,
    Result,
    bootstrap_deviation,
    mean_and_columns,
    mean_of_items,
)

CODES = 4000  # test items whose posteriors are looked at, and training codes that a probe is fitted to, at most
_ACTIVE_VARIANCE = 0.01  # over items, of a coordinate's posterior mean: Burda et al. 2016, arXiv 1509.00519
_DRAWS = 16  # of an item's posterior, for the divergence
_MAX_ITERATIONS = 1000  # of lbfgs, as in the MMVAE+ protocol
_NO_SHARED = "the model has no shared latent (model.shared 0)"
_LATENT = "latent"  # the stream of draws


def posteriors(m: Measurement) -> dict[str, Tensor]:
    """Return of up to `CODES` test items log q(z | x) - log p(z) [N] in nats, averaged over draws of q, and E_q[z]
    [N, D]; nothing of no item. Of an energy prior, which is not normalised, p is its base.
    """
    items = chosen_items(m.dataset.test.present.any(1).nonzero()[:, 0], CODES)
    if not len(items):
        return m.skip(_LATENT, "no test item has a part")
    prior = m.model.generator.prior.untilted()
    found = []
    for rows, rng in track(m.chunks(items, _LATENT), "latents", -(-len(items) // m.batch_size)):
        q = m.model.inference.given(m.dataset.batch("test", rows).to(m.model.device)).shared
        draws = [q.component(q.assign(rng)).rsample(rng) for _ in range(_DRAWS)]
        ratios = torch.stack([q.log_prob(z) - prior.log_prob(z) for z in draws])
        found.append({"ratio": ratios.double().mean(0), "mean": q.mean.double()})
    if not found[0]["mean"].shape[1]:
        return m.skip(_LATENT, _NO_SHARED)
    return joined(found)


def divergence(m: Measurement, name: str) -> dict[str, Result]:
    """Return KL(q(z | x) || p(z)) in nats an item; near 0, the code has collapsed and parts share nothing."""
    found = m.once(posteriors)
    return {name: mean_of_items(found["ratio"][:, None])} if found else {}


def units(m: Measurement, name: str) -> dict[str, Result]:
    """Return how many coordinates z has, or how many of E_q[z] vary over items (Burda et al. 2016), by the name."""
    mean = m.once(posteriors).get("mean", torch.empty(0))
    n = len(mean)
    if n < 2:
        m.skipped.update({ACTIVE: "one test item has no variance"} if n else {})
        return {}

    def active(rows: Tensor) -> Tensor:
        return (mean[rows].var(0) > _ACTIVE_VARIANCE).sum()

    if name == UNITS:
        return {name: Result(mean.shape[1], 0.0, n)}
    error = bootstrap_deviation(active, n, m.rng(_LATENT))
    return {name: Result(int(active(torch.arange(n))), float(error), n)}


def linear_hits(train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor) -> Tensor:
    """Return bool [N_test], read correctly by multinomial logistic regression on codes [N, D], standardised."""
    from sklearn.linear_model import LogisticRegression  # late: scikit-learn takes a second to import

    loc, scale = train.double().mean(0), train.double().std(0).clamp_min(1e-12)
    probe = LogisticRegression(max_iter=_MAX_ITERATIONS)
    with warnings.catch_warnings():  # that classes are many is for the reader of the accuracy to judge
        warnings.filterwarnings("ignore", message="The number of unique classes", category=UserWarning)
        probe.fit(((train - loc) / scale).numpy(), train_labels.numpy())
    return torch.from_numpy(probe.predict(((test - loc) / scale).numpy())) == test_labels


def codes(m: Measurement, split: SplitName, items: Tensor, modality: str) -> dict[str, Tensor]:
    """Return the latents [N, D] inferred from `modality` alone, on the CPU, one sample per item of `items` (N >= 1)."""
    given = m.given(split, items, (modality,), f"codes/{split}")
    return joined(m.model.infer_latents(batch, rng) for batch, rng in given)


def probes(m: Measurement) -> dict[str, dict[str, Tensor]]:
    """Return by metric and modality whether a probe reads the class of test items, 0 or 1 [N], NaN where undefined.

    Probes are fitted to training codes z ~ q_i(z | x_i) of one modality, and to its private latents, where classes are
    known: the protocol of MMVAE+ (Palumbo et al. 2023), here on fewer codes, standardised.
    """
    train, test = m.dataset.train, m.dataset.test
    if train.labels is None or test.labels is None:
        return m.skip(PROBE, f"data set {m.dataset.name!r} has no labels")
    hits: dict[str, dict[str, Tensor]] = {PROBE: {}, LEAKAGE: {}}
    known, test_items = labelled_items(train), labelled_items(test)
    rng = torch.Generator().manual_seed(m.seed)
    train_items = known[torch.randperm(len(known), generator=rng)[:CODES]]
    for name in track(list(m.dataset.modalities), "codes"):
        train_rows = complete_items(train, train_items, (name,))
        test_rows = complete_items(test, test_items, (name,))
        truth, test_truth = train.labels[train_rows], test.labels[test_rows]
        classes = len(truth.unique())
        if len(test_rows) == 0 or classes < 2:
            m.skipped[f"{PROBE}/{name}"] = (
                f"{classes} class(es) in its training rows with a known label and {len(test_rows)} such test row(s); "
                "a probe needs 2 and 1"
            )
            continue
        seen, new = codes(m, "train", train_rows, name), codes(m, "test", test_rows, name)
        for metric, key in ((PROBE, "shared"), (LEAKAGE, name)):
            if key in seen and seen[key].shape[1]:
                hits[metric][name] = torch.full((len(test),), torch.nan, dtype=torch.float64)
                hits[metric][name][test_rows] = linear_hits(seen[key], truth, new[key], test_truth).double()
    return hits


def classification(m: Measurement, name: str) -> dict[str, Result]:
    """Return the test accuracy of probes of the shared code or of private latents, by the name asked for."""
    hits = m.once(probes)
    if hits and not hits[name]:
        lacking = {LEAKAGE: "the model has no private latents", PROBE: _NO_SHARED}[name]
        m.skipped[name] = lacking if any(hits.values()) else "no probe could be fitted"
    return mean_and_columns(name, hits.get(name, {}))
