"""How a ratio d learns: to tell what the codes of items are decoded to from what draws of the prior are.

    L = E_q log(1 + exp -d(G(z, W))) + E_p log(1 + exp d(G(z, W)))

Logistic regression with as many of either. The least loss is at d = log q(G) / p(G), the log ratio of the two densities
of decoded views, and there alone (eq. (4) of arXiv 2010.02917).
"""

from torch import Tensor
from torch.nn import functional as F


def ratio_loss(of_codes: Tensor, of_draws: Tensor) -> Tensor:
    """Return L, shape [], from d [N] of decoded codes and d [N'] of decoded draws of the prior, nats."""
    return F.softplus(-of_codes).mean() + F.softplus(of_draws).mean()
