"""How large and how long a model of own data is, by the shape of the data; chosen by `scripts/own.py --validation`."""

from collections.abc import Sequence

from multiebm.data import MultimodalDataset

SIZED = "own"  # the preset whose sizes are chosen here
FEWEST, MOST = 4, 32  # shared numbers
ROWS_PER_NUMBER = 4  # training rows that a shared number takes
LEAST_STEPS, MOST_STEPS, STEPS_PER_ROW = 1000, 6000, 2


def sizes_for(source: object, dataset: MultimodalDataset, overrides: Sequence[str]) -> list[str]:
    """Return the settings, as overrides, that the shape of the data chooses; none of those that are given, and none of
    another preset.
    """
    if source != SIZED:
        return []
    rows, columns = len(dataset.train), sum(modality.size for modality in dataset.modalities.values())
    shared = max(FEWEST, min(MOST, columns, rows // ROWS_PER_NUMBER))
    steps = max(LEAST_STEPS, min(MOST_STEPS, STEPS_PER_ROW * rows))
    found = {"model.shared": shared, "training.phases.bound.steps": steps}
    given = [text.partition("=")[0].strip() for text in overrides]
    return [f"{key}={value}" for key, value in found.items() if key not in given]
