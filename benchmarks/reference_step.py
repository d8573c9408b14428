"""The cooperative step as one writes it down from the paper: the yardstick of `cooperative_step.py`.

float32, NCHW, eager; spectral norm computed anew in every call, those of the chains included; parameters keep asking
for gradients in the chains; every term of every loss has its own forward pass; convolution and pooling one after the
other. Networks, settings, update rule and draws are those of the library, so the losses must be equal as well.

Algorithm of section 6 of arXiv 2605.00644's reconstruction plus what the presets set: the ELBO anchor, the energy
prior, the energy's penalty and gate, the steered displacement. Not covered (ConfigError): see `check_covered`.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multiebm.core.batch import Batch
from multiebm.core.errors import ConfigError
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.core.tree import per_item
from multiebm.experiments.schema import Experiment
from multiebm.models.chains import Displaced
from multiebm.models.inference import SHARED, Latents
from multiebm.models.model import MultimodalModel
from multiebm.nn.blocks import SLOPE, EnergyBlock, ResidualBlock
from multiebm.nn.pictures import Crop, PictureDecoder
from multiebm.nn.precision import Mixed
from multiebm.objectives.vae import bound_loss, draw
from multiebm.priors.energy import EnergyPrior
from multiebm.training.phases.cooperative import STRATIFIED, Cooperative
from multiebm.training.phases.energy import DISPLACEMENT_MIN, STEER_RATE
from multiebm.training.state import TrainState


class PlainEnergyBlock(nn.Module):
    """The layers of an EnergyBlock, one after the other as printed."""

    def __init__(self, block: EnergyBlock) -> None:
        super().__init__()
        self.down, self.head = block.down, block.head
        self.c0, self.c1, self.skip = block.c0, block.c1, block.skip

    def forward(self, x: Tensor) -> Tensor:
        a = self.c1(F.relu(self.c0(x if self.head else F.relu(x))))
        if self.down:
            a, x = F.avg_pool2d(a, 2), F.avg_pool2d(x, 2)
        return a + self.skip(x)


class PlainBlock(nn.Module):
    """The layers of a ResidualBlock, as printed, on a map that has been doubled before."""

    def __init__(self, block: ResidualBlock) -> None:
        super().__init__()
        self.residual, self.up = block.residual, block.up
        self.c0, self.c1, self.shortcut = block.c0, block.c1, block.shortcut

    def forward(self, x: Tensor) -> Tensor:
        x = F.interpolate(x, scale_factor=2) if self.up else x
        y = self.c1(F.leaky_relu(self.c0(F.leaky_relu(x, SLOPE)), SLOPE))
        return self.shortcut(x) + self.residual * y


class PlainDecoder(nn.Module):
    """The layers of a PictureDecoder, in NCHW; odd maps of plain convolutions are made directly."""

    def __init__(self, decoder: PictureDecoder) -> None:
        super().__init__()
        self.first, self.bounded, self.activation = decoder.first, decoder.bounded, decoder.activation
        self.linear = decoder.linear
        self.net = nn.Sequential(*(layer for layer in decoder.net if not isinstance(layer, Crop)))
        for layer, after in zip(decoder.net, [*decoder.net, None][1:], strict=False):
            if isinstance(after, Crop):
                layer.output_padding = (0, 0)

    def forward(self, z: Tensor) -> Tensor:
        x = self.net(self.activation(self.linear(z).unflatten(1, self.first)))
        return x.tanh() if self.bounded else x


def plain_copy(model: MultimodalModel) -> MultimodalModel:
    """Return a copy with the same weights whose networks compute in float32 and NCHW, with nothing fused."""
    return _plain(copy.deepcopy(model)).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def _plain(module: nn.Module) -> Any:
    for name, child in module.named_children():
        setattr(module, name, _plain(child))
    if isinstance(module, Mixed):
        return module.net
    known = {
        EnergyBlock: PlainEnergyBlock,
        ResidualBlock: PlainBlock,
        PictureDecoder: PlainDecoder,
    }
    return known.get(type(module), lambda same: same)(module)


def reference_state(experiment: Experiment, model: MultimodalModel) -> TrainState[MultimodalModel]:
    """Return a state on a plain copy of `model` with torch's default Adam and the rates of the cooperative phase."""
    plain, o = plain_copy(model), experiment.training.optimiser
    prior = plain.generator.prior.own_parameters()
    tilt = {id(p) for p in prior}
    generator = [p for p in plain.generator.parameters() if id(p) not in tilt]
    cooperative = experiment.training.phase("cooperative")
    betas, scale = (cooperative.beta1, o.betas[1]), cooperative.rate
    optimisers: dict[str, torch.optim.Optimizer] = {
        "generator": torch.optim.Adam(generator, o.generator * scale, betas, weight_decay=o.weight_decay),
        "inference": torch.optim.Adam(
            plain.inference.parameters(), o.inference * scale, betas, weight_decay=o.weight_decay
        ),
        "energy": torch.optim.Adam(plain.energy.parameters(), o.energy, betas),
    }
    if prior:
        optimisers["prior"] = torch.optim.Adam(prior, o.prior, (0.5, 0.999))
    draws = make_generator(experiment.seed + 1)
    return TrainState(plain, optimisers, draws, None)  # type: ignore[arg-type]


