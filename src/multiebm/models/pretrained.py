"""A trained model as a folder: `model.json` says what it is, a safetensors file holds the weights. No pickle anywhere.

`model.json` names its weights file, whose name contains a part of its checksum. Renaming `model.json` into place is
therefore the one moment at which a save happens: before it the folder holds the old model, after it the new one.
A checksum over the description, which has that of the weights in it, is verified at every load. Whoever makes a folder
by hand can get that right too, so nothing in it is believed: types and sizes are checked before anything is built.
"""

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from multiebm.core.errors import CheckpointError, ConfigError, DivergenceError, ModalityError, OutputError
from multiebm.core.files import ASIDE, check_size, read_sealed, read_verified, replace_file, sealed, why_not_written
from multiebm.core.modality import Modality
from multiebm.models.use import in_use
from multiebm.nn.precision import precision_of

FORMAT = "multiebm-model"
VERSION = 2
HEADER = "model.json"
LARGEST_HEADER = 64 * 2**20  # bytes; vectors of a million columns have two numbers for each
_WEIGHTS = "weights-{}.safetensors"
_NAME = r"weights-[0-9a-f]{12}\.safetensors"
_OURS = re.compile(rf"({re.escape(ASIDE)}.*)?({_NAME}|{re.escape(HEADER)})")
_AGAIN = "copy it again or save it again"
_SHOWN = 60  # characters of a value in a message


