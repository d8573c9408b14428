"""Which subsets are components, their weights with parts missing, and a hidden part as one that never was."""

from itertools import product

import pytest
import torch
from torch import Tensor

from multiebm.core.errors import ConfigError
from multiebm.core.random import make_generator
from multiebm.distributions.fusion import FUSIONS
from multiebm.models.aggregation import MAX_EVERY, Aggregation, subset_table
from small_models import make_batch, random_views, small_model, vectors

SCHEMES = ["single", "full", "every", "full_single"]
REFERENCE = {"normal": torch.distributions.Normal, "laplace": torch.distributions.Laplace}
RHO = 0.4
PATTERNS = torch.tensor(list(product([False, True], repeat=3)))  # all that may be present of 3 parts, nothing first
ALLOWED = [
    (scheme, fusion, prior_expert, family)
    for scheme, fusion, prior_expert, family in product(SCHEMES, FUSIONS, ["none", "full", "all"], REFERENCE)
    if family in FUSIONS[fusion].families or (scheme == "single" and prior_expert == "none")
]
EVERY_SCHEME = pytest.mark.parametrize("scheme", SCHEMES)


def experts(present: Tensor, dim: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Experts [M, B, D] in float64; those of absent parts are the standard density, as encoders leave them."""
    b, m = present.shape
    draws = make_generator(seed)
    loc, log_scale = (torch.randn(m, b, dim, generator=draws, dtype=torch.float64) for _ in range(2))
    here = present.T[:, :, None]
    return torch.where(here, loc, 0.0), torch.where(here, (0.5 * log_scale).exp(), 1.0)


def rows(*subsets: str) -> list[list[bool]]:
    """Membership of subsets of a, b and c, each written as a word."""
    return [[name in subset for name in "abc"] for subset in subsets]


@pytest.mark.parametrize(
    ("scheme", "expected"),
    [
        ("single", rows("a", "b", "c")),
        ("full", rows("abc")),
        ("every", rows("a", "b", "c", "ab", "ac", "bc", "abc")),
        ("full_single", rows("abc", "a", "b", "c")),
    ],
)
def test_the_components_of_three_parts_come_in_this_order(scheme, expected):
    assert subset_table(3, scheme).tolist() == expected


@pytest.mark.parametrize("n", range(1, MAX_EVERY + 1))
def test_n_parts_have_n_single_1_full_and_every_of_two_to_the_n_less_1_subsets(n):
    found = {scheme: len(subset_table(n, scheme)) for scheme in SCHEMES}
    assert found == {"single": n, "full": 1, "every": 2**n - 1, "full_single": n + 1}
    every = subset_table(n, "every")
    assert len(every.unique(dim=0)) == len(every)
    assert every.any(1).all()


def possible(scheme: str, present: list[bool]) -> list[bool]:
    """Whether each component has all of its parts; the full one needs just any of them."""
    found = []
    for row in subset_table(len(present), scheme).tolist():
        adapts = scheme.startswith("full") and not found
        found.append(any(present) if adapts else all(p or not r for p, r in zip(present, row, strict=True)))
    return found


@EVERY_SCHEME
def test_components_that_need_an_absent_part_have_no_weight_and_the_others_share_it_equally(scheme):
    """Quotients of small whole numbers in float32: one rounding of 6e-8, another in the logarithm."""
    mixture = Aggregation(3, "normal", scheme)(*experts(PATTERNS), PATTERNS)
    for present, weight in zip(PATTERNS[1:].tolist(), mixture.log_weight.T.exp()[1:].tolist(), strict=True):
        kept = possible(scheme, present)
        assert weight == pytest.approx([k / sum(kept) for k in kept], abs=2e-7)
    absent = ~torch.tensor([possible(scheme, present) for present in PATTERNS.tolist()][1:]).T
    assert (mixture.log_weight[:, 1:][absent] == -torch.inf).all()


@pytest.mark.parametrize(("scheme", "fusion", "prior_expert", "family"), ALLOWED)
def test_with_nothing_present_every_component_is_the_standard_density_with_equal_weight(
    scheme, fusion, prior_expert, family
):
    present = torch.zeros(2, 3, dtype=torch.bool)
    mixture = Aggregation(3, family, scheme, fusion, prior_expert, correlation=RHO)(*experts(present), present)
    k = len(subset_table(3, scheme))
    assert torch.equal(mixture.loc, torch.zeros(k, 2, 2).double())
    assert torch.equal(mixture.scale, torch.ones(k, 2, 2).double())
    torch.testing.assert_close(mixture.log_weight.exp(), torch.full((k, 2), 1 / k), rtol=2e-7, atol=0)
    z = torch.randn(2, 2, generator=make_generator(1), dtype=torch.float64)
    # weights in float32 sum to 1 within a few times 6e-8
    torch.testing.assert_close(mixture.log_prob(z), REFERENCE[family](0.0, 1.0).log_prob(z).sum(1), rtol=0, atol=1e-6)


@EVERY_SCHEME
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_a_component_is_the_fusion_of_its_members(scheme, fusion):
    present = torch.ones(4, 3, dtype=torch.bool)
    loc, scale = experts(present)
    mixture = Aggregation(3, "normal", scheme, fusion, correlation=RHO)(loc, scale, present)
    assert torch.equal(mixture.members, subset_table(3, scheme))
    for k, row in enumerate(mixture.members):
        among = torch.ones(1, int(row.sum()), 4, dtype=torch.bool)
        at, width = FUSIONS[fusion].rule(loc[row], scale[row], among, RHO)
        torch.testing.assert_close(mixture.loc[k], at[0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(mixture.scale[k], width[0], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("scheme", "fusion", "prior_expert", "family"), ALLOWED)
def test_a_hidden_part_is_a_part_that_never_was(scheme, fusion, prior_expert, family):
    """Every item of the batch hides another one or two of 4 parts; its mixture is that of the parts it has."""
    present = torch.tensor([p for p in product([False, True], repeat=4) if 1 < sum(p) < 4])
    loc, scale = experts(present)
    settings = (family, scheme, fusion, prior_expert)
    masked = Aggregation(4, *settings, correlation=RHO)(loc, scale, present)
    z = torch.randn(len(present), 2, generator=make_generator(1), dtype=torch.float64)
    for b, here in enumerate(present):
        n = int(here.sum())
        fewer = Aggregation(n, *settings, correlation=RHO)
        reduced = fewer(loc[here, b : b + 1], scale[here, b : b + 1], torch.ones(1, n, dtype=torch.bool))
        kept = masked.log_weight[:, b] > -torch.inf
        torch.testing.assert_close(masked.loc[kept, b], reduced.loc[:, 0], rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(masked.scale[kept, b], reduced.scale[:, 0], rtol=1e-12, atol=0)
        assert torch.equal(masked.log_weight[kept, b], reduced.log_weight[:, 0])
        torch.testing.assert_close(masked.log_prob(z)[b], reduced.log_prob(z[b : b + 1])[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("prior_expert", ["none", "full", "all"])
@EVERY_SCHEME
def test_one_part_has_the_components_that_remain_of_two_when_one_is_hidden(scheme, prior_expert):
    """With one part the full component and the single one are both its expert: two components, not one."""
    present = torch.tensor([[True, False]] * 3)
    loc, scale = experts(present)
    masked = Aggregation(2, "normal", scheme, "product", prior_expert)(loc, scale, present)
    alone = Aggregation(1, "normal", scheme, "product", prior_expert)(loc[:1], scale[:1], present[:, :1])
    kept = masked.log_weight[:, 0] > -torch.inf
    assert alone.loc.shape == (*alone.log_weight.shape, 2)
    torch.testing.assert_close(alone.loc, masked.loc[kept], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(alone.scale, masked.scale[kept], rtol=1e-12, atol=0)
    assert torch.equal(alone.log_weight, masked.log_weight[kept])


@pytest.mark.parametrize(("scheme", "fusion"), [*product(SCHEMES[1:], FUSIONS), ("single", "product")])
def test_the_expert_of_an_absent_part_changes_nothing(scheme, fusion):
    """Components without weight aside; here absent parts hold values that no encoder would leave there."""
    present, (loc, scale) = PATTERNS[1:], experts(PATTERNS[1:])
    absent = ~present.T[:, :, None]
    spoilt = torch.where(absent, 7.0, loc), torch.where(absent, 0.3, scale)
    aggregation = Aggregation(3, "normal", scheme, fusion, correlation=RHO)
    clean, other = aggregation(loc, scale, present), aggregation(*spoilt, present)
    kept = clean.log_weight > -torch.inf
    assert torch.equal(other.log_weight, clean.log_weight)
    torch.testing.assert_close(other.loc[kept], clean.loc[kept], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(other.scale[kept], clean.scale[kept], rtol=1e-12, atol=0)


def learned(scheme: str, n: int, logits: Tensor) -> Aggregation:
    """An aggregation of n parts whose weights have these logits [K]."""
    aggregation = Aggregation(n, "normal", scheme, learned_weights=True).double()
    assert aggregation.logits is not None
    aggregation.logits.data = logits.clone()
    return aggregation


@EVERY_SCHEME
def test_learned_weights_are_the_softmax_over_the_components_an_item_can_have(scheme):
    k = len(subset_table(3, scheme))
    logits = torch.randn(k, generator=make_generator(2), dtype=torch.float64)
    weight = learned(scheme, 3, logits)(*experts(PATTERNS), PATTERNS).log_weight.exp()
    for b, present in enumerate(PATTERNS.tolist()):
        kept = torch.tensor(possible(scheme, present)) if any(present) else torch.ones(k, dtype=torch.bool)
        expected = torch.zeros(k).double().masked_scatter(kept, logits[kept].softmax(0))
        torch.testing.assert_close(weight[:, b], expected, rtol=1e-12, atol=0)
    assert Aggregation(3, "normal", scheme).logits is None


@EVERY_SCHEME
def test_the_gradient_of_a_learned_weight_is_1_less_the_weights_and_0_where_parts_are_missing(scheme):
    """d log w_k / d logit_j = [j = k] - w_j, summed over the components k of every item."""
    k = len(subset_table(3, scheme))
    aggregation = learned(scheme, 3, torch.randn(k, generator=make_generator(2), dtype=torch.float64))
    log_weight = aggregation(*experts(PATTERNS), PATTERNS).log_weight
    kept = log_weight > -torch.inf
    found = torch.autograd.grad(log_weight[kept].sum(), aggregation.logits)[0]
    expected = (kept.double() - kept.sum(0) * log_weight.exp()).sum(1).detach()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@EVERY_SCHEME
def test_the_bound_reaches_learned_weights_by_responsibilities_less_weights(scheme):
    """d log q(z) / d logit_j = r_j - w_j, finite with any parts missing; an impossible component gets exactly 0."""
    k = len(subset_table(3, scheme))
    aggregation = learned(scheme, 3, torch.randn(k, generator=make_generator(2), dtype=torch.float64))
    loc, scale = (value.requires_grad_() for value in experts(PATTERNS))
    mixture, z = aggregation(loc, scale, PATTERNS), torch.full((8, 2), 0.3).double()
    to_logits, *others = torch.autograd.grad(mixture.log_prob(z).sum(), [aggregation.logits, loc, scale])
    expected = (mixture.responsibilities(z) - mixture.log_weight.exp()).detach()
    torch.testing.assert_close(to_logits, expected.sum(1), rtol=1e-10, atol=1e-12)
    assert expected[mixture.log_weight == -torch.inf].abs().sum() == 0
    assert all(value.isfinite().all() for value in others)


@EVERY_SCHEME
@pytest.mark.parametrize("prior_expert", ["none", "complete", "full", "all"])
def test_the_prior_is_an_expert_in_no_subset_in_that_of_all_parts_there_are_or_an_item_has_or_in_all(
    scheme, prior_expert
):
    """Precisions of a product add, so what members lack of it is the prior's: 0 or 1, to some roundings of float64."""
    present = PATTERNS[1:]
    loc, scale = experts(present)
    mixture = Aggregation(3, "normal", scheme, "product", prior_expert)(loc, scale, present)
    for b, here in enumerate(present.tolist()):
        for k, row in enumerate(mixture.members.tolist()):
            if mixture.log_weight[k, b] == -torch.inf:
                continue
            members = [m for m in range(3) if row[m] and here[m]]
            whole = len(members) == sum(here)
            counted = {"none": False, "complete": len(members) == 3, "full": whole, "all": True}[prior_expert]
            excess = mixture.scale[k, b].pow(-2) - scale[members, b].pow(-2).sum(0)
            moment = mixture.loc[k, b] * mixture.scale[k, b].pow(-2)
            torch.testing.assert_close(excess, torch.full((2,), float(counted)).double(), rtol=0, atol=1e-12)
            weighted = (loc[members, b] * scale[members, b].pow(-2)).sum(0)
            torch.testing.assert_close(moment, weighted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("fusion", "reason"),
    [
        ("product", "a product of densities of another family is not of that family"),
        ("geometric", "a geometric mean of densities of another family is not of that family"),
        ("hellinger", "its cross terms have a closed form for Gaussians only"),
        ("dependent", "the consensus is that of Gaussian estimates"),
    ],
)
@pytest.mark.parametrize(
    ("scheme", "prior_expert"),
    [("full", "none"), ("every", "none"), ("full_single", "none"), ("single", "full"), ("single", "all")],
)
def test_laplace_experts_are_refused_where_their_fusion_is_not_laplace(fusion, reason, scheme, prior_expert):
    with pytest.raises(ConfigError, match=f"got {fusion} with family laplace, expected normal: {reason}; set "):
        Aggregation(3, "laplace", scheme, fusion, prior_expert)


@EVERY_SCHEME
def test_laplace_experts_have_laplace_barycentres(scheme):
    present = torch.ones(4, 3, dtype=torch.bool)
    loc, scale = experts(present)
    mixture = Aggregation(3, "laplace", scheme, "wasserstein")(loc, scale, present)
    z = torch.randn(4, 2, generator=make_generator(1), dtype=torch.float64)
    for found, row in zip(mixture.component_log_prob(z), mixture.members, strict=True):
        expected = torch.distributions.Laplace(loc[row].mean(0), scale[row].mean(0)).log_prob(z).sum(1)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_single_laplace_experts_are_the_components_as_they_are():
    present = torch.ones(4, 3, dtype=torch.bool)
    loc, scale = experts(present)
    mixture = Aggregation(3, "laplace")(loc, scale, present)
    assert torch.equal(mixture.loc, loc)
    assert torch.equal(mixture.scale, scale)
    z = torch.randn(4, 2, generator=make_generator(1), dtype=torch.float64)
    expected = torch.distributions.Laplace(loc, scale).log_prob(z).sum(2)
    torch.testing.assert_close(mixture.component_log_prob(z), expected, rtol=1e-12, atol=1e-12)


def test_every_subset_of_nine_parts_is_refused_with_the_number_of_components_there_would_be():
    assert MAX_EVERY == 8
    with pytest.raises(ConfigError, match=r"got every with 9 modalities, expected at most 8 .*511 components"):
        Aggregation(9, "normal", "every")
    assert len(Aggregation(9, "normal", "full_single").members) == 10


def test_a_posterior_in_use_has_the_prior_as_an_expert_only_where_all_parts_are_given():
    """As in the code of MoPoE: q(z | S) is the product of S, and of the complete set times N(0, I)."""
    model = small_model(
        vectors(a=2, b=3), energy=None, inference={"subsets": "every", "prior_expert": "full", "pooled": True}
    )
    views = random_views(model.modalities, 4)
    complete = model.inference.given(make_batch(model.modalities, views))
    total = complete.experts.scale.pow(-2).sum(0) + 1
    torch.testing.assert_close(complete.shared.scale[0].pow(-2), total)
    alone = model.inference.given(make_batch(model.modalities, {"b": views["b"]}))
    torch.testing.assert_close(alone.shared.scale[0], alone.experts.scale[1])
    torch.testing.assert_close(alone.shared.loc[0], alone.experts.loc[1])
