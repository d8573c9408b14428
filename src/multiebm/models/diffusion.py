"""A diffusion model that refines pictures: both formulations of DiffuseVAE (Pandey et al. 2022, arXiv 2201.00308).

x is a real picture, g the model's guess of it: its reconstruction, or what it generates. Noise comes in gradually,

    y_t = sqrt(a_t) x + sqrt(1 - a_t) eps,    t = 0 .. T - 1,    a_t the product of 1 - beta up to t

    formulation 1:  x_t = y_t,        and the way back starts at N(0, I);
    formulation 2:  x_t = y_t + g,    and the way back starts at N(g, I).

One U-Net for each part of pictures predicts eps from x_t, g (concatenated channels) and t. Schedule and network are
those of the package diffusers, the extra `diffusion`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast, get_args

import torch
from pydantic import Field
from torch import Tensor, nn

from multiebm.core.errors import ConfigError
from multiebm.core.names import Views, keyed, module_key
from multiebm.core.progress import track
from multiebm.core.random import Randomness, randn
from multiebm.core.tree import randn_tree
from multiebm.modalities import Modality
from multiebm.nn.precision import Mixed

if TYPE_CHECKING:
    from diffusers import DDIMScheduler

WITHOUT = 'got no package diffusers, expected it here for the diffusion refiner; pip install "multiebm[diffusion]"'
TIMES, BETAS = 1000, (1e-4, 0.02)  # T, and beta from the first to the last t, on a line: those of DDPM
FACTORS = (1, 2, 2, 2, 4)  # channels of a stage of the U-Net, in widths; a stage has half the side of the one before
SMALLEST, ATTENDED = 4, 16  # shorter side of the last stage at least; the longer side from which one stage attends
DROPOUT, LAYERS = 0.1, 2
AT_ONCE = 2**15, 2**20  # pixels a pass, on a CPU, whose cache is small, and on a GPU
Draw = Callable[..., Views]  # of views, a generator, and perhaps which cells are held
Steps = Literal[1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500, 1000]  # T is a whole multiple of them


@dataclass(frozen=True)
class Diffusion:
    """What a refiner is built of, and in how many steps it refines unless asked otherwise."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    formulation: Annotated[
        Literal[1, 2], Field(description="where the way back starts: noise, noise around a guess")
    ] = 1
    width: Annotated[int, Field(ge=4, le=1024, multiple_of=4, description="channels of the U-Net's first stage")] = 64
    steps: Annotated[Steps, Field(description="steps of the way back, calls of the U-Net")] = 250

    def __post_init__(self) -> None:
        problems = []
        if self.formulation not in (1, 2):
            problems.append(f"formulation: got {self.formulation!r}, expected 1 or 2")
        if not 4 <= self.width <= 1024 or self.width % 4:
            problems.append(f"width: got {self.width!r}, expected a multiple of 4 from 4 to 1024; 64 is usual")
        if self.steps not in get_args(Steps):
            problems.append(f"steps: got {self.steps!r}, expected {_listed()}; 250 is usual")
        if problems:
            raise ConfigError(problems)


def _listed() -> str:
    *most, last = map(str, get_args(Steps))
    return f"a number of which {TIMES} is a whole multiple: {', '.join(most)} or {last}"


def pictures(modalities: dict[str, Modality]) -> list[str]:
    """Return the names of the parts that a refiner draws."""
    return [name for name, m in modalities.items() if m.shows == "pictures"]


def check_diffusers(what: str) -> None:
    """Raise ConfigError, which begins with `what` was asked, where the package diffusers is not installed."""
    try:
        import diffusers  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"{what}: {WITHOUT}") from error


def drawing(refiner: "DiffusionRefiner | None", steps: Any) -> "Draw":
    """Return what refines views [B, ...] by a generator, cells held, in so many steps (0: not at all; None: as fitted).

    ConfigError where there is no refiner, or T is no multiple of the steps.
    """
    if steps == 0 and not isinstance(steps, bool):
        return lambda views, rng, clamp=None: views
    if refiner is None:
        raise ConfigError(
            f"diffusion_steps: got {steps}{' (--diffusion)' if steps is None else ''}, but this model has no diffusion "
            "refiner; use diffusion_steps=0, or fit one: multiebm fit-refiner RUN --out NEW-RUN"
        )
    steps = refiner.settings.steps if steps is None else steps
    if isinstance(steps, bool) or steps not in get_args(Steps):
        raise ConfigError(f"diffusion_steps: got {steps!r}, expected 0 or {_listed()}")
    return lambda views, rng, clamp=None: refiner.refine(views, rng, int(steps), clamp)


