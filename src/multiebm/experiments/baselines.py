"""The table of multimodal VAEs: a row is data. Its cells are settings of model and bound, laid over a preset.

`PRESET-ROW` (polydigits-mopoe) is the preset `PRESET-vae` with the cells of ROW; a file may say `baseline: ROW`.
Packages add rows under the entry point group `multiebm.baselines`: an object of `Baseline` each, named as the row.
"""

from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import entry_points
from typing import Any, NamedTuple

from multiebm.core.errors import ConfigError
from multiebm.core.table import Table
from multiebm.experiments.references import references
from multiebm.experiments.schema import InferenceSection
from multiebm.objectives.settings import BoundSettings

GROUP = "multiebm.baselines"
Cells = Mapping[str, Any]


class Baseline(NamedTuple):
    """A title, the settings that make the method (nested, as in a preset), those published for PolyMNIST at 28 pixels,
    and the BibTeX of its sources.
    """

    title: str
    cells: Cells
    published: Cells = {}
    references: tuple[str, ...] = ()


# of a tilt on a standard base, which is wider than a chain of small steps crosses, and of one on a base fitted to codes
TILT: dict[str, Any] = {"width": 200, "layers": 4, "steps": 50, "step_size": 0.2, "penalty": 1e-3}
TILT_ON_CODES: dict[str, Any] = {"steps": 20, "step_size": 0.1}
# what no multimodal VAE has, and the neutral entry of every axis
NEUTRAL: Cells = {
    "model": {
        "private": 0,
        "family": "normal",
        "scale_map": "log_variance",
        "private_components": 0,
        "crossing_prior": 0,
        "prior": {
            "kind": "normal",
            "learned_scale": False,
            "components": 0,
            "temperature": 1,
            "settle": 0,
            "spread": 1,
            "prune": 0,
            **TILT,
        },
        "inference": InferenceSection().model_dump(),
        "networks": {"separate_trunks": False},
        "energy": None,
    },
    "training": {"bound": asdict(BoundSettings()), "cooperative": {"steps": 0}, "optimiser": {"prior": 2e-3}},
}
_KL: Cells = {"denominator": "component", "divergence": "analytic"}  # closed form to the prior, component by component
_LAPLACE: dict[str, Any] = {"family": "laplace", "scale_map": "softmax"}
_PLUS: dict[str, Any] = {**_LAPLACE, "private": 4, "networks": {"separate_trunks": True}, "prior": {"kind": "laplace"}}
_TILTED: dict[str, Any] = {"kind": "energy"}  # its base is the standard density of the experts' family
# the bound does not see it: within minutes encoders run up a tilt faster than its chain follows (docs/findings.md)
_TILT_LEARNS: Cells = {"warmup": {"tilt_after": -1}}
_REVISED_CODES: Cells = {  # the latent chain's half of a cooperative step
    "steps": 4000,
    "anchor": 1,
    "tilt_in_bound": False,
    "encoder_loss": "elbo",
    "reconstruction": 1,
    "synthetic": 0,
    "inference_synthetic": 0,
    "energy_first": 0,
    "prior_positive": "revised",
    "positive_phase": "random_expert",
}
_MOPOE_CODE: dict[str, Any] = {  # 300 epochs
    "model": {"shared": 512, "networks": {"kind": "conv", "width": 32, "linear": 512}},
    "training": {
        "batch_size": 256,
        "warmup": {"steps": 70_200, "beta": 2.5},
        "optimiser": {"generator": 5e-4, "inference": 5e-4},
    },
}
_MMVAE_PLUS_CODE: dict[str, Any] = {  # 150 epochs
    "model": {
        "shared": 32,
        "private": 32,
        "networks": {"kind": "resnet", "width": 64, "patch": 1, "residual": 0.1, "activated": False},
    },
    "training": {
        "batch_size": 128,
        "warmup": {"steps": 70_200, "beta": 2.5},
        "optimiser": {"generator": 1e-3, "inference": 1e-3, "amsgrad": True},
        "bound": {"components": "all"},
    },
}


