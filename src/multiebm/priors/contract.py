"""What every kind of prior has to do, as a test class to inherit: see `multiebm.testing`."""

import math
from typing import ClassVar

import torch
from torch import Tensor

from multiebm.core.random import item_generators, make_generator
from multiebm.priors.prior import RIDGE, Prior, PriorSettings

DIM, DRAWS = 2, 40_000
WIDE = 4.0  # scale of the normal density from which integrals are estimated
SIGMAS = 5.0  # of an estimate by which it may be off: false alarm below 1e-6


class PriorContract:
    """Set `settings`, such as `Mixture(components=3)`, and the `family` of the experts."""

    settings: PriorSettings
    family: ClassVar[str] = "normal"

    def prior(self) -> Prior:
        """Return a fresh prior over [DIM]."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return self.settings.build(DIM, self.family, RIDGE)

    def wide(self) -> tuple[Tensor, Tensor]:
        """Return points [DRAWS, DIM] that reach far beyond the prior, and the log density they were drawn from."""
        z = WIDE * torch.randn(DRAWS, DIM, generator=make_generator(1))
        return z, -0.5 * (z / WIDE).square().sum(1) - DIM * math.log(WIDE * math.sqrt(2 * math.pi))

    def test_its_kind_is_a_word_and_its_settings_do_not_contradict_themselves(self) -> None:
        """`problems` is empty for the settings of this contract."""
        assert self.settings.kind.isidentifier()
        assert self.settings.problems() == []

    def test_densities_have_the_shape_of_their_codes_and_a_gradient(self) -> None:
        """[..., D] -> [...], a function of each code alone."""
        prior, z = self.prior(), torch.randn(2, 5, DIM, generator=make_generator(0)).requires_grad_()
        found = prior.log_prob(z)
        assert found.shape == (2, 5)
        (slope,) = torch.autograd.grad(found[0, 1], z)
        assert slope.isfinite().all()
        assert slope[0, 1].any()
        assert int(slope.ne(0).any(-1).sum()) == 1

    def test_a_density_that_is_said_to_be_normalised_integrates_to_one(self) -> None:
        """By importance sampling; what a bound sees is normalised in any case but for a tilt that it asks for."""
        prior = self.prior()
        z, log_q = self.wide()
        assert prior.untilted().normalised
        for density in [prior.untilted(), prior.for_bound(learns=False)]:
            with torch.no_grad():
                weight = (density.log_prob(z) - log_q).exp()
            assert abs(weight.mean() - 1) < SIGMAS * weight.std() / DRAWS**0.5
        assert prior.log_normalizer(10, make_generator(0)).shape == ()

    def test_samples_have_their_shape_and_depend_on_their_item_alone(self) -> None:
        """[n, D]; item i is the same however many are drawn."""
        prior = self.prior()
        with torch.no_grad():
            seven, two = prior.sample(7, item_generators(3, 7)), prior.sample(2, item_generators(3, 2))
        assert seven.shape == (7, DIM)
        torch.testing.assert_close(seven[:2], two, rtol=1e-4, atol=1e-5)
        assert not torch.equal(seven[0], seven[1])

    def test_samples_of_a_normalised_density_have_its_moments(self) -> None:
        """Means and second moments, those of the density by importance sampling."""
        prior = self.prior()
        z, log_q = self.wide()
        with torch.no_grad():
            drawn, weight = prior.sample(DRAWS, make_generator(2)), (prior.log_prob(z) - log_q).exp()
        assert drawn.isfinite().all()
        for power in (1, 2) if prior.normalised else ():
            found, own = weight[:, None] * z**power, drawn**power
            error = ((found.var(0) + own.var(0)) / DRAWS).sqrt()
            assert ((found.mean(0) - own.mean(0)).abs() < SIGMAS * error).all(), power

    def test_a_temperature_below_one_draws_closer_together(self) -> None:
        """At T = 1/16 the mean distance of a draw to the nearest of the others is smaller."""
        prior = self.prior()
        with torch.no_grad():
            usual, cool = (prior.sample(300, make_generator(4), t) for t in (1.0, 1 / 16))
        near = [torch.cdist(z, z).fill_diagonal_(torch.inf).amin(1).mean() for z in (usual, cool)]
        assert near[1] < near[0]

    def test_what_follows_codes_finds_them_likelier_afterwards(self) -> None:
        """Twenty steps on codes about (2, -1), if it `follows` any."""
        prior = self.prior()
        codes = torch.tensor([2.0, -1.0]) + 0.5 * torch.randn(200, DIM, generator=make_generator(5))
        with torch.no_grad():
            before = prior.log_prob(codes).mean()
            for _ in range(20):
                prior.follow(codes)
            after = prior.log_prob(codes).mean()
        assert after > before if prior.follows else after == before

    def test_parameters_of_its_own_learn_from_its_loss(self) -> None:
        """Its loss of codes and its own samples has a finite gradient in each of them, and in nothing else."""
        prior = self.prior()
        own = prior.own_parameters()
        if not own:
            return
        codes = torch.randn(50, DIM, generator=make_generator(6)) + 1
        prior.loss(codes, prior.sample(50, make_generator(7))).backward()
        mine = {id(p) for p in own}
        for parameter in prior.parameters():
            assert (parameter.grad is not None) == (id(parameter) in mine)
            assert parameter.grad is None or parameter.grad.isfinite().all()