def check_covered(settings: Cooperative) -> None:
    """Raise ConfigError for settings that this file does not write out."""
    covered = {"prior_codes": "refined", "inference": 1.0}
    for name, expected in covered.items():
        if (got := getattr(settings, name)) != expected:
            raise ConfigError(f"reference step: {name}: got {got!r}, expected {expected!r}; time another preset")
    if settings.synthetic == "balance":
        raise ConfigError("reference step: synthetic: got 'balance', expected a number; time another preset")


def reference_step(state: TrainState, batch: Batch, settings: Cooperative) -> dict[str, float]:
    """One cooperative step on complete items, the data chain run again for the energy where `negatives` is refresh."""
    model, generator = state.model, state.rng
    z = prior_sample(model, len(batch.present), generator, model.generator.temperature)
    z |= model.generator.sample_private(len(batch.present), generator)
    with torch.no_grad():
        x0 = model.generator(z)
    revised = data_chain(model, x0, generator)
    with torch.no_grad():
        start, _ = model.inference(batch).sample(generator)
    codes = latent_chain(model, start, batch.views, generator)
    metrics = {"energy/generated": model.energy(x0).mean().item()}
    metrics |= update_generator_and_inference(state, batch, z, revised, codes, settings)
    if isinstance(model.generator.prior, EnergyPrior):
        own = z if model.generator.temperature == 1 else prior_sample(model, len(batch.present), generator)
        _step(state, model.generator.prior.loss(codes[SHARED], own[SHARED]), "prior")
    if settings.negatives == "refresh":
        with torch.no_grad():
            x0 = model.generator(z)
        revised = data_chain(model, x0, generator)
    return metrics | update_energy(state, batch, revised)


def prior_sample(model: MultimodalModel, n: int, generator: torch.Generator, temperature: float = 1.0) -> Latents:
    """Draw the shared latent, by the prior's Langevin chain if it is an energy prior."""
    prior = model.generator.prior
    if not isinstance(prior, EnergyPrior):
        return {SHARED: prior.sample(n, generator, temperature)}
    z, noise = prior.base.sample(n, generator, temperature), temperature**0.5 * prior.step_size
    for _ in range(prior.steps):
        z = z.detach().requires_grad_()
        grad = torch.autograd.grad(prior.log_prob(z).sum(), z)[0]
        z = z + 0.5 * prior.step_size**2 * grad + noise * torch.randn(z.shape, generator=generator)
    return {SHARED: z.detach()}


def data_chain(model: MultimodalModel, views: Views, generator: torch.Generator) -> Views:
    """Eq. (3), or moves of fixed length along the gradient; evaluation mode, so that no power iteration is made."""
    chain, size = model.data_chain, sum(m.size for m in model.modalities.values())
    model.energy.eval()
    x = {name: view.detach() for name, view in views.items()}
    for _ in range(chain.steps):
        x = {name: view.detach().requires_grad_() for name, view in x.items()}
        grads = dict(zip(x, torch.autograd.grad(-model.energy(x).sum(), list(x.values())), strict=True))
        if isinstance(chain, Displaced):
            norm = sum(g.square().flatten(1).sum(1) for g in grads.values()).sqrt().clamp_min(1e-12)
            factor = model.displacement * size**0.5 / norm
        else:
            if isinstance(chain.step_size, str):
                raise ConfigError(
                    "reference step: model.data_chain.step_size: got 'steered', expected a number; time another preset"
                )
            factor = torch.full((len(next(iter(x.values()))),), 0.5 * chain.step_size**2)
        noise = {name: torch.randn(view.shape, generator=generator) for name, view in x.items()}
        x = {n: x[n] + per_item(factor, x[n]) * grads[n] + chain.noise_scale * noise[n] for n in x}
    model.energy.train()
    return {name: view.detach() for name, view in x.items()}


