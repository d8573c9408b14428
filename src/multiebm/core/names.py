"""Names: of modalities, of what stands beside them in files and latents, and their keys in torch's containers."""

from collections.abc import Mapping
from functools import lru_cache
from typing import TypeVar

from torch import Tensor, nn

Views = dict[str, Tensor]  # a tensor [B, ...] by modality
T = TypeVar("T")

SHARED = "shared"  # key of the shared latent among latents; the other keys are modalities (private latents)
BESIDE = ("labels", "present")  # keys beside the modalities in files
RESERVED = (*BESIDE, SHARED)
TEST, MASK = PREFIXES = ("test_", "present_")  # begin the keys of a test split, and of one modality's mask
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")  # end files of pictures, in capitals or not
NAME_LENGTH = 64
_TAKEN = "!"  # ends the key of a name that torch's containers use themselves; no name can hold it


def name_problem(name: object) -> str | None:
    """Return what is wrong with `name` for a modality, as "got ..., expected ..."; None if nothing is."""
    if not isinstance(name, str):
        return f"got {name!r}, which is no text, expected a name; quote it"
    if name in RESERVED or name.startswith(PREFIXES):
        return (
            f"got a reserved name, expected none of {', '.join(RESERVED)}, {', '.join(f'{p}*' for p in PREFIXES)}; "
            "rename the modality"
        )
    fits = all(c.isalpha() or c.isdecimal() or c in "_- " for c in name) and name.strip() == name
    if not fits or not 1 <= len(name) <= NAME_LENGTH or name[0] in "_-":
        return (
            f"got the name {name[: NAME_LENGTH + 1]!r}, expected 1 to {NAME_LENGTH} letters, digits, '_', '-' and "
            "spaces, the first a letter or digit; rename the modality"
        )
    return None


@lru_cache
def module_key(name: str) -> str:
    """Return the key of `name` in torch's containers of modules, which refuse the names of their own attributes."""
    return name + _TAKEN if hasattr(nn.ModuleDict(), name) or hasattr(nn.ParameterDict(), name) else name


def keyed(parts: Mapping[str, T]) -> dict[str, T]:
    """Return `parts` by the keys of their names."""
    return {module_key(name): part for name, part in parts.items()}


def name_of_key(key: str) -> str:
    """Return the name whose `module_key` is `key`."""
    return key.removesuffix(_TAKEN)