class _WeightsFile(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    file: Annotated[str, Field(pattern=rf"^{_NAME}$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Header(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)
    format: Literal["multiebm-model"]
    version: Literal[2]
    model: dict[str, Any]
    precision: Literal["fp32", "bf16"]
    modalities: Annotated[list[dict[str, Any]], Field(min_length=1)]
    weights: _WeightsFile


class Description(NamedTuple):
    """What a folder says of its model. `blueprint` is what the builder of the model was given, as plain values;
    `shapes` are those of the tensors in the file `weights`, which has `size` bytes and this `sha256`.
    """

    blueprint: dict[str, Any]
    modalities: dict[str, Modality]
    precision: str
    weights: Path
    size: int
    sha256: str
    shapes: dict[str, tuple[int, ...]]


def check_model_folder(folder: Path) -> None:
    """Raise OutputError where `write_pretrained` would not write: into a file, or a folder with other things in it.

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


def write_pretrained(
    model: nn.Module, modalities: dict[str, Modality], blueprint: dict[str, Any], folder: Path
) -> None:
    """Write `model` so that reading it gives these very tensors; a kill at any moment leaves a whole model.

    OutputError when the folder holds other things, or cannot be written (what it held before is then intact);
    DivergenceError where weights are not finite, ConfigError where they are not float32, which no reader would take.
    """
    if not blueprint:
        raise ConfigError("save_pretrained: got a model put together by hand, expected one from multiebm.build")
    with in_use(model):
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if bad := _not_finite(state):
        raise DivergenceError(
            f"{folder}: got weights that are not finite (in {', '.join(bad)}), expected finite ones; nothing was "
            "saved: go back to a checkpoint from before, or train again with a lower learning rate"
        )
    data = safetensors.torch.save(state)
    digest = hashlib.sha256(data).hexdigest()
    weights = folder / _WEIGHTS.format(digest[:12])
    header = sealed(
        {
            "format": FORMAT,
            "version": VERSION,
            "model": blueprint,
            "precision": precision_of(model),
            "modalities": [m.to_json() for m in modalities.values()],
            "weights": {"file": weights.name, "bytes": len(data), "sha256": digest},
        }
    )
    if len(header) > LARGEST_HEADER:
        raise OutputError(f"{folder}: got a description of {len(header)} bytes, expected {LARGEST_HEADER} at most")
    try:
        check_model_folder(folder)
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(weights, data)
        replace_file(folder / HEADER, header)
        for old in folder.iterdir():
            if _OURS.fullmatch(old.name) and old.name not in (weights.name, HEADER):
                old.unlink()
    except OSError as error:
        raise OutputError(
            f"{folder}: {why_not_written(error)}; free space or choose another folder, then save again"
        ) from error


def read_description(folder: Path) -> Description:
    """Read and verify what a folder says of its model, and the names and shapes of its weights, not yet these.

    CheckpointError names the file, what it holds, what was expected, and the fix.
    """
    file = folder / HEADER
    header = _read_header(file)
    modalities = [_modality(file, i, values) for i, values in enumerate(header.modalities)]
    named = {m.name: m for m in modalities}
    if len(named) < len(modalities):
        raise CheckpointError(f"{file}: got two modalities of one name, expected a name each; save it again")
    w = header.weights
    weights = folder / w.file
    return Description(header.model, named, header.precision, weights, w.bytes, w.sha256, _shapes(weights, w.bytes))


def load_weights(model: nn.Module, description: Description) -> None:
    """Read the weights of a description into `model`, layouts kept; CheckpointError lists misfit names, shapes and
    types, or says that the file is damaged or holds values that are not finite, with nothing changed.
    """
    own, shapes = model.state_dict(), description.shapes
    problems = [f"{name}: missing" for name in own if name not in shapes]
    problems += [f"{name}: unexpected" for name in shapes if name not in own]
    sizes = [(name, shapes[name], tuple(tensor.shape)) for name, tensor in own.items() if name in shapes]
    problems += [f"{n}: got {list(a)}, expected {list(b)}" for n, a, b in sizes if a != b]
    if problems:  # before they are read: these, too, may be of any size
        raise _misfit(description.weights, problems)
    tensors = _read_weights(description)
    types = [(name, tensors[name].dtype, tensor.dtype) for name, tensor in own.items()]
    if problems := [f"{n}: got {a}, expected {b}" for n, a, b in types if a != b]:
        raise _misfit(description.weights, problems)
    for name, tensor in own.items():
        tensor.copy_(tensors[name])


def _misfit(file: Path, problems: list[str]) -> CheckpointError:
    listed = "\n  ".join(problems[:8] + ([f"... and {len(problems) - 8} more"] if len(problems) > 8 else []))
    return CheckpointError(
        f"{file}: the weights are of another architecture than the one described in {HEADER}:\n  {listed}\n"
        "Restore the model.json that was saved with them."
    )


def _read_weights(description: Description) -> dict[str, Tensor]:
    file = description.weights
    try:
        data = read_verified(file, description.size, description.sha256)
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; {_AGAIN}") from error
    tensors = safetensors.torch.load(data)
    if bad := _not_finite(tensors):
        raise CheckpointError(
            f"{file}: got weights that are not finite (in {', '.join(bad)}), expected finite ones; train again"
        )
    return tensors


def said(error: ValidationError) -> str:
    """Return the first problem pydantic found, as key, what was given and what was expected."""
    first = error.errors(include_url=False)[0]
    got = "nothing" if first["type"] == "missing" else _shown(first["input"])
    return f"{'.'.join(map(str, first['loc']))}: got {got}, expected: {first['msg'].removeprefix('Input should be ')}"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."


def _read_header(file: Path) -> _Header:
    try:
        values, whole = read_sealed(file, LARGEST_HEADER)
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: not readable as JSON ({error}); {_AGAIN}") from error
    if (kind := values.get("format")) != FORMAT:
        raise CheckpointError(f"{file}: got format {kind!r}, expected {FORMAT!r}; this is not a saved model")
    if (version := values.get("version")) != VERSION:
        raise CheckpointError(
            f"{file}: got model version {version!r}, expected {VERSION}; load it with the multiebm release that wrote "
            "it, or train again"
        )
    if not whole:
        raise CheckpointError(f"{file}: damaged: its values do not match its sha256; {_AGAIN}")
    try:
        json.dumps(values, allow_nan=False)
        return _Header.model_validate(values)
    except ValidationError as error:
        raise CheckpointError(f"{file}: {said(error)}; {_AGAIN}") from error
    except ValueError as error:
        raise CheckpointError(f"{file}: got numbers that are not finite, expected finite ones; {_AGAIN}") from error


def _modality(file: Path, index: int, values: dict[str, Any]) -> Modality:
    try:
        return Modality.from_json(values)
    except ModalityError as error:
        raise CheckpointError(f"{file}: modalities.{index}: {error}; {_AGAIN}") from error


def _shapes(file: Path, size: int) -> dict[str, tuple[int, ...]]:
    """Return names and shapes of the tensors in `file` of `size` bytes, without reading these."""
    try:
        check_size(file, size)
        with safe_open(file, framework="pt") as tensors:
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    except OSError as error:
        raise _unreadable(file, error) from error
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}; {_AGAIN}") from error
    except (SafetensorError, RuntimeError) as error:  # the latter where there are not as many addresses
        raise CheckpointError(f"{file}: not readable as safetensors ({error}); save it again") from error


def _not_finite(tensors: dict[str, Tensor]) -> list[str]:
    """Return the names of the first few tensors with NaN or infinite values."""
    return [name for name, t in tensors.items() if t.is_floating_point() and not torch.isfinite(t).all()][:3]


def _unreadable(file: Path, error: OSError) -> CheckpointError:
    return CheckpointError(f"{file}: cannot be read ({error.strerror}); expected a folder that save_pretrained wrote")
