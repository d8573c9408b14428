"""A trained model as a folder: `model.json` says what it is, a safetensors file holds the weights.

The name of the weights file contains a part of its checksum. Renaming `model.json` into place is therefore the one
moment at which a save happens: before it the folder holds the old model, after it the new one.
"""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat
from torch import Tensor, nn

from multiebm.core.errors import CheckpointError, ConfigError, DivergenceError, ModalityError, OutputError
from multiebm.core.files import ASIDE, reading, replace_file, writing
from multiebm.core.store import Header, Store, StoredFile, describe, misfits
from multiebm.mcmc.annealing import LogNormalizer
from multiebm.modalities import Modality, from_json, to_json
from multiebm.models.diffusion import Diffusion
from multiebm.models.use import in_use
from multiebm.nn.precision import precision_of

HEADER = "model.json"
SINCE = ("interaction.louder", "ratio.pool_", "ratio.")  # how the names of weights begin that older saves have not
_NAME = r"weights-[0-9a-f]{12}\.safetensors"
_OURS = re.compile(rf"({re.escape(ASIDE)}.*)?({_NAME}|{re.escape(HEADER)})")


class _Weights(StoredFile):
    name: Annotated[str, Field(pattern=rf"^{_NAME}$")]


class _LogZ(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    of: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]  # the prior whose it is
    value: FiniteFloat
    error: FiniteFloat
    effective: FiniteFloat


class _ModelHeader(Header):
    model: dict[str, Any]
    log_normalizer: _LogZ | None = None
    diffusion: Diffusion | None = None
    precision: Literal["fp32", "bf16"]
    modalities: Annotated[list[dict[str, Any]], Field(min_length=1)]
    files: Annotated[list[_Weights], Field(min_length=1, max_length=1)]  # type: ignore[assignment]


_STORE = Store(
    _ModelHeader,
    "multiebm-model",
    3,
    "saved model",
    "copy it again or save it again",
    largest=64 * 2**20,  # vectors of a million columns have two numbers for each
)


class Description(NamedTuple):
    """What a folder says of its model. `blueprint` is what the builder of the model was given, as plain values;
    `tensors` are types and shapes of those in its file of weights; `kept`: log Z of its prior, where it was known;
    `diffusion`: what its refiner is built of, where it has one.
    """

    blueprint: dict[str, Any]
    modalities: dict[str, Modality]
    precision: str
    folder: Path
    weights: StoredFile
    tensors: dict[str, str]
    kept: tuple[str, LogNormalizer] | None = None
    diffusion: Diffusion | None = None


def check_model_folder(folder: Path) -> None:
    """Raise OutputError where `write_model` would not write: into a file, or a folder with other things in it.

    What a save that was killed left there is none of those.
    """
    if folder.is_dir():
        names = [path.name for path in folder.iterdir()]
        foreign = [] if HEADER in names else [name for name in names if not _OURS.fullmatch(name)]
    else:
        foreign = [folder.name] if folder.exists() or folder.is_symlink() else []
    if foreign:
        raise OutputError(
            f"{folder}: got a folder with other files, expected a new or empty one, or one with a model (it has "
            f"{foreign[0]!a}); choose another name"
        )


def write_model(
    model: nn.Module,
    modalities: dict[str, Modality],
    blueprint: dict[str, Any],
    folder: Path,
    kept: tuple[str, LogNormalizer] | None = None,
    diffusion: Diffusion | None = None,
) -> None:
    """Write `model` so that reading it gives these very tensors; a kill at any moment leaves a whole model.

    OutputError when the folder holds other things, or cannot be written (what it held before is then intact);
    DivergenceError where weights are not finite, ConfigError where they are not float32, which no reader would take.
    """
    if not blueprint:
        raise ConfigError("save_pretrained: got a model put together by hand, expected one from multiebm.build")
    with in_use(model):
        state = model.state_dict()
    if bad := _not_finite(state):
        raise DivergenceError(
            f"{folder}: got weights that are not finite (in {', '.join(bad)}), expected finite ones; nothing was "
            "saved: go back to a checkpoint from before, or train again with a lower learning rate"
        )
    about = [to_json(m) for m in modalities.values()]
    values: dict[str, Any] = {"model": blueprint, "precision": precision_of(model), "modalities": about}
    if kept is not None:
        values["log_normalizer"] = {"of": kept[0]} | kept[1]._asdict()
    values |= {} if diffusion is None else {"diffusion": asdict(diffusion)}
    packed = _STORE.pack(HEADER, values, "weights-{}.safetensors", state)
    if (size := len(packed[HEADER])) > _STORE.largest:
        raise OutputError(f"{folder}: got a description of {size} bytes, expected {_STORE.largest} at most")
    with writing(folder, "free space or choose another folder, then save again"):
        check_model_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in packed.items():
            replace_file(folder / name, data)
        for old in folder.iterdir():
            if _OURS.fullmatch(old.name) and old.name not in packed:
                old.unlink()


def read_description(folder: Path) -> Description:
    """Read and verify what a folder says of its model, and the names and shapes of its weights, not yet these.

    CheckpointError names the file, what it holds, what was expected, and the fix.
    """
    file = folder / HEADER
    header = _STORE.read(file)
    with reading(file, CheckpointError, _STORE.way_out):
        try:
            json.dumps([header.model, header.modalities], allow_nan=False)
        except ValueError:
            raise ValueError("got numbers that are not finite, expected finite ones") from None
        modalities: dict[str, Modality] = {}
        for i, values in enumerate(header.modalities):
            try:
                made = from_json(values)
            except ModalityError as error:
                raise ValueError(f"modalities.{i}: {error}") from error
            if modalities.setdefault(made.name, made) is not made:
                raise ValueError("got two modalities of one name, expected a name each")
    weights, z = header.files[0], header.log_normalizer
    kept = None if z is None else (z.of, LogNormalizer(z.value, z.error, z.effective))
    tensors = _STORE.described(folder, weights)
    return Description(header.model, modalities, header.precision, folder, weights, tensors, kept, header.diffusion)


def newer(description: Description) -> tuple[str, ...]:
    """Return how the names of weights begin that its folder lacks, being older; these stay as they are when made."""
    return tuple(name for name in SINCE if not any(key.startswith(name) for key in description.tensors))


def load_weights(model: nn.Module, description: Description, but: tuple[str, ...] = ()) -> None:
    """Read the weights of a description into `model`, layouts kept; CheckpointError lists misfit names, shapes and
    types, or says that the file is damaged or holds values that are not finite, with nothing changed. Weights whose
    names begin with one of `but` stay as they are.
    """
    own, file = model.state_dict(), description.folder / description.weights.name
    own = {name: tensor for name, tensor in own.items() if not name.startswith((*but, *newer(description)))}
    if problems := misfits(description.tensors, {name: describe(tensor) for name, tensor in own.items()}):
        listed = "\n  ".join(problems)  # before they are read: these, too, may be of any size
        raise CheckpointError(
            f"{file}: the weights are of another architecture than the one described in {HEADER}:\n  {listed}\n"
            f"Restore the {HEADER} that was saved with them."
        )
    tensors = _STORE.tensors(description.folder, description.weights)
    if bad := _not_finite(tensors):
        raise CheckpointError(
            f"{file}: got weights that are not finite (in {', '.join(bad)}), expected finite ones; train again"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the first few tensors with NaN or infinite values."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()][:3]
