"""The contrast of true and foreign parts on discrete toys, where every expectation is a sum over all cases."""

from itertools import product
from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from multiebm.objectives.belonging import belonging_loss, contrasts, draw_donors, has_contrast

EXACT = 1e-10  # float64 sums in another order


def toy(parts: int, values: int, seed: int = 0) -> Tensor:
    """A density p of `parts` parts with so many values each, float64 [values, ..., values], none of it near 0."""
    logits = torch.randn((values,) * parts, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return logits.flatten().softmax(0).view(logits.shape)


def marginal(p: Tensor, m: int) -> Tensor:
    return p.sum([axis for axis in range(p.dim()) if axis != m])


def total_correlation(p: Tensor) -> Tensor:
    """log p(x) - sum_m log p(x_m), pointwise, in the shape of p."""
    found = p.log()
    for m in range(p.dim()):
        found = found - marginal(p, m).log().view([-1 if axis == m else 1 for axis in range(p.dim())])
    return found


def conditional(p: Tensor, m: int) -> Tensor:
    """log p(x_m | x_-m) - log p(x_m), pointwise."""
    own = marginal(p, m).view([-1 if axis == m else 1 for axis in range(p.dim())])
    return (p / p.sum(m, keepdim=True) / own).log()


def information(p: Tensor, m: int) -> float:
    """I(x_m; x_-m) in nats."""
    return float((p * conditional(p, m)).sum())


class Table:
    """f as a table of all values; parts are one-hot features, and all of them are there."""

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def __call__(self, features: Tensor, present: Tensor) -> Tensor:
        places = features.argmax(-1).unbind(-1)
        return self.table[places]


class Cases:
    """Every item with every choice of J donors of each part, as one batch, and how likely each case is [B, M]."""

    def __init__(self, p: Tensor, donors: int) -> None:
        parts, values = p.dim(), len(p)
        items = torch.tensor(list(product(range(values), repeat=parts)))
        drawn = torch.tensor(list(product(range(values), repeat=donors)))  # values of the donors' parts
        item = torch.arange(len(items)).repeat_interleave(len(drawn))
        drawn = drawn.repeat(len(items), 1)
        self.features = F.one_hot(items[item], values).double()
        self.present = torch.ones(len(item), parts, dtype=torch.bool)
        # any row whose part m has the value stands for a donor with it
        row = torch.tensor([[int((items[item][:, m] == v).nonzero()[0]) for v in range(values)] for m in range(parts)])
        self.donors = torch.stack([row[m][drawn] for m in range(parts)], 1)
        likely = p[tuple(items[item].T)]
        self.weight = torch.stack([likely * marginal(p, m)[drawn].prod(1) for m in range(parts)], 1)

    def losses(self, table: Tensor) -> Tensor:
        """The expected terms [M] of a table."""
        return (self.weight * contrasts(Table(table), self.features, self.present, self.donors)).sum(0)


def learned(p: Tensor, donors: int) -> Tensor:
    """The table that the expected loss teaches, from zeros."""
    cases, table = Cases(p, donors), torch.zeros_like(p, requires_grad=True)
    learner = torch.optim.LBFGS(
        [table], max_iter=500, tolerance_grad=1e-12, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        learner.zero_grad()
        loss = cases.losses(table).sum()
        loss.backward()
        return loss

    learner.step(closure)
    return table.detach()


def centred(x: Tensor) -> Tensor:
    return x - x.mean()


def area(true: Tensor, foreign: Tensor, statistic: Tensor) -> float:
    """The AUROC of a statistic between two densities over the same cells, ties a half."""
    t, p, q = statistic.flatten(), true.flatten(), foreign.flatten()
    wins = (t[:, None] > t + 1e-7).double() + 0.5 * ((t[:, None] - t).abs() <= 1e-7).double()
    return float(p @ wins @ q)


@pytest.mark.parametrize(("parts", "values", "donors"), [(3, 3, 1), (3, 3, 2), (3, 2, 4), (2, 4, 2), (4, 2, 1)])
def test_the_optimum_is_the_pointwise_total_correlation_for_every_number_of_donors(parts, values, donors):
    p = toy(parts, values)
    torch.testing.assert_close(centred(learned(p, donors)), centred(total_correlation(p)), atol=1e-5, rtol=0)


def test_the_gradient_is_zero_at_the_total_correlation():
    p = toy(3, 3, seed=1)
    table = total_correlation(p).requires_grad_()
    Cases(p, 2).losses(table).sum().backward()
    assert float(table.grad.abs().max()) < EXACT


def test_all_parts_leave_a_constant_free_and_one_part_a_function_of_the_others():
    """The null space of the Hessian at the optimum: 1 direction of 27 for all three parts, 9 for one of them alone."""
    p = toy(3, 3)
    cases, best = Cases(p, 1), total_correlation(p)

    def free(which: list[int]) -> int:
        hessian = torch.autograd.functional.hessian(lambda t: cases.losses(t)[which].sum(), best).view(27, 27)
        return int((torch.linalg.eigvalsh(hessian) < 1e-9).sum())

    assert free([0, 1, 2]) == 1
    assert [free([m]) for m in range(3)] == [9, 9, 9]
    assert free([0, 1]) == 3  # a function of the part that is never moved
    moved = best + torch.randn(1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(cases.losses(moved)[0], cases.losses(best)[0], atol=EXACT, rtol=0)
    assert float(cases.losses(moved)[1]) > float(cases.losses(best)[1]) + 1e-3


def test_no_statistic_tells_a_foreign_part_better_than_what_is_learned():
    """Of two parts f is the likelihood ratio of true pairs and pairs of which one was moved; of three it is so for each
    choice of the other two. By Neyman and Pearson the ratio has the largest area.
    """
    p = toy(2, 4)
    f, apart = learned(p, 2), marginal(p, 0)[:, None] * marginal(p, 1)
    best = area(p, apart, p / apart)
    assert area(p, apart, f) == pytest.approx(best, abs=1e-9)
    assert best > 0.6
    assert area(p, apart, p) < best - 1e-3  # what is likely is no proof that it belongs together
    p = toy(3, 3)
    f = learned(p, 2)
    for m in range(3):
        own, rest = marginal(p, m), p.sum(m)
        for others in product(range(3), repeat=2):
            there = p.movedim(m, -1)[others] / rest[others]
            ratio = area(there, own, there / own)
            assert area(there, own, f.movedim(m, -1)[others]) == pytest.approx(ratio, abs=1e-9)


def test_the_information_is_a_lower_bound_that_grows_with_the_donors():
    """log(1 + J) - L_m <= I(x_m; x_-m), with the bias falling as donors are added, and never above log(1 + J)."""
    p = toy(3, 2, seed=4) ** 2
    p = p / p.sum()
    found = []
    for donors in (1, 2, 4, 8):
        known = log(1 + donors) - Cases(p, donors).losses(total_correlation(p))
        found.append(known)
        assert all(0 < float(known[m]) < min(log(1 + donors), information(p, m)) for m in range(3))
    rising = torch.stack(found)
    assert bool((rising.diff(dim=0) > 0).all())
    bias = torch.tensor([information(p, m) for m in range(3)]) - rising
    assert bool((bias[-1] < bias[0] / 3).all())


def dots(features: Tensor, present: Tensor) -> Tensor:
    """f = sum of the products of all pairs of parts that are there: what is absent drops out."""
    seen = torch.where(present[..., None], features, 0.0)
    return (seen.sum(-2).square().sum(-1) - seen.square().sum((-1, -2))) / 2


def features_of(items: int, parts: int, seed: int = 0) -> Tensor:
    return torch.randn(items, parts, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_two_parts_are_infonce_of_a_matrix_both_ways():
    """With all other items as donors: the cross entropy of f(x_i, y_j) over its rows and over its columns."""
    features, n = features_of(7, 2), 7
    present = torch.ones(n, 2, dtype=torch.bool)
    matrix, right = features[:, 0] @ features[:, 1].T, torch.arange(n)
    donors = draw_donors(present, n - 1, torch.Generator().manual_seed(0))
    terms = contrasts(dots, features, present, donors).mean(0)
    torch.testing.assert_close(terms[1], F.cross_entropy(matrix, right), atol=EXACT, rtol=0)
    torch.testing.assert_close(terms[0], F.cross_entropy(matrix.T, right), atol=EXACT, rtol=0)
    total = belonging_loss(dots, features, present, donors).total
    torch.testing.assert_close(total, terms.sum(), atol=EXACT, rtol=0)


def test_two_parts_learn_the_ratio_of_joint_and_product():
    p = toy(2, 3, seed=5)
    ratio = (p / (marginal(p, 0)[:, None] * marginal(p, 1))).log()
    torch.testing.assert_close(centred(learned(p, 3)), centred(ratio), atol=1e-5, rtol=0)


def test_an_item_of_one_part_or_none_changes_nothing_and_an_absent_part_has_no_term():
    """A batch with such items, against the batch without them: the same donors, the same loss, the same terms."""
    features, rng = features_of(9, 3), torch.Generator().manual_seed(1)
    present = torch.rand(9, 3, generator=rng) < 0.7
    present[0], present[1] = torch.tensor([True, False, False]), False
    kept = torch.arange(2, 9)
    few = draw_donors(present[kept], 3, torch.Generator().manual_seed(2))
    donors = torch.full((9, 3, 3), -1)
    donors[kept] = torch.where(few >= 0, few + 2, -1)
    whole, part = (
        belonging_loss(dots, features, present, donors),
        belonging_loss(dots, features[kept], present[kept], few),
    )
    torch.testing.assert_close(whole, part, atol=EXACT, rtol=0)
    terms = contrasts(dots, features, present, donors)
    assert not terms[~has_contrast(present, donors)].any()
    spoilt = torch.where(present[..., None], features, 1e3)
    torch.testing.assert_close(contrasts(dots, spoilt, present, donors), terms, atol=EXACT, rtol=0)


def test_a_term_by_hand():
    """One part of one item: -log of the share of its own value among it and two donors'."""
    features, present = features_of(3, 3), torch.tensor([[True, True, False], [True, True, True], [True, False, True]])
    donors = torch.full((3, 3, 2), -1)
    donors[0, 0] = torch.tensor([1, 2])
    x = features
    own, first, second = (x[i, 0] @ x[0, 1] for i in (0, 1, 2))
    expected = -(own.exp() / (own.exp() + first.exp() + second.exp())).log()
    terms = contrasts(dots, features, present, donors)
    torch.testing.assert_close(terms[0, 0], expected, atol=EXACT, rtol=0)
    assert int((terms != 0).sum()) == 1
    found = belonging_loss(dots, features, present, donors)
    assert float(found.total) == pytest.approx(float(expected))
    assert found.information.tolist() == pytest.approx([log(3) - float(expected), 0, 0], abs=1e-6)


def test_donors_are_other_items_with_the_part_each_as_often():
    present = torch.ones(6, 2, dtype=torch.bool)
    present[4:, 1] = False
    rng, seen = torch.Generator().manual_seed(0), torch.zeros(6, 6)
    for _ in range(300):
        donors = draw_donors(present, 2, rng)
        assert bool((donors[:, 0] != torch.arange(6)[:, None]).all())
        assert bool((donors[:, 0, 0] != donors[:, 0, 1]).all())
        assert bool((donors[4:, 1] == -1).all())
        assert bool((donors[:4, 1] < 4).all())
        assert bool((donors[:4, 1] >= 0).all())
        seen.scatter_add_(1, donors[:, 0], torch.ones(6, 2))
    others = seen[~torch.eye(6, dtype=torch.bool)]
    assert float((others - 120).abs().max()) < 4.5 * (300 * 0.4 * 0.6) ** 0.5  # 2 of 5, binomial
    assert not seen.diag().any()
    alone = draw_donors(torch.tensor([[True, True], [False, True]]), 4, rng)
    assert bool((alone[:, 0] == -1).all())
    assert (alone[:, 1] >= 0).sum(1).tolist() == [1, 1]
