"""What every row of the table of multimodal VAEs, and every phase of training, has to do: see `multiebm.testing`.

Test classes to inherit, on small data of two vectors and a picture, with small networks.
"""

import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from multiebm.core.batch import Batch, mask_views
from multiebm.core.errors import DataError
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.experiments.baselines import Baseline, lay_row
from multiebm.experiments.build import build_model, build_state
from multiebm.experiments.saved import from_pretrained
from multiebm.experiments.schema import Experiment, contradictions
from multiebm.experiments.values import merge
from multiebm.modalities import Modality, Picture, Vector
from multiebm.models.inference import SHARED
from multiebm.models.model import MultimodalModel
from multiebm.objectives.vae import vae_loss
from multiebm.training.phases import PHASES
from multiebm.training.phases.phase import Phase
from multiebm.training.phases.settle import settling, take_average
from multiebm.training.steps import TrainingStep, total_steps

ITEMS, LEARNING_STEPS = 6, 20
PARTS: dict[str, Modality] = {
    "face": Picture("face", (3, 8, 8)),
    "left": Vector("left", (2,)),
    "right": Vector("right", (3,)),
}
SMALL = {
    "model": {"shared": 4, "networks": {"picture": {"width": 4}, "vector": {"width": 8}}},
    "training": {"precision": "fp32"},
}


def small_experiment(baseline: Baseline) -> Experiment:
    """Return the row on small networks, private latents of size 2 where it has any, at most 2 importance samples."""
    cells = merge(lay_row({}, baseline), SMALL)
    model, bound = cells["model"], cells["training"]["phases"][0]
    bound["samples"] = min(2, bound["samples"])
    model["private"] = min(2, model["private"])
    if model["prior"]["kind"] == "energy":
        model["prior"] = model["prior"] | {"width": 8, "layers": 1, "steps": 4}
    if model["prior"].get("components"):
        model["prior"] = model["prior"] | {"components": 3}
    return Experiment.model_validate(cells)


def raw_views(seed: int = 0) -> Views:
    """Return ITEMS raw items [N, ...]: pictures in [0, 1], vectors about standard normal."""
    draws = make_generator(seed)
    views = {name: torch.randn(ITEMS, *m.shape, generator=draws) for name, m in PARTS.items()}
    return {name: view.sigmoid() if PARTS[name].shows == "pictures" else view for name, view in views.items()}


def small_batch(present: Tensor | None = None, hidden: float = 0.0) -> Batch:
    """Return the items as training sees them, `present` [N, M] or all; elsewhere the data hold `hidden`."""
    present = torch.ones(ITEMS, len(PARTS), dtype=torch.bool) if present is None else present
    views = {name: PARTS[name].to_state(view) for name, view in raw_views().items()}
    for i, view in enumerate(views.values()):
        view[~present[:, i]] = hidden
    return Batch(mask_views(views, present), present)


