"""The contrast of true and foreign parts on discrete toys, where every expectation is a sum over all cases."""

from itertools import product
from math import log

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from multiebm.objectives.belonging import belonging_loss, contrasts, draw_donors, has_contrast, higher, with_corrupted

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

    def __init__(self, p: Tensor, donors: int, drawn_from: list[Tensor] | None = None) -> None:
        parts, values = p.dim(), len(p)
        q = drawn_from or [marginal(p, m) for m in range(parts)]
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
        self.weight = torch.stack([likely * q[m][drawn].prod(1) for m in range(parts)], 1)

    def losses(self, table: Tensor) -> Tensor:
        """The expected terms [M] of a table."""
        return (self.weight * contrasts(Table(table), self.features, self.present, self.donors)).sum(0)


def learned(p: Tensor, donors: int, drawn_from: list[Tensor] | None = None) -> Tensor:
    """The table that the expected loss teaches, from zeros."""
    cases, table = Cases(p, donors, drawn_from), torch.zeros_like(p, requires_grad=True)
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


@pytest.mark.parametrize(("parts", "values", "donors"), [(3, 3, 1), (2, 4, 2), (3, 2, 4)])
def test_corrupted_donors_add_a_term_of_each_part_alone_and_change_nothing_between_parts(parts, values, donors):
    """Each donor with probability e from c: log p(X) / prod_m [(1 - e) p(x_m) + e c(x_m)], one f for all parts. What it
    has beside the total correlation is a sum of terms log p(x_m) / [...] of one part each, at most -log(1 - e).
    """
    p, share = toy(parts, values, seed=6), 0.3
    draws = torch.Generator().manual_seed(7)
    spoilt = [torch.rand(values, generator=draws, dtype=torch.float64).softmax(0) for _ in range(parts)]
    mixed = [(1 - share) * marginal(p, m) + share * spoilt[m] for m in range(parts)]
    terms = [(marginal(p, m) / mixed[m]).log() for m in range(parts)]
    expected = total_correlation(p)
    for m, term in enumerate(terms):
        expected = expected + term.view([-1 if axis == m else 1 for axis in range(parts)])
    found = learned(p, donors, mixed)
    torch.testing.assert_close(centred(found), centred(expected), atol=1e-5, rtol=0)
    assert all(float(term.max()) <= -log(1 - share) + EXACT for term in terms)
    assert float((centred(found) - centred(total_correlation(p))).abs().max()) > 1e-2


def test_what_only_corrupted_parts_look_like_is_told_apart_without_bound():
    """A value of part 0 that no item has, every third donor: the least loss falls as f of it falls, to minus infinity,
    and tells nothing else about f.
    """
    seen = toy(2, 3, seed=8)
    p = torch.cat([seen, torch.zeros(1, 3, dtype=torch.float64)])
    p = torch.cat([p, torch.zeros(4, 1, dtype=torch.float64)], 1)
    share, never = 0.3, torch.tensor([0, 0, 0, 1.0], dtype=torch.float64)
    mixed = [(1 - share) * marginal(p, m) + share * never for m in range(2)]
    best = torch.zeros(4, 4, dtype=torch.float64)
    best[:3, :3] = total_correlation(seen)
    losses = []
    for low in (0.0, -3.0, -6.0, -30.0):
        best[3], best[:, 3] = low, low
        table = best.clone().requires_grad_()
        loss = Cases(p, 2, mixed).losses(table).sum()
        loss.backward()
        losses.append(float(loss.detach()))
        assert float(table.grad[3, :3].min()) > 0 or low < -20  # descent lowers f of it
    assert losses == sorted(losses, reverse=True)
    assert float(table.grad.abs().max()) < EXACT


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


def test_corrupted_donors_are_a_share_of_them_and_never_an_items_own():
    """Rows from 6 on; of 6 items with 8 donors, 2 corrupted items 1 and 4, of which 4 has no part 1."""
    present = torch.ones(6, 2, dtype=torch.bool)
    present[4:, 1] = False
    donors = draw_donors(present, 3, torch.Generator().manual_seed(0))
    own, rng, taken = torch.tensor([1, 4]), torch.Generator().manual_seed(1), torch.zeros(6, 2, 2)
    for _ in range(500):
        found = with_corrupted(donors, own, present[own], 0.25, rng)
        assert torch.equal(found[found < 6], donors[found < 6])
        assert bool((found[donors < 0] == -1).all())
        for k in (0, 1):
            taken[:, :, k] += (found == 6 + k).sum(2)
    assert taken[1, 0, 0] == taken[1, 1, 0] == taken[4, 0, 1] == 0
    assert not taken[:, 1, 1].any()  # it has no such part to spoil
    assert not taken[4:, 1].any()
    share = taken[[0, 2, 3, 5], 0].sum() / (4 * 500 * 3)
    assert float(share) == pytest.approx(0.25, abs=4 * (0.25 * 0.75 / 6000) ** 0.5)
    assert float(taken[[0, 2, 3], 1, 0].sum() / (3 * 500 * 3)) == pytest.approx(0.25, abs=0.026)
    both = taken[[0, 2, 3, 5], 0]
    assert float(both[:, 0].sum() / both.sum()) == pytest.approx(0.5, abs=0.06)
    assert torch.equal(with_corrupted(donors, own, present[own], 0.0, rng), donors)


def test_a_corrupted_part_is_a_donor_like_any_other():
    """A term by hand: features of two items and, below them, of their corrupted versions."""
    features, present = features_of(4, 2), torch.ones(2, 2, dtype=torch.bool)
    donors = torch.tensor([[[1, 3], [1, -1]], [[0, 2], [0, 0]]])
    x = features
    own = x[0, 0] @ x[0, 1]
    others = [x[row, 0] @ x[0, 1] for row in (1, 3)]
    expected = -(own.exp() / (own.exp() + sum(of.exp() for of in others))).log()
    terms = contrasts(dots, features, present, donors)
    assert terms.shape == (2, 2)
    torch.testing.assert_close(terms[0, 0], expected, atol=EXACT, rtol=0)
    told = belonging_loss(dots, features, present, donors, corrupted=0.25)
    plain = belonging_loss(dots, features, present, donors)
    assert torch.equal(told.total, plain.total)
    torch.testing.assert_close(told.information, plain.information + log(0.75), atol=EXACT, rtol=0)


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


def test_of_two_values_the_larger_counts_one_and_a_tie_a_half():
    """Of (1, 2) over (0, 2): 1 > 0, 2 > 0, 2 = 2; over (3, 1): 2 > 1, 1 = 1."""
    found = higher(torch.tensor([1.0, 2.0]), torch.tensor([[0.0, 2.0], [3.0, 1.0]]))
    assert found.tolist() == [[[1, 0], [1, 0.5]], [[0, 0.5], [0, 1]]]
