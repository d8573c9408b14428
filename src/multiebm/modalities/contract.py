"""What a kind of modality of your own has to do, as a test class to inherit (`multiebm.testing`)."""

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from multiebm.core.errors import DataError
from multiebm.core.handed import Handed, read_array, unpack
from multiebm.core.random import make_generator
from multiebm.modalities import MODALITIES, Modality, from_json, to_json

WIDTH, OUT = 8, 5
_SPREADS = 12  # scales on both sides of the mean, beyond which a likelihood has no mass to speak of


class ModalityContract:
    """Set `kind`, the row of `MODALITIES` (entry point group `multiebm.modalities`); a declaration of it; values
    [N, ...] as users hand them over, N at least 4; and values that it must refuse. For a kind whose states are not all
    of R^D, or have more than one coordinate in `values`, override `grid`. `scores` are likelihoods that are none.
    """

    kind: str
    declared: ClassVar[Mapping[str, Any]] = {}
    values: ClassVar[Any]
    wrong: ClassVar[Sequence[Any]] = ()
    scores: ClassVar[Sequence[str]] = ()

    def modality(self) -> Modality:
        """Return the modality of `values`, all of them training rows."""
        part = self.handed(self.values)
        declared = MODALITIES[self.kind].declare("m", {"kind": self.kind, **self.declared}, part, "m")
        every = declared.read(part, np.ones(len(part.values), bool), "m"), torch.ones(len(part.values)).bool()
        return declared.fit(every, [every], "m")

    def handed(self, values: Any) -> Handed:
        """Return values [N, ...] as they are read before the kind sees them."""
        return (read_array if MODALITIES[self.kind].numbers else unpack)(values, "m")

    def raw(self) -> Tensor:
        """Return `values` as raw values [N, *raw_shape]."""
        part = self.handed(self.values)
        return self.modality().read(part, np.ones(len(part.values), bool), "m")

    def grid(self, mean: Tensor, scale: float) -> tuple[Tensor, float]:
        """Return states [N, *shape] around `mean` [*shape] on a grid, here of one coordinate, and its cells' volume."""
        points = torch.linspace(-_SPREADS * scale, _SPREADS * scale, 20_001, dtype=torch.float64)
        return mean.double() + points.view(-1, *[1] * mean.dim()), float(points[1] - points[0])

    def test_it_is_a_row_of_the_table_and_knows_what_it_is_declared_with(self) -> None:
        """A frozen dataclass under its own kind; an unknown key is refused."""
        made = MODALITIES[self.kind]
        assert is_dataclass(made)
        assert made.kind == self.kind
        declared = {"kind": self.kind, **self.declared}
        assert made.declaration_problems("m", declared) == []
        assert any(
            "no_such_key" in problem for problem in made.declaration_problems("m", declared | {"no_such_key": 1})
        )

    def test_raw_values_become_states_and_come_back(self) -> None:
        """States are finite float32 [N, *shape]; `to_raw` of them is what `as_given` returns, to float32's digits."""
        m, raw = self.modality(), self.raw()
        assert tuple(raw.shape[1:]) == tuple(m.raw_shape)
        m.check(raw, torch.ones(len(raw)).bool(), "m")
        state = m.to_state(raw)
        assert (state.dtype, tuple(state.shape[1:])) == (torch.float32, tuple(m.shape))
        assert m.size == state[0].numel()
        assert state.isfinite().all()
        given = m.as_given(raw)
        torch.testing.assert_close(m.to_raw(state), given, rtol=1e-5, atol=1e-5 * float(given.abs().max()))

    def test_wrong_values_are_refused_and_what_is_hidden_may_be_anything(self) -> None:
        """Each of `wrong` by a DataError that says what was got and expected; rows not present are not looked at."""
        m = self.modality()
        for wrong in self.wrong:
            said = ""
            try:
                part = self.handed(wrong)
                there = np.ones(len(part.values), bool)
                m.check(m.read(part, there, "m"), torch.from_numpy(there), "m")
            except DataError as error:
                said = str(error)
            assert "got" in said, wrong
            assert "expected" in said, wrong
        hidden = np.array(self.values, dtype=np.float64 if np.asarray(self.values).dtype.kind == "f" else None)
        there = np.arange(len(hidden)) > 0
        hidden[0] = np.nan if hidden.dtype.kind == "f" else 0
        raw = m.read(self.handed(hidden), there, "m")
        m.check(raw, torch.from_numpy(there), "m")
        assert torch.equal(m.to_state(raw)[1:], m.to_state(self.raw())[1:])

    def test_a_description_in_json_restores_it(self) -> None:
        """By `to_json` and `from_json`; other data have another `repr`, by which data sets are told apart."""
        m = self.modality()
        assert from_json(to_json(m)) == m
        assert "'m'" in repr(m)

    def test_it_shows_itself_as_it_says(self) -> None:
        """Pictures [N, C, H, W] in [0, 1], points [N, 1 or 2], or a text an item."""
        m, raw = self.modality(), self.raw()
        shown = m.show(m.as_given(raw))
        assert len(shown) == len(raw)
        if m.shows == "pictures":
            assert shown.dim() == 4
            assert 0 <= shown.min() <= shown.max() <= 1
        elif m.shows == "points":
            assert shown.dim() == 2
            assert shown.shape[1] <= 2
        else:
            assert m.shows == "text"
            assert all(isinstance(text, str) for text in shown)

    def test_networks_have_their_shapes_and_learn_whole(self) -> None:
        """Encoder, decoder, energy trunks alone and of two together, judge: a gradient reaches every parameter."""
        m, state = self.modality(), self.modality().to_state(self.raw())
        settings, draws = m.networks(), make_generator(0)
        code = torch.randn(len(state), OUT, generator=draws)
        trunk, pair = (m.energy_trunk([m] * n, WIDTH) for n in (1, 2))
        for net, inputs, shape in (
            (m.encoder(OUT, settings), [state], (OUT,)),
            (m.decoder(OUT, settings), [code], m.shape),
            (trunk, [state], (WIDTH,)),
            (pair, [state, state.flip(0)], (WIDTH,)),
            (m.judge_trunk(WIDTH, OUT), [state], (OUT,)),
        ):
            out = net(*inputs)
            assert tuple(out.shape) == (len(state), *shape), type(net)
            (out * torch.randn(out.shape, generator=draws)).sum().backward()
            assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters()), type(net)
        assert m.places >= 1
        assert m.jitter(state, draws).shape == state.shape

    def test_a_corrupted_state_is_a_state_within_the_range_of_the_others(self) -> None:
        """The same generator spoils alike; another one otherwise; nothing else moves, and a missing cell stays so."""
        m, state = self.modality(), self.modality().to_state(self.raw())
        before = state.clone()
        spoilt, again, other = (m.corrupt(state, make_generator(seed)) for seed in (1, 1, 2))
        assert torch.equal(spoilt, again)
        assert not torch.equal(spoilt, other)
        assert torch.equal(state, before)
        assert (spoilt.dtype, spoilt.shape) == (torch.float32, state.shape)
        assert spoilt.isfinite().all()
        torch.testing.assert_close(m.settle(spoilt), spoilt, rtol=1e-4, atol=1e-5)
        slack = 1e-4 * (1 + float(state.abs().max()))
        assert float(spoilt.max()) <= float(state.max()) + slack
        assert float(spoilt.min()) >= float(state.min()) - slack
        if m.lacks_cells:
            gone = torch.zeros_like(state, dtype=torch.bool)
            gone[0] = True
            holes = m.corrupt(state.masked_fill(gone, torch.nan), make_generator(1))
            assert torch.equal(holes.isnan(), gone)

    def test_a_decoded_mean_is_the_state_of_its_raw_values(self) -> None:
        """What a decoder makes can be handed over again, as its user would see it."""
        m = self.modality()
        with torch.no_grad():
            mean = m.decoder(OUT, m.networks())(torch.randn(6, OUT, generator=make_generator(0)))
        torch.testing.assert_close(m.to_state(m.to_raw(mean)), m.seen(mean), rtol=1e-4, atol=1e-5)

    def test_the_likelihood_is_a_density_times_its_weight(self) -> None:
        """It adds up to 1 over a grid, each with every scale; `log_prob` is `weight` times `log_density`."""
        m = self.modality()
        mean = m.to_state(self.raw())[:1]
        for family in [name for name in m.likelihoods if name not in self.scores]:
            for scale in (0.1, 0.5):
                states, volume = self.grid(mean[0], scale)
                like = m.likelihood(family, scale, 2.0)
                density = like.log_density(states, mean.double().expand_as(states))
                assert abs(density.detach().exp().sum().item() * volume - 1) < 1e-3, (family, scale)
                torch.testing.assert_close(like.log_prob(states, mean.double().expand_as(states)), 2 * density)

    def test_a_draw_of_every_likelihood_is_a_state_and_follows_its_mean(self) -> None:
        """Two draws differ with the generator alone; a density has a gradient in the mean and in what it learns."""
        m, state = self.modality(), self.modality().to_state(self.raw())
        mean = m.decoder(OUT, m.networks())(torch.randn(len(state), OUT, generator=make_generator(0)))
        for family, has in m.likelihoods.items():
            like = m.likelihood(family, "learned" if has == "learned" else 0.3, 1.0)
            drawn, again = (like.sample(mean.detach(), make_generator(1)) for _ in range(2))
            assert torch.equal(drawn, again), family
            assert (drawn.dtype, drawn.shape) == (torch.float32, mean.shape), family
            torch.testing.assert_close(m.settle(drawn), drawn, rtol=1e-4, atol=1e-5)
            learned = list(like.parameters()) if isinstance(like, torch.nn.Module) else []
            found = torch.autograd.grad(like.log_density(state, mean).sum(), [mean, *learned], retain_graph=True)
            assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in found), family

    def test_draws_of_a_likelihood_have_its_density(self) -> None:
        """Their mean log density is that of the density itself, over the grid; false alarm < 1e-4."""
        m, n = self.modality(), 4000
        mean = m.to_state(self.raw())[:1]
        states, volume = self.grid(mean[0], 0.5)
        for family in [name for name in m.likelihoods if name not in self.scores]:
            like = m.likelihood(family, 0.5, 2.0)
            with torch.no_grad():
                of_grid = like.log_density(states, mean.double().expand_as(states))
                means = mean.expand(n, *m.shape)
                drawn = like.log_density(like.sample(means, make_generator(0)), means)
            expected = float((of_grid.exp() * of_grid).nan_to_num().sum()) * volume
            assert abs(float(drawn.mean()) - expected) < 4 * float(drawn.std()) / n**0.5 + 1e-3, family

    def test_what_is_predicted_right_has_the_least_error_and_regression_predicts(self) -> None:
        """The first of `errors` of the truth itself is at most that of the mean; `regress` gives finite numbers."""
        m, judged = self.modality(), self.modality().judged(self.modality().to_state(self.raw()))
        at, spread = judged.mean(0), judged.std(0, correction=0)
        errors = m.errors(judged, judged, spread)
        mean = m.errors(judged, at.expand_as(judged), spread)
        assert errors.keys() == mean.keys()
        assert all(of.shape[0] == len(judged) and of.dim() == 2 for of in errors.values())
        first = next(iter(errors))
        assert errors[first].nanmean() <= mean[first].nanmean()
        x, y = np.linspace(-1, 1, 2 * len(judged)).reshape(len(judged), 2), judged.flatten(1).double().numpy()
        found = m.regress(x, y, x[:3])
        assert found.shape == (3, y.shape[1])
        assert np.isfinite(found).all()

    def test_a_chain_ends_in_a_state(self) -> None:
        """Real states stay where they are; moved ones become what they stay."""
        m, state = self.modality(), self.modality().to_state(self.raw())
        torch.testing.assert_close(m.settle(m.relax(state)), state)
        moved = m.relax(state)
        settled = m.settle(moved + 0.1 * torch.randn(moved.shape, generator=make_generator(0)))
        assert settled.shape == state.shape
        assert settled.isfinite().all()
        torch.testing.assert_close(m.settle(m.relax(settled)), settled)
        torch.testing.assert_close(m.seen(m.seen(settled)), m.seen(settled))

    def test_a_chain_may_start_from_noise(self) -> None:
        """Finite, in the shape of states, a function of the generator alone."""
        m, state = self.modality(), self.modality().to_state(self.raw())
        one, other = (m.noise(x, make_generator(0)) for x in (state, torch.full_like(state, torch.nan)))
        assert one.shape == state.shape
        assert one.isfinite().all()
        assert torch.equal(one, other)
