"""How large and how long a model of own data is, by the shape of the data; chosen by `scripts/own.py --validation`."""

from collections.abc import Sequence

from multiebm.data import MultimodalDataset
from multiebm.experiments.build import LARGEST_LINED

SIZED = "own"  # the preset whose sizes are chosen here
FEWEST, MOST, MOST_OF_WIDE = 4, 32, 128  # shared numbers
COLUMNS_PER_NUMBER = 5  # columns of tables that a shared number beyond MOST takes
ROWS_PER_NUMBER = 4  # training rows that a shared number takes
SAMPLES, NARROW = 8, 24  # draws by which the rest is told where parts have so few numbers, or tables are wide; else 1
LEAST_STEPS, MOST_STEPS, STEPS_PER_ROW = 1000, 6000, 2


def sizes_for(source: object, dataset: MultimodalDataset, overrides: Sequence[str]) -> list[str]:
    """Return overrides that the shape of the data chooses; none that are given already, and none of another preset."""
    if source != SIZED:
        return []
    rows, parts = len(dataset.train), dataset.modalities.values()
    columns = sum(part.size for part in parts)
    in_tables = sum(part.size for part in parts if part.by_cell and part.size <= LARGEST_LINED)
    most = max(MOST, min(MOST_OF_WIDE, in_tables // COLUMNS_PER_NUMBER))
    shared = max(FEWEST, min(most, columns, rows // ROWS_PER_NUMBER))
    steps = max(LEAST_STEPS, min(MOST_STEPS, STEPS_PER_ROW * rows)) * MOST // max(MOST, shared)
    wide, bound = in_tables == columns and most > MOST, "training.phases.bound"
    samples = SAMPLES if wide or max(part.size for part in parts) <= NARROW else 1
    found: dict[str, object] = {"model.shared": shared, f"{bound}.steps": steps, f"{bound}.samples": samples}
    if wide:
        found[f"{bound}.estimator"] = "predictive_values"
    if any(part.shows == "pictures" for part in parts):  # which have thousands of numbers, and captions some words
        spoken = [name for name, part in dataset.modalities.items() if part.speaks]
        found |= {f"model.likelihood.weights.{name}": "balance" for name in spoken}
    given = [text.partition("=")[0].strip() for text in overrides]
    return [f"{key}={value}" for key, value in found.items() if key not in given]