class DiffusionRefiner(nn.Module):
    """A denoiser for each part of pictures, and both ways of the diffusion: `noised` and `refine`."""

    def __init__(self, settings: Diffusion, modalities: dict[str, Modality]) -> None:
        super().__init__()
        self.settings = settings
        self.shift = float(settings.formulation == 2)  # x_t = y_t + shift g
        self.parts = pictures(modalities)
        nets = {name: Mixed(Denoiser(modalities[name].shape, settings.width)) for name in self.parts}
        self.networks = nn.ModuleDict(keyed(nets))
        self.schedule = _schedule()

    def noised(self, x: Tensor, guess: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t [B, C, H, W] of states, guesses and standard normals of that shape, at times t, int64 [B]."""
        return self.schedule.add_noise(x, noise, t) + self.shift * guess

    def denoise(self, name: str, x: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """Return the noise that the network of a part sees in x_t: [B, C, H, W], as `x` and `guess`; t int64 [B]."""
        return self.networks[module_key(name)](x, guess, t)

    def loss(self, name: str, x: Tensor, guess: Tensor, there: Tensor, rng: torch.Generator) -> Tensor:
        """Return the mean of |eps - eps(x_t, g, t)|^2 over the cells that are `there` (bool), t uniform: a scalar.

        `x`, `guess` and `there` are [B, C, H, W]; where a cell is not there, x is anything finite.
        """
        t = torch.randint(TIMES, (len(x),), generator=rng, device=rng.device).to(x.device)
        noise = randn(rng, x.shape, x)
        off = self.denoise(name, self.noised(x, guess, noise, t), guess, t) - noise
        return torch.where(there, off.square(), 0.0).sum() / there.sum().clamp_min(1)

    @torch.no_grad()
    def refine(self, views: Views, rng: Randomness, steps: int | None = None, clamp: Views | None = None) -> Views:
        """Return the views [B, ...] with a draw of x given g = its view in place of every part of pictures.

        What `clamp` (bool [B, ...] by part) holds stays as it is, and so do all other parts. Each of the `steps` (None:
        as fitted) goes from t to t' = t - T / steps by the posterior of the forward process, x clipped to [-1, 1]:

            y_t' ~ q(y_t' | y_t, x = (x_t - shift g - sqrt(1 - a_t) eps) / sqrt(a_t)),

        the ancestral sampling of DDPM on spaced times (the smaller of its two variances); x_0 = y_0 in both
        formulations, as in the code of DiffuseVAE.
        """
        held = clamp or {}
        wanted = [name for name in self.parts if name not in held or not bool(held[name].all())]
        if not wanted:
            return views
        guess = {name: views[name] for name in self.parts}  # noise is drawn for all: it must not hang on other items
        schedule, y = _schedule(), cast(Views, randn_tree(rng, guess))
        schedule.set_timesteps(self.settings.steps if steps is None else steps)
        for t in track(schedule.timesteps.tolist(), "denoising"):
            noise = cast(Views, randn_tree(rng, guess))
            for name in wanted:
                eps = self._in_chunks(name, y[name] + self.shift * guess[name], guess[name], t)
                y[name] = schedule.step(
                    eps, t, y[name], 1.0, use_clipped_model_output=True, variance_noise=noise[name], return_dict=False
                )[0]
        return views | {
            name: torch.where(held[name], views[name], y[name]) if name in held else y[name] for name in wanted
        }

    def _in_chunks(self, name: str, x: Tensor, guess: Tensor, t: int) -> Tensor:
        """Return what `denoise` does of x_t [B, C, H, W] at one time t, in bounded memory."""
        rows = max(1, AT_ONCE[x.device.type == "cuda"] // x[0, 0].numel())
        times = torch.full((len(x),), t, device=x.device)
        some = zip(x.split(rows), guess.split(rows), times.split(rows), strict=True)
        return torch.cat([self.denoise(name, *of) for of in some])


class Denoiser(nn.Module):
    """The U-Net of DDPM (Ho et al. 2020, arXiv 2006.11239) on x_t and g: as many stages as the side can be halved."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        channels, height, width_of_picture = shape
        sides = [(height, width_of_picture)]
        while len(sides) < len(FACTORS) and not any(n % 2 for n in sides[-1]) and min(sides[-1]) // 2 >= SMALLEST:
            sides.append((sides[-1][0] // 2, sides[-1][1] // 2))
        first = next((i for i, side in enumerate(sides) if max(side) <= ATTENDED), None)
        attends = [i == first for i in range(len(sides))]
        self.net = UNet2DModel(
            in_channels=2 * channels,
            out_channels=channels,
            block_out_channels=tuple(width * factor for factor in FACTORS[: len(sides)]),
            down_block_types=tuple("AttnDownBlock2D" if at else "DownBlock2D" for at in attends),
            up_block_types=tuple("AttnUpBlock2D" if at else "UpBlock2D" for at in reversed(attends)),
            layers_per_block=LAYERS,
            dropout=DROPOUT,
            norm_num_groups=min(32, width // 4),
            attention_head_dim=None,  # one head
        )

    def forward(self, x: Tensor, guess: Tensor, t: Tensor) -> Tensor:
        """Return the noise in x_t: `x`, `guess` [B, C, H, W], t int64 [B] -> [B, C, H, W]."""
        return self.net(torch.cat([x, guess], 1), t, return_dict=False)[0]


def _schedule() -> "DDIMScheduler":
    """Return the schedule; with eta = 1 its steps are those of DDPM, and it takes noise that was drawn per item."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(TIMES, *BETAS, beta_schedule="linear", clip_sample=True, timestep_spacing="trailing")
