"""Ways of training, one file each. Packages add some by the entry point group `multiebm.phases`."""

from multiebm.core.table import Table
from multiebm.training.phases.belonging import Belonging
from multiebm.training.phases.bound import Bound
from multiebm.training.phases.cooperative import Cooperative
from multiebm.training.phases.energy import Energy
from multiebm.training.phases.phase import Phase
from multiebm.training.phases.settle import Settle

PHASES: Table[type[Phase]] = Table(
    "training.phases.kind",
    {"bound": Bound, "energy": Energy, "cooperative": Cooperative, "belonging": Belonging, "settle": Settle},
    "multiebm.phases",
)
