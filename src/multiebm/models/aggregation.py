"""From experts to the posterior over the shared latent: which subsets are its components, and how each is fused.

Every posterior is a `Mixture`. Two choices make all of the literature's: the subsets (one expert each, all together,
every subset) and the fusion inside a subset (`distributions/fusion.py`). Missing parts enter here, through `present`.
"""

from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from multiebm.core.errors import ConfigError, DivergenceError
from multiebm.core.random import Randomness
from multiebm.distributions.families import FAMILIES, NORMAL
from multiebm.distributions.fusion import FUSIONS
from multiebm.distributions.mixture import Mixture

Subsets = Literal["single", "full", "every", "full_single", "some", "joint"]
PriorExpert = Literal["none", "complete", "full", "all"]
MANY = 6  # modalities, from which on "some" are all together and one each; every subset of 5 is 31 components
MAX_EVERY = 8  # modalities; every subset of 8 is 255 components


def subset_table(n: int, subsets: Subsets) -> Tensor:
    """Return the members of every component, bool [K, n]: smaller subsets first, but for the one of "full_single"."""
    if subsets == "some":
        subsets = "every" if n < MANY else "full_single"
    every = range(1, n + 1)
    sizes = {"single": [1], "full": [n], "every": every, "full_single": [n, 1], "joint": [n]}[subsets]
    chosen = [subset for size in sizes for subset in combinations(range(n), size)]
    table = torch.zeros(len(chosen), n, dtype=torch.bool)
    for row, subset in zip(table, chosen, strict=True):
        row[list(subset)] = True
    return table


class Aggregation(nn.Module):
    """Experts (loc, scale) [M, B, D] and `present` [B, M] -> Mixture of K components with weights pi.

    Of the subsets, "full" is all parts an item has ("joint" too, for items that are not complete). Any other component
    needs all of its members, so hiding a part leaves the components there would be without it (but for `prior_expert`
    complete). `prior_expert`: N(0, I) counts as an expert in no subset, in the one of all parts there are (which only
    complete items have), in the one of all parts an item has, or in all. pi is uniform, or learned (`learned_weights`;
    CoDE-VAE).
    """

    def __init__(
        self,
        n: int,
        family: str,
        subsets: Subsets = "single",
        fusion: str = "product",
        prior_expert: PriorExpert = "none",
        learned_weights: bool = False,
        correlation: float = 0.0,
    ) -> None:
        super().__init__()
        chosen = FUSIONS[fusion]
        if family not in chosen.families and (subsets != "single" or prior_expert != "none"):
            raise ConfigError(
                f"model.inference.fusion: got {fusion} with family {family}, expected {' or '.join(chosen.families)}: "
                f"{chosen.reason}; set model.family={chosen.families[0]}, or subsets single or fusion wasserstein"
            )
        if subsets == "every" and n > MAX_EVERY:
            raise ConfigError(
                f"model.inference.subsets: got every with {n} modalities, expected at most {MAX_EVERY} (there would be "
                f"{2**n - 1} components); set it to single or full"
            )
        self.family, self.fuse, self.correlation, self.prior_expert = family, chosen.rule, correlation, prior_expert
        self.members: Tensor
        self.register_buffer("members", subset_table(n, subsets), persistent=False)
        self.adaptive = subsets in ("full", "full_single", "joint") or (
            subsets == "some" and n >= MANY
        )  # the first component is then what an item has
        self.logits = nn.Parameter(torch.zeros(len(self.members))) if learned_weights else None

    def gaussian(self, pull: Tensor, precision: Tensor, present: Tensor, one: Randomness | None = None) -> Mixture:
        """Return the mixture of products of Gaussian experts and N(0, I), with dependent coordinates: [K, B, D].

        `pull`: precision times location [M, B, D]; `precision` [M, B, D, D]. Exact where parts are independent given z.
        `one` draws one component for each item, which is then its only one: the others take time and are not made.
        """
        inside, log_weight = self._subsets(present)
        if one is None or self.logits is not None:  # weights that learn get a gradient from all components
            return joined(pull, precision, inside, log_weight, self.members)
        every = Mixture(pull[:1], pull[:1], log_weight, self.members, NORMAL)  # whose densities nobody asks for
        index = every.assign(one)
        inside = inside[index, :, torch.arange(len(index), device=index.device)].T[None]  # [1, M, B]
        return joined(pull, precision, inside, torch.zeros_like(log_weight[:1]), every.members_of(index)[None])

    def _subsets(self, present: Tensor) -> tuple[Tensor, Tensor]:
        """Return which parts each component has, bool [K, M, B], and the log weights [K, B]."""
        here = present.T  # [M, B]
        inside = self.members[:, :, None] & here  # [K, M, B]
        possible = (inside == self.members[:, :, None]).all(1)  # [K, B]
        if self.adaptive:
            possible[0] = here.any(0)
        if self.logits is None:
            weight = torch.where(possible.any(0), possible.float(), 1.0)  # with nothing present all are the same
            log_weight = (weight / weight.sum(0)).log()
        else:
            known = torch.where(possible | ~possible.any(0), self.logits[:, None], -torch.inf)
            log_weight = known.log_softmax(0)
        return inside, log_weight

    def forward(self, loc: Tensor, scale: Tensor, present: Tensor) -> Mixture:
        """Return the mixture of [K, B, D] components; an item with nothing present gets the standard density.

        Absent experts are at location 0 and scale 1.
        """
        inside, log_weight = self._subsets(present)
        here = present.T  # [M, B]
        alone = len(self.members) == len(loc) and self.members.sum(1).max() == 1
        if alone and self.prior_expert == "none":
            return Mixture(loc, scale, log_weight, self.members, FAMILIES[self.family])  # single experts fuse nothing
        if self.prior_expert != "none":
            whole = (inside == here).all(1)  # [K, B]
            wanted = {"complete": whole & here.all(0), "full": whole, "all": torch.ones_like(whole)}[self.prior_expert]
            counted = inside.any(1) & wanted  # [K, B]
            inside = torch.cat([inside, counted[:, None]], 1)  # [K, M + 1, B]
            loc, scale = torch.cat([loc, torch.zeros_like(loc[:1])]), torch.cat([scale, torch.ones_like(scale[:1])])
        fused = self.fuse(loc, scale, inside, self.correlation)
        return Mixture(*fused, log_weight, self.members, FAMILIES[self.family])


def joined(pull: Tensor, precision: Tensor, inside: Tensor, log_weight: Tensor, members: Tensor) -> Mixture:
    """Return N(0, I) times the experts `inside` [K, M, B]; the scale is that of a coordinate given the others."""
    weight, eye = inside.to(pull.dtype), torch.eye(pull.shape[-1], dtype=pull.dtype, device=pull.device)
    total = eye + torch.einsum("kmb,mbde->kbde", weight, precision)
    root, failed = torch.linalg.cholesky_ex(total)
    if bool(failed.any()):
        raise DivergenceError("codes: got a precision that is not positive definite, expected one that is; lower rates")
    loc = torch.cholesky_solve(torch.einsum("kmb,mbd->kbd", weight, pull)[..., None], root)[..., 0]
    scale = total.diagonal(dim1=-2, dim2=-1).rsqrt()
    return Mixture(loc, scale, log_weight, members, NORMAL, root)