def latent_chain(model: MultimodalModel, latents: Latents, views: Views, generator: torch.Generator) -> Latents:
    """Eq. (8) with every part observed."""
    chain, g = model.latent_chain, model.generator
    noise_scale = chain.step_size
    z = dict(latents)
    for _ in range(chain.steps):
        z = {name: value.detach().requires_grad_() for name, value in z.items()}
        log_joint = g.log_likelihood(views, g(z)).sum(1) + g.prior.log_prob(z[SHARED])
        for name in model.modalities:
            if name in z:
                log_joint = log_joint + g.private_priors[name].log_prob(z[name])
        grads = dict(zip(z, torch.autograd.grad(log_joint.sum(), list(z.values())), strict=True))
        noise = {name: torch.randn(value.shape, generator=generator) for name, value in z.items()}
        z = {name: z[name] + 0.5 * chain.step_size**2 * grads[name] + noise_scale * noise[name] for name in z}
    return {name: value.detach() for name, value in z.items()}


def update_generator_and_inference(
    state: TrainState, batch: Batch, z: Latents, revised: Views, codes: Latents, settings: Cooperative
) -> dict[str, float]:
    """Eqs. (11), (12) and the anchor: one forward pass per term, those of weight 0 left out."""
    model, complete = state.model, torch.ones_like(batch.present)
    decode, log_likelihood = model.generator, model.generator.log_likelihood
    generator_loss = -settings.synthetic * log_likelihood(revised, decode(z)).sum(1).mean()
    if settings.reconstruction:
        reconstruction = log_likelihood(batch.views, decode(codes)).sum(1).mean()
        generator_loss = generator_loss - settings.reconstruction * reconstruction
    inference_loss = -model.inference(batch).log_prob(codes, complete).mean()
    if settings.inference_synthetic:
        synthetic = model.inference(Batch(revised, complete)).log_prob(z, complete).mean()
        inference_loss = inference_loss - settings.inference_synthetic * synthetic
    metrics = {"loss/generator": generator_loss.item(), "loss/inference": inference_loss.item()}
    total = generator_loss + inference_loss
    if settings.anchor:
        base, posterior = model.generator.prior.for_bound(learns=False), model.inference(batch)
        drawn = draw(model.generator, base, posterior, batch, state.rng, STRATIFIED)
        log_px = log_likelihood(batch.views, decode({key: value[0, 0] for key, value in drawn.latents.items()}))
        anchor = bound_loss(log_px[None, None], drawn, base, posterior, complete, STRATIFIED, 1.0)
        metrics["loss/anchor"] = anchor.item()
        total = total + settings.anchor * anchor
    _step(state, total, "generator", "inference")
    return metrics


def update_energy(state: TrainState, batch: Batch, revised: Views) -> dict[str, float]:
    """Eq. (10) with penalty and gate, and the sign rule that steers the displacement."""
    model = state.model
    real, fake = model.energy(batch.views), model.energy(revised)
    gap = (real.mean() - fake.mean()).item()
    squares = real.square().mean() + fake.square().mean()
    loss = real.mean() - fake.mean() + model.energy.penalty * squares
    if not 0 < model.energy.gate < -gap:
        _step(state, loss, "energy")
    if isinstance(model.data_chain, Displaced):
        moved = model.displacement * torch.exp(torch.tensor(STEER_RATE if gap < 0 else -STEER_RATE))
        model.displacement.copy_(moved.clamp(DISPLACEMENT_MIN, model.data_chain.displacement_max))
    return {"loss/energy": loss.item(), "energy/data": real.mean().item(), "energy/gap": gap}


def _step(state: TrainState, loss: Tensor, *names: str) -> None:
    for name in names:
        state.optimisers[name].zero_grad()
    loss.backward()
    for name in names:
        state.optimisers[name].step()