class BaselineContract:
    """Set `baseline` in a subclass."""

    baseline: Baseline

    def experiment(self) -> Experiment:
        """Return the row on small networks."""
        return small_experiment(self.baseline)

    def model(self, seed: int = 0) -> MultimodalModel:
        """Return a fresh model of the row."""
        return build_model(self.experiment().model, PARTS, seed)

    def loss(self, model: MultimodalModel, batch: Batch) -> Tensor:
        """Return the training loss, shape []."""
        bound, prior = self.experiment().training.phase("bound"), model.generator.prior.for_bound(learns=False)
        posterior, rng = model.inference(batch), make_generator(1)
        return vae_loss(model.generator, prior, posterior, batch, rng, bound, bound.beta)[0]

    def answers(self, views: Views, present: Tensor | None = None) -> list[Tensor]:
        """Return completions and codes of raw items [N, ...], present [N, M], from fresh weights."""
        model = self.model()
        return [*model.impute(views, present=present, seed=2).values(), model.encode(views, present)]

    def holes(self) -> Tensor:
        """Return a mask [N, M] with every part hidden somewhere and one item of which nothing is present."""
        present = torch.ones(ITEMS, len(PARTS), dtype=torch.bool)
        present[0, 0] = present[1, 1] = present[2, 2] = present[3, 1] = present[3, 2] = False
        present[4] = False
        return present

    def test_samples_have_their_shapes_and_depend_on_the_seed_and_the_item_alone(self) -> None:
        """`sample` on fresh weights."""
        model = self.model()
        four, two, other = model.sample(4, seed=3), model.sample(2, seed=3), model.sample(4, seed=4)
        for name, part in PARTS.items():
            assert four[name].shape == (4, *part.shape), name
            torch.testing.assert_close(four[name][:2], two[name])
            assert not torch.equal(four[name], other[name]), name

    def test_every_subset_completes_to_all_parts_and_what_was_given_comes_back(self) -> None:
        """`impute` from each non-empty subset; its own parts are returned as they were."""
        model, views = self.model(), raw_views()
        names = list(PARTS)
        for bits in range(1, 2 ** len(names)):
            given = {name: views[name] for i, name in enumerate(names) if bits >> i & 1}
            completed = model.impute(given, seed=1)
            assert list(completed) == names
            for name, part in given.items():
                assert torch.equal(completed[name], PARTS[name].as_given(part)), name
            assert all(view.isfinite().all() for view in completed.values()), list(given)

    def test_what_is_hidden_changes_nothing_not_even_if_it_is_nan(self) -> None:
        """Completions and codes of masked items, once with NaN behind the mask and once with zeros."""
        present, clean, spoilt = self.holes(), raw_views(), raw_views()
        for i, name in enumerate(PARTS):
            clean[name][~present[:, i]] = 0
            spoilt[name][~present[:, i]] = torch.nan
        for one, other in zip(self.answers(clean, present), self.answers(spoilt, present), strict=True):
            assert torch.equal(one, other)

    def test_a_part_that_is_hidden_in_every_item_is_a_part_that_was_not_given(self) -> None:
        """Completions, codes and likelihoods, for each part in turn."""
        model, views = self.model(), raw_views()
        for i, name in enumerate(PARTS):
            present = torch.ones(ITEMS, len(PARTS), dtype=torch.bool)
            present[:, i] = False
            rest = {other: view for other, view in views.items() if other != name}
            masked, dropped = self.answers(views, present), self.answers(rest)
            masked.append(model.log_likelihood(views, present=present, samples=5))
            dropped.append(model.log_likelihood(rest, samples=5))
            assert all(map(torch.equal, masked, dropped)), name

    def test_an_item_with_nothing_given_gets_a_draw_of_the_prior(self) -> None:
        """Its z is what the prior's `sample` returned; its code is the mean of the standard density, 0."""
        model, drawn = self.model(), []
        prior = model.generator.prior
        own = prior.sample

        def sample(*arguments: object) -> Tensor:
            drawn.append(own(*arguments))  # type: ignore[arg-type]
            return drawn[-1]

        prior.sample = sample  # type: ignore[method-assign,assignment]
        latents = model.infer_latents(small_batch(self.holes()), make_generator(2))
        assert torch.equal(latents[SHARED][4], drawn[-1][0])
        code = model.encode(raw_views(), self.holes())
        torch.testing.assert_close(code[4], torch.zeros_like(code[4]))

    def test_an_item_with_nothing_given_teaches_nothing(self) -> None:
        """The loss of a batch of such items is 0, and so is every gradient, that of a learned prior too."""
        model = self.model()
        if self.experiment().model.inference.subsets == "joint":
            return
        loss = self.loss(model, small_batch(torch.zeros(ITEMS, len(PARTS), dtype=torch.bool)))
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())

    def test_gradients_reach_every_parameter_of_the_row(self) -> None:
        """One backward pass of the loss on complete items, and of a tilt's own; none is left out, all are finite."""
        model = self.model()
        self.loss(model, small_batch()).backward()
        prior = model.generator.prior
        if own := prior.own_parameters():
            assert all(p.grad is None for p in own)
            prior.loss(torch.ones(ITEMS, prior.dim), prior.sample(ITEMS, make_generator(2))).backward()
        unused = "" if self.experiment().training.phase("bound").unseen == "auxiliary" else "auxiliary_log_scale"
        asked = [(n, p) for n, p in model.named_parameters() if not unused or unused not in n]
        silent = [n for n, p in asked if p.grad is None or not p.grad.abs().sum() > 0]
        assert not silent
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_training_lowers_the_loss(self) -> None:
        """LEARNING_STEPS steps of training on one batch; the loss before and after with the same draws."""
        experiment, batch = self.experiment(), small_batch()
        state = build_state(experiment, self.model(), None)  # type: ignore[arg-type]
        before = self.loss(state.model, batch).item()
        step = TrainingStep(experiment.training.phases, experiment.training.optimiser)
        for _ in range(LEARNING_STEPS):
            step(state, batch)
            state.step += 1
        assert self.loss(state.model, batch).item() < before

    def test_training_with_parts_missing_is_finite_or_refused_with_the_reason(self) -> None:
        """The loss and its gradients with holes in the batch, the same if these are NaN in the data; a joint encoder
        says that it needs complete items.
        """
        model = self.model()
        if self.experiment().model.inference.subsets == "joint":
            said = ""
            try:
                self.loss(model, small_batch(self.holes()))
            except DataError as error:
                said = str(error)
            assert "expected complete items" in said
            return
        results = []
        for hidden in (0.0, torch.nan):
            model.zero_grad()
            loss = self.loss(model, small_batch(self.holes(), hidden))
            loss.backward()
            assert loss.isfinite()
            assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
            results.append([loss, *(p.grad for p in model.parameters() if p.grad is not None)])
        assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))

    def test_a_likelihood_is_estimated_for_all_parts_and_given_some(self) -> None:
        """log p(A, B) = log p(A | B) + log p(B), with the estimates' own draws."""
        model, views = self.model(), raw_views()
        whole = model.log_likelihood(views, samples=20, seed=1)
        rest = model.log_likelihood(views, given=["left"], samples=20, seed=1)
        part = model.log_likelihood({"left": views["left"]}, samples=20, seed=2)
        assert whole.shape == (ITEMS,)
        torch.testing.assert_close(rest, whole - part, atol=1e-3, rtol=1e-4)
        assert model.score(views).isfinite().all()

    def test_a_saved_model_loads_to_the_same_samples_and_completions(self) -> None:
        """`save_pretrained`, `from_pretrained`."""
        model = self.model()
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(Path(folder) / "model")
            again = from_pretrained(Path(folder) / "model")
        given = {"left": raw_views()["left"]}
        one, other = ([m.sample(3, seed=5), m.impute(given, seed=5)] for m in (model, again))
        assert all(torch.equal(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in PARTS)


@dataclass(frozen=True)
class _Again:
    """A stream that gives one batch again and again."""

    batch: Batch

    def __next__(self) -> Batch:
        return self.batch

    def state_dict(self) -> dict[str, int]:
        """Return how many rows there are."""
        return {"epoch": 0, "position": 0, "batch_size": ITEMS, "rows": ITEMS}


class PhaseContract:
    """Set `phase`, such as `Bound(steps=5)`; it trains a small model with an energy prior and energies."""

    phase: Phase

    def experiment(self) -> Experiment:
        """Return the phase alone on a small model."""
        prior = {"kind": "energy", "components": 2, "width": 8, "layers": 1, "steps": 4}
        model = {"private": 2, "private_components": 2, "energy": {"width": 8}, "prior": prior}
        model |= {"interaction": {"kind": "pair"}}
        cells = {"model": model, "training": {"phases": [asdict(self.phase)]}}
        return Experiment.model_validate(merge(SMALL, cells))

    def train(self, present: Tensor | None = None) -> set[str]:
        """Return the parts that two steps moved, or the settling after the last; all that comes of it is finite."""
        experiment = self.experiment()
        model = build_model(experiment.model, PARTS, 0)
        batch = small_batch(present)
        state = build_state(experiment, model, _Again(batch))  # type: ignore[arg-type]
        before = {name: value.clone() for name, value in model.state_dict().items()}
        step = TrainingStep(experiment.training.phases, experiment.training.optimiser)
        for _ in range(min(2, total_steps(experiment.training.phases))):
            assert all(map(math.isfinite, step(state, batch).values()))
            state.step += 1
        if self.phase.is_last:
            take_average(state, settling(experiment.training.phases, 1e-3, {}), share=0.1)
        moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert all(value.isfinite().all() for value in model.state_dict().values())
        return {name.split(".")[0] for name in moved}

    def test_it_is_a_row_of_the_table_whose_settings_do_not_contradict_themselves(self) -> None:
        """By its kind; and it goes with the small model."""
        assert PHASES[self.phase.kind] is type(self.phase)
        assert contradictions(self.experiment()) == []

    def test_a_step_changes_weights_and_gives_finite_numbers(self) -> None:
        """Two steps on complete items."""
        assert self.train()

    def test_parts_may_be_missing(self) -> None:
        """Two steps on items of which each lacks a part, and one lacks all."""
        present = torch.ones(ITEMS, len(PARTS), dtype=torch.bool)
        present[torch.arange(ITEMS), torch.arange(ITEMS) % len(PARTS)] = False
        present[0] = False
        self.train(present)

    def test_rates_are_positive_along_its_way(self) -> None:
        """The factor at its first and its last step."""
        assert all(self.phase.factor(done) > 0 for done in (0, max(0, self.phase.steps - 1)))
