"""Small models, data and judges whose coherences are known; they obey the state-space methods of `MultimodalModel`.

A view is a vector of 12: a one-hot class, the number of the test item, and a mark that makes `ExactJudges` misread it.
"""

from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from multiebm.core.random import rand, randn
from multiebm.core.tree import randn_tree
from multiebm.data.dataset import MultimodalDataset, Split
from multiebm.distributions.families import FAMILIES, NORMAL
from multiebm.distributions.likelihoods import Likelihood
from multiebm.distributions.mixture import Mixture
from multiebm.modalities import Vector
from multiebm.priors.standard import StandardPrior

SIZE = 12
ITEM, MARK = 10, 11


def known_dataset(n: int = 300, names: tuple[str, ...] = ("a", "b", "c"), marked: float = 0.1, labels: bool = True):
    generator = torch.Generator().manual_seed(5)
    classes = torch.arange(n) % 10
    views = {}
    for name in names:
        view = torch.zeros(n, SIZE)
        view[:, :10] = one_hot(classes, 10).float()
        view[:, ITEM] = torch.arange(n)
        view[:, MARK] = (torch.rand(n, generator=generator) < marked).float()
        views[name] = view
    split = Split(views, torch.ones(n, len(names), dtype=torch.bool), classes if labels else None)
    modalities = {name: Vector(name, (SIZE,)) for name in names}
    return MultimodalDataset("known", modalities, split, split, 10 if labels else None, "", "fingerprint")


class ExactJudges:
    """Read the one-hot class, one too high where the mark is set; features are the view itself."""

    def __init__(self, dataset: MultimodalDataset) -> None:
        read = self.predict({name: view[:] for name, view in dataset.test.views.items()})
        labels = dataset.test.views[next(iter(read))][:, :10].argmax(1)
        self.accuracy = {name: float((label == labels).double().mean()) for name, label in read.items()}

    def predict(self, views):
        return {name: (view[:, :10].argmax(1) + (view[:, MARK] > 0.5).long()) % 10 for name, view in views.items()}

    def features(self, views):
        return {name: view[:, :10] for name, view in views.items()}


class GaussianCodes:
    """q(z | X) = N(gain times the class that is shown, one-hot, scale^2)."""

    def __init__(self, gain: float = 1.0, scale: float = 0.5) -> None:
        self.gain, self.scale = gain, scale

    def given(self, batch):
        loc = self.gain * torch.stack([view[:, :10] for view in batch.views.values()]).amax(0)[None]
        members = torch.ones(1, len(batch.views), dtype=torch.bool)
        scale = torch.full_like(loc, self.scale)
        return SimpleNamespace(shared=Mixture(loc, scale, torch.zeros_like(loc[..., 0]), members, FAMILIES["normal"]))


class StandIn(nn.Module):
    """What the stand-ins share; without an energy unless told, which then has learned."""

    diffusion = None

    def __init__(self, dataset: MultimodalDataset, energy: object | None = None) -> None:
        super().__init__()
        self.modalities = dataset.modalities
        self.dataset = dataset
        self.has_energy = energy
        self.energy_learned = energy is not None
        self.interaction_learned = False
        self.inference = GaussianCodes()
        likelihoods = {name: Likelihood(NORMAL, 0.5) for name in dataset.modalities}
        self.generator = SimpleNamespace(prior=StandardPrior("normal", 10), likelihoods=likelihoods, temperature=1.0)
        self.calls: list[tuple[str, int]] = []
        self.clamps: list[Tensor | None] = []

    @property
    def device(self):
        return torch.device("cpu")

    @property
    def energy(self):
        return self.has_energy

    def match_states(self, batch):
        classes = torch.stack([view.flatten(1)[:, :10].argmax(1) for view in batch.views.values()], 1)
        return -(classes - classes[:, :1]).abs().sum(1).float()

    score_states = match_states

    def likeliest(self, means):
        return means

    def refined_samples(self, latents, generator, temperature):
        return self.refine_data(self.decode(latents), generator)[0]

    def refined_fill(self, batch, generator):
        views = batch.filled(self.decode(self.infer_latents(batch, generator)))
        return self.refine_data(views, generator, clamp=batch.there())[0]

    def refine_data(self, views, generator, steps=None, clamp=None):
        self.clamps.append(clamp)
        return views, None


class Oracle(StandIn):
    """Returns the real tuple of which it was shown a part."""

    def sample_latents(self, n, generator, temperature=None):
        return {"shared": (rand(generator, (n, 1), torch.zeros(1)) * len(self.dataset.test)).floor()}

    def decode(self, latents, wanted=None):
        return {name: view[latents["shared"][:, 0].long()] for name, view in self.dataset.test.views.items()}

    def infer_latents(self, batch, generator, latent_steps=0, posterior=None):
        self.calls.append((",".join(n for n, p in zip(batch.views, batch.present[0], strict=True) if p), latent_steps))
        return {"shared": torch.stack([view[:, ITEM] for view in batch.views.values()], 1).amax(1, keepdim=True)}


def drawn_view(classes: Tensor) -> Tensor:
    view = torch.zeros(len(classes), SIZE)
    view[:, :10] = one_hot(classes, 10).float()
    return view


class RandomClasses(StandIn):
    """Draws an independent uniform class for every modality, whatever it is shown."""

    def sample_latents(self, n, generator, temperature=None):
        return {"shared": rand(generator, (n, len(self.modalities)), torch.zeros(1))}

    def infer_latents(self, batch, generator, latent_steps=0, posterior=None):
        return self.sample_latents(len(batch.present), generator)

    def decode(self, latents, wanted=None):
        classes = (latents["shared"] * 10).long()
        return {name: drawn_view(classes[:, i]) for i, name in enumerate(self.modalities)}


class ConstantClass(RandomClasses):
    """Always draws the class 1 in every modality."""

    def decode(self, latents, wanted=None):
        n = len(latents["shared"])
        return {name: drawn_view(torch.ones(n, dtype=torch.int64)) for name in self.modalities}


class Wobbly(StandIn):
    """Linear-tanh decoders from 8 latents, a noisy gradient step as data chain: numbers depend on every draw."""

    def __init__(self, dataset: MultimodalDataset) -> None:
        super().__init__(dataset, energy="an energy")
        generator = torch.Generator().manual_seed(3)
        self.weights = {name: torch.randn(8, SIZE, generator=generator) for name in dataset.modalities}

    def sample_latents(self, n, generator, temperature=None):
        return {"shared": randn(generator, (n, 8), torch.zeros(1)), "a": randn(generator, (n, 2), torch.zeros(1))}

    def infer_latents(self, batch, generator, latent_steps=0, posterior=None):
        seen = torch.stack(list(batch.views.values())).sum(0)[:, :8]
        return {"shared": seen + 0.7 * randn(generator, seen.shape, seen), "a": randn(generator, (len(seen), 2), seen)}

    def decode(self, latents, wanted=None):
        return {name: torch.tanh(latents["shared"] @ weight) for name, weight in self.weights.items()}

    def refine_data(self, views, generator, steps=None, clamp=None):
        noise = randn_tree(generator, views)
        moved = {name: view - 0.1 * view + 0.3 * noise[name] for name, view in views.items()}
        if clamp is None:
            return moved, None
        return {n: torch.where(clamp[n], views[n], v) for n, v in moved.items()}, None