def _trained(code: dict[str, Any], **training: Any) -> dict[str, Any]:
    """Return published settings with some of those of training replaced."""
    return {**code, "training": {**code["training"], **training}}


def _with_tilt(shared: int, private: int, cooperative: int = 0) -> dict[str, Any]:
    """Return MVEBM's published settings on the code of MMVAE+; the tilt learns after 10 of the 150 epochs."""
    model, training = _MMVAE_PLUS_CODE["model"], _MMVAE_PLUS_CODE["training"]
    tilt = {"width": 400, "layers": 4, "steps": 50, "step_size": 0.4}
    return {
        "model": {**model, "shared": shared, "private": private, "prior": tilt},
        "training": {
            **training,
            "warmup": {"steps": 70_200 - cooperative, "beta": 1, "prior_after": 4_680, "tilt_after": 0},
            "optimiser": {**training["optimiser"], "prior": 2e-5},
            "cooperative": {"steps": cooperative, "tilt_in_bound": True},
            "bound": {"components": "one"} if cooperative else training["bound"],  # the anchor's
        },
    }


def _row(
    title: str,
    *keys: str,
    inference: Cells | None = None,
    bound: Cells | None = None,
    training: Cells | None = None,
    published: Cells = _MOPOE_CODE,
    **model: Any,
) -> Baseline:
    cells = {"model": {**model, "inference": inference or {}}, "training": {"bound": bound or {}, **(training or {})}}
    return Baseline(title, cells, published, tuple(references()[key] for key in keys))


