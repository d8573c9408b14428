"""Small models, batches and states that the exact tests share; a function of the seed alone."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from multiebm.core.batch import Batch
from multiebm.core.names import Views
from multiebm.core.random import make_generator
from multiebm.experiments.build import build_model
from multiebm.experiments.schema import ModelSection
from multiebm.modalities import Modality, Picture, Vector
from multiebm.models.inference import Encoder, InferenceModel
from multiebm.models.model import MultimodalModel
from multiebm.models.use import check_parts
from multiebm.nn.precision import set_precision
from multiebm.objectives.vae import BoundSettings, Draw, bound_loss, draw
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.phase import Phase
from multiebm.training.state import TrainState
from multiebm.training.steps import OptimiserSettings, make_optimisers

# The algorithm as printed in the paper, with nothing added.
LITERAL = Cooperative(anchor=0.0, reconstruction=1.0, synthetic=1.0, inference_synthetic=0.1, negatives="reuse")


def vectors(**sizes: int) -> dict[str, Modality]:
    return {name: Vector(name, (size,)) for name, size in sizes.items()}


def mixed(size: int = 8) -> dict[str, Modality]:
    """A picture and two vectors."""
    return {"face": Picture("face", (3, size, size)), **vectors(left=2, right=3)}


def make_batch(
    modalities: dict[str, Modality], parts: Any, present: Any = None, device: torch.device | None = None
) -> Batch:
    """The states of raw `parts` [B, ...], as a model's users hand them over."""
    return check_parts(modalities, parts, present).batch(modalities, device=device)


def small_model(modalities: dict[str, Modality], seed: int = 0, **sections: Any) -> MultimodalModel:
    """A model in fp32 with networks a few units wide; `sections` replace entries of the model section."""
    base: dict[str, Any] = {
        "shared": 3,
        "private": 2,
        "family": "normal",
        "prior": {"kind": "normal"},
        "networks": {"picture": {"width": 4}, "vector": {"width": 12}},
        "likelihood": {"scale": 0.5},
        "energy": {"width": 8, "fusion": "late"},
        "data_chain": {"steps": 3, "kind": "displaced", "noise_scale": 0.001},
        "latent_chain": {"steps": 3, "step_size": 0.1},
    }
    given = base | sections
    given["data_chain"] = {"kind": "displaced"} | given["data_chain"]
    if given["energy"] is not None:
        given["energy"] = {"penalty": 0, "gate": 0} | given["energy"]
    model = build_model(ModelSection.model_validate(given), modalities, seed)
    model.energy_steps.fill_(1)  # as if trained: what is asked of an energy that has learned may be asked of it
    return model


def energy_prior(**settings: Any) -> dict[str, Any]:
    return {"kind": "energy", "width": 8, "layers": 1, "steps": 4, "step_size": 0.4} | settings


def make_state(model: MultimodalModel, seed: int = 0) -> TrainState[MultimodalModel]:
    """A state at step 0 without a stream: the tests hand batches to the step themselves."""
    set_precision(model, "fp32")
    optimisers = make_optimisers(model, OptimiserSettings(), [Bound(), LITERAL])
    return TrainState(model, optimisers, make_generator(seed + 1, model.device), None)  # type: ignore[arg-type]


def take_step(state: TrainState[MultimodalModel], batch: Batch, phase: Phase) -> dict[str, float]:
    """A step of `phase`, which began at step 0."""
    return phase.step(state, batch, state.step)


def random_views(modalities: dict[str, Modality], n: int, seed: int = 0) -> Views:
    """Views in state space: [-0.9, 0.9] for pictures, about standard normal for vectors."""
    draws = make_generator(seed)
    views = {name: torch.randn(n, *m.shape, generator=draws) for name, m in modalities.items()}
    return {name: v.tanh() * 0.9 if modalities[name].shows == "pictures" else v for name, v in views.items()}


def whole(views: Views) -> Batch:
    """A batch in which everything is present."""
    n = len(next(iter(views.values())))
    return Batch(views, torch.ones(n, len(views), dtype=torch.bool))


class Linear(nn.Module):
    """Decoder x = A z + c with A [D_m, D], c [D_m]."""

    def __init__(self, matrix: Tensor, offset: Tensor) -> None:
        super().__init__()
        self.matrix, self.offset = nn.Parameter(matrix), nn.Parameter(offset)

    def forward(self, z: Tensor) -> Tensor:
        return z @ self.matrix.T + self.offset


def linear_model(
    sizes: dict[str, int],
    shared: int,
    private: int = 0,
    scale: float = 0.5,
    modalities: dict[str, Modality] | None = None,
    **sections: Any,
) -> MultimodalModel:
    """A model of vectors whose decoders are random linear maps: its posterior is a Gaussian one can write down."""
    parts = modalities or vectors(**sizes)
    model = small_model(parts, shared=shared, private=private, likelihood={"scale": scale}, **sections)
    draws = make_generator(7)
    for name, size in sizes.items():
        matrix = torch.randn(size, shared + private, generator=draws)
        model.generator.decoders[name] = Linear(matrix, torch.randn(size, generator=draws))
    return model


def without(model: MultimodalModel, dropped: str) -> tuple[InferenceModel, Any]:
    """The same encoders, decoders and prior with one modality taken out altogether."""
    encoders: dict[str, Encoder] = {n: e for n, e in model.inference.encoders.items() if n != dropped}  # type: ignore[misc]
    inference = InferenceModel(encoders, "normal")
    generator = type(model.generator)(
        model.generator.prior,
        {n: d for n, d in model.generator.decoders.items() if n != dropped},
        {n: like for n, like in model.generator.likelihoods.items() if n != dropped},
        model.generator.private,
        "normal",
    )
    return inference, generator


def parameters_with_gradient(model: MultimodalModel) -> set[str]:
    return {name for name, p in model.named_parameters() if p.grad is not None}


def clear_gradients(model: MultimodalModel) -> None:
    for p in model.parameters():
        p.grad = None


class OneDraw(NamedTuple):
    """The stratified draw of one expert an item without its two leading axes of size 1."""

    latents: dict[str, Tensor]
    log_ratio: Tensor
    expert: Tensor
    whole: Draw


def cross_draw(generator: Any, prior: Any, posterior: Any, batch: Batch, draws: Any) -> OneDraw:
    drawn = draw(generator, prior, posterior, batch, draws, BoundSettings())
    return OneDraw(
        {k: v[0, 0] for k, v in drawn.latents.items()}, drawn.log_ratio[0, 0], drawn.seen[0].int().argmax(1), drawn
    )


def elbo_loss(log_px: Tensor, drawn: OneDraw, present: Tensor, beta: float) -> Tensor:
    known = torch.where(present, log_px, 0.0)[None, None]
    return bound_loss(known, drawn.whole, None, None, present, BoundSettings(), beta)  # type: ignore


class Again:
    """A stream of one batch."""

    def __init__(self, batch) -> None:
        self.batch = batch

    def __next__(self):
        return self.batch

    def state_dict(self):
        return {"rows": 8, "batch_size": 8}
