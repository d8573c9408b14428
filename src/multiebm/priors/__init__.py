"""Floor 1: priors over a latent, one file a kind. Packages add kinds by the entry point group `multiebm.priors`."""

from multiebm.core.table import Table
from multiebm.priors.clusters import Clusters
from multiebm.priors.energy import Energy
from multiebm.priors.mixture import Mixture
from multiebm.priors.prior import PriorSettings
from multiebm.priors.standard import Laplace, Normal

PRIORS: Table[type[PriorSettings]] = Table(
    "model.prior.kind",
    {"normal": Normal, "laplace": Laplace, "clusters": Clusters, "mixture": Mixture, "energy": Energy},
    "multiebm.priors",
)