ROWS: dict[str, Baseline] = {
    "mvae": _row(
        "product of experts with a prior expert; joint and single bounds added up",
        "wu2018mvae",
        inference={"subsets": "full_single", "prior_expert": "all", "pooled": True},
        bound={**_KL, "components": "all", "weights": "sum", "reconstruct": "own"},
    ),
    "mmvae": _row(
        "mixture of experts, DReG bound of ten samples",
        "shi2019mmvae",
        "tucker2019dreg",
        bound={"kind": "dreg", "samples": 10, "components": "all"},
        prior={"kind": "laplace", "learned_scale": True},
        **_LAPLACE,
    ),
    "mmvae-iwae": _row(
        "mixture of experts, importance-weighted bound of ten samples",
        "shi2019mmvae",
        bound={"kind": "iwae", "samples": 10, "components": "all"},
        prior={"kind": "laplace", "learned_scale": True},
        **_LAPLACE,
    ),
    "mmvae-star": _row("mixture of experts, one sample under the whole mixture", "shi2019mmvae"),
    "mmjsd": _row(
        "mixture of experts, Jensen-Shannon divergence with a dynamic prior",
        "sutter2020mmjsd",
        bound={"denominator": "component", "penalty": "jensen_shannon"},
    ),
    "mopoe": _row(
        "mixture over all subsets of their products of experts",
        "sutter2021mopoe",
        inference={"subsets": "every", "prior_expert": "full", "pooled": True},
        bound=_KL,
    ),
    "mvtcae": _row(
        "product of experts; total correlation as a conditional information bottleneck",
        "hwang2021mvtcae",
        inference={"subsets": "full", "pooled": True},
        bound={**_KL, "penalty": "total_correlation", "alpha": 5 / 6},
        published=_trained(_MOPOE_CODE, optimiser={"generator": 1e-3, "inference": 1e-3}),
    ),
    "mmvaeplus": _row(
        "mixture of experts with private latents; crossing sees an auxiliary density",
        "palumbo2023mmvaeplus",
        published=_MMVAE_PLUS_CODE,
        **_PLUS,
    ),
    "mmvaeplus-dreg": _row(
        "MMVAE+ on the DReG bound of ten samples",
        "palumbo2023mmvaeplus",
        "tucker2019dreg",
        bound={"kind": "dreg", "samples": 10, "components": "all"},
        published=_trained(_MMVAE_PLUS_CODE, warmup={"steps": 23_400, "beta": 2.5}),  # 50 epochs
        **_PLUS,
    ),
    "mmvaeplus-factorised": _row(
        "ablation of MMVAE+: crossing sees the inferred private latents",
        "palumbo2023mmvaeplus",
        bound={"crossing": "own"},
        published=_MMVAE_PLUS_CODE,
        crossing_prior=1,
        **_PLUS,
    ),
    "cmvae": _row(
        "MMVAE+ with a prior of learned clusters",
        "palumbo2024cmvae",
        published=_trained(_MMVAE_PLUS_CODE, warmup={"steps": 117_000, "beta": 2.5}),  # 250 epochs
        **_PLUS | {"prior": {"kind": "clusters", "components": 40, "prune": 1}},
    ),
    "mwbvae": _row(
        "mixture over all subsets of their Wasserstein barycentres",
        "qiu2025mwbvae",
        inference={"subsets": "every", "fusion": "wasserstein", "pooled": True},
        bound=_KL,
    ),
    "codevae": _row(
        "all subsets by consensus of dependent experts, with learned weights",
        "mancisidor2025codevae",
        inference={
            "subsets": "every",
            "fusion": "dependent",
            "correlation": 0.5,
            "learned_weights": True,
            "pooled": True,
        },
        bound={**_KL, "penalty": "entropy", "alpha": 1000},
    ),
    "helvae": _row(
        "Hellinger pooling of all experts",
        "vo2026helvae",
        inference={"subsets": "full", "fusion": "hellinger", "pooled": True},
        bound=_KL,
    ),
    "mohelvae": _row(
        "mixture over all subsets of their Hellinger poolings",
        "vo2026helvae",
        inference={"subsets": "every", "fusion": "hellinger", "pooled": True},
        bound=_KL,
    ),
    "jmvae": _row(
        "one encoder of all parts, to which an encoder for each is drawn",
        "suzuki2016jmvae",
        inference={"subsets": "full", "joint": True, "pooled": True},
        bound={**_KL, "penalty": "joint", "alpha": 0.1},
    ),
    "dmvae": _row(
        "product of experts with private latents; joint and crossed bounds added up",
        "lee2021dmvae",
        inference={"subsets": "full_single", "prior_expert": "full", "pooled": True},
        bound={**_KL, "components": "all", "weights": "sum", "crossing": "own"},
        private=4,
        crossing_prior=1,
    ),
    "mvebm": _row(
        "MMVAE* with an energy prior",
        "yuan2024mvebm",
        training=_TILT_LEARNS,
        published=_with_tilt(64, 0),
        **_LAPLACE,
        prior=_TILTED,
    ),
    "mvebmplus": _row(
        "MMVAE+ with an energy prior over the shared latent",
        "yuan2024mvebm",
        training=_TILT_LEARNS,
        published=_with_tilt(32, 32),
        **_PLUS | {"prior": _TILTED},
    ),
    "mvebmplus-mcmc": _row(
        "MVEBM+ whose codes are revised by the latent chain",
        "yuan2024mcmc",
        "yuan2024mvebm",
        training={
            "warmup": {"tilt_after": -1, "anneal": 0},
            "cooperative": _REVISED_CODES,
            "optimiser": {"cooperative": 1, "final": 0.03, "beta1_cooperative": 0.9},
        },
        published=_with_tilt(32, 32, cooperative=65_520),
        latent_chain={"steps": 5, "step_size": 0.02},
        **_PLUS | {"prior": _TILTED},
    ),
}


def baselines() -> Table[Baseline]:
    """Return the rows of this file and of installed packages; ConfigError where one of those takes a name twice."""
    found = dict(ROWS)
    for entry in entry_points(group=GROUP):
        if entry.name in found:
            raise ConfigError(
                f"baseline {entry.name!r}: got it from {entry.value}, expected a name that is not taken; rename the "
                f"entry point in group {GROUP}"
            )
        found[entry.name] = entry.load()
    return Table("baseline", found)
